//! How two processes come to share memory: over a Unix socket, in one message
//! each way.
//!
//! ```text
//! client                                          server
//!   | -- hello: version, limit; its region ------> |  who is it? (SO_PEERCRED)
//!   |                                              |  version, length, seals, header
//!   | <----- accept: version, limit; its region -- |  the link is up here,
//!   | <- or refuse: version, why ----------------- |  or the connection is closed
//!   |  version, length, seals, header              |
//!   |  the link is up here, too                    |
//! ```
//!
//! A server makes its region only once it has checked the client's, so that it
//! spends no memory on strangers. From here on the socket is the bell.

mod message;
mod socket;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rsocket_core::transport::{PeerProcess, TransportError, TransportErrorKind};
use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixStream;

use self::message::{Body, Garbage, Message, Refusal, VERSION, Version};
use crate::{
    layout::{Geometry, Header, LayoutError, check},
    mem::MappedPeer,
    options::{ShmOptions, Users},
    region::{OwnRegion, RegionError, map_sealed},
};

/// What both sides have after the rendezvous.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) stream: UnixStream,
    pub(crate) own: OwnRegion,
    pub(crate) own_geometry: Geometry,
    pub(crate) peer: MappedPeer,
    pub(crate) peer_geometry: Geometry,
    pub(crate) peer_process: PeerProcess,
}

/// The client's part, on a socket that was just connected.
///
/// `users` are those whose processes may be the server.
pub(crate) async fn ask(
    stream: UnixStream,
    options: &ShmOptions,
    users: &Users,
) -> Result<Met, RendezvousError> {
    let peer_process = peer_process(&stream)?;
    if !users.include(peer_process.uid) {
        return Err(RendezvousError::User {
            uid: peer_process.uid,
        });
    }
    let own_geometry = options.geometry();
    let own = make_region(&own_geometry)?;
    let hello = message(
        options,
        Body::Hello {
            region_len: own_geometry.region_len() as u64,
        },
    );
    let sent = socket::send(&stream, &hello.encode(), Some(&own.file)).await;
    // A server that refuses a user does not wait for what it has to say.
    let (answer, descriptors) = match (socket::recv(&stream).await, sent) {
        (Ok(answer), _) => answer,
        (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(RendezvousError::Socket(error)),
    };
    let answer = Message::decode(&answer)?;
    if answer.version.major != VERSION.major {
        return Err(RendezvousError::Version {
            theirs: answer.version,
        });
    }
    let region_len = match answer.body {
        Body::Accept { region_len } => region_len,
        Body::Refuse { why } => {
            return Err(RendezvousError::Refused {
                why,
                region_len: own_geometry.region_len(),
                limits: [answer.longest_region, hello.longest_region],
            });
        }
        Body::Hello { .. } => return Err(RendezvousError::OutOfTurn),
    };
    let (peer, header) = peer_region(options, region_len, descriptors)?;
    Ok(Met {
        stream,
        own,
        own_geometry,
        peer,
        peer_geometry: header.geometry,
        peer_process,
    })
}

/// The server's part, on a socket that was just accepted.
pub(crate) async fn answer(
    stream: UnixStream,
    options: &ShmOptions,
) -> Result<Met, RendezvousError> {
    let met = try_answer(&stream, options).await;
    let (own, own_geometry, peer, peer_geometry, peer_process) = match met {
        Ok(met) => met,
        Err(error) => {
            if let Some(why) = error.refusal() {
                let refusal = message(options, Body::Refuse { why });
                // As far as the socket goes: the error tells more than this one.
                let _ = socket::send(&stream, &refusal.encode(), None).await;
            }
            return Err(error);
        }
    };
    let accept = message(
        options,
        Body::Accept {
            region_len: own_geometry.region_len() as u64,
        },
    );
    socket::send(&stream, &accept.encode(), Some(&own.file))
        .await
        .map_err(RendezvousError::Socket)?;
    Ok(Met {
        stream,
        own,
        own_geometry,
        peer,
        peer_geometry,
        peer_process,
    })
}

type Half = (OwnRegion, Geometry, MappedPeer, Geometry, PeerProcess);

async fn try_answer(stream: &UnixStream, options: &ShmOptions) -> Result<Half, RendezvousError> {
    let peer_process = peer_process(stream)?;
    let users = options.users.as_ref().unwrap_or(&Users::Same);
    if !users.include(peer_process.uid) {
        return Err(RendezvousError::User {
            uid: peer_process.uid,
        });
    }
    let (hello, descriptors) = socket::recv(stream)
        .await
        .map_err(RendezvousError::Socket)?;
    let hello = Message::decode(&hello)?;
    if hello.version.major != VERSION.major {
        return Err(RendezvousError::Version {
            theirs: hello.version,
        });
    }
    let Body::Hello { region_len } = hello.body else {
        return Err(RendezvousError::OutOfTurn);
    };
    let (peer, header) = peer_region(options, region_len, descriptors)?;
    let own_geometry = options.geometry();
    if own_geometry.region_len() as u64 > hello.longest_region {
        return Err(RendezvousError::OwnTooLong {
            len: own_geometry.region_len(),
            limit: hello.longest_region,
        });
    }
    let own = make_region(&own_geometry)?;
    Ok((own, own_geometry, peer, header.geometry, peer_process))
}

fn message(options: &ShmOptions, body: Body) -> Message {
    Message {
        version: VERSION,
        body,
        longest_region: options.longest_peer_region as u64,
    }
}

fn make_region(geometry: &Geometry) -> Result<OwnRegion, RendezvousError> {
    OwnRegion::create(geometry).map_err(|error| RendezvousError::NoRoom {
        len: geometry.region_len(),
        error,
    })
}

/// Checks and maps what came with the peer's message.
fn peer_region(
    options: &ShmOptions,
    len: u64,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(MappedPeer, Header), RendezvousError> {
    let limit = options.longest_peer_region;
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= limit)
        .ok_or(RendezvousError::TooLong { len, limit })?;
    let (Some(descriptor), true) = (descriptors.pop(), descriptors.is_empty()) else {
        return Err(RendezvousError::Descriptors);
    };
    let peer = map_sealed(descriptor, len)?;
    let header = check(&peer, len)?;
    Ok((peer, header))
}

fn peer_process(stream: &UnixStream) -> Result<PeerProcess, RendezvousError> {
    let peer =
        socket_peercred(stream.as_fd()).map_err(|error| RendezvousError::Socket(error.into()))?;
    let pid = peer.pid.as_raw_nonzero().get();
    Ok(PeerProcess::new(
        peer.uid.as_raw(),
        peer.gid.as_raw(),
        Some(pid),
    ))
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RendezvousError {
    #[error("the peer runs as user {uid}, who may not")]
    User { uid: u32 },
    #[error("the peer speaks version {theirs} of shared memory, this side {VERSION}")]
    Version { theirs: Version },
    #[error("the peer's region of {len} bytes is over the limit of {limit}")]
    TooLong { len: u64, limit: usize },
    #[error("this side's region of {len} bytes is over the peer's limit of {limit}")]
    OwnTooLong { len: usize, limit: u64 },
    #[error("the peer did not send one descriptor with its message")]
    Descriptors,
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("the peer's region {0}")]
    Layout(LayoutError),
    #[error("the peer does not speak this protocol: {0}")]
    Garbage(#[from] Garbage),
    #[error("the peer sent a message out of turn")]
    OutOfTurn,
    #[error(
        "the server refused: {why} (this side's region: {region_len} bytes; longest that the \
         server maps: {}; longest that this side maps: {})", limits[0], limits[1]
    )]
    Refused {
        why: Refusal,
        region_len: usize,
        limits: [u64; 2],
    },
    #[error("making a region of {len} bytes: {error}")]
    NoRoom { len: usize, error: io::Error },
    #[error("meeting over the socket: {0}")]
    Socket(io::Error),
}

