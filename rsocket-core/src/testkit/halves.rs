//! Frames in and out of the halves of links, by hand.
//!
//! For tests of what a transport does beyond [the suite](super::conformance).

use std::{
    future::{Future, poll_fn},
    ops::ControlFlow,
    time::Duration,
};

use crate::transport::{
    Connector, FrameRx, FrameTx, InFrame, Link, Listener, OutFrame, Part, Received, TransportError,
};

/// Ends a test that hangs, after a minute.
///
/// # Panics
///
/// When `test` is not ready by then.
pub async fn watched<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test)
        .await
        .expect("the test hangs")
}

/// A client's and a server's end.
///
/// # Panics
///
/// When either cannot be had.
pub async fn pair(listener: &mut impl Listener, connector: &impl Connector) -> (Link, Link) {
    let accept = async { listener.accept().await?.await };
    let made = futures_util::future::try_join(connector.connect(), accept);
    made.await.expect("a link")
}

/// Gives the link a frame, once it takes one.
///
/// # Errors
///
/// The half's own.
pub async fn send(tx: &mut dyn FrameTx, frame: &[u8]) -> Result<(), TransportError> {
    let frame = OutFrame::new(frame, Part::EMPTY, Part::EMPTY);
    poll_fn(|cx| tx.poll_send(cx, &frame)).await
}

/// Hands all frames on.
///
/// # Errors
///
/// The half's own.
pub async fn flush(tx: &mut dyn FrameTx) -> Result<(), TransportError> {
    poll_fn(|cx| tx.poll_flush(cx)).await
}

/// Flushes, and tells the peer that this was all.
///
/// # Errors
///
/// The half's own.
pub async fn close(tx: &mut dyn FrameTx) -> Result<(), TransportError> {
    poll_fn(|cx| tx.poll_close(cx)).await
}

/// Up to `max` frames, or fewer if the link ends before.
///
/// # Errors
///
/// The half's own. What came before it is lost with it.
pub async fn recv(rx: &mut dyn FrameRx, max: usize) -> Result<Vec<Vec<u8>>, TransportError> {
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
///
/// # Errors
///
/// The half's own.
///
/// # Panics
///
/// When it is a frame.
pub async fn ending(rx: &mut dyn FrameRx) -> Result<Received, TransportError> {
    poll_fn(|cx| {
        rx.poll_recv(cx, &mut |frame| {
            panic!("a frame of {} bytes", frame.as_slice().len())
        })
    })
    .await
}

/// `len` bytes that differ from place to place and from seed to seed.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) >> 3).to_le_bytes()[0] ^ seed)
        .collect()
}

/// The error and its causes, as a log shows them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
