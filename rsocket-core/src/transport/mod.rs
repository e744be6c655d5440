//! What the core asks of a transport, and all it asks.
//!
//! A [`Connector`] or a [`Listener`] produces [`Link`]s. A link is a sending
//! half, [`FrameTx`], and a receiving half, [`FrameRx`]: memory plus a bell.
//! Frames are encoded by the transport straight into its own memory
//! ([`OutFrame`]) and lent to the core on receipt ([`InFrame`]), so that a
//! small frame is neither allocated nor counted on its way.
//!
//! All traits are object-safe and are used as trait objects: a link's type is
//! erased once per connection, which is what lets a URL choose the transport at
//! run time (see [`Transports`]).
//!
//! A transport is done when it passes the suite in `rsocket_core::testkit`.
//! [`memory`] is the reference implementation.

mod error;
mod frames;
pub mod memory;
mod queue;
mod registry;

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

pub use self::{
    error::{TransportError, TransportErrorKind},
    frames::{InFrame, OutFrame, Part},
    queue::WriteQueue,
    registry::{Transports, UrlError},
};

/// Sends frames.
///
/// After any method returned an error the half is dead, and each later call
/// returns an error again. Dropping the half closes the link without ceremony.
///
/// The core may call from any task. The `cx` it passes always carries the waker
/// of the connection's driver task, so a transport keeps at most one waker.
pub trait FrameTx: Send + 'static {
    /// Takes one frame: copies or encodes it into the transport's memory.
    ///
    /// `Pending` is the link's backpressure, and the only one: nothing was
    /// taken, and the waker is called once there may be room. A transport has
    /// no queue that could grow beyond a fixed bound. The peer sees the frame
    /// after the next [`poll_flush`](Self::poll_flush) at the latest; shared
    /// memory may show it at once.
    ///
    /// A frame longer than [`Limits::max_frame_len`] is a bug of the core.
    ///
    /// # Errors
    ///
    /// When the link is lost.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>>;

    /// Hands all frames taken so far to the medium; called once a batch.
    ///
    /// # Errors
    ///
    /// When the link is lost.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;

    /// Flushes, then tells the peer that no more frames will come.
    ///
    /// # Errors
    ///
    /// When the link is lost first.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>>;

    /// Memory of the link for `len` bytes of a payload that the application is
    /// about to write, if there is some to spare.
    ///
    /// Once written it becomes `Bytes`, which come back as a [`Part`] of frames:
    /// whole or in slices, once, again or never, on this link or on another. A
    /// transport that knows its own memory again saves the copy. It gets it back
    /// by the drop, on any thread, maybe after the link is gone.
    ///
    /// What it holds when it is lent is up to the transport, as long as the peer
    /// could read that anyway. As everything that others hold for as long as they
    /// like it needs a limit, and frames that lie elsewhere have to get through
    /// when it is reached.
    ///
    /// The default lends nothing.
    fn lend(&mut self, _len: usize) -> Option<Box<dyn LentMemory>> {
        None
    }
}

/// Memory that a link [lends](FrameTx::lend).
///
/// Always the same bytes at the same place.
pub trait LentMemory: AsRef<[u8]> + AsMut<[u8]> + Send + Sync + 'static {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send + Sync + 'static> LentMemory for T {}

/// Receives frames.
pub trait FrameRx: Send + 'static {
    /// Delivers frames, without any length prefix, to `sink` in order.
    ///
    /// Returns [`Received::Frames`] after delivering at least one. Delivers
    /// what is at hand, with at most one look at the medium, and stops early
    /// when `sink` breaks; what it did not deliver comes with the next call.
    /// Not called, the peer is held up: this is the receiving side of
    /// backpressure.
    ///
    /// On `Pending` the waker is called once there may be more. Calls come from
    /// any task, one at a time; the waker of the last one counts.
    ///
    /// # Cancel safety
    ///
    /// No frame is lost by not polling again.
    ///
    /// # Errors
    ///
    /// When the link is lost, or the peer broke the transport's own rules.
    /// Frames that arrived whole before are delivered first.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>>;

    /// Waits a moment for a frame, without the kernel, and returns whether
    /// [`poll_recv`](Self::poll_recv) would find something.
    ///
    /// For media on which an answer may be there before a sleeper could be
    /// woken, such as memory shared with another core. Called by a request that
    /// is alone in flight, instead of going to sleep at once; so it is to take
    /// microseconds at most, and less where nothing came of it lately. If it
    /// returns true, the link may be left without a further poll and without a
    /// registered waker until the next request, or for some milliseconds.
    ///
    /// The default never waits.
    fn linger(&mut self) -> bool {
        false
    }
}

/// What [`FrameRx::poll_recv`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// At least one frame was delivered.
    Frames,
    /// The peer closed its sending half in good order; nothing more will come.
    End,
}