impl From<LayoutError> for RendezvousError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl RendezvousError {
    /// What the client is to be told.
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::User { .. } => Some(Refusal::User),
            Self::Version { .. } => Some(Refusal::Version),
            Self::TooLong { .. } => Some(Refusal::TooLong),
            Self::OwnTooLong { .. } => Some(Refusal::TooShort),
            Self::NoRoom { .. } | Self::Region(RegionError::Map(_)) => Some(Refusal::NoRoom),
            Self::Descriptors | Self::Region(_) | Self::Layout(_) => Some(Refusal::BadRegion),
            // Whatever it is, it would not understand.
            Self::Garbage(_) | Self::OutOfTurn | Self::Refused { .. } | Self::Socket(_) => None,
        }
    }

    fn kind(&self) -> TransportErrorKind {
        match self {
            Self::Version { .. }
            | Self::OwnTooLong { .. }
            | Self::Refused {
                why:
                    Refusal::Version
                    | Refusal::User
                    | Refusal::TooLong
                    | Refusal::TooShort
                    | Refusal::BadRegion
                    | Refusal::Unknown(_),
                ..
            } => TransportErrorKind::Invalid,
            // Worth trying later.
            Self::NoRoom { .. }
            | Self::Region(RegionError::Map(_))
            | Self::Refused {
                why: Refusal::NoRoom,
                ..
            } => TransportErrorKind::Unreachable,
            Self::User { .. }
            | Self::TooLong { .. }
            | Self::Descriptors
            | Self::Region(_)
            | Self::Layout(_)
            | Self::Garbage(_)
            | Self::OutOfTurn => TransportErrorKind::PeerMisbehaved,
            Self::Socket(_) => TransportErrorKind::Lost,
        }
    }
}

impl From<RendezvousError> for TransportError {
    fn from(error: RendezvousError) -> Self {
        Self::new(error.kind(), error)
    }
}
