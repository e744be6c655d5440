//! Links over a WebSocket that somebody else has made: message by message.
//!
//! Both halves share the socket. It answers pings and closing frames by itself.

use std::{
    ops::ControlFlow,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;
use rsocket_core::transport::{
    FrameRx, FrameTx, InFrame, Limits, Link, LinkInfo, OutFrame, Received, TransportError,
};
use tokio_tungstenite::tungstenite::{
    Error as WsError, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::framing::{CloseReason, Fault, stream_error};

/// From this length on, a frame is given to the core with its memory; below, to
/// copy what it keeps costs the core less.
const GIVEN_FROM: usize = 4 * 1024;

/// Messages that one call delivers at most: each is another look at the medium.
const MESSAGES_PER_POLL: usize = 64;

/// Messages that are no frames, pings for one, which one call passes over before
/// the task has to let others run.
const OTHERS_PER_POLL: usize = 16;

/// The link over `socket`.
pub(crate) fn over<T>(socket: T, info: LinkInfo, max_frame_len: usize) -> Link
where
    T: Socket,
{
    let shared = Arc::new(Mutex::new(socket));
    let tx = MessageTx {
        socket: Arc::clone(&shared),
        max_frame_len,
        close: Close::Open,
        fault: None,
    };
    let rx = MessageRx {
        socket: shared,
        max_frame_len,
        state: State::Open,
    };
    Link::new(tx, rx, info).with_limits(Limits { max_frame_len })
}

/// What tokio-tungstenite's streams are, and what wraps them.
pub(crate) trait Socket:
    Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send + Unpin + 'static
{
}

impl<T> Socket for T where
    T: Stream<Item = Result<Message, WsError>>
        + Sink<Message, Error = WsError>
        + Send
        + Unpin
        + 'static
{
}

/// Held for one poll at a time. A poll that panicked leaves a socket that fails,
/// which is for it to say.
fn lock<T>(socket: &Mutex<T>) -> MutexGuard<'_, T> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

struct MessageTx<T> {
    socket: Arc<Mutex<T>>,
    max_frame_len: usize,
    close: Close,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    Open,
    Begun,
    Done,
}

impl<T: Socket> MessageTx<T> {
    fn check(&self) -> Result<(), TransportError> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(fault.clone().into()),
        }
    }

    /// Hands one message to the socket, once it takes one.
    fn poll_put(
        &self,
        cx: &mut Context<'_>,
        message: impl FnOnce() -> Message,
    ) -> Poll<Result<(), WsError>> {
        let mut socket = lock(&self.socket);
        let mut socket = Pin::new(&mut *socket);
        ready!(socket.as_mut().poll_ready(cx))?;
        Poll::Ready(socket.start_send(message()))
    }

    fn fail(&mut self, error: WsError) -> TransportError {
        let (fault, error) = judge(error, self.max_frame_len);
        self.fault = Some(fault);
        error
    }
}

impl<T: Socket> FrameTx for MessageTx<T> {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        self.check()?;
        assert!(
            frame.len() <= self.max_frame_len,
            "a frame of {} bytes on a link that takes {}",
            frame.len(),
            self.max_frame_len
        );
        let sent = ready!(self.poll_put(cx, || Message::Binary(frame.to_vec().into())));
        Poll::Ready(sent.map_err(|error| self.fail(error)))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.check()?;
        let flushed = ready!(Pin::new(&mut *lock(&self.socket)).poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.fail(error)))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.close == Close::Done {
            return Poll::Ready(Ok(()));
        }
        self.check()?;
        if self.close == Close::Open {
            match ready!(self.poll_put(cx, || closing(CloseCode::Normal, ""))) {
                Ok(()) => self.close = Close::Begun,
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        ready!(self.poll_flush(cx))?;
        self.close = Close::Done;
        self.fault = Some(Fault::SendingClosed);
        Poll::Ready(Ok(()))
    }
}

struct MessageRx<T> {
    socket: Arc<Mutex<T>>,
    max_frame_len: usize,
    state: State,
}

enum State {
    Open,
    Ended,
    Failed(Fault),
    /// To be told at the next call, behind the frames of the last.
    Failing(TransportError, Fault),
}

