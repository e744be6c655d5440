//! Which requests become links, and what the others are told.

use std::{fmt, sync::Arc};

use tokio_tungstenite::tungstenite::{
    error::{Error as WsError, ProtocolError},
    handshake::server::create_response_with_body,
    http::{HeaderValue, Request, Response, StatusCode, header},
};

use super::{HeadError, listed};

/// The sub-protocol that RSocket is offered as, by those who offer one.
pub(crate) const SUBPROTOCOL: &str = "rsocket";

/// What a server asks of requests.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// The one path that is served; any, if there is none.
    pub(crate) path: Option<Arc<str>>,
    /// Whose pages may connect; anybody's, if there is none.
    pub(crate) origins: Option<Arc<[String]>>,
    /// What is spoken here, best first.
    pub(crate) subprotocols: Arc<[String]>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            path: None,
            origins: None,
            subprotocols: Arc::new([SUBPROTOCOL.to_owned()]),
        }
    }
}

impl Gate {
    /// The response that grants the upgrade, or why there is none.
    pub(crate) fn judge<B>(&self, request: &Request<B>) -> Result<Response<()>, Refusal> {
        if let Some(path) = &self.path
            && request.uri().path() != &**path
        {
            let text = format!("nothing is served at this path; RSocket is at {path}");
            return Err(Refusal::new(StatusCode::NOT_FOUND, text));
        }
        let mut response = create_response_with_body(request, || ()).map_err(Refusal::from)?;
        self.check_origin(request)?;
        if let Some(name) = self.subprotocol(request)? {
            response
                .headers_mut()
                .insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
        Ok(response)
    }

    /// Browsers say whose page it is; other clients do not, or say what they like.
    fn check_origin<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let (Some(allowed), Some(origin)) = (&self.origins, request.headers().get(header::ORIGIN))
        else {
            return Ok(());
        };
        let is_allowed = origin.to_str().is_ok_and(|origin| {
            allowed
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        });
        if is_allowed {
            return Ok(());
        }
        let text = "pages of this origin may not connect";
        Err(Refusal::new(StatusCode::FORBIDDEN, text))
    }

    /// What to speak, if the client names something.
    fn subprotocol<B>(&self, request: &Request<B>) -> Result<Option<HeaderValue>, Refusal> {
        let mut offered = listed(request.headers(), "sec-websocket-protocol").peekable();
        if offered.peek().is_none() {
            return Ok(None);
        }
        let offered: Vec<_> = offered.collect();
        let chosen = self
            .subprotocols
            .iter()
            .find(|known| offered.contains(&known.as_str()))
            .and_then(|name| HeaderValue::from_str(name).ok());
        if chosen.is_none() {
            let known = self.subprotocols.join(", ");
            let text = format!("none of the sub-protocols is spoken here; known: {known}");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(chosen)
    }
}

/// A request that does not become a link.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub(crate) fn into_response(self) -> Response<String> {
        let mut response = Response::new(self.text + "\n");
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        match self.status {
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                let version = HeaderValue::from_static("13");
                headers.insert(header::SEC_WEBSOCKET_VERSION, version);
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            _ => {}
        }
        response
    }
}

impl From<WsError> for Refusal {
    fn from(error: WsError) -> Self {
        let (status, text) = match error {
            WsError::Protocol(ProtocolError::WrongHttpMethod) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "a WebSocket begins with GET",
            ),
            WsError::Protocol(ProtocolError::WrongHttpVersion) => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "a WebSocket begins with HTTP/1.1",
            ),
            WsError::Protocol(
                ProtocolError::MissingConnectionUpgradeHeader
                | ProtocolError::MissingUpgradeWebSocketHeader,
            ) => (
                StatusCode::UPGRADE_REQUIRED,
                "RSocket over WebSocket is served here: ask for an upgrade to websocket",
            ),
            WsError::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => (
                StatusCode::UPGRADE_REQUIRED,
                "version 13 of WebSocket is spoken here",
            ),
            _ => (
                StatusCode::BAD_REQUEST,
                "a WebSocket begins with a Sec-WebSocket-Key of 16 bytes in base64",
            ),
        };
        Self::new(status, text)
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLong => Self::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                error.to_string(),
            ),
            // HTTP, and found to be of the wrong kind while it was parsed.
            HeadError::Malformed(error)
                if matches!(
                    *error,
                    WsError::Protocol(
                        ProtocolError::WrongHttpMethod | ProtocolError::WrongHttpVersion
                    )
                ) =>
            {
                (*error).into()
            }
            error => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with {}: {}", self.status, self.text)
    }
}

impl std::error::Error for Refusal {}
