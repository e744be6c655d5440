//! A server that comes and goes, and a client that goes on asking: a timeline of
//! what each of them sees.
//!
//! ```text
//! cargo run --release --example reconnect
//! ```
//!
//! The server crashes once, which fails what is in flight, and is later shut
//! down in good order, which does not. Both times it is away for a while: the
//! patient questions wait for it, the hasty ones fail at once.

use std::{
    fmt,
    sync::OnceLock,
    time::{Duration, Instant},
};

use rsocket_core::{
    Backoff, Client, ConnectionState, Error, Handlers, Payload, Reconnect, Reconnecting, Server,
    WhenDown, transport::Listener as _,
};
use rsocket_transport_tcp::{TcpConnector, TcpListener};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr();
    tell("server", format_args!("listens at {}", listener.url()));
    let first = Running::start(listener, "first");

    // From here on nobody has to think of connections. Short delays, so that the
    // timeline is.
    let settings = Reconnect::new().backoff(Backoff::new(
        Duration::from_millis(100),
        Duration::from_millis(400),
    ));
    let peer = Client::new().reconnecting(TcpConnector::new(address), settings);

    let watching = tokio::spawn(watch(peer.clone()));
    let patient = tokio::spawn(ask(peer.clone(), "patient", Duration::from_millis(150)));
    let hasty = peer.when_down(WhenDown::FailFast);
    let hasty = tokio::spawn(ask(hasty, "hasty", Duration::from_millis(250)));

    sleep(Duration::from_millis(700)).await;
    let doomed = ask_once(&peer, "doomed").await;
    tell("server", "crashes");
    first.crash().await;
    doomed.await?;
    sleep(Duration::from_millis(900)).await;
    tell("server", "starts again");
    let second = Running::start(TcpListener::bind(address).await?, "second");

    sleep(Duration::from_millis(700)).await;
    let spared = ask_once(&peer, "spared").await;
    tell("server", "shuts down in good order");
    second.shut_down().await?;
    spared.await?;
    sleep(Duration::from_millis(600)).await;
    tell("server", "starts again");
    let _third = Running::start(TcpListener::bind(address).await?, "third");
    sleep(Duration::from_millis(800)).await;

    patient.abort();
    hasty.abort();
    let answer = timeout(Duration::from_secs(5), peer.request_response("last")).await??;
    tell("last", text(&answer));
    if !matches!(peer.state(), ConnectionState::Connected { session: 3 }) {
        return Err(format!("not in the third session, but {:?}", peer.state()).into());
    }
    tell("client", format_args!("closes: {}", peer.close().await));
    watching.await?;
    Ok(())
}

/// A server on its way.
struct Running {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Running {
    fn start(listener: TcpListener, name: &'static str) -> Self {
        // Takes its time, so that something is in flight when it goes.
        let answers = Handlers::new().on_request_response(move |request| async move {
            sleep(Duration::from_millis(40)).await;
            let question = request.data_utf8().unwrap_or_default();
            Ok(Payload::new(format!("{name} server heard {question}")))
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let accept = move |_, _| std::future::ready(Ok(answers.clone()));
            let until = async { drop(stopped.await) };
            if let Err(error) = Server::new().serve_until(listener, accept, until).await {
                tell("server", format_args!("cannot go on: {error}"));
            }
        });
        Self { task, stop }
    }

    /// Ends it in the middle of whatever it does.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Lets it finish what it does.
    async fn shut_down(self) -> Result<()> {
        let _ = self.stop.send(());
        Ok(self.task.await?)
    }
}

/// Asks one question after the other, for ever.
async fn ask(peer: Reconnecting, who: &'static str, pause: Duration) {
    for n in 1.. {
        report(who, peer.request_response(format!("{who} {n}"))).await;
        sleep(pause).await;
    }
}

/// Asks a question, and sees to it that the server has it on return.
async fn ask_once(peer: &Reconnecting, who: &'static str) -> JoinHandle<()> {
    let asking = tokio::spawn(report(who, peer.request_response(who)));
    sleep(Duration::from_millis(10)).await;
    asking
}

/// Says what came of a question.
async fn report(who: &str, answer: impl Future<Output = std::result::Result<Payload, Error>>) {
    let asked = Instant::now();
    let answer = answer.await;
    let took = asked.elapsed().as_millis();
    match answer {
        Ok(answer) => tell(who, format_args!("{} ({took} ms)", text(&answer))),
        Err(error) => tell(who, format_args!("FAILED: {error} ({took} ms)")),
    }
}

/// Says how the connection does.
async fn watch(peer: Reconnecting) {
    let mut states = peer.states();
    // Else this clone would keep the client from ending.
    drop(peer);
    while let Some(state) = states.next().await {
        match state {
            ConnectionState::Connecting { attempt } => {
                tell("client", format_args!("connects, attempt {attempt}"));
            }
            ConnectionState::Connected { session } => {
                tell("client", format_args!("is connected, session {session}"));
            }
            ConnectionState::Disconnected { reason, retry_in } => {
                let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
                let next = retry_in.map_or_else(String::new, |delay| {
                    format!("; next attempt in {} ms", delay.as_millis())
                });
                tell("client", format_args!("is not connected{reason}{next}"));
            }
            other => tell("client", format_args!("{other:?}")),
        }
    }
}

fn text(payload: &Payload) -> &str {
    payload.data_utf8().unwrap_or("not text")
}

/// One line of the timeline.
fn tell(who: &str, what: impl fmt::Display) {
    static START: OnceLock<Instant> = OnceLock::new();
    let at = START.get_or_init(Instant::now).elapsed().as_millis();
    println!("{at:>5} ms  {who:<8} {what}");
}
