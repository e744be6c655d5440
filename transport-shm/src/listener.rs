//! Accepts processes of this host.

use std::io;

use rsocket_core::transport::{Handshake, Listener, TransportError, TransportErrorKind};
use rsocket_transport_tcp::socket::Socket;

use crate::{
    address::ShmAddress,
    link::link,
    options::{ShmOptions, Users},
    rendezvous,
};

/// Accepts connections of processes that are to share memory with this one.
///
/// Whom it accepts is up to [`ShmOptions::users`]: by default, processes of the
/// user that this one runs as. Anybody else is told so and sent away.
///
/// Dropping it removes its socket file, unless somebody has put another in its
/// place. Links that it made live on.
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
    socket: Socket,
    address: ShmAddress,
    options: ShmOptions,
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

    /// Listens at `address`, a path or `"@name"`.
    ///
    /// A socket file that was left behind, that is, on which nobody listens, is
    /// replaced; any other file is not. Start one server at a time on a path: two
    /// that find the same file left behind may displace each other.
    ///
    /// The file lets in only this process's user (mode 0600) if
    /// [`ShmOptions::users`] does; otherwise all may knock (mode 0666), and
    /// whoever is not among the users is refused.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when somebody listens there, or no socket
    /// can be made there.
    pub async fn bind_with(
        address: impl Into<ShmAddress>,
        options: ShmOptions,
    ) -> Result<Self, TransportError> {
        let address = address.into();
        if !address.is_valid() {
            return Err(address.invalid());
        }
        let mode = match options.users {
            None | Some(Users::Same) => 0o600,
            Some(_) => 0o666,
        };
        match Socket::bind(&address.socket_path(), Some(mode)).await {
            Ok(socket) => Ok(Self {
                socket,
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
        let stream = self.socket.accept(&self.address).await?;
        let options = self.options.clone();
        Ok(Box::pin(async move {
            let met = rendezvous::answer(stream, &options).await?;
            Ok(link(met, &options))
        }))
    }

    /// With U+FFFD for what is not UTF-8 in the path.
    fn url(&self) -> String {
        format!("shm:{}", self.address)
    }
}
