//! What users match on: why a request, or a connection, came to its end.

use std::{fmt, sync::Arc};

use crate::{
    frame::{DecodeError, ErrorCode},
    resume::StoreError,
    transport::{TransportError, TransportErrorKind},
};

/// What one side tells the other when it will not (go on to) answer: the code
/// and the message of an ERROR frame.
///
/// Spec: "ERROR Frame (0x0B)".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: ErrorCode,
    message: String,
}

impl Failure {
    /// APPLICATION_ERROR: the handler tried and failed.
    pub fn application(message: impl fmt::Display) -> Self {
        Self::from_wire(ErrorCode::APPLICATION_ERROR, message.to_string())
    }

    /// REJECTED: nothing was done, so the peer may safely try again elsewhere.
    pub fn rejected(message: impl fmt::Display) -> Self {
        Self::from_wire(ErrorCode::REJECTED, message.to_string())
    }

    /// CANCELED: given up; there may have been side effects.
    pub fn canceled(message: impl fmt::Display) -> Self {
        Self::from_wire(ErrorCode::CANCELED, message.to_string())
    }

    /// INVALID: the request makes no sense.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::from_wire(ErrorCode::INVALID, message.to_string())
    }

    /// A code of the application's own, 0x301 ..= 0xFFFFFFFE; `None` for codes
    /// that belong to the protocol \[C087\].
    pub fn custom(code: u32, message: impl fmt::Display) -> Option<Self> {
        let code = ErrorCode::new(code);
        code.is_application()
            .then(|| Self::from_wire(code, message.to_string()))
    }

    pub(crate) fn from_wire(code: ErrorCode, message: String) -> Self {
        Self { code, message }
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn unsupported(interaction: &'static str) -> Self {
        Self::rejected(format_args!("no handler for {interaction}"))
    }

    /// The code; one can compare it with the constants of [`ErrorCode`].
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message, for people. From a peer, bytes that are not UTF-8 were
    /// replaced.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

/// Why a request did not get (all of) its answer.
///
/// The variants differ in what one can do about them.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer answered with an ERROR frame on this stream. On
    /// [`ErrorCode::REJECTED`] nothing was done, and trying again is safe.
    #[error("the peer failed the request")]
    Peer(#[source] Failure),

    /// The payload cannot be sent as it is: shorten it, or configure a
    /// fragment length. Nothing was sent \[C011\].
    #[error(
        "payload of {len} bytes does not fit a frame of at most {limit}; configure fragmentation"
    )]
    TooLong {
        /// Bytes that the frame would have.
        len: usize,
        /// Bytes that it may have.
        limit: usize,
    },

    /// A channel needs a first payload, and its source ended without one.
    /// Nothing was sent.
    #[error("a channel needs at least one payload, and its source had none")]
    EmptyChannel,

    /// All stream ids are in use; nothing was sent. Use a second connection.
    #[error("all stream ids are in use")]
    NoStreamId,

    /// The peer's lease allows no request now, and as many as may already wait
    /// for the next one; nothing was sent. Ask again later or another peer, or
    /// let more wait: see
    /// [`Limits::max_waiting_requests`](crate::proto::Limits::max_waiting_requests).
    #[error(
        "the peer's lease allows no request now, and {limit} may wait (max_waiting_requests); \
         ask again later, or ask another peer"
    )]
    NoLease {
        /// How many may wait.
        limit: usize,
    },

    /// The peer broke a rule on this stream, which was ended for it. Other
    /// streams go on.
    #[error("the peer broke the protocol on this stream")]
    Misbehaved(#[source] Misbehavior),

    /// The peer cancelled the stream.
    #[error("the peer cancelled the stream")]
    Canceled,

    /// The connection is over, and with it all its streams.
    #[error("the connection is closed")]
    Closed(#[source] CloseReason),

    /// There is no connection at the moment, the request was not to wait for
    /// one, and nothing was sent: try later, or elsewhere. Says what ended the
    /// last connection or attempt, if there was any.
    #[error("not connected")]
    NotConnected(#[source] Option<CloseReason>),

    /// There is no connection at the moment, and as many requests as may wait
    /// for one do. Nothing was sent: ask less until the peer is back.
    #[error("not connected, and {limit} requests wait already")]
    TooManyWaiting {
        /// See `Reconnect::max_waiting`.
        limit: usize,
    },
}

/// A rule that a peer broke on one stream.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misbehavior {
    /// More payloads than were asked for \[C252\].
    #[error("it sent more payloads than it was granted")]
    Overrun,
    /// A payload over `max_payload_len` \[C222\].
    #[error("its payload is longer than max_payload_len, {limit} bytes")]
    PayloadTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A payload in more than `max_fragments` frames.
    #[error("its payload comes in more than max_fragments, {limit} frames")]
    TooManyFragments {
        /// The limit.
        limit: usize,
    },
    /// More credit than `max_credit`.
    #[error("it asked for more than max_credit, {limit} payloads")]
    TooMuchCredit {
        /// The limit, in payloads.
        limit: u64,
    },
    /// All payloads that wait to be taken exceed `max_buffered_len`.
    #[error("payloads that wait to be taken exceed max_buffered_len, {limit} bytes")]
    BufferFull {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A fragment that adds nothing and says that more will follow \[C223\].
    #[error("it sent an empty fragment that others follow")]
    EmptyFragment,
    /// A request whose initial request-n is 0 or above 2^31-1 \[C121\].
    #[error("its initial request-n is not 1..=2^31-1")]
    InvalidDemand,
}

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it, or dropped its last handle.
    #[error("closed by this side")]
    Local,
    /// The peer announced the end (CONNECTION_CLOSE), or closed the link in
    /// good order.
    #[error("closed by the peer")]
    Peer,
    /// The server did not accept the connection. Its code is one of
    /// INVALID_SETUP, UNSUPPORTED_SETUP, REJECTED_SETUP; from careless servers
    /// any other.
    #[error("the server refused the connection: {0}")]
    Refused(Failure),
    /// The peer ended the connection with an ERROR frame.
    #[error("the peer ended the connection: {0}")]
    PeerError(Failure),
    /// Nothing was heard from the peer for the max lifetime agreed in SETUP.
    #[error("nothing was heard from the peer for {millis} ms")]
    KeepaliveTimeout {
        /// The max lifetime, in milliseconds.
        millis: u32,
    },
    /// No SETUP arrived in time \[C182\].
    #[error("the client sent no SETUP in time")]
    SetupTimeout,
    /// The peer sent bytes that are no frame.
    #[error("the peer sent a malformed frame: {0}")]
    Malformed(DecodeError),
    /// The peer sent something that has no place where it came.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// This side, a server, refused the SETUP.
    #[error("refused the client: {0}")]
    RefusedClient(Failure),
    /// The server granted no lease in time, which it must once it accepted a
    /// client that asks for leases. Servers that do not know leases may ignore
    /// that it asked.
    #[error("the server granted no lease within {millis} ms")]
    NoLease {
        /// The time limit, in milliseconds.
        millis: u64,
    },
    /// The streams did not end within the drain timeout of `close`.
    #[error("streams did not end within the drain timeout")]
    DrainTimeout,
    /// The server will not go on with the session, or cannot \[C285].
    #[error("the server refused to resume the session: {0}")]
    ResumeRefused(Failure),
    /// The link was lost, and the session was not resumed within its
    /// [`session_timeout`](crate::proto::ResumeOptions::session_timeout).
    #[error("the session was not resumed in time after its link was lost: {cause}")]
    NotResumed {
        /// How the link was lost.
        #[source]
        cause: Box<Self>,
    },
    /// The peer confirms nothing of what it receives, and what is kept to be
    /// sent again reached [`max_resume_len`](crate::proto::Limits::max_resume_len).
    #[error("the peer confirms nothing, and max_resume_len, {limit} bytes, is reached")]
    ResumeLogFull {
        /// The limit, in bytes.
        limit: usize,
    },
    /// What the session has to remember could not be stored. It ended here; the
    /// peer was not told, so it may be gone on with from its store.
    #[error("the session cannot be stored: {0}")]
    Store(#[source] StoreError),
    /// This side [let go](crate::Requester::detach) of a session that stays in
    /// its store.
    #[error("detached by this side")]
    Detached,
    /// The link failed, or could not be made.
    #[error("the transport failed: {}", describe(.0))]
    Transport(#[source] Arc<TransportError>),
}

impl From<TransportError> for CloseReason {
    fn from(error: TransportError) -> Self {
        Self::Transport(Arc::new(error))
    }
}

impl CloseReason {
    /// Whether the connection ended as planned, by either side.
    pub fn is_graceful(&self) -> bool {
        matches!(self, Self::Local | Self::Peer)
    }

    /// Whether the same client may well fare better if it connects again: not
    /// when the server refused it, nor with an address or settings that make
    /// no sense.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Transport(error) => error.kind() != TransportErrorKind::Invalid,
            _ => true,
        }
    }
}

/// The error and its causes in one line.
fn describe(error: &TransportError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<Error> for Failure {
    /// What a handler that forwards `error` to its own peer should say: the
    /// peer's own failure as it is, anything else as an application error.
    fn from(error: Error) -> Self {
        match error {
            Error::Peer(failure) => failure,
            other => {
                let cause = std::error::Error::source(&other);
                match cause {
                    Some(cause) => Self::application(format_args!("{other}: {cause}")),
                    None => Self::application(&other),
                }
            }
        }
    }
}
