//! [`Restored`]: what a process left to the next.

use std::fmt;

use bytes::Bytes;

use crate::{
    CloseReason, Failure, Payload, PayloadSink, PayloadStream, Requester,
    frame::Interaction,
    proto::{self, Damaged, Role},
    resume::StoreError,
};

/// The streams that were open when the process died that had the session, for
/// the application to go on with: see [`Client::restore`](crate::Client::restore).
///
/// What is not taken out of it is ended when it is dropped: streams that this
/// side opened are cancelled, requests of the other side fail with
/// ERROR\[CANCELED\].
///
/// # What arrives how often
///
/// Payloads of a stream have indices from 0 on. The session forgets a payload
/// when the application comes back for the next one, and after a crash gives out
/// again what it had not forgotten. So an application that makes durable what
/// came of payload `i` before it takes payload `i + 1` misses none. It may see
/// some again: those that it dealt with just before the crash. It knows how many
/// it is done with, and skips these: [`PayloadStream::skip_to`]. Then what comes
/// of each payload happens exactly once.
///
/// In the other direction the session counts what was handed over and is stored:
/// [`sent`](RestoredStream::sent). The application goes on with that one; what
/// it had handed over and was not stored was never sent.
///
/// Requests that were being served when the process died are in work again
/// after it, and what their handlers did before is not undone: they run at least
/// once. The answer to a request-response is forgotten when its future has given
/// it out. A request that was not stored when the process died was not sent.
/// METADATA_PUSH may be lost.
#[derive(Debug)]
#[must_use = "dropping it ends all streams that it holds"]
pub struct Restored {
    streams: Vec<RestoredStream>,
}

impl Restored {
    pub(crate) fn new(requester: &Requester, streams: Vec<proto::RestoredStream>) -> Self {
        let streams = streams.into_iter().map(|stream| RestoredStream {
            stream,
            requester: requester.clone(),
            taken: false,
        });
        Self {
            streams: streams.collect(),
        }
    }

    /// The streams, in the order of their ids.
    pub fn streams(&self) -> &[RestoredStream] {
        &self.streams
    }

    /// Takes out the first stream of which `is_it` is true.
    pub fn take(&mut self, is_it: impl FnMut(&RestoredStream) -> bool) -> Option<RestoredStream> {
        let at = self.streams.iter().position(is_it)?;
        Some(self.streams.remove(at))
    }
}

impl IntoIterator for Restored {
    type Item = RestoredStream;
    type IntoIter = std::vec::IntoIter<RestoredStream>;

    fn into_iter(self) -> Self::IntoIter {
        self.streams.into_iter()
    }
}

/// A stream that was open when its process died. Dropping it ends it; see
/// [`Restored`].
pub struct RestoredStream {
    stream: proto::RestoredStream,
    requester: Requester,
    taken: bool,
}

impl RestoredStream {
    /// Its id, the same as before.
    pub fn id(&self) -> u32 {
        self.stream.key.id.get()
    }

    /// Whether this side opened it or serves it.
    pub fn role(&self) -> Role {
        self.stream.role
    }

    /// Which of the four it is.
    pub fn interaction(&self) -> Interaction {
        self.stream.interaction
    }

    /// The request that opened it. The one of a channel is its requester's first
    /// payload too.
    pub fn request(&self) -> &Payload {
        &self.stream.request
    }

    /// Payloads that the application was done with: the index of the next.
    pub fn received(&self) -> u64 {
        self.stream.received
    }

    /// Payloads that the application handed over to be sent and need not hand
    /// over again; the first of a channel counts.
    pub fn sent(&self) -> u64 {
        self.stream.sent
    }

    /// The halves of the stream that are still open: what is to be sent, and
    /// what is received. The answer to a request-response is a stream of one, or
    /// a sink that takes one.
    ///
    /// A fire-and-forget has no halves: keep this value until it was dealt with.
    pub fn into_halves(mut self) -> (Option<PayloadSink>, Option<PayloadStream>) {
        self.taken = true;
        let shared = self.requester.shared();
        let stream = &self.stream;
        let key = stream.key;
        if stream.interaction == Interaction::FireAndForget {
            shared.with(|inner| inner.session.release(key));
            return (None, None);
        }
        let sink = stream.writer.then(|| PayloadSink::new(shared.clone(), key));
        let payloads = stream.reader.then(|| {
            let payloads = match stream.role {
                Role::Requester => PayloadStream::opened(self.requester.clone(), key),
                Role::Responder => PayloadStream::inbound(shared.clone(), key),
            };
            payloads.starting_at(stream.received)
        });
        (sink, payloads)
    }
}

impl Drop for RestoredStream {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let stream = &self.stream;
        self.requester.shared().with(|inner| {
            let key = stream.key;
            match stream.role {
                Role::Requester => inner.session.cancel(key),
                Role::Responder if stream.interaction == Interaction::FireAndForget => {}
                Role::Responder => {
                    let failure = Failure::canceled("nobody goes on with it");
                    inner.session.fail(key, &failure);
                }
            }
            for _ in 0..u8::from(stream.reader) + u8::from(stream.writer) {
                inner.session.release(key);
            }
        });
    }
}

impl fmt::Debug for RestoredStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoredStream")
            .field("id", &self.id())
            .field("role", &self.role())
            .field("interaction", &self.interaction())
            .field("received", &self.received())
            .field("sent", &self.sent())
            .finish_non_exhaustive()
    }
}

/// Why a session could not be gone on with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is no [`Resume::store`](crate::resume::Resume::store).
    #[error("no store of sessions is configured: call Client::resume with Resume::store")]
    NoStore,
    /// The store has no such session. Connect instead.
    #[error("the store has no session of that token")]
    Unknown,
    /// The store cannot be read.
    #[error("the store of sessions cannot be read")]
    Store(#[from] StoreError),
    /// What the store has is no session that this version of the library wrote.
    /// It was left as it is: remove it and connect.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The server could not be reached within the session timeout. The session
    /// was left as it is.
    #[error("the server could not be reached within the session timeout")]
    Unreachable,
    /// The server refused, or the session came to its end otherwise. Unless the
    /// reason is the store itself it was removed: connect instead.
    #[error("the session cannot be gone on with: {0}")]
    Closed(#[source] CloseReason),
}

/// Tells errors of the blocking pool from those of the store.
pub(crate) async fn load(
    store: std::sync::Arc<dyn crate::resume::ResumeStore>,
    token: Bytes,
) -> Result<Vec<(crate::resume::Key, Bytes)>, RestoreError> {
    let loading = tokio::task::spawn_blocking(move || store.load(&token));
    match loading.await {
        Ok(rows) => rows?.ok_or(RestoreError::Unknown),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(RestoreError::Closed(CloseReason::Local)),
        },
    }
}
