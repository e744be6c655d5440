//! The tour: a server and a client in one program, every interaction in both
//! directions, and a table of what happened.
//!
//! ```text
//! cargo run --release --example quickstart
//! cargo run --release --example quickstart -- --url tcp://127.0.0.1:7878
//! cargo run --release --example quickstart -- --serve --url tcp://127.0.0.1:7878
//! ```
//!
//! The transport appears in one line, as a URL: everything else is the same
//! over any of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use rsocket_core::{
    Client, Demand, DemandPolicy, Error, Failure, Payload, PayloadStream, Requester, Responder,
    serve,
};

/// Shows every RSocket interaction in both directions.
#[derive(Parser)]
struct Args {
    /// Ask the server at this URL instead of one started for the occasion.
    #[arg(long)]
    url: Option<String>,

    /// Only serve, at --url, until stopped.
    #[arg(long, requires = "url")]
    serve: bool,
}

/// The service: both sides run it, since both sides may be asked.
#[derive(Clone, Default)]
struct Service {
    counters: Arc<Counters>,
    /// The way back to whoever asks us, on the side that accepted.
    peer: Option<Requester>,
}

#[derive(Default)]
struct Counters {
    fire_and_forget: AtomicU64,
    pushes: AtomicU64,
    cancelled: AtomicU64,
}

impl Responder for Service {
    async fn fire_and_forget(&self, _request: Payload) {
        self.counters
            .fire_and_forget
            .fetch_add(1, Ordering::Relaxed);
    }

    async fn metadata_push(&self, _metadata: Bytes) {
        self.counters.pushes.fetch_add(1, Ordering::Relaxed);
    }

    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        let text = request.data_utf8().unwrap_or_default();
        if text.starts_with("echo:") {
            return Ok(request);
        }
        if let Some(message) = text.strip_prefix("error:") {
            return Err(Failure::application(message));
        }
        match text {
            "stats" => Ok(Payload::new(format!(
                "fnf={} push={} cancel={}",
                self.counters.fire_and_forget.load(Ordering::Relaxed),
                self.counters.pushes.load(Ordering::Relaxed),
                self.counters.cancelled.load(Ordering::Relaxed),
            ))),
            // Turns the tables: now we ask, and report what came back.
            "ask me back" => match &self.peer {
                Some(peer) => Ok(Payload::new(ask_back(peer).await?)),
                None => Err(Failure::application("nobody to ask")),
            },
            _ => Err(Failure::application("unknown")),
        }
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        // Polled only while the peer has asked for more: an endless stream is
        // fine, and costs nothing while nobody wants it.
        let end = match request
            .data_utf8()
            .and_then(|text| text.strip_prefix("range:"))
        {
            Some(n) => n.parse().unwrap_or(0),
            None => u64::MAX,
        };
        let guard = CountDrop(Arc::clone(&self.counters), end == u64::MAX);
        stream::iter(0..end).map(move |n| {
            let _ = &guard;
            Ok(Payload::new(n.to_string()))
        })
    }

    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        inbound.map_err(Failure::from)
    }
}