/// An established connection to one peer: ordered, reliable, frame by frame.
///
/// A transport whose medium lacks one of these adds it: TCP prepends a 24-bit
/// length, a lossy one retransmits.
///
/// Spec: "Transport Protocol" \[C002, C003\].
pub struct Link {
    pub(crate) tx: Box<dyn FrameTx>,
    pub(crate) rx: Box<dyn FrameRx>,
    pub(crate) limits: Limits,
    pub(crate) info: LinkInfo,
}

impl Link {
    /// A link from its two halves, with default limits.
    pub fn new(tx: impl FrameTx, rx: impl FrameRx, info: LinkInfo) -> Self {
        Self {
            tx: Box::new(tx),
            rx: Box::new(rx),
            limits: Limits::default(),
            info,
        }
    }

    /// Sets what the core has to respect.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What the core has to respect.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What is known about the peer.
    pub fn info(&self) -> &LinkInfo {
        &self.info
    }

    /// Parts the link for use by two tasks. Each half outlives the other.
    pub fn split(self) -> (Box<dyn FrameTx>, Box<dyn FrameRx>) {
        (self.tx, self.rx)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("info", &self.info)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Lengths that the core respects, in bytes of whole frames without any prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame that the link takes: 64 ..= 2^24-1 \[C010\].
    pub max_frame_len: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_len: 0x00FF_FFFF,
        }
    }
}

/// What a transport knows about a link, for acceptors and logs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LinkInfo {
    /// The transport's URL scheme: `tcp`, `unix`, `tls`, `memory`, ...
    pub scheme: &'static str,
    /// The peer's network address, where there is one.
    pub peer_addr: Option<SocketAddr>,
    /// The peer's process, where the kernel vouches for it (Unix sockets).
    pub peer_process: Option<PeerProcess>,
    /// What TLS established, where it is used.
    pub tls: Option<TlsInfo>,
    /// The path that the client asked for in the opening handshake, with its
    /// query, where there is one (WebSocket): `/rsocket?token=...`.
    pub path: Option<String>,
    /// Headers of the opening handshake, where there is one (WebSocket), in
    /// order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl LinkInfo {
    /// Nothing known but the scheme.
    pub fn new(scheme: &'static str) -> Self {
        Self {
            scheme,
            ..Self::default()
        }
    }
}

/// The peer's process as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerProcess {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id, where the platform tells.
    pub pid: Option<i32>,
}

impl PeerProcess {
    /// A process by its ids.
    pub fn new(uid: u32, gid: u32, pid: Option<i32>) -> Self {
        Self { uid, gid, pid }
    }
}

/// What TLS established about the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The peer's certificate chain in DER, its own certificate first; empty
    /// when it showed none. The chain was verified before it got here.
    pub peer_certificates: Vec<Bytes>,
    /// The server name that the client asked for.
    pub server_name: Option<String>,
    /// The application protocol agreed on.
    pub alpn: Option<Vec<u8>>,
}

impl TlsInfo {
    /// TLS is in use; the fields say what is known.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Makes links. `&self`, since a session may connect again.
#[async_trait::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects once. Retrying is the caller's business.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what it had opened.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Unreachable`] when nobody answers, and the other
    /// kinds for what went wrong after that.
    async fn connect(&self) -> Result<Link, TransportError>;
}

#[async_trait::async_trait]
impl<C: Connector + ?Sized> Connector for Box<C> {
    async fn connect(&self) -> Result<Link, TransportError> {
        (**self).connect().await
    }
}

#[async_trait::async_trait]
impl<C: Connector + ?Sized> Connector for std::sync::Arc<C> {
    async fn connect(&self) -> Result<Link, TransportError> {
        (**self).connect().await
    }
}

/// The rest of the way to an accepted [`Link`]: a TLS or WebSocket handshake.
///
/// It runs in the connection's own task and under the server's setup timeout,
/// so a peer that dawdles holds up nobody else. Dropping it closes the
/// connection.
pub type Handshake = Pin<Box<dyn Future<Output = Result<Link, TransportError>> + Send>>;

/// Takes links in.
#[async_trait::async_trait]
pub trait Listener: Send + 'static {
    /// The next connection, with its handshake still to be done.
    ///
    /// Faults that concern one connection, or that pass (too many open files),
    /// are the listener's to log and survive; it returns an error only when it
    /// can accept no more.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: no connection is lost by dropping the future.
    ///
    /// # Errors
    ///
    /// When no further connection can be accepted.
    async fn accept(&mut self) -> Result<Handshake, TransportError>;

    /// The URL at which clients reach this listener.
    fn url(&self) -> String;
}

#[async_trait::async_trait]
impl<L: Listener + ?Sized> Listener for Box<L> {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        (**self).accept().await
    }

    fn url(&self) -> String {
        (**self).url()
    }
}
