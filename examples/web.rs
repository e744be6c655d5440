//! One port for a page, a REST route and RSocket: axum serves the first two, and
//! hands requests for WebSockets over to RSocket.
//!
//! ```text
//! cargo run --release --example web
//! cargo run --release --example web -- --serve 127.0.0.1:8080
//! ```
//!
//! Without `--serve` it asks itself for each of the three and ends. With it, the
//! page is at `http://127.0.0.1:8080/`, and any RSocket client connects to
//! `ws://127.0.0.1:8080/rsocket?name=you`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, routing::get};
use clap::Parser;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rsocket_core::{Failure, Handlers, Payload, connect, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const PAGE: &str = "RSocket is at /rsocket on this very port.\n\
                    How often it greeted somebody is at /greetings.\n";

/// Serves a page, a REST route and RSocket on one port.
#[derive(Parser)]
struct Args {
    /// Only serve, at this address, until stopped.
    #[arg(long, value_name = "HOST:PORT")]
    serve: Option<SocketAddr>,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let args = Args::parse();
    let address = args.serve.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let port = TcpListener::bind(address).await?;
    let address = port.local_addr()?;

    let greetings = Arc::new(AtomicU64::new(0));
    let url = format!("ws://{address}/rsocket");
    let (upgrades, listener) = rsocket_transport_ws::upgrades(&url);

    let counter = Arc::clone(&greetings);
    tokio::spawn(serve(listener, move |setup, _client| {
        // What the browser asked for is known before RSocket's own setup: here it
        // could be refused by a cookie.
        let path = setup.link().path.clone().unwrap_or_default();
        let handlers = greeter(&path, Arc::clone(&counter));
        async move { Ok::<_, Failure>(handlers) }
    }));

    let app = Router::new()
        .route("/", get(async || PAGE))
        .route(
            "/greetings",
            get(async move || greetings.load(Ordering::Relaxed).to_string()),
        )
        .route_service("/rsocket", upgrades);
    println!("http://{address}/  http://{address}/greetings  {url}");
    let serving = tokio::spawn(async move { axum::serve(port, app).await });
    if args.serve.is_some() {
        return Ok(serving.await??);
    }

    let page = fetch(address, "/").await?;
    println!("GET /            {}", page.trim_end().replace('\n', " "));

    let peer = connect(examples::transports().connector(&format!("{url}?name=Ada"))?).await?;
    let greeting = peer.request_response("Good morning").await?;
    println!("request-response {}", text(&greeting));
    let stream = peer.request_stream("Hello").map_ok(|item| text(&item));
    let items: Vec<String> = stream.try_collect().await?;
    println!("request-stream   {}", items.join(" | "));
    peer.close().await;

    println!("GET /greetings   {}", fetch(address, "/greetings").await?);
    Ok(())
}

/// Greets whoever the path names.
fn greeter(path: &str, counter: Arc<AtomicU64>) -> Handlers {
    let name: Arc<str> = path
        .split_once("name=")
        .map_or("you", |(_, name)| name)
        .into();
    let greet = move |words: &str| {
        counter.fetch_add(1, Ordering::Relaxed);
        format!("{words}, {name}!")
    };
    let again = greet.clone();
    Handlers::new()
        .on_request_response(move |request| {
            let answer = greet(request.data_utf8().unwrap_or_default());
            async move { Ok(Payload::new(answer)) }
        })
        .on_request_stream(move |request| {
            let greet = again.clone();
            let words = request.data_utf8().unwrap_or_default().to_owned();
            stream::iter(0..3).map(move |_| Ok(Payload::new(greet(&words))))
        })
}

fn text(payload: &Payload) -> String {
    payload.data_utf8().unwrap_or_default().to_owned()
}

/// The body of what the port answers to a browser.
async fn fetch(address: SocketAddr, path: &str) -> Result<String, Failed> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (_, body) = response.split_once("\r\n\r\n").ok_or("no HTTP response")?;
    Ok(body.to_owned())
}
