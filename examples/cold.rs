//! A client that can be killed at any moment: it takes a stream and feeds a
//! channel, and when it is started again it goes on where it was.
//!
//! ```text
//! cargo run --example cold -- --serve --dir server
//! cargo run --example cold -- --dir client      # and kill -9 it, often
//! ```
//!
//! The session lies in `DIR/session`. What the application itself has done lies
//! in files of its own, a line for each item, and says how far it is: these are
//! the files in which every item is to appear exactly once, in order.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Client, CloseReason, DemandPolicy, Error, Failure, Handlers, Payload, PayloadSink,
    PayloadStream, Requester, RestoreError, Server,
    frame::Interaction,
    resume::{DiskStore, Durability, Resume, ResumeStore},
    transport::{Connector, Listener as _},
};

/// Shows a session that outlives its process.
#[derive(Parser)]
struct Args {
    /// Serve, until stopped.
    #[arg(long)]
    serve: bool,

    /// Where to serve, or whom to ask.
    #[arg(long, default_value = "tcp://127.0.0.1:7979")]
    url: String,

    /// A directory for what is to outlive the process.
    #[arg(long)]
    dir: PathBuf,

    /// Items in each direction; the same for all runs over one directory.
    #[arg(long, default_value_t = 20_000)]
    items: u64,
}

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    if args.serve {
        serve(&args).await
    } else {
        ask(&args).await
    }
}

/// Lines that were written, whole, however the process ended.
struct Journal {
    file: File,
    lines: u64,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        file.seek(io::SeekFrom::End(0))?;
        let lines = text.matches('\n').count() as u64;
        Ok(Self { file, lines })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.lines += 1;
        Ok(())
    }
}

/// Counts on request, and notes what comes on channels.
async fn serve(args: &Args) -> Result<()> {
    let received = args.dir.join("received");
    let handlers = Handlers::new()
        .on_request_stream(|request| {
            let end = request.data_utf8().and_then(|n| n.parse().ok());
            stream::iter(0..end.unwrap_or(0)).then(|n: u64| async move {
                if n.is_multiple_of(8) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(Payload::new(n.to_string()))
            })
        })
        .on_request_channel(move |inbound| {
            let journal = Journal::open(&received);
            let journal = Arc::new(std::sync::Mutex::new(journal));
            // Every tenth is sent back.
            inbound.filter_map(move |payload| {
                let noted = note(&journal, payload);
                async move { noted.transpose() }
            })
        });
    let listener = examples::transports().listener(&args.url).await?;
    println!("serving on {}", listener.url());
    Server::new()
        .resume(Resume::new())
        .serve(listener, move |_setup, _client| {
            let handlers = handlers.clone();
            async move { Ok(handlers) }
        })
        .await?;
    Ok(())
}

fn note(
    journal: &std::sync::Mutex<io::Result<Journal>>,
    payload: std::result::Result<Payload, Error>,
) -> std::result::Result<Option<Payload>, Failure> {
    let payload = payload?;
    let text = payload.data_utf8().unwrap_or_default();
    let mut journal = journal.lock().map_err(Failure::application)?;
    let journal = journal.as_mut().map_err(Failure::application)?;
    journal.write(text).map_err(Failure::application)?;
    let is_tenth = text.parse::<u64>().is_ok_and(|n| n.is_multiple_of(10));
    Ok(is_tenth.then_some(payload))
}

/// The session, as it begins or goes on.
struct Session {
    peer: Requester,
    streamed: Option<PayloadStream>,
    sink: Option<PayloadSink>,
    echoed: Option<PayloadStream>,
}

impl Session {
    /// Begins, or goes on with what lies in the store.
    async fn start(
        client: Client,
        connector: impl Connector,
        token: Option<Bytes>,
    ) -> std::result::Result<Self, RestoreError> {
        let (peer, restored) = match token {
            Some(token) => {
                let (peer, restored) = client.restore(connector, token).await?;
                (peer, Some(restored))
            }
            None => match client.connect(connector).await {
                Ok(peer) => (peer, None),
                Err(Error::Closed(reason)) => return Err(RestoreError::Closed(reason)),
                Err(_) => return Err(RestoreError::Unreachable),
            },
        };
        let mut session = Self {
            peer,
            streamed: None,
            sink: None,
            echoed: None,
        };
        for stream in restored.into_iter().flatten() {
            let interaction = stream.interaction();
            let (sink, payloads) = stream.into_halves();
            match interaction {
                Interaction::RequestStream => session.streamed = payloads,
                _ => (session.sink, session.echoed) = (sink, payloads),
            }
        }
        Ok(session)
    }

    /// Asks for what is neither done nor was asked for before: a request that
    /// was not in the store was never sent.
    fn ask(&mut self, items: u64, streamed: &Journal, echoed: &Journal) -> Result<()> {
        if self.streamed.is_none() && streamed.lines < items {
            self.streamed = Some(self.peer.request_stream(items.to_string()));
        }
        if self.sink.is_none() && self.echoed.is_none() && echoed.lines < items.div_ceil(10) {
            let (sink, answers) = self.peer.open_channel("0", DemandPolicy::default())?;
            (self.sink, self.echoed) = (Some(sink), Some(answers));
        }
        Ok(())
    }
}

async fn ask(args: &Args) -> Result<()> {
    let path = args.dir.join("session");
    let opening = tokio::task::spawn_blocking(|| DiskStore::open(path, Durability::Process));
    let store: Arc<dyn ResumeStore> = Arc::new(opening.await??);
    let tokens = store.tokens()?;
    let client = Client::new().resume(Resume::new().store(store));
    let connector = examples::transports().connector(&args.url)?;

    // How far we are, as we know best ourselves.
    let streamed = Journal::open(&args.dir.join("streamed"))?;
    let echoed = Journal::open(&args.dir.join("echoed"))?;
    let done = streamed.lines == args.items && echoed.lines == args.items.div_ceil(10);
    println!("from {} and {}", streamed.lines, echoed.lines);

    let token = tokens.first().cloned();
    if token.is_none() && done {
        return finished();
    }
    let mut session = match Session::start(client, connector, token).await {
        Ok(session) => session,
        // Killed between the goodbye and what follows it.
        Err(RestoreError::Closed(CloseReason::ResumeRefused(_))) if done => return finished(),
        Err(error) => return Err(error.into()),
    };
    session.ask(args.items, &streamed, &echoed)?;
    println!("going on");
    let sending = send(session.sink.take(), args.items);
    let streaming = write_down(session.streamed.take(), streamed);
    let echoing = write_down(session.echoed.take(), echoed);
    tokio::try_join!(sending, streaming, echoing)?;
    match session.peer.close().await {
        CloseReason::Local => finished(),
        reason => Err(reason.into()),
    }
}

fn finished() -> Result<()> {
    println!("finished");
    Ok(())
}

/// Sends what was not handed over before.
async fn send(sink: Option<PayloadSink>, items: u64) -> Result<()> {
    let Some(mut sink) = sink else {
        return Ok(());
    };
    loop {
        let next = sink.sent();
        if next >= items {
            break;
        }
        sink.send(next.to_string()).await?;
        if next.is_multiple_of(8) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    sink.complete();
    Ok(())
}

/// Writes each item down before it comes back for the next.
async fn write_down(payloads: Option<PayloadStream>, mut journal: Journal) -> Result<()> {
    let Some(mut payloads) = payloads else {
        return Ok(());
    };
    // These we had written down when we were killed.
    payloads.skip_to(journal.lines);
    while let Some(payload) = payloads.next().await {
        journal.write(payload?.data_utf8().unwrap_or_default())?;
    }
    Ok(())
}
