//! A client moved by JSON lines on stdin.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Error, Result};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rsocket_rust::Client;
use rsocket_rust::error::{self, RSocketError};
use rsocket_rust::prelude::*;
use rsocket_rust::transport::Connection;
use rsocket_rust_transport_tcp::TcpClientTransport;
use rsocket_rust_transport_websocket::WebsocketClientTransport;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::service::{ClientSlot, Service, failure, pattern};

const MIME: &str = "application/octet-stream";

fn caps(id: u64) -> Value {
    json!({
        "id": id, "ev": "caps", "impl": "rsocket_rust 0.7.5",
        "tcp": true, "ws": true,
        // The library has no request-n: it asks for 2^31-1, whatever `n` says, and sends
        // without credit.
        "request_n": false, "initial_n": false, "channel_demand": false,
        "cancel_rr": false, "cancel_stream": true,
        "lease": false, "resume": false,
        // Fragments lack NEXT, and the first one of a response carries COMPLETE.
        "mtu": false,
        "channel": true, "channel_error": true,
        // METADATA_PUSH goes out on a stream id that is not 0.
        "push": false,
        "fnf": true, "responder": true, "errorcodes": true,
    })
}

fn emit(event: &Value) {
    // `println!` takes the lock once and flushes at the end of the line.
    println!("{event}");
}

fn fail(id: u64, code: i64, message: &str) {
    emit(&json!({"id": id, "ev": "error", "code": code, "message": message}));
}

fn not_supported(id: u64, what: &str) {
    fail(id, -1, &format!("not supported: {what}"));
}

/// The code of an error that came over the wire (-1: it did not), and its message.
fn coded(e: &Error) -> (i64, String) {
    use RSocketError as E;
    let (code, message) = match e.downcast_ref::<RSocketError>() {
        Some(E::InvalidSetup(m)) => (error::ERR_INVALID_SETUP, m),
        Some(E::UnsupportedSetup(m)) => (error::ERR_UNSUPPORTED_SETUP, m),
        Some(E::RejectedSetup(m)) => (error::ERR_REJECT_SETUP, m),
        Some(E::RejectedResume(m)) => (error::ERR_REJECT_RESUME, m),
        Some(E::ConnectionException(m)) => (error::ERR_CONN_FAILED, m),
        Some(E::ConnectionClosed(m)) => (error::ERR_CONN_CLOSED, m),
        Some(E::ApplicationException(m)) => (error::ERR_APPLICATION, m),
        Some(E::RequestRejected(m)) => (error::ERR_REJECTED, m),
        Some(E::RequestCancelled(m)) => (error::ERR_CANCELED, m),
        Some(E::RequestInvalid(m)) => (error::ERR_INVALID, m),
        Some(E::Reserved(code, m)) => (*code, m),
        _ => return (-1, e.to_string()),
    };
    (i64::from(code), message.clone())
}

fn next(id: u64, payload: &Payload) {
    let data = BASE64_STANDARD.encode(payload.data().map_or(&[][..], |data| data));
    let metadata = payload.metadata().map(|m| BASE64_STANDARD.encode(m));
    emit(&json!({"id": id, "ev": "next", "data": data, "metadata": metadata}));
}

fn complete(id: u64) {
    emit(&json!({"id": id, "ev": "complete"}));
}

/// Base64 of `op[name]`, with `op[gen]` pattern bytes appended; `None` without both.
fn bytes(op: &Value, name: &str, gen: &str) -> std::result::Result<Option<Vec<u8>>, String> {
    let given = match &op[name] {
        Value::Null => None,
        Value::String(text) => Some(
            BASE64_STANDARD
                .decode(text)
                .map_err(|e| format!("{name}: {e}"))?,
        ),
        _ => return Err(format!("{name}: not a string")),
    };
    let count = op[gen].as_u64().and_then(|n| usize::try_from(n).ok());
    Ok(match (given, count) {
        (given, Some(n)) => {
            let mut bytes = given.unwrap_or_default();
            bytes.extend(pattern(n));
            Some(bytes)
        }
        (given, None) => given,
    })
}

