//! From an HTTP request to a WebSocket: one message there, one back.
//!
//! tungstenite parses and writes them; what is here bounds their size, decides
//! who is let in ([`gate`]), and says what is wrong where something is.
//!
//! Spec: RFC 6455, section 4.

pub(crate) mod client;
mod gate;
pub(crate) mod server;

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_tungstenite::tungstenite::{
    error::Error as WsError, handshake::machine::TryParse, http::HeaderMap,
};

pub(crate) use self::gate::Gate;
#[cfg(feature = "axum")]
pub(crate) use self::gate::Refusal;

/// The longest request or response with all its headers, in bytes: what servers
/// commonly allow. Cookies and tokens of browsers come to a few KiB.
pub(crate) const LONGEST_HEAD: usize = 16 * 1024;

/// Why there is no request or response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("more than {LONGEST_HEAD} bytes or 124 headers")]
    TooLong,
    #[error("not HTTP/1.1: {0}")]
    Malformed(#[source] Box<WsError>),
    #[error("the connection ended within the handshake")]
    Ended,
    #[error("the connection failed within the handshake")]
    Io(#[source] io::Error),
}

/// Reads one `T`, and whatever came behind it.
async fn read_head<T: TryParse>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<(T, Bytes), HeadError> {
    let mut head = Vec::with_capacity(1024);
    let mut parsed_at = 0;
    loop {
        let before = head.len();
        if stream.read_buf(&mut head).await.map_err(HeadError::Io)? == 0 {
            return Err(HeadError::Ended);
        }
        // Parsing begins anew each time, so where a peer sends byte by byte it has
        // to be rare. What is no HTTP at all is found at once.
        let looked_at = before.saturating_sub(3);
        let is_whole = head
            .get(looked_at..)
            .is_some_and(|new| new.windows(4).any(|four| four == b"\r\n\r\n"));
        if is_whole || head.len() >= 2 * parsed_at {
            parsed_at = head.len();
            match T::try_parse(&head) {
                Ok(Some((len, parsed))) if len <= LONGEST_HEAD => {
                    return Ok((parsed, Bytes::from(head).slice(len..)));
                }
                Ok(_) => {}
                Err(WsError::Capacity(_)) => return Err(HeadError::TooLong),
                Err(error) => return Err(HeadError::Malformed(Box::new(error))),
            }
        }
        if head.len() > LONGEST_HEAD {
            return Err(HeadError::TooLong);
        }
    }
}

/// The headers as acceptors get them.
fn plain_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into_owned())
        })
        .collect()
}

/// The names in a header that lists some, however many times it is there.
fn listed<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}
