//! How two processes come to share memory: in one message each way.
//!
//! ```text
//! client                                          server
//!   | -- hello: version, limit; its region ------> |  who is it?
//!   |                                              |  version, length, seals, header
//!   | <----- accept: version, limit; its region -- |  the link is up here,
//!   | <- or refuse: version, why ----------------- |  or the connection is closed
//!   |  version, length, seals, header              |
//!   |  the link is up here, too                    |
//! ```
//!
//! A server makes its region only once it has checked the client's, so that it
//! spends no memory on strangers. What messages and regions go over is a
//! [`Medium`]: a [`socket`], where the kernel says who the peer is and regions
//! are sealed, or a [`directory`], to which other users have no access. From here
//! on it is the line that the bell rings over.

pub(crate) mod directory;
mod message;
pub(crate) mod socket;

use std::io;

use rsocket_core::transport::{PeerProcess, TransportError, TransportErrorKind};

use self::directory::DirectoryError;
use self::message::{Body, Garbage, MESSAGE_LEN, Message, Refusal, VERSION, Version};
use crate::{
    layout::{Geometry, Header, LayoutError, check},
    line::Line,
    mem::MappedPeer,
    options::{ShmOptions, Users},
    region::{OwnRegion, RegionError},
};

/// What both sides have after the rendezvous.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) scheme: &'static str,
    pub(crate) line: Line,
    pub(crate) own: OwnRegion,
    pub(crate) own_geometry: Geometry,
    pub(crate) peer: MappedPeer,
    pub(crate) peer_geometry: Geometry,
    pub(crate) peer_process: PeerProcess,
}

/// What messages and regions pass over, from one side.
pub(crate) trait Medium {
    /// Of the URLs that lead here.
    const SCHEME: &'static str;

    /// Who is at the other end.
    fn peer_process(&self) -> io::Result<PeerProcess>;

    /// Makes the region that goes along with a message.
    fn make_region(&mut self, geometry: &Geometry) -> io::Result<OwnRegion>;

    /// Sends a message, with this side's region or without.
    async fn send(
        &mut self,
        message: &[u8; MESSAGE_LEN],
        region: Option<&OwnRegion>,
    ) -> io::Result<()>;

    /// Receives a message, and whatever came along, which is kept.
    async fn recv(&mut self) -> io::Result<[u8; MESSAGE_LEN]>;

    /// Checks and maps the region of `len` bytes that should have come along.
    fn map_region(&mut self, len: usize) -> Result<MappedPeer, RendezvousError>;

    /// Leaves nothing behind of the meeting but the line: after both sides have
    /// the other's region.
    async fn settle(&mut self) -> io::Result<()>;

    /// What is left of it for the link.
    fn into_line(self) -> io::Result<Line>;

    fn error(error: io::Error) -> RendezvousError;
}

