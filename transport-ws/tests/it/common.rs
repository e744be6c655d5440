//! Frames in and out of links, and a peer that writes bytes of its own.

use bytes::Bytes;
pub(crate) use rsocket_core::testkit::halves::*;
use rsocket_core::transport::{Link, LinkInfo, Listener as _, TransportError};
use rsocket_transport_ws::{LinkOptions, Role, WsListener, upgraded};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
};

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
pub(crate) const FIN: u8 = 0x80;

/// Bytes of a frame as a client has to send it; the mask is known to all.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x5A, 0xA5, 0x0F, 0xF0];
    let mut bytes = header(first, 0x80, payload.len() as u64);
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
    bytes
}

/// Bytes of a frame as a server has to send it.
pub(crate) fn bare(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, 0, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// A header that announces `len` bytes.
pub(crate) fn header(first: u8, mask_bit: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(mask_bit | len as u8),
        126..65_536 => {
            bytes.push(mask_bit | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    bytes
}

/// The next frame that the peer sent, its mask taken off: first byte and payload.
pub(crate) async fn next_frame(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let second = stream.read_u8().await?;
    let len = match second & 0x7F {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        len => u64::from(len),
    };
    let mut key = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut key).await?;
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).await?;
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
    Ok((first, payload))
}

/// Code and reason of the closing frame that comes next.
pub(crate) async fn closing_frame(stream: &mut (impl AsyncRead + Unpin)) -> (u16, String) {
    let (first, payload) = next_frame(stream).await.unwrap();
    assert_eq!(first, FIN | CLOSE, "{payload:?}");
    let code = payload
        .get(..2)
        .map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
    let reason = payload.get(2..).unwrap_or_default();
    (code, String::from_utf8(reason.to_vec()).unwrap())
}

/// A link in this role, without a handshake, and the other end of its stream,
/// which holds `capacity` bytes each way.
pub(crate) fn raw(role: Role, capacity: usize, options: LinkOptions) -> (Link, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    let link = upgraded(ours, role, Bytes::new(), LinkInfo::new("pipe"), options);
    (link, theirs)
}

/// Bytes in both directions of [`raw`] where they do not matter.
pub(crate) const ROOMY: usize = 1 << 20;

pub(crate) fn server() -> (Link, DuplexStream) {
    raw(Role::Server, ROOMY, LinkOptions::new())
}

pub(crate) async fn listener() -> WsListener {
    WsListener::bind("127.0.0.1:0").await.unwrap()
}

/// A request for a WebSocket, with these lines added.
pub(crate) fn request(path: &str, lines: &[&str]) -> String {
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for line in lines {
        text += line;
        text += "\r\n";
    }
    text + "\r\n"
}

/// The head of a response.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// Sends `bytes` to a server and reads all that it answers; and what its side of
/// the handshake came to.
pub(crate) async fn ask(
    listener: &mut WsListener,
    bytes: &[u8],
) -> (String, Result<Link, TransportError>) {
    let address = listener.local_addr();
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut response = head(&mut stream).await;
        if !response.starts_with("HTTP/1.1 101") {
            stream.read_to_string(&mut response).await.unwrap();
        }
        response
    };
    let accepting = async { listener.accept().await.unwrap().await };
    watched(async { tokio::join!(asking, accepting) }).await
}

/// Writes all of `bytes`, whole.
pub(crate) async fn put(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// SETUP of version 1.0 with this max lifetime, in milliseconds, and the shortest of
/// MIME types. KEEPALIVE is said to come three times in it.
pub(crate) fn setup(max_lifetime: u32) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, 0x04, 0, 0, 1, 0, 0];
    frame.extend_from_slice(&(max_lifetime / 3).to_be_bytes());
    frame.extend_from_slice(&max_lifetime.to_be_bytes());
    frame.extend_from_slice(b"\x03a/b\x03a/b");
    frame
}
