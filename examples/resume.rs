//! A session that outlives its links: a network that is cut again and again, and
//! a stream, a channel and requests that do not notice.
//!
//! ```text
//! cargo run --release --example resume
//! ```
//!
//! Between client and server sits a proxy that cuts every link after a while, in
//! the middle of whatever it carries. What the other side did not get is sent
//! again over the next link; the numbers at the end show that nothing was lost
//! and nothing came twice.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use rsocket_core::{Backoff, Client, Handlers, Payload, Requester, Server, resume::Resume};
use rsocket_transport_tcp::{TcpConnector, TcpListener};
use tokio::{net::TcpStream, time::sleep};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Payloads of the stream, and of the channel in each direction.
const COUNT: usize = 30_000;

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr();
    // A server keeps sessions for as long as clients may need to come back.
    let keeping = Server::new().resume(Resume::new().session_timeout(Duration::from_secs(20)));
    tokio::spawn(keeping.serve(listener, |_setup, _client| async { Ok(service()) }));

    let network = Network::start(server).await?;
    // A client tries at once, then again after up to 10 ms, 20 ms, 40 ms.
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40));
    let peer = Client::new()
        .resume(Resume::new().backoff(backoff))
        .connect(TcpConnector::new(network.address))
        .await?;

    let start = Instant::now();
    let (streamed, echoed, asked) = tokio::try_join!(
        read_stream(peer.clone()),
        run_channel(peer.clone()),
        ask(peer.clone()),
    )?;
    let took = start.elapsed();

    let stats = peer.stats();
    println!("stream    {streamed} payloads, each once and in order");
    println!("channel   {echoed} payloads there and back, each once and in order");
    println!("requests  {asked} asked one after the other, all answered");
    println!(
        "network   cut {} times in {took:.1?}; the session went on {} times",
        network.cuts.load(Ordering::Relaxed),
        stats.resumptions,
    );
    println!(
        "again     {} frames of this side were sent again",
        stats.frames_resent
    );
    println!("the end   {}", peer.close().await);
    Ok(())
}

fn service() -> Handlers {
    Handlers::new()
        .on_request_response(|request| async { Ok(request) })
        .on_request_stream(|_| stream::iter(0..COUNT).map(|n| Ok(number(n))))
        .on_request_channel(|inbound| inbound.map(|payload| payload.map_err(Into::into)))
}

fn number(n: usize) -> Payload {
    Payload::new(n.to_string())
}

async fn read_stream(peer: Requester) -> Result<usize> {
    let mut answers = peer.request_stream("numbers");
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        if answer? != number(count) {
            return Err(format!("number {count} is missing").into());
        }
        count += 1;
    }
    Ok(count)
}

async fn run_channel(peer: Requester) -> Result<usize> {
    let mut answers = peer.request_channel(stream::iter(0..COUNT).map(number));
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        if answer? != number(count) {
            return Err(format!("echo {count} is missing").into());
        }
        count += 1;
    }
    Ok(count)
}

async fn ask(peer: Requester) -> Result<usize> {
    for n in 0..COUNT / 10 {
        if peer.request_response(number(n)).await? != number(n) {
            return Err(format!("answer {n} is wrong").into());
        }
    }
    Ok(COUNT / 10)
}

/// A network on which no link lives for long.
struct Network {
    address: SocketAddr,
    cuts: Arc<AtomicUsize>,
}

impl Network {
    /// Carries bytes to `server`, over links that are cut after 5 to 80 ms.
    async fn start(server: SocketAddr) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cuts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&cuts);
        tokio::spawn(async move {
            let mut link = 0;
            while let Ok((mut client, _)) = listener.accept().await {
                let Ok(mut server) = TcpStream::connect(server).await else {
                    continue;
                };
                link += 1;
                let lifetime = Duration::from_millis(5 + link * 37 % 76);
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = sleep(lifetime) => {
                            // Dropping both ends is the cut.
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        Ok(Self { address, cuts })
    }
}
