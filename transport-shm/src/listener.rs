//! Accepts processes of this host.

use std::io;

use rsocket_core::transport::{Handshake, Listener, TransportError, TransportErrorKind};
use rsocket_transport_tcp::socket::Socket;

use crate::{
    address::{Place, ShmAddress},
    link::link,
    options::{ShmOptions, Users},
    rendezvous::{self, directory::Server, socket::Socket as Meeting},
};

/// Accepts connections of processes that are to share memory with this one.
///
/// Whom it accepts is up to [`ShmOptions::users`]: by default, processes of the
/// user that this one runs as. Anybody else is told so and sent away.
///
/// Dropping it removes its socket file, unless somebody has put another in its
/// place, or a directory that it has made, if nothing else is in it. Links that it
/// made live on.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rsocket_core::transport::TransportError> {
/// use rsocket_transport_shm::ShmListener;
///
/// # let name = format!("@rsocket-doc-{}", std::process::id());
/// let listener = ShmListener::bind(name).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ShmListener {
    place: Bound,
    address: ShmAddress,
    options: ShmOptions,
}

#[derive(Debug)]
enum Bound {
    Socket(Socket),
    Directory(Server),
}

impl ShmListener {
    /// Listens at `address`, a path or `"@name"`, with all options at their
    /// defaults.
    ///
    /// # Errors
    ///
    /// As [`bind_with`](Self::bind_with).
    pub async fn bind(address: impl Into<ShmAddress>) -> Result<Self, TransportError> {
        Self::bind_with(address, ShmOptions::new()).await
    }

    /// Listens at `address`: a path, `"@name"`, or a
    /// [directory](ShmAddress::directory).
    ///
    /// A socket file that was left behind, that is, on which nobody listens, is
    /// replaced; any other file is not. Start one server at a time on a path: two
    /// that find the same file left behind may displace each other.
    ///
    /// The file lets in only this process's user (mode 0600) if
    /// [`ShmOptions::users`] does; otherwise all may knock (mode 0666), and
    /// whoever is not among the users is refused.
    ///
    /// A directory is made, with mode 0700, if it is not there; its parent has to
    /// be. Of what is in it, a server that died has left what looks like its bell
    /// and meetings that nobody holds a lock on; that is removed, and nothing
    /// else. There can be one server at a time, however they are started.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when somebody listens there, when no socket
    /// can be made there, or when the directory is not this user's alone, or is to
    /// serve others.
    pub async fn bind_with(
        address: impl Into<ShmAddress>,
        options: ShmOptions,
    ) -> Result<Self, TransportError> {
        let address = address.into();
        address.check(options.users.as_ref())?;
        let mode = match options.users {
            None | Some(Users::Same) => 0o600,
            Some(_) => 0o666,
        };
        let place = match address.place() {
            Place::Socket(path) => Socket::bind(&path, Some(mode)).await.map(Bound::Socket),
            Place::Directory(path) => Server::bind(&path)
                .map(Bound::Directory)
                .map_err(io::Error::other),
        };
        match place {
            Ok(place) => Ok(Self {
                place,
                address,
                options,
            }),
            Err(error) => {
                let message = format!("listening on {address}: {error}");
                Err(TransportError::new(
                    TransportErrorKind::Invalid,
                    io::Error::new(error.kind(), message),
                ))
            }
        }
    }

    /// Where it listens, as given to [`bind`](Self::bind).
    pub fn address(&self) -> &ShmAddress {
        &self.address
    }
}

#[async_trait::async_trait]
impl Listener for ShmListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let options = self.options.clone();
        match &mut self.place {
            Bound::Socket(socket) => {
                let stream = socket.accept(&self.address).await?;
                Ok(Box::pin(async move {
                    let met = rendezvous::answer(Meeting::new(stream), &options).await?;
                    Ok(link(met, &options))
                }))
            }
            Bound::Directory(server) => {
                let asked = server.accept().await?;
                Ok(Box::pin(async move {
                    let met = rendezvous::answer(asked.open()?, &options).await?;
                    Ok(link(met, &options))
                }))
            }
        }
    }

    /// With U+FFFD for what is not UTF-8 in the path.
    fn url(&self) -> String {
        self.address.url()
    }
}
