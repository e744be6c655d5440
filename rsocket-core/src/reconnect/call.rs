//! Requests that find their connection.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{Reconnecting, WhenDown, state::Phase};
use crate::{
    Payload, Requester,
    error::{CloseReason, Error},
    frame::Interaction,
    proto::{DemandPolicy, Open, StreamKey, Take},
};

type BoxWait = Pin<Box<dyn Future<Output = Phase> + Send>>;

/// Finds the connection for one request, as often as it has to.
///
/// A handle: while a request waits, attempts go on.
pub(crate) struct Finder {
    via: Reconnecting,
    /// The session found last.
    session: u64,
    wait: Option<BoxWait>,
}

impl Finder {
    pub(crate) fn new(via: Reconnecting) -> Self {
        Self {
            via,
            session: 0,
            wait: None,
        }
    }

    /// The connection, if there is one; `None` if [`poll`](Self::poll) will
    /// tell.
    fn find(&mut self) -> Result<Option<Requester>, Error> {
        let core = &self.via.core;
        match core.phase() {
            Phase::Down(reason) if self.via.when_down == WhenDown::FailFast => {
                core.wish();
                Err(Error::NotConnected(reason))
            }
            Phase::Down(_) => {
                self.wait = Some(Box::pin(core.wait()?));
                Ok(None)
            }
            decided => self.take(decided),
        }
    }

    fn take(&mut self, phase: Phase) -> Result<Option<Requester>, Error> {
        match phase {
            Phase::Up { session, requester } => {
                self.session = session;
                Ok(Some(requester))
            }
            Phase::Over(error) => Err(error),
            Phase::Down(_) => Ok(None),
        }
    }

    /// The connection, now or once there is one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Requester, Error>> {
        loop {
            let found = match &mut self.wait {
                Some(wait) => {
                    let phase = ready!(wait.as_mut().poll(cx));
                    self.wait = None;
                    self.take(phase)?
                }
                None => self.find()?,
            };
            if let Some(requester) = found {
                return Poll::Ready(Ok(requester));
            }
        }
    }

    /// The connection found last took nothing of the request: it is over.
    pub(crate) fn lost(&self, reason: CloseReason) {
        self.via.core.retire(self.session, reason);
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder")
            .field("session", &self.session)
            .field("waits", &self.wait.is_some())
            .finish_non_exhaustive()
    }
}

/// A request with at most one answer.
#[derive(Debug)]
struct Call {
    finder: Finder,
    interaction: Interaction,
    /// Kept until it cannot have to be sent again.
    payload: Payload,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The finder tells when to go on.
    Finding,
    Open(Requester, StreamKey),
    Failed(Error),
    Done,
}

impl Call {
    /// Sends the request at once if there is a connection.
    fn new(via: &Reconnecting, interaction: Interaction, payload: Payload) -> Self {
        let mut call = Self {
            finder: Finder::new(via.clone()),
            interaction,
            payload,
            state: State::Finding,
        };
        call.advance();
        call
    }

    /// Goes from connection to connection until one takes the request, or there
    /// is none.
    fn advance(&mut self) {
        self.state = loop {
            let requester = match self.finder.find() {
                Ok(Some(requester)) => requester,
                Ok(None) => break State::Finding,
                Err(error) => break State::Failed(error),
            };
            if let Some(state) = self.open(requester) {
                break state;
            }
        };
    }

    /// Sends the request; `None` if the connection takes no more.
    fn open(&self, requester: Requester) -> Option<State> {
        let opened = requester.shared().open(Open {
            interaction: self.interaction,
            payload: self.payload.clone(),
            demand: DemandPolicy::default(),
            complete: false,
        });
        match opened.map_err(|error| *error) {
            Ok(key) => Some(State::Open(requester, key)),
            Err(Error::Closed(reason)) => {
                self.finder.lost(reason);
                None
            }
            Err(error) => Some(State::Failed(error)),
        }
    }

    /// The answer; `None` when the peer completed without one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Payload>, Error>> {
        loop {
            let answer = match &self.state {
                State::Finding => match ready!(self.finder.poll(cx)) {
                    Ok(requester) => {
                        match self.open(requester) {
                            Some(state) => self.state = state,
                            None => self.advance(),
                        }
                        continue;
                    }
                    Err(error) => Err(error),
                },
                State::Open(requester, key) => {
                    match requester.shared().poll_answer_or_unsent(cx, *key) {
                        (Take::Pending, _) => return Poll::Pending,
                        (Take::Payload(payload), _) => Ok(Some(payload)),
                        (Take::Complete, _) => Ok(None),
                        (Take::Failed(Error::Closed(reason)), false) => {
                            self.finder.lost(reason);
                            self.advance();
                            continue;
                        }
                        (Take::Failed(error), _) => Err(error),
                    }
                }
                State::Failed(error) => Err(error.clone()),
                State::Done => panic!("polled after it was ready"),
            };
            self.state = State::Done;
            return Poll::Ready(answer);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let State::Open(requester, key) = &self.state {
            requester.shared().cancel_and_release(*key);
        }
    }
}

/// The answer to [`Reconnecting::request_response`].
///
/// Dropping it sends CANCEL, or ends the wait for a connection.
#[must_use = "dropping the future cancels the request"]
#[derive(Debug)]
pub struct Response(Call);

impl Response {
    pub(super) fn new(via: &Reconnecting, request: Payload) -> Self {
        Self(Call::new(via, Interaction::RequestResponse, request))
    }

    /// For peers that may complete without a payload: then the answer is
    /// `None`, where the plain future gives an empty payload.
    pub fn optional(self) -> OptionalResponse {
        OptionalResponse(self.0)
    }
}

impl Future for Response {
    type Output = Result<Payload, Error>;

    /// # Panics
    ///
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0
            .poll(cx)
            .map(|answer| answer.map(Option::unwrap_or_default))
    }
}

/// The answer to a request-response, if there is one: see
/// [`Response::optional`].
#[must_use = "dropping the future cancels the request"]
#[derive(Debug)]
pub struct OptionalResponse(Call);

impl Future for OptionalResponse {
    type Output = Result<Option<Payload>, Error>;

    /// # Panics
    ///
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// A fire-and-forget on its way to a link: see
/// [`Reconnecting::fire_and_forget`].
#[must_use = "dropping the future withdraws the request if it was not sent yet"]
#[derive(Debug)]
pub struct FireAndForget(Call);

impl FireAndForget {
    pub(super) fn new(via: &Reconnecting, request: Payload) -> Self {
        Self(Call::new(via, Interaction::FireAndForget, request))
    }
}

impl Future for FireAndForget {
    type Output = Result<(), Error>;

    /// # Panics
    ///
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(|sent| sent.map(|_| ()))
    }
}
