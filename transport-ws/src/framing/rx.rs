//! The receiving half: many messages a read, and no more memory than has arrived.
//!
//! Owns the bytes between the stream and the core. A frame is lent from the read
//! buffer, or given away in memory of its own if it is long or came in parts.

#[cfg(test)]
mod any_bytes;

use std::{
    io, mem,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use rsocket_core::transport::{FrameRx, InFrame, Received, TransportError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::{
    CloseReason, Fault, Role,
    header::{Header, Mask, OpCode},
    outlet::Outlet,
    stream_error,
};

/// Bytes of the read buffer: thousands of short messages, or a full socket
/// buffer, for one system call. Fresh pages of it cost nothing until they are
/// read into.
const BUFFER_LEN: usize = 64 * 1024;

/// From this length on, a frame gets memory of its own, of which the core keeps
/// slices. Below, to copy what it keeps costs the core less than an allocation.
const GIVEN_FROM: usize = 4 * 1024;

/// Above this length, a message that has not arrived whole is read into its own
/// memory directly, at the price of reads that end where it ends. Below, a copy
/// costs less than such a read.
const BUFFERED_MAX: usize = 16 * 1024;

/// Memory for a long message before more of it than this has arrived.
const FIRST_STEP: usize = 64 * 1024;

/// Reads that bring no whole message before the task has to let others run: a
/// flood of pings would keep it busy for as long as it lasts.
const READS_PER_POLL: usize = 16;

/// Frames on their way out of `R`.
pub(super) struct SocketRx<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// Until it is dropped.
    read: Option<R>,
    /// What came behind the handshake, before anything is read.
    early: Bytes,
    outlet: Arc<Outlet<W>>,
    role: Role,
    max_frame_len: usize,
    buffer: Box<[u8]>,
    /// Where in `buffer` the bytes lie that were read and not yet delivered.
    start: usize,
    end: usize,
    /// The message in progress, if it is a long one or comes in parts.
    message: Option<Message>,
    /// Whether the outlet may have something of ours that is not written yet.
    owes_news: bool,
    state: State,
}

enum State {
    Open,
    Ended,
    Failed(Fault),
}

/// What is at the front of the buffer.
enum Front {
    /// Frames were delivered.
    Delivered,
    /// Less than a frame of any kind.
    Incomplete,
    /// The peer closed.
    Closed(Option<CloseReason>),
}

impl<R, W> SocketRx<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn new(
        read: R,
        early: Bytes,
        outlet: Arc<Outlet<W>>,
        role: Role,
        max_frame_len: usize,
    ) -> Self {
        Self {
            read: Some(read),
            early,
            outlet,
            role,
            max_frame_len,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            message: None,
            owes_news: false,
            state: State::Open,
        }
    }

    /// Delivers the whole messages that are here, and acts on control frames.
    ///
    /// What is wrong behind a message is found by the next call: messages that
    /// arrived whole come first.
    fn deliver(
        &mut self,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Result<Front, Fault> {
        let mut delivered = false;
        loop {
            if let Some(message) = &mut self.message {
                let here = self.buffer.get_mut(self.start..self.end);
                self.start += message.take(here.unwrap_or_default());
                if message.missing > 0 {
                    break;
                }
            }
            if let Some(message) = self.message.take_if(|message| message.is_whole()) {
                delivered = true;
                if message.give(sink).is_break() {
                    break;
                }
                continue;
            }
            match self.next(sink, delivered)? {
                Next::Delivered(ControlFlow::Continue(())) => delivered = true,
                Next::Delivered(ControlFlow::Break(())) => {
                    delivered = true;
                    break;
                }
                Next::Begun => {}
                Next::Closed(reason) => return Ok(Front::Closed(reason)),
                Next::Later => break,
            }
        }
        Ok(if delivered {
            Front::Delivered
        } else {
            Front::Incomplete
        })
    }

    /// One WebSocket frame from the front of the buffer, which is where one
    /// begins.
    #[inline]
    fn next(
        &mut self,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
        delivered: bool,
    ) -> Result<Next, Fault> {
        let here = self.buffer.get(self.start..self.end).unwrap_or_default();
        let header = match Header::parse(here, self.role) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Next::Later),
            Err(_) if delivered => return Ok(Next::Later),
            Err(fault) => return Err(fault),
        };
        let is_plain = header.opcode == OpCode::Binary && header.is_final && self.message.is_none();
        if !is_plain {
            return self.unusual(&header, delivered);
        }
        if let Some(fault) = self.too_long(header.len, 0) {
            return if delivered {
                Ok(Next::Later)
            } else {
                Err(fault)
            };
        }
        let len = length(header.len);
        let begin = self.start + header.own_len;
        let Some(frame) = self
            .buffer
            .get_mut(..self.end)
            .and_then(|arrived| arrived.get_mut(begin..begin + len))
        else {
            if len <= BUFFERED_MAX {
                return Ok(Next::Later);
            }
            self.start = begin;
            self.message = Some(Message::new(&header));
            return Ok(Next::Begun);
        };
        if let Some(mask) = header.mask {
            mask.apply(frame);
        }
        self.start = begin + len;
        let frame = if len < GIVEN_FROM {
            InFrame::Borrowed(frame)
        } else {
            InFrame::Shared(Bytes::copy_from_slice(frame))
        };
        Ok(Next::Delivered(sink(frame)))
    }

    /// A control frame, a part of a message, or what should not be.
    #[cold]
    fn unusual(&mut self, header: &Header, delivered: bool) -> Result<Next, Fault> {
        if header.opcode.is_control() {
            return self.control(header, delivered);
        }
        if delivered {
            return Ok(Next::Later);
        }
        let fault = match (header.opcode, &self.message) {
            (OpCode::Text, _) => Some(Fault::Text),
            (OpCode::Continuation, None) => Some(Fault::Protocol("the rest of no message")),
            (OpCode::Continuation, Some(message)) => self.too_long(header.len, message.bytes.len()),
            (_, Some(_)) => Some(Fault::Protocol("a message within another")),
            (_, None) => self.too_long(header.len, 0),
        };
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.start += header.own_len;
        match &mut self.message {
            Some(message) => message.goes_on(header),
            None => self.message = Some(Message::new(header)),
        }
        Ok(Next::Begun)
    }

    fn control(&mut self, header: &Header, delivered: bool) -> Result<Next, Fault> {
        let begin = self.start + header.own_len;
        let end = begin + length(header.len);
        let arrived = self.buffer.get_mut(..self.end);
        let Some(payload) = arrived.and_then(|arrived| arrived.get_mut(begin..end)) else {
            return Ok(Next::Later);
        };
        if header.opcode == OpCode::Close && delivered {
            return Ok(Next::Later);
        }
        if let Some(mask) = header.mask {
            mask.apply(payload);
        }
        self.start = end;
        match header.opcode {
            OpCode::Ping => {
                self.outlet.lock().answer_ping(payload);
                self.owes_news = true;
                Ok(Next::Begun)
            }
            OpCode::Close => Ok(Next::Closed(CloseReason::parse(payload)?)),
            // A pong that nobody asked for is a heartbeat.
            _ => Ok(Next::Begun),
        }
    }

    fn too_long(&self, len: u64, before: usize) -> Option<Fault> {
        let len = len.saturating_add(before as u64);
        let max = self.max_frame_len;
        (len > max as u64).then_some(Fault::TooLong { len, max })
    }

    /// One read; the number of bytes that came, 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            // At most a buffered message, so there is always room behind it.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        if self.early.has_remaining() {
            let n = free.len().min(self.early.len());
            if let Some(free) = free.get_mut(..n) {
                self.early.copy_to_slice(free);
            }
            self.end += n;
            return Poll::Ready(Ok(n));
        }
        let Some(read) = &mut self.read else {
            return Poll::Ready(Ok(0));
        };
        if let Some(message) = self.message.as_mut().filter(|m| m.missing > BUFFERED_MAX) {
            return message.poll_read(read, cx);
        }
        let mut free = ReadBuf::new(free);
        ready!(Pin::new(read).poll_read(cx, &mut free))?;
        let n = free.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// Writes what the outlet has of ours, as far as that goes now.
    #[cold]
    fn tell(&mut self, cx: &mut Context<'_>) {
        let mut outlet = self.outlet.lock();
        // A stream that takes no more will say so to a read as well.
        let _ = outlet.poll_news(cx);
        self.owes_news = outlet.has_news();
    }

    /// The peer closed: answers, and says what that means here.
    fn closed(
        &mut self,
        cx: &mut Context<'_>,
        reason: Option<CloseReason>,
    ) -> Result<Received, TransportError> {
        let code = reason.as_ref().map(|reason| reason.code);
        self.outlet.lock().peer_closed(code);
        self.tell(cx);
        self.free();
        match reason {
            Some(reason) if !reason.is_good() => {
                let fault = Fault::Closed(reason);
                self.state = State::Failed(fault.clone());
                Err(fault.into())
            }
            _ => {
                self.state = State::Ended;
                Ok(Received::End)
            }
        }
    }

    /// The stream ended, and the peer had not said that it would.
    fn cut_off(&mut self) -> TransportError {
        let partial = self
            .message
            .as_ref()
            .map_or(0, |message| message.bytes.len());
        let arrived = partial + self.end - self.start;
        let fault = Fault::Truncated { arrived };
        self.state = State::Failed(fault.clone());
        self.free();
        fault.into()
    }

    /// The peer broke a rule, and is told which.
    fn refuse(&mut self, cx: &mut Context<'_>, fault: Fault) -> TransportError {
        self.outlet
            .lock()
            .close(fault.close_code(), &fault.to_string());
        self.tell(cx);
        self.state = State::Failed(fault.clone());
        self.free();
        fault.into()
    }

    /// Nothing more will be delivered.
    fn free(&mut self) {
        (self.start, self.end) = (0, 0);
        self.buffer = Box::default();
        self.early = Bytes::new();
        self.message = None;
    }
}