impl<T: Socket> MessageRx<T> {
    /// What the socket said that is not a frame.
    fn other(&self, message: Option<Result<Message, WsError>>) -> Option<End> {
        let fault = match message {
            Some(Ok(Message::Binary(frame))) => Fault::TooLong {
                len: frame.len() as u64,
                max: self.max_frame_len,
            },
            Some(Ok(Message::Text(_))) => Fault::Text,
            Some(Ok(Message::Close(reason))) => {
                self.answer();
                let reason = reason
                    .map(|reason| CloseReason::new(reason.code.into(), reason.reason.as_str()));
                match reason.filter(|reason| !reason.is_good()) {
                    Some(reason) => Fault::Closed(reason),
                    None => return Some(Ok(())),
                }
            }
            Some(Ok(_)) => return None,
            Some(Err(error)) => {
                let (fault, error) = judge(error, self.max_frame_len);
                self.refuse(&fault);
                return Some(Err((error, fault)));
            }
            None => Fault::Truncated { arrived: 0 },
        };
        self.refuse(&fault);
        Some(Err((fault.clone().into(), fault)))
    }

    /// The socket has an answer to a closing frame at hand: it goes out if it can.
    fn answer(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut *lock(&self.socket)).poll_flush(&mut cx);
    }

    /// Tells the peer what it did wrong, as far as that can be done at once.
    fn refuse(&self, fault: &Fault) {
        let Some(code) = fault.close_code() else {
            return;
        };
        let mut socket = lock(&self.socket);
        let mut socket = Pin::new(&mut *socket);
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(())) = socket.as_mut().poll_ready(&mut cx) {
            let message = closing(code.into(), &fault.to_string());
            let _ = socket.as_mut().start_send(message);
            let _ = socket.poll_flush(&mut cx);
        }
    }

    /// The state that an end leaves behind, and what it says.
    fn end(&mut self, end: End) -> Result<Received, TransportError> {
        match end {
            Ok(()) => {
                self.state = State::Ended;
                Ok(Received::End)
            }
            Err((error, fault)) => {
                self.state = State::Failed(fault);
                Err(error)
            }
        }
    }
}

/// How a link ended: in good order, or by an error, told once, and what is said
/// from then on.
type End = Result<(), (TransportError, Fault)>;

impl<T: Socket> FrameRx for MessageRx<T> {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Open => self.state = State::Open,
            State::Ended => return Poll::Ready(Ok(Received::End)),
            State::Failed(fault) => {
                self.state = State::Failed(fault.clone());
                return Poll::Ready(Err(fault.into()));
            }
            State::Failing(error, fault) => return Poll::Ready(self.end(Err((error, fault)))),
        }
        let (mut delivered, mut others) = (0, 0);
        while delivered < MESSAGES_PER_POLL {
            let polled = Pin::new(&mut *lock(&self.socket)).poll_next(cx);
            let message = match polled {
                Poll::Ready(message) => message,
                Poll::Pending if delivered > 0 => break,
                Poll::Pending => return Poll::Pending,
            };
            match message {
                Some(Ok(Message::Binary(frame))) if frame.len() <= self.max_frame_len => {
                    delivered += 1;
                    if give(frame, sink).is_break() {
                        break;
                    }
                }
                message => match self.other(message) {
                    None => {
                        others += 1;
                        if others == OTHERS_PER_POLL && delivered == 0 {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    }
                    Some(end) if delivered == 0 => return Poll::Ready(self.end(end)),
                    Some(Ok(())) => {
                        self.state = State::Ended;
                        break;
                    }
                    Some(Err((error, fault))) => {
                        self.state = State::Failing(error, fault);
                        break;
                    }
                },
            }
        }
        Poll::Ready(Ok(Received::Frames))
    }
}

fn give(frame: Bytes, sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
    if frame.len() < GIVEN_FROM {
        return sink(InFrame::Borrowed(&frame));
    }
    sink(InFrame::Shared(frame))
}

fn closing(code: CloseCode, reason: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }))
}

/// What an error of the socket means for the link, now and from then on.
fn judge(error: WsError, max: usize) -> (Fault, TransportError) {
    use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};

    let fault = match error {
        WsError::Io(error) => return (Fault::Io(error.kind()), stream_error(error)),
        WsError::ConnectionClosed | WsError::AlreadyClosed => Fault::SendingClosed,
        WsError::Protocol(ProtocolError::SendAfterClosing) => Fault::SendingClosed,
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Fault::Truncated { arrived: 0 }
        }
        WsError::Capacity(CapacityError::MessageTooLong { size, .. }) => Fault::TooLong {
            len: size as u64,
            max,
        },
        WsError::Utf8(_) => Fault::Text,
        error => {
            let error = TransportError::misbehaved(error);
            return (Fault::Protocol("the peer broke the rules before"), error);
        }
    };
    (fault.clone(), fault.into())
}
