//! RSocket over memory that two processes of one host share.
//!
//! A client and a server name the same socket, and that is all that the rest of
//! a program sees of this crate:
//!
//! ```
//! use rsocket_core::{Handlers, connect, serve};
//! use rsocket_transport_shm::{ShmConnector, ShmListener};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let name = format!("@rsocket-doc-lib-{}", std::process::id());
//! let listener = ShmListener::bind(&name).await?;
//! tokio::spawn(serve(listener, |_setup, _client| async {
//!     Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
//! }));
//!
//! let peer = connect(ShmConnector::new(&name)).await?;
//! let echo = peer.request_response("hello").await?;
//! assert_eq!(echo.data_utf8(), Some("hello"));
//! # Ok(())
//! # }
//! ```
//!
//! | URL | where they meet |
//! |---|---|
//! | `shm:/path`, `shm:///path`, `shm:relative/path` | a Unix socket with a file |
//! | `shm:@name` | one with an abstract name |
//! | `shm+dir:/path`, `shm+dir:///path`, `shm+dir:relative/path` | a [directory](ShmAddress::directory) of one user, for processes that have no socket in common |
//!
//! Behind a `?` there may be settings, see [`ShmOptions`]: `ring`, `arena` and
//! `longest` with a number of bytes (`K` and `M` may follow), `spin=adaptive`,
//! `poll` or `sleep`, `users=same`, `any` or user ids. They are for this side
//! only: what a listener's URL says of its ring is not what its clients' rings
//! are like. [`register`] teaches the URLs to a [`Transports`].
//!
//! # Who writes what
//!
//! Each side of a connection owns one *region* of shared memory and is the only
//! one that writes to it; the peer maps it read-only. A region holds all that its
//! owner has to say: a header, the words that announce that it sleeps, how far
//! it has read the peer's ring, which of the peer's loans it is done with, its
//! own ring of frames, and its arena for long frames. So a hostile peer can
//! change nothing but its own half, and no word has two writers.
//!
//! Regions are memfds, sealed so that they can neither shrink nor be written by
//! anybody else, and all of their pages are there from the start: touching them
//! cannot fail. They are exchanged over the socket, which stays open as the bell
//! and as the sign that the peer lives. In a directory they are files, which
//! nobody else may open, whose pages are there from the start, too, and which are
//! removed as soon as both sides have them mapped; two pipes are the bell.
//!
//! # Frames
//!
//! A short frame is written once, into the ring, and can be seen at once; the
//! peer is rung only if it said that it sleeps. Frames over an eighth of the ring
//! are written to the arena, and those over half the arena go through the ring in
//! pieces, so that frames of any length pass whatever the memory. A link that
//! has no room left holds up its sender.
//!
//! # Data that is not copied
//!
//! [`Requester::buffer`](rsocket_core::Requester::buffer) lends memory of the arena, from 4 KiB of data on and half the arena at most;
//! beyond that it gives a vector. Data that is written there, with up to 115
//! bytes of metadata, is sent from where it lies: a peer copies it once, a peer
//! that [trusts](ShmOptions::trust_peer) this side not at all. It begins at a
//! multiple of 128 bytes, and at one of 8 in the peer's copy where the allocator
//! aligns as malloc does, so that numbers can be read in place. Other transports
//! do nothing of the kind: who wants to be independent of them uses types that
//! may lie anywhere.
//!
//! Data is copied as any other if it is a part of a buffer that does not begin
//! with it, if the buffer is another link's, if its metadata is longer, and if it
//! is sent again before the peer is done with it. A buffer that is held keeps the
//! link's memory mapped.
//!
//! # Waiting
//!
//! A receiver looks at memory for a short while, giving other tasks their turns,
//! and then sleeps until it is rung: see [`Spin`]. While both sides are awake,
//! no system call is made.
//!
//! # Trust
//!
//! A listener accepts processes of its own user unless told otherwise
//! ([`ShmOptions::users`]), as the kernel reports them. Whoever the peer is, it
//! can at any time change what it has sent, so frames are copied to private
//! memory before anybody looks at them. For peers that are known to keep the
//! rules, [`ShmOptions::trust_peer`] saves the copy of long frames.
//!
//! A directory is for processes of one user, as the owners and modes of all that
//! is opened have to show. Its files cannot be sealed, so that a process of this
//! user that means harm, or a person with the wrong command, can cut a region
//! short while it is open, and that ends the processes that use it by SIGBUS.
//! They could as well send them SIGKILL. Where that is not true, because
//! processes of one user are kept apart by other means, a directory that they
//! share puts them at each other's mercy; a socket does not.
//!
//! What a peer writes can end the link with an error
//! ([`PeerMisbehaved`](rsocket_core::transport::TransportErrorKind::PeerMisbehaved)),
//! no more. A link costs this side its own region, one descriptor (two after a
//! meeting in a directory), address space for the peer's region, and at most one frame of 2^24-1 bytes for each
//! direction while it passes in pieces.
//!
//! # When a process dies
//!
//! The kernel closes its socket or pipe, whatever it died of. The other side still gets
//! all frames that were sent, and then
//! [`Lost`](rsocket_core::transport::TransportErrorKind::Lost), at once and
//! without a timer. The dead process's memory goes with the last mapping of it. A
//! socket file that a server left behind is replaced by the next one. In a
//! directory, what is left of links that were up is nothing, and of meetings that
//! were not over, what the server finds when it next looks: a client that died is
//! cleaned up after when another comes, at the latest by the next server. A process
//! that is stopped is not dead: it holds up its peer until it goes on, or until
//! the keepalive of the core gives it up.
//!
//! # Limits
//!
//! | what | default | why |
//! |---|---|---|
//! | ring | 256 KiB (4 KiB to 64 MiB) | stays in a processor's cache, holds thousands of small frames |
//! | arena | 4 MiB (none, or 64 KiB to 1 GiB) | frames up to 2 MiB in one piece |
//! | buffers that are lent | half the arena | the other half comes free again whatever the applications hold |
//! | longest region of a peer that is mapped | 256 MiB | bounds page tables; the memory is the peer's |
//! | spinning | 20 µs, where it pays | a few times what a sleep costs |
//!
//! # Where to read on
//!
//! `rendezvous` is how two processes meet, `region` makes and checks their
//! memory, and `bell` rings over the `line` that is left of the meeting. `tx` and
//! `rx` are the halves of a link, and `spin` says how long `rx` looks before it sleeps.
//!
//! Below them, `mem` is the only module that touches raw memory; `layout` says
//! where what lies in a region, and checks a peer's; `ring` carries frames and
//! says when the other side has to be rung; `arena` keeps the long ones, and
//! `lent` says how buffers of it come back from the application.
//!
//! Linux 5.1 or later; the crate is empty on other systems.

