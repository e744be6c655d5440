//! Bare tokio TCP: the most that a protocol on top of it can reach.
//!
//! The echo has no framing; messages all have the same length. With several in
//! flight the client writes back, at once, as many messages as it has just read.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::child::Announce;
use crate::load::{Counter, Meter};
use crate::plan::Load;

/// Read buffer of both sides, in bytes.
const BUFFER: usize = 64 << 10;

/// Read buffer of a bulk client, in bytes.
const BULK_BUFFER: usize = 256 << 10;

/// Echoes, or sends without end if `load` is bulk, on every connection.
///
/// # Errors
///
/// When no port can be had, or accepting fails.
pub async fn serve(load: Load, announce: Announce) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    announce(&listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        // A connection that breaks is the client's to report.
        match load {
            Load::Bulk { write } => tokio::spawn(flood(socket, write)),
            _ => tokio::spawn(echo(socket)),
        };
    }
}

async fn echo(mut socket: TcpStream) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = socket.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..length]).await?;
    }
}

async fn flood(mut socket: TcpStream, write: usize) -> Result<()> {
    let chunk = vec![b'x'; write];
    loop {
        socket.write_all(&chunk).await?;
    }
}

/// Puts `load` on one connection until something fails.
///
/// # Errors
///
/// When the connection fails or ends, or `load` is not for bare TCP.
pub async fn drive(server: SocketAddr, load: Load, meter: Arc<Meter>) -> Result<()> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let counter = Counter::new(meter, 0);
    match load {
        Load::Tasks {
            in_flight: 1,
            bytes,
        } => ping(socket, bytes, counter).await,
        Load::Tasks { in_flight, bytes }
        | Load::Window { in_flight, bytes }
        | Load::InOrder { in_flight, bytes } => pipeline(socket, in_flight, bytes, counter).await,
        Load::Bulk { .. } => drain(socket, counter).await,
        Load::Stream { .. } | Load::InProcess { .. } => bail!("bare TCP has no {load:?}"),
    }
}

async fn ping(mut socket: TcpStream, bytes: usize, mut counter: Counter) -> Result<()> {
    let request = vec![b'q'; bytes];
    let mut answer = vec![0; bytes];
    loop {
        let sent = Instant::now();
        socket.write_all(&request).await?;
        socket.read_exact(&mut answer).await?;
        counter.time(sent.elapsed(), 1);
        counter.add(1, bytes as u64);
    }
}

async fn pipeline(
    mut socket: TcpStream,
    in_flight: usize,
    bytes: usize,
    mut counter: Counter,
) -> Result<()> {
    // Both sides write before they read on; more than the kernel buffers would
    // stop them for good.
    ensure!(
        in_flight * bytes <= BUFFER,
        "{in_flight} messages of {bytes} bytes in flight"
    );
    let requests = vec![b'q'; in_flight * bytes];
    let mut buffer = vec![0; BUFFER];
    let mut batches = VecDeque::from([(Instant::now(), in_flight)]);
    let mut partial = 0;
    socket.write_all(&requests).await?;
    loop {
        let length = socket.read(&mut buffer).await?;
        ensure!(length > 0, "the server closed the connection");
        partial += length;
        let answered = partial / bytes;
        partial %= bytes;
        if answered == 0 {
            continue;
        }

        let now = Instant::now();
        let mut left = answered;
        while let Some((sent, count)) = batches.front_mut() {
            let timed = left.min(*count);
            counter.time(now - *sent, timed as u64);
            *count -= timed;
            left -= timed;
            if *count > 0 || left == 0 {
                break;
            }
            batches.pop_front();
        }
        counter.add(answered as u64, (answered * bytes) as u64);
        batches.push_back((now, answered));
        socket.write_all(&requests[..answered * bytes]).await?;
    }
}

async fn drain(mut socket: TcpStream, mut counter: Counter) -> Result<()> {
    let mut buffer = vec![0; BULK_BUFFER];
    loop {
        let length = socket.read(&mut buffer).await?;
        ensure!(length > 0, "the server closed the connection");
        counter.add(0, length as u64);
    }
}
