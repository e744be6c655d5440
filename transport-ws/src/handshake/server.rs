//! The server's side of the handshake.

use std::time::Duration;

use bytes::Bytes;
use rsocket_core::transport::{LinkInfo, TransportError};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    handshake::server::write_response,
    http::{HeaderValue, Request, Response, StatusCode, header},
};

use super::{Gate, HeadError, gate::Refusal, plain_headers, read_head};
use crate::framing::stream_error;

/// How long a client that was refused has to read why.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads the request from `stream` and grants or refuses it; what came behind it.
///
/// Puts what the request says into `info`.
pub(crate) async fn accept(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    gate: &Gate,
    info: &mut LinkInfo,
    patience: Duration,
) -> Result<Bytes, TransportError> {
    let deadline = Instant::now() + patience;
    let reading = read_head::<Request<()>>(stream);
    let (request, early) = match timeout_at(deadline, reading).await {
        Ok(Ok(request)) => request,
        Ok(Err(HeadError::Io(error))) => return Err(stream_error(error)),
        Ok(Err(error @ HeadError::Ended)) => return Err(TransportError::lost(error)),
        Ok(Err(error)) => {
            return Err(refuse(stream, error.into()).await);
        }
        Err(_) => {
            let text = "the request did not arrive in time";
            return Err(refuse(stream, Refusal::new(StatusCode::REQUEST_TIMEOUT, text)).await);
        }
    };
    let response = match gate.judge(&request) {
        Ok(response) => response,
        Err(refusal) => return Err(refuse(stream, refusal).await),
    };
    describe(info, &request);
    let bytes = encode(&response);
    match timeout_at(deadline, write(stream, &bytes)).await {
        Ok(written) => written.map_err(stream_error)?,
        Err(_) => return Err(stream_error(std::io::ErrorKind::TimedOut.into())),
    }
    Ok(early)
}

/// What acceptors get to see of a request.
pub(crate) fn describe<B>(info: &mut LinkInfo, request: &Request<B>) {
    info.path = request.uri().path_and_query().map(ToString::to_string);
    info.headers = plain_headers(request.headers());
}

/// Tells the client, and waits a little so that it can be read: a socket that is
/// closed with unread bytes is reset.
async fn refuse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    refusal: Refusal,
) -> TransportError {
    let error = refusal.to_string();
    let mut response = refusal.into_response();
    let len = HeaderValue::from(response.body().len());
    response.headers_mut().insert(header::CONTENT_LENGTH, len);
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    let mut bytes = encode(&response);
    bytes.extend_from_slice(response.body().as_bytes());
    let farewell = async {
        write(stream, &bytes).await?;
        stream.shutdown().await?;
        tokio::io::copy(stream, &mut tokio::io::sink()).await
    };
    // Whatever ends it, the stream may go then.
    let _ = timeout(PATIENCE, farewell).await;
    TransportError::misbehaved(error)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn encode<B>(response: &Response<B>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // It writes to memory, and what comes from here is ASCII.
    if let Err(error) = write_response(&mut bytes, response) {
        tracing::error!(%error, "a response that cannot be written");
        bytes.extend_from_slice(b"HTTP/1.1 500 Internal Server Error\r\n\r\n");
    }
    bytes
}
