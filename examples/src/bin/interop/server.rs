//! The service on every transport that the command line names, at once.

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Duration};

use rsocket_core::{Failure, FixedRate, LeaseOptions, Requester, Server, Setup, resume::Resume};
use tokio::task::JoinSet;

use crate::service::{Counters, Service};

/// Where and how to serve. Each transport may be given any number of times.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Serves TCP on this port of 127.0.0.1; with 0 the system chooses one.
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,

    /// Serves WebSocket on this port of 127.0.0.1, at the path `/`.
    #[arg(long, value_name = "PORT")]
    ws: Vec<u16>,

    /// Serves a Unix socket at this path.
    #[arg(long, value_name = "PATH")]
    unix: Vec<String>,

    /// Serves shared memory at the Unix socket of this path, or of an abstract
    /// name if it begins with `@`.
    #[arg(long, value_name = "PATH")]
    shm: Vec<String>,

    /// Sends no frame longer than this, counting a length prefix of 3 bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..))]
    mtu: Option<u32>,

    /// Grants clients that ask for leases so many requests in each such time.
    #[arg(long, value_name = "REQUESTS:TTL_MS", value_parser = parse_lease, allow_hyphen_values = true)]
    lease: Option<FixedRate>,

    // What the library does not do is taken and refused, so that whoever asks
    // can tell that from a mistake in the command line.
    /// UDP: not supported yet.
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,

    /// Keeps sessions for so long after their link was lost.
    #[arg(long, value_name = "SECONDS")]
    resume: Option<u64>,
}

/// Exit status for a command line that cannot be followed, as clap has it.
const USAGE: u8 = 2;

/// Serves until the process is killed, or a listener fails.
pub(crate) async fn run(args: Args) -> ExitCode {
    if let Some(option) = args.unsupported() {
        eprintln!("not supported: {option} is not supported yet");
        return ExitCode::from(USAGE);
    }
    let urls = args.urls();
    if urls.is_empty() {
        eprintln!("nowhere to listen: give --tcp, --ws, --unix or --shm");
        return ExitCode::from(USAGE);
    }
    match serve(&urls, args.server()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn unsupported(&self) -> Option<&'static str> {
        (!self.udp.is_empty()).then_some("--udp")
    }

    fn urls(&self) -> Vec<String> {
        let tcp = self
            .tcp
            .iter()
            .map(|port| format!("tcp://127.0.0.1:{port}"));
        let ws = self.ws.iter().map(|port| format!("ws://127.0.0.1:{port}/"));
        let unix = self.unix.iter().map(|path| format!("unix:{path}"));
        let shm = self.shm.iter().map(|path| format!("shm:{path}"));
        tcp.chain(ws).chain(unix).chain(shm).collect()
    }

    fn server(&self) -> Server {
        let mut server = Server::new();
        if let Some(len) = self.mtu.and_then(|len| usize::try_from(len).ok()) {
            server = server.fragment(len);
        }
        if let Some(seconds) = self.resume {
            server = server.resume(Resume::new().session_timeout(Duration::from_secs(seconds)));
        }
        if let Some(rate) = self.lease {
            server = server.lease(LeaseOptions::new().policy(move || rate));
        }
        server
    }
}

fn parse_lease(text: &str) -> Result<FixedRate, String> {
    let parsed = text.split_once(':').and_then(|(requests, ttl_ms)| {
        let ttl = Duration::from_millis(ttl_ms.parse().ok().filter(|ms| *ms > 0)?);
        Some(FixedRate::new(requests.parse().ok()?, ttl))
    });
    parsed.ok_or_else(|| "want REQUESTS:TTL_MS, as in 5:1500".to_owned())
}

async fn serve(urls: &[String], server: Server) -> Result<(), String> {
    let transports = examples::transports();
    let counters = Arc::new(Counters::default());
    let mut serving = JoinSet::new();
    for url in urls {
        let listener = transports
            .listener(url)
            .await
            .map_err(|error| format!("{url}: {}", with_cause(&error)))?;
        announce(&listener.url());
        let counters = Arc::clone(&counters);
        // Each client gets a service of its own, since that calls the client.
        let accept = move |_setup: Setup, client: Requester| {
            let service = Service::new(&counters);
            service.set_peer(client);
            async move { Ok::<_, Failure>(service) }
        };
        serving.spawn(server.clone().serve(listener, accept));
    }
    match serving.join_next().await {
        Some(Ok(Err(error))) => Err(with_cause(&error)),
        Some(Err(error)) => Err(error.to_string()),
        // There is at least one listener, and it serves without end.
        Some(Ok(Ok(never))) => match never {},
        None => Ok(()),
    }
}

/// Tells that clients may connect. Whoever started the server may have stopped
/// listening to it, which is no reason to stop serving.
fn announce(url: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "listening {url}").and_then(|()| out.flush());
}

/// The error and what caused it, in one line.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
