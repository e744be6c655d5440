//! What is agreed when a connection starts.
//!
//! Spec: "SETUP Frame (0x01)".

use std::time::Duration;

use bytes::Bytes;

use crate::{
    Payload,
    frame::{self, Millis31, PayloadRef},
    transport::{InFrame, Part},
};

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Connected: sends SETUP, opens streams with odd ids.
    Client,
    /// Accepted: opens streams with even ids.
    Server,
}

/// What a client announces in SETUP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupOptions {
    /// How often the client sends KEEPALIVE: 1 ms ..= 2^31-1 ms. Default 20 s.
    pub keepalive_interval: Millis31,
    /// How long either side may be silent before the other gives it up for
    /// dead: 1 ms ..= 2^31-1 ms. Default 90 s.
    pub max_lifetime: Millis31,
    /// Media type of metadata, ASCII, at most 255 bytes; some peers take 127
    /// \[C070]. Default `application/octet-stream`.
    pub metadata_mime: String,
    /// Media type of data, likewise.
    pub data_mime: String,
    /// The application's own payload.
    pub payload: Payload,
    /// Makes the session resumable, under this name: 1 ..= 65,535 bytes that
    /// nobody can guess and that no other session ever had \[C302]; printable
    /// ASCII for all peers to cope \[C303]. Default `None`.
    pub resume_token: Option<Bytes>,
}

impl Default for SetupOptions {
    /// The intervals of rsocket-java \[A50].
    fn default() -> Self {
        const INTERVAL: Millis31 = Millis31::new(20_000).unwrap();
        const MAX_LIFETIME: Millis31 = Millis31::new(90_000).unwrap();
        Self {
            keepalive_interval: INTERVAL,
            max_lifetime: MAX_LIFETIME,
            metadata_mime: "application/octet-stream".to_owned(),
            data_mime: "application/octet-stream".to_owned(),
            payload: Payload::default(),
            resume_token: None,
        }
    }
}

impl SetupOptions {
    /// Bytes of the SETUP frame. A link that takes no frame of this length
    /// cannot carry the session.
    pub fn encoded_len(&self) -> usize {
        self.encode(false).len()
    }

    /// The SETUP frame, encoded.
    pub(super) fn encode(&self, lease: bool) -> Bytes {
        let setup = frame::Setup {
            major: frame::VERSION.0,
            minor: frame::VERSION.1,
            keepalive: self.keepalive_interval,
            max_lifetime: self.max_lifetime,
            resume_token: self.resume_token.as_deref(),
            lease,
            metadata_mime: self.metadata_mime.as_bytes(),
            data_mime: self.data_mime.as_bytes(),
            payload: PayloadRef {
                metadata: self.payload.metadata(),
                data: self.payload.data(),
            },
        };
        frame::Frame::Setup(setup).to_vec().into()
    }
}

/// What a client announced, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setup {
    /// How often the client will send KEEPALIVE.
    pub keepalive_interval: Duration,
    /// How long either side may be silent.
    pub max_lifetime: Duration,
    /// Whether the client asks for leases, and will keep to them.
    pub lease: bool,
    /// Media type of metadata. Bytes that are not UTF-8 were replaced.
    pub metadata_mime: String,
    /// Media type of data, likewise.
    pub data_mime: String,
    /// The client application's own payload: an authentication token, a route.
    pub payload: Payload,
    /// The name under which the client will ask to go on with this session.
    pub resume_token: Option<Bytes>,
}

impl Setup {
    pub(super) fn from_frame(setup: &frame::Setup<'_>, whole: &InFrame<'_>) -> Self {
        Self {
            keepalive_interval: setup.keepalive.to_duration(),
            max_lifetime: setup.max_lifetime.to_duration(),
            lease: setup.lease,
            metadata_mime: String::from_utf8_lossy(setup.metadata_mime).into_owned(),
            data_mime: String::from_utf8_lossy(setup.data_mime).into_owned(),
            payload: keep(&setup.payload, whole),
            resume_token: setup.resume_token.map(Bytes::copy_from_slice),
        }
    }
}

/// An owned payload from one borrowed from `whole`: short parts are copied
/// inline, long ones share the frame's memory if that can be had.
fn keep(payload: &PayloadRef<'_>, whole: &InFrame<'_>) -> Payload {
    let mut kept = Payload::default();
    keep_in(&mut kept, payload, whole);
    kept
}

/// Likewise, where it is to be.
#[inline]
pub(super) fn keep_in(place: &mut Payload, payload: &PayloadRef<'_>, whole: &InFrame<'_>) {
    let part = |bytes| match whole {
        InFrame::Borrowed(_) => Part::slice(bytes),
        InFrame::Shared(owner) => Part::shared(owner, bytes),
    };
    place.keep(part(payload.data), payload.metadata.map(part));
}
