//! The server, and the client that measures it.

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    time::Instant,
};

use bytes::Bytes;
use prost::Message as _;
use rsocket_core::{Failure, Handlers, Payload, Requester, connect, serve as serve_at};
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions};

use crate::quotes::{BatchMessage, BatchView, Feed};

/// What the metadata of a request says of its data.
const MESSAGE: Bytes = Bytes::from_static(b"message");
const VIEW: Bytes = Bytes::from_static(b"view");

/// Whether the sides of a link trust each other: then what is long is not even
/// copied out of shared memory.
#[derive(Clone, Copy)]
enum Trust {
    No,
    Yes,
}

impl Trust {
    fn address(self, name: &str) -> String {
        match self {
            Self::No => name.to_owned(),
            Self::Yes => format!("{name}-trusted"),
        }
    }

    fn options(self) -> ShmOptions {
        let options = ShmOptions::new();
        match self {
            Self::No => options,
            // SAFETY: both sides are this program, and this crate's code is all
            // that writes to the memory that they share.
            Self::Yes => unsafe { options.trust_peer() },
        }
    }
}

/// Serves until the client is gone.
pub(crate) async fn serve(name: &str) -> Result<(), Box<dyn Error>> {
    for trust in [Trust::No, Trust::Yes] {
        let listener = ShmListener::bind_with(trust.address(name), trust.options()).await?;
        tokio::spawn(serve_at(listener, |_setup, _client| async {
            Ok(Handlers::new().on_request_response(|request| async move { value_of(&request) }))
        }));
    }
    println!("ready");
    // The client holds the other end, whatever becomes of it.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// The service: reads a batch, and answers what it is worth.
fn value_of(request: &Payload) -> Result<Payload, Failure> {
    let value = if request.metadata() == Some(&*VIEW) {
        BatchView::value_of(request.data())
    } else {
        BatchMessage::value_of(request.data()).ok()
    };
    let value = value.ok_or_else(|| Failure::invalid("no batch of quotes"))?;
    Ok(Payload::copy_from_slice(&value.to_le_bytes()))
}

/// How a batch gets into a payload.
#[derive(Clone, Copy)]
enum Way {
    Message,
    MessageInBuffer,
    View,
    ViewInBuffer,
}

impl Way {
    const ALL: [Self; 4] = [
        Self::Message,
        Self::MessageInBuffer,
        Self::View,
        Self::ViewInBuffer,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Message => "prost, to a vector",
            Self::MessageInBuffer => "prost, to a buffer of the link",
            Self::View => "view, in a vector",
            Self::ViewInBuffer => "view, in a buffer of the link",
        }
    }

    fn request(self, peer: &Requester, feed: &Feed) -> Payload {
        match self {
            Self::Message => {
                let bytes = BatchMessage::new(feed).encode_to_vec();
                Payload::new(bytes).with_metadata(MESSAGE)
            }
            Self::MessageInBuffer => {
                let message = BatchMessage::new(feed);
                let mut buf = peer.buffer_uncleared(message.encoded_len());
                message
                    .encode(&mut &mut buf[..])
                    .expect("as long as it said");
                Payload::new(buf).with_metadata(MESSAGE)
            }
            Self::View => {
                let mut bytes = vec![0; BatchView::len(feed.quotes)];
                BatchView::write(feed, &mut bytes);
                Payload::new(bytes).with_metadata(VIEW)
            }
            Self::ViewInBuffer => {
                let mut buf = peer.buffer_uncleared(BatchView::len(feed.quotes));
                BatchView::write(feed, &mut buf);
                Payload::new(buf).with_metadata(VIEW)
            }
        }
    }
}

/// Ends with the client, which holds its standard input.
struct Server(Child);

impl Server {
    fn start(name: &str) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("piped");
        let server = Self(child);
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing is left to do where it cannot be waited for.
        let _ = self.0.wait();
    }
}

/// One figure of the table.
struct Cell {
    way: Way,
    peer: Requester,
    quotes: u64,
    requests: u64,
    /// Microseconds of a request, for each turn.
    turns: Vec<f64>,
}

impl Cell {
    async fn turn(&mut self, batch: &mut u64) -> Result<(), Box<dyn Error>> {
        let peer = &self.peer;
        let begin = Instant::now();
        let mut values = 0_u64;
        let first = *batch;
        for _ in 0..self.requests {
            let feed = Feed {
                batch: *batch,
                quotes: self.quotes,
            };
            *batch += 1;
            let answer = peer.request_response(self.way.request(peer, &feed)).await?;
            values += u64::from_le_bytes(answer.data().try_into()?);
        }
        let took = begin.elapsed();
        let feeds = (first..*batch).map(|batch| Feed {
            batch,
            quotes: self.quotes,
        });
        assert_eq!(
            values,
            feeds.map(|feed| feed.value()).sum(),
            "{}",
            self.way.name()
        );
        #[expect(clippy::cast_precision_loss, reason = "few of them")]
        self.turns
            .push(took.as_secs_f64() * 1e6 / self.requests as f64);
        Ok(())
    }

    fn median(&mut self) -> f64 {
        self.turns.sort_by(f64::total_cmp);
        self.turns
            .get(self.turns.len() / 2)
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// Measures all ways and prints the table.
pub(crate) async fn compare(turns: usize, requests: u64) -> Result<(), Box<dyn Error>> {
    /// Quotes of a long batch and of a short one.
    const QUOTES: [u64; 2] = [2047, 2];

    let name = format!("@rsocket-views-{}", std::process::id());
    let server = Server::start(&name)?;
    let connected =
        |trust: Trust| connect(ShmConnector::new(trust.address(&name)).options(trust.options()));
    let links = [connected(Trust::No).await?, connected(Trust::Yes).await?];

    let mut cells = Vec::new();
    for way in Way::ALL {
        for (quotes, requests) in QUOTES.into_iter().zip([requests, 4 * requests]) {
            for peer in &links {
                cells.push(Cell {
                    way,
                    peer: peer.clone(),
                    quotes,
                    requests,
                    turns: Vec::new(),
                });
            }
        }
    }
    let mut batch = 0;
    for turn in 0..=turns {
        for cell in &mut cells {
            cell.turn(&mut batch).await?;
            if turn == 0 {
                // It was for the caches and the pages.
                cell.turns.clear();
            }
        }
    }
    drop(server);

    let [long, short] = QUOTES.map(BatchView::len);
    println!(
        "Microseconds to build a batch, send it and have it read: the median of {turns} turns."
    );
    println!();
    println!(
        "{:32}{:>22}{:>22}",
        "",
        format!("{long} bytes"),
        format!("{short} bytes")
    );
    println!(
        "{:32}{:>11}{:>11}{:>11}{:>11}",
        "", "copied", "trusted", "copied", "trusted"
    );
    let medians: Vec<f64> = cells.iter_mut().map(Cell::median).collect();
    for (way, row) in Way::ALL.iter().zip(medians.chunks(4)) {
        print!("{:32}", way.name());
        row.iter().for_each(|median| print!("{median:>11.2}"));
        println!();
    }
    print!("{:32}", "first row to last");
    let last_row = medians.iter().skip(medians.len() - 4);
    for (first, last) in medians.iter().zip(last_row) {
        print!("{:>11.2}", first / last);
    }
    println!();
    Ok(())
}