/// Dropping is how a handler learns that it was cancelled.
struct CountDrop(Arc<Counters>, bool);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if self.1 {
            self.0.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The server asks its client: the same four interactions the other way round.
async fn ask_back(peer: &Requester) -> Result<String, Error> {
    peer.fire_and_forget("from the server").await?;
    let echo = peer.request_response("echo:from the server").await?;
    let items = texts(peer.request_stream("range:3")).await?;
    let words = stream::iter(["x", "y", "z"]).map(Payload::from);
    let echoes = texts(peer.request_channel(words)).await?;
    Ok(format!("{} | {items} | {echoes}", text(&echo)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let transports = examples::transports();

    let url = match (&args.url, args.serve) {
        (Some(url), false) => url.clone(),
        (url, serve_only) => {
            let url = url.as_deref().unwrap_or("tcp://127.0.0.1:0");
            let listener = transports.listener(url).await?;
            let url = rsocket_core::transport::Listener::url(&listener);
            println!("serving {url}");
            let counters = Arc::default();
            let serving = serve(listener, move |setup, client| {
                let who = setup.payload().data_utf8().unwrap_or("?").to_owned();
                let service = Service {
                    counters: Arc::clone(&counters),
                    peer: Some(client),
                };
                println!("server: accepted \"{who}\"");
                async { Ok(service) }
            });
            if serve_only {
                match serving.await? {} // It ends by an error alone.
            }
            tokio::spawn(serving);
            url
        }
    };

    let ours = Service::default();
    let server = Client::new()
        .setup("quickstart")
        .responder(ours.clone())
        .connect(transports.connector(&url)?)
        .await?;
    println!("client: connected to {url}\n");

    let mut table = Table::default();
    tour(&server, &mut table).await;
    table.add(
        "server -> client",
        "(counted here)",
        "",
        Ok(format!(
            "{} fire-and-forget",
            ours.counters.fire_and_forget.load(Ordering::Relaxed)
        )),
    );
    table.print();

    let reason = server.close().await;
    println!("\nconnection {reason}");
    if table.failed() {
        return Err("some interactions failed".into());
    }
    Ok(())
}

async fn tour(server: &Requester, table: &mut Table) {
    let there = "client -> server";

    let sent = server.fire_and_forget("an event").await;
    table.add(
        there,
        "fire-and-forget",
        "an event",
        sent.map(|()| "(sent)".into()),
    );

    let sent = server.metadata_push("news of the connection").await;
    table.add(
        there,
        "metadata push",
        "news",
        sent.map(|()| "(sent)".into()),
    );

    let answer = server.request_response("echo:hello").await;
    table.add(
        there,
        "request-response",
        "echo:hello",
        answer.map(|p| text(&p)),
    );

    let failure = match server.request_response("error:no such thing").await {
        Err(Error::Peer(failure)) => Ok(format!("ERROR {failure}")),
        Err(error) => Err(error),
        Ok(_) => Ok("an answer where an error was due".to_owned()),
    };
    table.add(there, "request-response", "error:no such thing", failure);

    let items = texts(server.request_stream("range:5")).await;
    table.add(there, "request-stream", "range:5", items);

    let words = stream::iter(["a", "b", "c"]).map(Payload::from);
    // The first payload says what the channel is to do.
    let words = stream::iter([Payload::new("echo")]).chain(words);
    let echoes = texts(server.request_channel(words)).await;
    table.add(there, "request-channel", "echo a b c", echoes);

    // Backpressure by hand: the server sends what was asked for and no more.
    let two = Demand::new(2).expect("2 is in range");
    let mut endless = server
        .request_stream("infinite")
        .demand(DemandPolicy::Manual { initial: two });
    let mut seen = Vec::new();
    for step in 0..3 {
        for _ in 0..2 {
            match endless.next().await {
                Some(Ok(item)) => seen.push(text(&item)),
                other => seen.push(format!("{other:?}")),
            }
        }
        if step < 2 {
            endless.request_n(two);
        }
    }
    drop(endless); // Sends CANCEL.
    let seen = seen.join(" ");
    table.add(
        there,
        "request-stream",
        "infinite, 2 at a time, then drop",
        Ok(seen),
    );

    // The handler is dropped soon after CANCEL arrives; ask until it shows.
    let mut stats = server.request_response("stats").await;
    for _ in 0..100 {
        match &stats {
            Ok(counts) if text(counts).contains("cancel=0") => {
                tokio::task::yield_now().await;
                stats = server.request_response("stats").await;
            }
            _ => break,
        }
    }
    table.add(there, "request-response", "stats", stats.map(|p| text(&p)));

    let back = match server.request_response("ask me back").await {
        // Another implementation of the interop service knows this one.
        Err(Error::Peer(_)) => server.request_response("callme:hello").await,
        other => other,
    };
    table.add("server -> client", "all four", "", back.map(|p| text(&p)));
}

fn text(payload: &Payload) -> String {
    payload.data_utf8().unwrap_or("(not text)").to_owned()
}

async fn texts(stream: PayloadStream) -> Result<String, Error> {
    let items: Vec<String> = stream.map_ok(|item| text(&item)).try_collect().await?;
    Ok(items.join(" "))
}

/// What happened, for people.
struct Table {
    rows: Vec<[String; 5]>,
    last: Instant,
    failed: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            last: Instant::now(),
            failed: false,
        }
    }
}

impl Table {
    const HEAD: [&'static str; 5] = ["who asks", "interaction", "sent", "came back", "took"];

    fn add(&mut self, who: &str, interaction: &str, sent: &str, back: Result<String, Error>) {
        let took = format_duration(self.last.elapsed());
        let back = back.unwrap_or_else(|error| {
            self.failed = true;
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("FAILED: {error}: {}", cause.unwrap_or_default())
        });
        let row = [who, interaction, sent, &back, &took];
        self.rows.push(row.map(str::to_owned));
        self.last = Instant::now();
    }

    fn failed(&self) -> bool {
        self.failed
    }

    fn print(&self) {
        let mut widths = Self::HEAD.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: [&str; 5]| {
            let padded = cells.iter().zip(widths);
            let padded = padded.map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        println!("{}", line(Self::HEAD));
        println!("{}", widths.map(|width| "-".repeat(width)).join("  "));
        for row in &self.rows {
            println!("{}", line(row.each_ref().map(String::as_str)));
        }
    }
}

fn format_duration(duration: Duration) -> String {
    format!("{:.0} us", duration.as_secs_f64() * 1e6)
}