#![cfg(target_os = "linux")]
#![deny(unsafe_code)]

mod address;
mod arena;
mod bell;
mod connector;
mod layout;
mod lent;
mod line;
mod link;
mod listener;
mod mem;
mod options;
mod region;
mod rendezvous;
mod ring;
mod rx;
mod spin;
mod tx;

use rsocket_core::transport::{Connector, Listener, TransportError, Transports};

use self::rendezvous::directory::SCHEME;

pub use self::{
    address::ShmAddress,
    connector::ShmConnector,
    listener::ShmListener,
    options::{ShmOptions, Spin, Users},
};

/// Adds the schemes of this crate: `shm` and `shm+dir`.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::Transports;
///
/// let mut transports = Transports::new();
/// rsocket_transport_shm::register(&mut transports);
///
/// assert!(transports.connector("shm:/run/app.sock").is_ok());
/// assert!(transports.connector("shm:@app?ring=1M&spin=sleep").is_ok());
/// assert!(transports.connector("shm+dir:/dev/shm/app").is_ok());
/// assert!(transports.connector("shm:").is_err(), "nowhere");
/// ```
pub fn register(transports: &mut Transports) {
    transports.register("shm", shm_connector, shm_listener);
    transports.register(SCHEME, shm_connector, shm_listener);
}

fn shm_connector(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    let (address, options) = address::from_url(url)?;
    Ok(Box::new(ShmConnector::new(address).options(options)))
}

async fn shm_listener(url: String) -> Result<Box<dyn Listener>, TransportError> {
    let (address, options) = address::from_url(&url)?;
    Ok(Box::new(ShmListener::bind_with(address, options).await?))
}

/// The parts below the transport, for benches. Not covered by any promise.
#[doc(hidden)]
pub mod raw {
    pub use crate::{
        layout::{CONTROL_LEN, Geometry, Header, LayoutError, check, format},
        mem::{
            Data, Mapped, MappedData, MappedPeer, MappedWords, Memory, Peer, Words, map_own,
            map_peer,
        },
        ring::{Bell, Consumer, Corrupt, Producer, Sent},
    };
}