/// What [`SocketRx::next`] found.
enum Next {
    Delivered(ControlFlow<()>),
    /// A message began or goes on, or a control frame is done with.
    Begun,
    Closed(Option<CloseReason>),
    /// Not enough is here, or what comes next is for the next call.
    Later,
}

impl<R, W> FrameRx for SocketRx<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        match &self.state {
            State::Open => {}
            State::Ended => return Poll::Ready(Ok(Received::End)),
            State::Failed(fault) => return Poll::Ready(Err(fault.clone().into())),
        }
        // Reads only when nothing is left from before, and again only when what
        // came is less than a message.
        for _ in 0..READS_PER_POLL {
            let front = self.deliver(sink);
            if self.owes_news {
                self.tell(cx);
            }
            match front {
                Ok(Front::Delivered) => return Poll::Ready(Ok(Received::Frames)),
                Ok(Front::Closed(reason)) => return Poll::Ready(self.closed(cx, reason)),
                Ok(Front::Incomplete) => {}
                Err(fault) => return Poll::Ready(Err(self.refuse(cx, fault))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(self.cut_off())),
                Ok(_) => {}
                Err(error) => {
                    self.state = State::Failed(Fault::Io(error.kind()));
                    self.free();
                    return Poll::Ready(Err(stream_error(error)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<R, W> Drop for SocketRx<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let peer_may_go_on = match &self.state {
            State::Open => true,
            State::Ended => false,
            State::Failed(fault) => fault.close_code().is_some(),
        };
        if let (true, Some(read)) = (peer_may_go_on, self.read.take()) {
            self.outlet.lock().leave_unread(read);
        }
    }
}

/// A message that is collected in memory of its own.
struct Message {
    /// What has arrived. The capacity is never more than twice that, or
    /// [`FIRST_STEP`]: a peer that announces a long message has to send it before
    /// it costs its length here.
    bytes: Vec<u8>,
    /// Bytes of the current part that have not arrived.
    missing: usize,
    /// As it lies over the next byte.
    mask: Option<Mask>,
    is_last_part: bool,
    has_parts: bool,
}

impl Message {
    fn new(header: &Header) -> Self {
        let missing = length(header.len);
        Self {
            bytes: Vec::with_capacity(missing.min(FIRST_STEP)),
            missing,
            mask: header.mask,
            is_last_part: header.is_final,
            has_parts: !header.is_final,
        }
    }

    /// The next part begins.
    fn goes_on(&mut self, header: &Header) {
        self.missing = length(header.len);
        self.mask = header.mask;
        self.is_last_part = header.is_final;
    }

    fn is_whole(&self) -> bool {
        self.missing == 0 && self.is_last_part
    }

    /// Takes what it misses from the front of `arrived`; how much that was.
    fn take(&mut self, arrived: &[u8]) -> usize {
        let n = arrived.len().min(self.missing);
        let before = self.bytes.len();
        if self.bytes.capacity() - before < n {
            self.grow(n);
        }
        self.bytes
            .extend_from_slice(arrived.get(..n).unwrap_or_default());
        self.took(before);
        n
    }

    /// Takes the mask off what came behind the first `before` bytes.
    fn took(&mut self, before: usize) {
        let n = self.bytes.len() - before;
        self.missing -= n;
        if let (Some(mask), Some(new)) = (&mut self.mask, self.bytes.get_mut(before..)) {
            mask.apply(new);
            *mask = mask.after(n);
        }
    }

    /// Makes room for at least `needed` more bytes: as many as are there already,
    /// but in one piece no more than are still to come.
    fn grow(&mut self, needed: usize) {
        let step = if self.has_parts {
            self.bytes.len()
        } else {
            self.bytes.len().min(self.missing)
        };
        self.bytes.reserve_exact(step.max(needed));
    }

    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        read: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = self.bytes.len();
        if self.bytes.capacity() == before {
            self.grow(FIRST_STEP.min(self.missing));
        }
        let room = self.missing.min(self.bytes.capacity() - before);
        let mut target = (&mut self.bytes).limit(room);
        let n = ready!(pin!(read.read_buf(&mut target)).poll(cx))?;
        self.took(before);
        Poll::Ready(Ok(n))
    }

    /// Gives it away, or lends it if it is short.
    fn give(mut self, sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        if self.bytes.len() < GIVEN_FROM {
            return sink(InFrame::Borrowed(&self.bytes));
        }
        // What grew by parts may have room for as much again.
        self.bytes.shrink_to_fit();
        sink(InFrame::Shared(mem::take(&mut self.bytes).into()))
    }
}

/// A length that was compared with the limit before, or is that of a control
/// frame.
fn length(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Waker,
    };

    use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};

    use super::*;

    type Rx = SocketRx<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

    /// A client's receiving half, to which a peer need not mask.
    fn receiver() -> (DuplexStream, Rx) {
        let (peer, ours) = duplex(1 << 20);
        let (read, write) = split(ours);
        let outlet = Arc::new(Outlet::new(write, Role::Client));
        let rx = SocketRx::new(read, Bytes::new(), outlet, Role::Client, 0x00FF_FFFF);
        (peer, rx)
    }

    /// A header of a binary message, or of a part of one.
    fn header(first: u8, len: u64) -> Vec<u8> {
        let mut bytes = vec![first, 127];
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes
    }

    /// What one poll brings: whether each frame was given away, and its length.
    fn poll(rx: &mut Rx) -> Vec<(bool, usize)> {
        let mut frames = Vec::new();
        let _ = rx.poll_recv(&mut Context::from_waker(Waker::noop()), &mut |frame| {
            let is_given = matches!(frame, InFrame::Shared(_));
            frames.push((is_given, frame.as_slice().len()));
            ControlFlow::Continue(())
        });
        frames
    }

    fn capacity(rx: &Rx) -> Option<usize> {
        rx.message.as_ref().map(|message| message.bytes.capacity())
    }

    // [C012]
    #[tokio::test]
    async fn a_peer_that_announces_a_long_message_pays_for_it_first() {
        for first in [0x82, 0x02] {
            let (mut peer, mut rx) = receiver();
            peer.write_all(&header(first, 0x00FF_FFFF)).await.unwrap();
            assert!(poll(&mut rx).is_empty());
            assert_eq!(capacity(&rx), Some(FIRST_STEP), "for a header alone");

            let mut sent = 0;
            while sent < 0x00FF_FFFF {
                let n = 100_000.min(0x00FF_FFFF - sent);
                peer.write_all(&vec![1; n]).await.unwrap();
                sent += n;
                while poll(&mut rx).is_empty() && rx.message.is_some() {
                    let held = capacity(&rx).unwrap();
                    assert!(held <= FIRST_STEP.max(2 * sent), "{held} for {sent} bytes");
                    if rx.message.as_ref().unwrap().bytes.len() == sent {
                        break;
                    }
                    // Else tokio lets this task read nothing more.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[tokio::test]
    async fn short_frames_are_lent_and_long_ones_given_away() {
        let (mut peer, mut rx) = receiver();
        let lens = [0, 10, GIVEN_FROM - 1, GIVEN_FROM, BUFFERED_MAX];
        for len in lens {
            let mut bytes = Vec::new();
            Header::put(OpCode::Binary, None, len, &mut bytes);
            bytes.resize(bytes.len() + len, 7);
            peer.write_all(&bytes).await.unwrap();
        }
        let frames = poll(&mut rx);
        assert_eq!(
            frames,
            lens.map(|len| (len >= GIVEN_FROM, len)),
            "in one poll"
        );
    }

    #[tokio::test]
    async fn parts_leave_no_more_memory_than_they_came_to() {
        let (mut peer, mut rx) = receiver();
        for n in 0..50 {
            let first = match n {
                0 => 0x02,
                49 => 0x80,
                _ => 0x00,
            };
            let mut part = vec![first, 126, 0x03, 0xE8];
            part.resize(4 + 1000, n);
            peer.write_all(&part).await.unwrap();
        }
        let mut given = None;
        let _ = rx.poll_recv(&mut Context::from_waker(Waker::noop()), &mut |frame| {
            if let InFrame::Shared(frame) = frame {
                given = Some(frame);
            }
            ControlFlow::Continue(())
        });
        let frame = Vec::from(given.unwrap());
        assert_eq!((frame.len(), frame.capacity()), (50_000, 50_000));
    }

    /// Has pings without end, and never lets anybody wait.
    struct Flood(Arc<AtomicUsize>);

    impl AsyncRead for Flood {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let reads = self.0.fetch_add(1, Ordering::Relaxed);
            assert!(reads < 1000, "nobody else gets to run");
            buf.put_slice(&[0x89, 0].repeat(100));
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_flood_of_pings_lets_other_tasks_run() {
        let reads = Arc::new(AtomicUsize::new(0));
        let outlet = Arc::new(Outlet::new(tokio::io::sink(), Role::Client));
        let flood = Flood(Arc::clone(&reads));
        let mut rx = SocketRx::new(flood, Bytes::new(), outlet, Role::Client, 1 << 20);
        let mut cx = Context::from_waker(Waker::noop());
        let polled = rx.poll_recv(&mut cx, &mut |_| ControlFlow::Continue(()));
        assert!(polled.is_pending());
        assert_eq!(reads.load(Ordering::Relaxed), READS_PER_POLL);
    }

    #[tokio::test]
    async fn memory_is_freed_at_the_end() {
        let (mut peer, mut rx) = receiver();
        peer.write_all(&[0x88, 0]).await.unwrap();
        assert!(poll(&mut rx).is_empty());
        assert!(matches!(rx.state, State::Ended));
        assert!(rx.buffer.is_empty());
    }
}
