//! A page in the browser, live: one port serves it, a REST route, and RSocket.
//!
//! ```text
//! cargo run --release --example dashboard
//! cargo run --release --example dashboard -- --listen 127.0.0.1:9000
//! ```
//!
//! Then open the address that it prints, in two tabs if you like. The page talks
//! to the handlers below through rsocket-js: it decides how much it is sent, asks
//! questions, chats, and cuts its own link to show that a session survives.
//!
//! axum owns the port. It hands requests for `/rsocket` over to RSocket, so cookies,
//! proxies and certificates are where a web server has them anyway. What the page
//! is built from, and how, is told in `README.md` beside this file.

mod chat;
mod machine;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::header::CONTENT_TYPE, response::Html, routing::get};
use clap::Parser;
use futures_util::{Stream, StreamExt as _, stream};
use rsocket_core::{Failure, Handlers, Payload, Requester, Server, Setup, resume::Resume};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use self::{chat::Room, machine::Sample};

/// Built from `page/`, with everything in it: no other file is asked for.
const PAGE: &str = include_str!("dist/page.html");
const LICENCES: &str = include_str!("dist/licences.txt");

/// Serves a page that shows RSocket at work.
#[derive(Parser)]
struct Args {
    /// Where to serve.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What else the page may be called: its address behind a proxy.
    #[arg(long, value_name = "http://HOST:PORT")]
    origin: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let port = TcpListener::bind(args.listen).await?;
    let address = port.local_addr()?;
    let shown = Arc::new(Shown {
        started: Instant::now(),
        machine: machine::watch(),
        room: Room::default(),
        visits: AtomicUsize::new(0),
        made: AtomicU64::new(0),
    });

    // Pages of other sites must not read this machine through a visitor's browser.
    let mut origins = args.origin;
    origins.push(format!("http://{address}"));
    origins.push(format!("http://localhost:{}", address.port()));
    let (upgrades, listener) = rsocket_transport_ws::upgrades(format!("ws://{address}/rsocket"));
    let upgrades = upgrades.allow_origins(origins);

    let stats = Arc::clone(&shown);
    let app = Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/licences", get(async || LICENCES))
        .route(
            "/stats",
            get(async move || ([(CONTENT_TYPE, "application/json")], stats.stats())),
        )
        .route_service("/rsocket", upgrades)
        .into_make_service_with_connect_info::<SocketAddr>();
    println!("open http://{address}/");
    tokio::spawn(async move { axum::serve(port, app).await });

    // A page that lost its link may come back to its session for a minute.
    let resume = Resume::new().session_timeout(Duration::from_secs(60));
    Server::new()
        .resume(resume)
        .serve(listener, move |setup, page| {
            let handlers = handlers(&shown, setup, page);
            async move { Ok(handlers) }
        })
        .await?;
    Ok(())
}

/// What all pages see.
struct Shown {
    started: Instant,
    machine: watch::Receiver<Sample>,
    room: Room,
    /// How many sessions there are.
    visits: AtomicUsize,
    /// How many numbers were made, for all of them.
    made: AtomicU64,
}

impl Shown {
    /// What the REST route answers.
    fn stats(&self) -> String {
        let machine = self.machine.borrow().clone();
        json!({
            "uptime_s": self.started.elapsed().as_secs(),
            "sessions": self.visits.load(Relaxed),
            "numbers_made": self.made.load(Relaxed),
            "machine": machine,
        })
        .to_string()
    }
}

/// Answers one page, for as long as its session lives.
fn handlers(shown: &Arc<Shown>, setup: Setup, page: Requester) -> Handlers {
    let visit = Visit::new(shown, setup, page);
    let (asked, streamed) = (Arc::clone(&visit), Arc::clone(&visit));
    Handlers::new()
        .on_request_response(move |request| {
            let answer = asked.answer(&request);
            async move { answer }
        })
        .on_request_stream(move |request| match request.metadata_utf8() {
            Some("machine") => streamed.samples().boxed(),
            Some("numbers") => streamed.numbers().boxed(),
            _ => stream::iter([Err(Failure::rejected("no such stream"))]).boxed(),
        })
        .on_request_channel(move |said| visit.shown.room.join(said))
}

/// One page's session.
struct Visit {
    shown: Arc<Shown>,
    setup: Setup,
    page: Requester,
}

impl Visit {
    fn new(shown: &Arc<Shown>, setup: Setup, page: Requester) -> Arc<Self> {
        shown.visits.fetch_add(1, Relaxed);
        let shown = Arc::clone(shown);
        Arc::new(Self { shown, setup, page })
    }

    /// Samples as they are taken, numbered. A page that asks for fewer than there
    /// are gets the newest each time: nothing queues up for it.
    fn samples(&self) -> impl Stream<Item = Result<Payload, Failure>> + use<> {
        let machine = self.shown.machine.clone();
        stream::unfold((machine, 0_u64), async |(mut machine, seq)| {
            machine.changed().await.ok()?;
            let sample = machine.borrow_and_update().clone();
            let numbered = json!({ "seq": seq, "sample": sample }).to_string();
            Some((Ok(Payload::new(numbered)), (machine, seq + 1)))
        })
    }

    /// Numbers without end, each made when it is asked for.
    fn numbers(&self) -> impl Stream<Item = Result<Payload, Failure>> + use<> {
        let shown = Arc::clone(&self.shown);
        stream::iter(0_u64..).map(move |n| {
            shown.made.fetch_add(1, Relaxed);
            Ok(Payload::copy_from_slice(&n.to_be_bytes()))
        })
    }

    fn answer(&self, request: &Payload) -> Result<Payload, Failure> {
        match (request.metadata_utf8(), request.data_utf8()) {
            (Some("session"), _) => Ok(Payload::new(self.session())),
            (Some("ask"), Some(question)) => self.ask(question.trim()).map(Payload::new),
            _ => Err(Failure::rejected("no such request")),
        }
    }

    /// What this end counted: how often the session went on, and what was sent again.
    fn session(&self) -> String {
        let stats = self.page.stats();
        json!({
            "resumptions": stats.resumptions,
            "frames_resent": stats.frames_resent,
            "frames_sent": stats.frames_sent,
            "kept_bytes": stats.resume_len,
        })
        .to_string()
    }

    fn ask(&self, question: &str) -> Result<String, Failure> {
        Ok(match question {
            "who am I" => {
                let link = self.setup.link();
                let agent = link.headers.iter().find(|(name, _)| name == "user-agent");
                let agent = agent.map_or("an unknown browser", |(_, value)| value);
                let address = link.peer_addr.map(|address| address.to_string());
                format!("{} with {agent}", address.unwrap_or_default())
            }
            "who are you" => format!(
                "rsocket-core {} on {} {}, {} cores, up for {} s",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::OS,
                std::env::consts::ARCH,
                std::thread::available_parallelism().map_or(1, usize::from),
                self.shown.started.elapsed().as_secs(),
            ),
            "how many are here" => format!("{} sessions", self.shown.visits.load(Relaxed)),
            "fail" => return Err(Failure::application("as you wish: this handler failed")),
            echo => format!("you said: {echo}"),
        })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.shown.visits.fetch_sub(1, Relaxed);
    }
}
