//! What framing costs by itself: ns per frame into a writer that takes all, and
//! out of memory. `cargo bench -p rsocket-transport-tcp`.
//!
//! The last table shows from which length on it pays to write a shared part from
//! where it is, over a real socket: compare its two columns.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that fails has nobody to report to"
)]

use std::{
    hint::black_box,
    io::{self, IoSlice},
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rsocket_core::transport::{LinkInfo, OutFrame, Part};
use rsocket_transport_tcp::{LinkOptions, link};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// Frames between two flushes, as the core's batches are.
const BATCH: usize = 32;
const TURNS: usize = 60;
const TURN: Duration = Duration::from_millis(5);

fn main() {
    println!("ns per frame, the least of {TURNS} turns");
    println!(
        "{:>8} {:>8} {:>8} {:>8}",
        "bytes", "by hand", "encode", "decode"
    );
    for len in [12, 32, 256, 1024, 4096, 65_536] {
        println!(
            "{len:>8} {:>8.1} {:>8.1} {:>8.1}",
            by_hand(len),
            encode(len),
            decode(len)
        );
    }
    println!("\nTCP on this host, one frame a flush: us per frame");
    println!("{:>8} {:>8} {:>8}", "bytes", "copied", "shared");
    for len in [2048, 4096, 8192, 16_384, 32_768, 65_536, 262_144] {
        println!(
            "{len:>8} {:>8.2} {:>8.2}",
            socket(len, false),
            socket(len, true)
        );
    }
}

/// What `encode` has to do at least: the same bytes into a vector.
fn by_hand(len: usize) -> f64 {
    let data = vec![1; len - 9];
    let mut out = Vec::with_capacity(2 * BATCH * len);
    least(|| {
        for _ in 0..BATCH {
            let head = black_box([7_u8; 9]);
            out.extend_from_slice(&len.to_be_bytes()[5..]);
            out.extend_from_slice(black_box(&head[..]));
            out.extend_from_slice(black_box(&data));
        }
        black_box(&out);
        out.clear();
        BATCH
    })
}

/// A head of 9 bytes and `len` minus 9 of data.
fn encode(len: usize) -> f64 {
    let (mut tx, _rx) = link(
        Memory::new(&[]),
        Sink,
        LinkInfo::new("bench"),
        LinkOptions::new(),
    )
    .split();
    let data = vec![1; len - 9];
    let mut cx = Context::from_waker(Waker::noop());
    least(|| {
        for _ in 0..BATCH {
            let head = black_box([7; 9]);
            let frame = OutFrame::new(&head, Part::EMPTY, Part::slice(black_box(&data)));
            assert!(tx.poll_send(&mut cx, &frame).is_ready());
        }
        assert!(tx.poll_flush(&mut cx).is_ready());
        BATCH
    })
}

fn decode(len: usize) -> f64 {
    let mut stream = Vec::new();
    while stream.len() < 1 << 20 {
        stream.extend_from_slice(&len.to_be_bytes()[5..]);
        stream.resize(stream.len() + len, 1);
    }
    let (_tx, mut rx) = link(
        Memory::new(&stream),
        Sink,
        LinkInfo::new("bench"),
        LinkOptions::new(),
    )
    .split();
    let mut cx = Context::from_waker(Waker::noop());
    least(|| {
        let mut frames = 0;
        let received = rx.poll_recv(&mut cx, &mut |frame| {
            black_box(frame.as_slice());
            frames += 1;
            ControlFlow::Continue(())
        });
        assert!(received.is_ready());
        frames
    })
}

/// us for one frame with `len` bytes of data, to a thread that reads at once.
fn socket(len: usize, is_shared: bool) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (stream, reader) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let reader = listener.accept().await.unwrap().0.into_std().unwrap();
        (stream, reader)
    });
    reader.set_nonblocking(false).unwrap();
    let reader = std::thread::spawn(move || {
        let mut reader = reader;
        let mut buffer = vec![0; 1 << 20];
        while io::Read::read(&mut reader, &mut buffer).is_ok_and(|n| n > 0) {}
    });
    let (read, write) = stream.into_split();
    let (mut tx, rx) = link(read, write, LinkInfo::new("bench"), LinkOptions::new()).split();
    let data = Bytes::from(vec![1; len]);
    let part = if is_shared {
        Part::shared(&data, &data)
    } else {
        Part::slice(&data)
    };
    let result = least(|| {
        runtime
            .block_on(std::future::poll_fn(|cx| {
                let frame = OutFrame::new(&[7; 9], Part::EMPTY, part);
                assert!(tx.poll_send(cx, &frame).is_ready());
                tx.poll_flush(cx)
            }))
            .unwrap();
        1
    });
    drop((tx, rx));
    reader.join().unwrap();
    result / 1000.0
}

/// ns per unit of what `work` returns, in the turn that was disturbed least.
fn least(mut work: impl FnMut() -> usize) -> f64 {
    let turn = || {
        let (mut done, begin) = (0, Instant::now());
        while begin.elapsed() < TURN {
            for _ in 0..16 {
                done += work();
            }
        }
        begin.elapsed().as_secs_f64() * 1e9 / done as f64
    };
    std::iter::repeat_with(turn)
        .take(TURNS)
        .fold(f64::INFINITY, f64::min)
}

/// Takes everything.
struct Sink;

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(black_box(bytes).len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The same bytes again and again.
struct Memory {
    bytes: Vec<u8>,
    at: usize,
}

impl Memory {
    fn new(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self { bytes, at: 0 }
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.at..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.at = (self.at + n) % self.bytes.len();
        Poll::Ready(Ok(()))
    }
}