fn payload(op: &Value) -> std::result::Result<Payload, String> {
    let mut builder = Payload::builder();
    if let Some(data) = bytes(op, "data", "gen")? {
        builder = builder.set_data(data);
    }
    if let Some(metadata) = bytes(op, "metadata", "mgen")? {
        builder = builder.set_metadata(metadata);
    }
    Ok(builder.build())
}

/// A request under way. The library knows no handle for it: to end it is to drop
/// the task that holds its future or stream.
struct Running {
    task: JoinHandle<()>,
    kind: Kind,
}

enum Kind {
    Response,
    Stream,
    /// The requester's half; `None` once it has ended.
    Channel(Option<mpsc::UnboundedSender<Result<Payload>>>),
}

#[derive(Default)]
struct Driver {
    client: ClientSlot,
    /// Whether the driver itself has closed the connection.
    left: Arc<AtomicBool>,
    running: HashMap<u64, Running>,
}

pub(crate) async fn run() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        emit(&json!({"id": 0, "ev": "crash", "message": info.to_string()}));
        report(info);
    }));
    let mut driver = Driver::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(&line) {
            Ok(op) if op["op"] == "quit" => break,
            Ok(op) => driver.handle(&op).await,
            Err(e) => fail(0, -1, &format!("not JSON: {e}")),
        }
    }
    // Tasks of the library that never end must not keep the process.
    std::process::exit(0);
}

impl Driver {
    async fn handle(&mut self, op: &Value) {
        let id = op["id"].as_u64().unwrap_or(0);
        // A channel whose responder is done may still be fed.
        self.running.retain(|_, running| {
            !running.task.is_finished() || matches!(running.kind, Kind::Channel(Some(_)))
        });
        match op["op"].as_str().unwrap_or("") {
            "caps" => emit(&caps(id)),
            "connect" => match self.connect(op).await {
                Ok(()) => emit(&json!({"id": id, "ev": "ok"})),
                Err(message) => fail(id, -1, &message),
            },
            "rr" | "fnf" | "push" | "stream" | "channel" => {
                let client = self.client.lock().ok().and_then(|slot| slot.clone());
                match (client, payload(op)) {
                    (Some(client), Ok(payload)) => self.request(id, op, client, payload),
                    (None, _) => fail(id, -1, "not connected"),
                    (_, Err(message)) => fail(id, -1, &message),
                }
            }
            "request_n" if self.running.contains_key(&id) => {
                not_supported(id, "request_n (the library has no request-n)");
            }
            "cancel" => self.cancel(id),
            "send" => match payload(op) {
                Ok(payload) => self.feed(id, Some(Ok(payload))),
                Err(message) => fail(id, -1, &message),
            },
            "send_complete" => self.feed(id, None),
            "send_error" => {
                let message = op["message"].as_str().unwrap_or("");
                self.feed(id, Some(Err(failure(message))));
                self.feed(id, None);
            }
            "close" => {
                self.close();
                emit(&json!({"id": id, "ev": "ok"}));
            }
            "request_n" => {}
            other => not_supported(id, &format!("operation {other}")),
        }
    }

    /// The library closes a connection when the last clone of its client is gone.
    fn close(&mut self) {
        self.left.store(true, Relaxed);
        for (_, running) in self.running.drain() {
            running.task.abort();
        }
        if let Ok(mut slot) = self.client.lock() {
            *slot = None;
        }
    }

    async fn connect(&mut self, op: &Value) -> std::result::Result<(), String> {
        for name in ["lease", "grant", "resume"] {
            let given = &op[name];
            if !(given.is_null() || given == false || given == 0) {
                return Err(format!("not supported: {name}"));
            }
        }
        self.close();
        let slot: ClientSlot = Arc::new(Mutex::new(None));
        self.left = Arc::default();
        let url = op["url"].as_str().unwrap_or("");
        let client = if let Some(address) = url.strip_prefix("tcp://") {
            let address: SocketAddr = address.parse().map_err(|e| format!("{url}: {e}"))?;
            open(TcpClientTransport::from(address), op, &slot, &self.left).await?
        } else if url.starts_with("ws://") {
            open(WebsocketClientTransport::from(url), op, &slot, &self.left).await?
        } else {
            return Err(format!("not supported: transport of {url}"));
        };
        if let Ok(mut slot) = slot.lock() {
            *slot = Some(client);
        }
        self.client = slot;
        Ok(())
    }

