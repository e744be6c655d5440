//! The client's side of the handshake.

use bytes::Bytes;
use rsocket_core::transport::{LinkInfo, TransportError, TransportErrorKind};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::{
    handshake::{
        client::{Response, generate_key, generate_request},
        derive_accept_key,
    },
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header},
};

use super::{HeadError, listed, plain_headers, read_head};
use crate::framing::stream_error;

/// Bytes of a refusal's body that are worth showing.
const SHOWN: usize = 200;

/// What a client sends beside what the protocol demands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    headers: HeaderMap,
    pub(crate) subprotocols: Vec<String>,
    /// What was no header, or one that is not the caller's to set.
    bad: Option<String>,
}

impl Extras {
    /// Adds a header; one that cannot be sent is reported when it would be.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        let parsed = HeaderName::try_from(name)
            .ok()
            .filter(|name| !is_reserved(name))
            .zip(HeaderValue::try_from(value).ok());
        match parsed {
            Some((header::HOST, value)) => {
                self.headers.insert(header::HOST, value);
            }
            Some((name, value)) => {
                self.headers.append(name, value);
            }
            None => self.bad = Some(name.to_owned()),
        }
    }
}

/// Those by which the handshake works.
fn is_reserved(name: &HeaderName) -> bool {
    [header::CONNECTION, header::UPGRADE].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}

/// Asks for the upgrade of `stream`; what came behind the answer.
///
/// Puts what the answer says into `info`.
pub(crate) async fn connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    uri: &Uri,
    extras: &Extras,
    info: &mut LinkInfo,
) -> Result<Bytes, TransportError> {
    let key = generate_key();
    let request = request(uri, extras, &key)?;
    let (bytes, _) = generate_request(request).map_err(invalid)?;
    stream.write_all(&bytes).await.map_err(stream_error)?;
    stream.flush().await.map_err(stream_error)?;
    let (response, early) = match read_head::<Response>(stream).await {
        Ok(response) => response,
        Err(HeadError::Io(error)) => return Err(stream_error(error)),
        Err(error @ HeadError::Ended) => return Err(TransportError::lost(error)),
        Err(error) => return Err(TransportError::misbehaved(error)),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(&response, &early));
    }
    let problem = problem(
        response.headers(),
        &derive_accept_key(key.as_bytes()),
        extras,
    );
    if let Some(problem) = problem {
        return Err(TransportError::misbehaved(problem));
    }
    info.path = uri.path_and_query().map(ToString::to_string);
    info.headers = plain_headers(response.headers());
    Ok(early)
}

fn request(uri: &Uri, extras: &Extras, key: &str) -> Result<Request<()>, TransportError> {
    if let Some(name) = &extras.bad {
        return Err(invalid(format!(
            "`{name}` with that value is no header to be sent"
        )));
    }
    let mut request = Request::new(());
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    if let Some(authority) = uri.authority() {
        let host = HeaderValue::try_from(authority.as_str()).map_err(invalid)?;
        headers.insert(header::HOST, host);
    }
    headers.extend(extras.headers.clone());
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let version = HeaderValue::from_static("13");
    headers.insert(header::SEC_WEBSOCKET_VERSION, version);
    let key = HeaderValue::try_from(key).map_err(invalid)?;
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
    if !extras.subprotocols.is_empty() {
        let offered = HeaderValue::try_from(extras.subprotocols.join(", ")).map_err(invalid)?;
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    Ok(request)
}

/// What is wrong with a response that grants the upgrade.
fn problem(headers: &HeaderMap, accept: &str, extras: &Extras) -> Option<String> {
    let names = |header, name| listed(headers, header).any(|n| n.eq_ignore_ascii_case(name));
    if !names("upgrade", "websocket") || !names("connection", "upgrade") {
        return Some("the server switched to another protocol than WebSocket".to_owned());
    }
    if headers
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .is_none_or(|sent| sent != accept)
    {
        return Some("the server's Sec-WebSocket-Accept does not answer this request".to_owned());
    }
    if let Some(extension) = listed(headers, "sec-websocket-extensions").next() {
        return Some(format!(
            "the server uses the extension `{extension}`, which was not offered"
        ));
    }
    listed(headers, "sec-websocket-protocol")
        .find(|chosen| !extras.subprotocols.iter().any(|offered| offered == chosen))
        .map(|chosen| {
            format!("the server chose the sub-protocol `{chosen}`, which was not offered")
        })
}

/// The server answered, and did not grant the upgrade.
fn refused(response: &Response, body: &[u8]) -> TransportError {
    let status = response.status();
    let kind = match status.as_u16() {
        // Later, or elsewhere, it may.
        429 | 500.. => TransportErrorKind::Unreachable,
        // What was asked for was wrong: the path, a header, a missing login.
        300..=499 => TransportErrorKind::Invalid,
        _ => TransportErrorKind::PeerMisbehaved,
    };
    let body = String::from_utf8_lossy(body.get(..SHOWN).unwrap_or(body));
    let body: String = body
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    let separator = if body.is_empty() { "" } else { ": " };
    TransportError::new(
        kind,
        format!("the server refused with {status}{separator}{body}"),
    )
}

fn invalid(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, source)
}