/// The client's part.
///
/// `users` are those whose processes may be the server.
pub(crate) async fn ask<M: Medium>(
    mut medium: M,
    options: &ShmOptions,
    users: &Users,
) -> Result<Met, RendezvousError> {
    let peer_process = medium.peer_process().map_err(M::error)?;
    if !users.include(peer_process.uid) {
        return Err(RendezvousError::User {
            uid: peer_process.uid,
        });
    }
    let own_geometry = options.geometry();
    let own = make_region(&mut medium, &own_geometry)?;
    let hello = message(
        options,
        Body::Hello {
            region_len: own_geometry.region_len() as u64,
        },
    );
    let sent = medium.send(&hello.encode(), Some(&own)).await;
    // A server that refuses a user does not wait for what it has to say.
    let answer = match (medium.recv().await, sent) {
        (Ok(answer), _) => answer,
        (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(M::error(error)),
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
    let (peer, header) = peer_region(&mut medium, options, region_len)?;
    medium.settle().await.map_err(M::error)?;
    Ok(Met {
        scheme: M::SCHEME,
        line: medium.into_line().map_err(M::error)?,
        own,
        own_geometry,
        peer,
        peer_geometry: header.geometry,
        peer_process,
    })
}

/// The server's part.
pub(crate) async fn answer<M: Medium>(
    mut medium: M,
    options: &ShmOptions,
) -> Result<Met, RendezvousError> {
    let met = try_answer(&mut medium, options).await;
    let (own, own_geometry, peer, peer_geometry, peer_process) = match met {
        Ok(met) => met,
        Err(error) => {
            if let Some(why) = error.refusal() {
                let refusal = message(options, Body::Refuse { why });
                // As far as that goes: the error tells more than this one.
                let _ = medium.send(&refusal.encode(), None).await;
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
    let sent = medium.send(&accept.encode(), Some(&own)).await;
    sent.map_err(M::error)?;
    medium.settle().await.map_err(M::error)?;
    Ok(Met {
        scheme: M::SCHEME,
        line: medium.into_line().map_err(M::error)?,
        own,
        own_geometry,
        peer,
        peer_geometry,
        peer_process,
    })
}

type Half = (OwnRegion, Geometry, MappedPeer, Geometry, PeerProcess);

async fn try_answer<M: Medium>(
    medium: &mut M,
    options: &ShmOptions,
) -> Result<Half, RendezvousError> {
    let peer_process = medium.peer_process().map_err(M::error)?;
    let users = options.users.as_ref().unwrap_or(&Users::Same);
    if !users.include(peer_process.uid) {
        return Err(RendezvousError::User {
            uid: peer_process.uid,
        });
    }
    let hello = medium.recv().await.map_err(M::error)?;
    let hello = Message::decode(&hello)?;
    if hello.version.major != VERSION.major {
        return Err(RendezvousError::Version {
            theirs: hello.version,
        });
    }
    let Body::Hello { region_len } = hello.body else {
        return Err(RendezvousError::OutOfTurn);
    };
    let (peer, header) = peer_region(medium, options, region_len)?;
    let own_geometry = options.geometry();
    if own_geometry.region_len() as u64 > hello.longest_region {
        return Err(RendezvousError::OwnTooLong {
            len: own_geometry.region_len(),
            limit: hello.longest_region,
        });
    }
    let own = make_region(medium, &own_geometry)?;
    Ok((own, own_geometry, peer, header.geometry, peer_process))
}

fn message(options: &ShmOptions, body: Body) -> Message {
    Message {
        version: VERSION,
        body,
        longest_region: options.longest_peer_region as u64,
    }
}

fn make_region<M: Medium>(
    medium: &mut M,
    geometry: &Geometry,
) -> Result<OwnRegion, RendezvousError> {
    let made = medium.make_region(geometry);
    made.map_err(|error| RendezvousError::NoRoom {
        len: geometry.region_len(),
        error,
    })
}

/// Checks and maps what came with the peer's message.
fn peer_region<M: Medium>(
    medium: &mut M,
    options: &ShmOptions,
    len: u64,
) -> Result<(MappedPeer, Header), RendezvousError> {
    let limit = options.longest_peer_region;
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= limit)
        .ok_or(RendezvousError::TooLong { len, limit })?;
    let peer = medium.map_region(len)?;
    let header = check(&peer, len)?;
    Ok((peer, header))
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
    #[error("meeting in the directory: {0}")]
    Directory(io::Error),
    #[error("the peer's files: {0}")]
    File(DirectoryError),
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
            Self::File(error) if error.is_of_this_side() => Some(Refusal::NoRoom),
            Self::Descriptors | Self::File(_) | Self::Region(_) | Self::Layout(_) => {
                Some(Refusal::BadRegion)
            }
            // Whatever it is, it would not understand.
            Self::Garbage(_)
            | Self::OutOfTurn
            | Self::Refused { .. }
            | Self::Socket(_)
            | Self::Directory(_) => None,
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
            Self::File(error) if error.is_of_this_side() => TransportErrorKind::Unreachable,
            Self::User { .. }
            | Self::TooLong { .. }
            | Self::Descriptors
            | Self::File(_)
            | Self::Region(_)
            | Self::Layout(_)
            | Self::Garbage(_)
            | Self::OutOfTurn => TransportErrorKind::PeerMisbehaved,
            Self::Socket(_) | Self::Directory(_) => TransportErrorKind::Lost,
        }
    }
}

impl From<RendezvousError> for TransportError {
    fn from(error: RendezvousError) -> Self {
        Self::new(error.kind(), error)
    }
}