    fn request(&mut self, id: u64, op: &Value, client: Client, payload: Payload) {
        let mut kind = Kind::Stream;
        let task = match op["op"].as_str() {
            Some("rr") => {
                kind = Kind::Response;
                tokio::spawn(async move {
                    match client.request_response(payload).await {
                        Ok(answer) => {
                            if let Some(answer) = answer {
                                next(id, &answer);
                            }
                            complete(id);
                        }
                        Err(e) => {
                            let (code, message) = coded(&e);
                            fail(id, code, &message);
                        }
                    }
                })
            }
            Some(name @ ("fnf" | "push")) => {
                kind = Kind::Response;
                let push = name == "push";
                tokio::spawn(async move {
                    let sent = match push {
                        true => client.metadata_push(payload).await,
                        false => client.fire_and_forget(payload).await,
                    };
                    match sent {
                        Ok(()) => complete(id),
                        Err(e) => fail(id, -1, &e.to_string()),
                    }
                })
            }
            Some("channel") => {
                let (out, mut outgoing) = mpsc::unbounded_channel();
                // Cannot fail: the receiver is right here.
                let _ = out.send(Ok(payload));
                kind = Kind::Channel(Some(out));
                let outgoing: Flux<Result<Payload>> = Box::pin(rsocket_rust::stream! {
                    while let Some(item) = outgoing.recv().await {
                        yield item;
                    }
                });
                tokio::spawn(drain(id, client.request_channel(outgoing)))
            }
            _ => tokio::spawn(drain(id, client.request_stream(payload))),
        };
        self.running.insert(id, Running { task, kind });
    }

    fn cancel(&mut self, id: u64) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        running.task.abort();
        match running.kind {
            // The library sends CANCEL when the next item comes.
            Kind::Stream => {}
            Kind::Response => not_supported(id, "cancel of a request-response"),
            Kind::Channel(_) => not_supported(id, "cancel of a request-channel"),
        }
    }

    /// Hands one item to the requester's half of a channel; `None` completes it.
    fn feed(&mut self, id: u64, item: Option<Result<Payload>>) {
        let Some(Running {
            kind: Kind::Channel(out),
            ..
        }) = self.running.get_mut(&id)
        else {
            return;
        };
        match item {
            Some(item) => {
                // The library drops its end when the channel is over: nobody to tell.
                let _ = out.as_ref().map(|out| out.send(item));
            }
            None => *out = None,
        }
    }
}

async fn open<T, C>(
    transport: T,
    op: &Value,
    slot: &ClientSlot,
    left: &Arc<AtomicBool>,
) -> std::result::Result<Client, String>
where
    T: Send + Sync + Transport<Conn = C> + 'static,
    C: Send + Sync + Connection + 'static,
{
    let millis = |name: &str, default| Duration::from_millis(op[name].as_u64().unwrap_or(default));
    let setup = json!({"data": op["setup_data"], "metadata": op["setup_metadata"]});
    let mtu = op["mtu"].as_u64().and_then(|n| usize::try_from(n).ok());
    let mtu = mtu.unwrap_or(0);
    let responder = Service::of_client(slot.clone());
    let (closing, left) = (slot.clone(), left.clone());
    RSocketFactory::connect()
        .transport(transport)
        .setup(payload(&setup)?)
        .mime_type(MIME, MIME)
        .fragment(crate::library_mtu(mtu))
        .keepalive(
            millis("keepalive_ms", 20_000),
            millis("lifetime_ms", 90_000),
            1,
        )
        .acceptor(Box::new(move || Box::new(responder)))
        .on_close(Box::new(move || {
            if let Ok(mut slot) = closing.lock() {
                *slot = None;
            }
            if !left.load(Relaxed) {
                emit(&json!({"id": 0, "ev": "closed", "message": "closed"}));
            }
        }))
        .start()
        .await
        .map_err(|e| e.to_string())
}

/// Reports what a stream yields. Read without pause: the library waits for the reader
/// of one stream before it reads the connection on.
async fn drain(id: u64, mut items: Flux<Result<Payload>>) {
    while let Some(item) = items.next().await {
        match item {
            Ok(payload) => next(id, &payload),
            Err(e) => {
                let (code, message) = coded(&e);
                fail(id, code, &message);
                return;
            }
        }
    }
    complete(id);
}
