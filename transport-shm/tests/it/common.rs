//! Frames in and out of links, for all tests of this crate.

use std::{
    fs,
    future::{Future, poll_fn},
    ops::ControlFlow,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rsocket_core::transport::{
    Connector, FrameRx, FrameTx, InFrame, Link, Listener, OutFrame, Part, Received, TransportError,
};

/// Ends a test that hangs, in real time.
pub(crate) async fn watched<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test)
        .await
        .expect("the test hangs")
}

/// A client's and a server's end.
pub(crate) async fn pair(listener: &mut impl Listener, connector: &impl Connector) -> (Link, Link) {
    let accept = async { listener.accept().await?.await };
    tokio::try_join!(connector.connect(), accept).unwrap()
}

pub(crate) async fn send(tx: &mut dyn FrameTx, frame: &[u8]) -> Result<(), TransportError> {
    let frame = OutFrame::new(frame, Part::EMPTY, Part::EMPTY);
    poll_fn(|cx| tx.poll_send(cx, &frame)).await
}

pub(crate) async fn flush(tx: &mut dyn FrameTx) -> Result<(), TransportError> {
    poll_fn(|cx| tx.poll_flush(cx)).await
}

pub(crate) async fn close(tx: &mut dyn FrameTx) -> Result<(), TransportError> {
    poll_fn(|cx| tx.poll_close(cx)).await
}

/// Up to `max` frames, or fewer if the link ends before.
pub(crate) async fn recv(rx: &mut dyn FrameRx, max: usize) -> Result<Vec<Vec<u8>>, TransportError> {
    let mut frames = Vec::new();
    while frames.len() < max {
        let mut sink = |frame: InFrame<'_>| {
            frames.push(frame.as_slice().to_vec());
            if frames.len() < max {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        if poll_fn(|cx| rx.poll_recv(cx, &mut sink)).await? == Received::End {
            break;
        }
    }
    Ok(frames)
}

/// What comes next when it is no frame.
pub(crate) async fn ending(rx: &mut dyn FrameRx) -> Result<Received, TransportError> {
    poll_fn(|cx| {
        rx.poll_recv(cx, &mut |frame| {
            panic!("a frame of {} bytes", frame.as_slice().len())
        })
    })
    .await
}

/// `len` bytes that differ from place to place and from frame to frame.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed)
        .collect()
}

/// The error and its causes, as a log shows them.
pub(crate) fn chain(error: &TransportError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A directory of the test's own, removed at its end.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rsocket-shm-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name that no other test has.
pub(crate) fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("@rsocket-shm-{}-{n}", std::process::id())
}
