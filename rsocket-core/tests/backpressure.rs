//! Who is slow holds up himself, and nobody's memory grows for him.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

mod common;

use std::{
    future::poll_fn,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use common::{client_of, unique_name, within};
use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Demand, Handlers, Payload, Server,
    frame::{Frame, Interaction, Millis31, PayloadRef, Request, Setup, StreamId, VERSION},
    transport::{
        Connector as _, FrameTx, InFrame, OutFrame,
        memory::{MemoryConnector, MemoryListener},
    },
};

const ITEM_LEN: usize = 1_000;

/// An endless stream, and how many payloads were taken from it.
fn endless() -> (Handlers, Arc<AtomicUsize>) {
    let produced = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&produced);
    let handlers = Handlers::new()
        .on_request_response(|request| async { Ok(request) })
        .on_request_stream(move |_| {
            let count = Arc::clone(&count);
            stream::iter(0_usize..).map(move |n| {
                count.store(n + 1, Ordering::Relaxed);
                Ok(Payload::new(vec![b'x'; ITEM_LEN]))
            })
        });
    (handlers, produced)
}

/// Waits until `produced` stands still for many turns of the runtime.
async fn settled(produced: &AtomicUsize) -> usize {
    let mut last = (0, 0);
    while last.1 < 1_000 {
        tokio::task::yield_now().await;
        match produced.load(Ordering::Relaxed) {
            n if n > 0 && n == last.0 => last.1 += 1,
            n => last = (n, 0),
        }
    }
    last.0
}

async fn send(tx: &mut Box<dyn FrameTx>, frame: Frame<'_>) {
    let frame = Bytes::from(frame.to_vec());
    poll_fn(|cx| tx.poll_send(cx, &OutFrame::encoded(&frame)))
        .await
        .unwrap();
    poll_fn(|cx| tx.poll_flush(cx)).await.unwrap();
}

// java#514, java#752 [C256]
#[tokio::test]
async fn a_peer_with_endless_credit_that_does_not_read_holds_up_the_producer() {
    let (handlers, produced) = endless();
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(Server::new().serve(listener, move |_, _| {
        let handlers = handlers.clone();
        async { Ok(handlers) }
    }));
    let link = MemoryConnector::new(&name).connect().await.unwrap();
    let (mut tx, mut rx) = link.split();
    let hour = Millis31::new(3_600_000).unwrap();
    let setup = Setup {
        major: VERSION.0,
        minor: VERSION.1,
        keepalive: hour,
        max_lifetime: hour,
        resume_token: None,
        lease: false,
        metadata_mime: b"a/b",
        data_mime: b"a/b",
        payload: PayloadRef::default(),
    };
    send(&mut tx, Frame::Setup(setup)).await;
    let request = Request {
        stream_id: StreamId::new(1).unwrap(),
        interaction: Interaction::RequestStream,
        initial_n: Some(Demand::MAX),
        follows: false,
        complete: false,
        payload: PayloadRef::default(),
    };
    send(&mut tx, Frame::Request(request)).await;

    // What the pipe holds, one outbox, and a batch under way.
    let bound = 256 * 1024 / ITEM_LEN + 32 + 64;
    let held = within(settled(&produced)).await;
    assert!(
        held <= bound,
        "{held} payloads produced, for a peer that reads none"
    );

    // It reads after all, and the stream goes on where it stood.
    let mut seen = 0;
    within(async {
        while seen < 3 * bound {
            let mut count = |frame: InFrame<'_>| {
                assert_eq!(frame.as_slice().len(), 6 + ITEM_LEN);
                seen += 1;
                ControlFlow::Continue(())
            };
            poll_fn(|cx| rx.poll_recv(cx, &mut count)).await.unwrap();
        }
    })
    .await;
}

// [C220, C253]: a reader that stops is the only one that waits.
#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_neither_others_nor_memory() {
    let (handlers, produced) = endless();
    let peer = client_of(handlers).await;
    let mut unread = peer.request_stream("x").prefetch(Demand::new(8).unwrap());
    assert!(within(unread.next()).await.unwrap().is_ok());
    let held = within(settled(&produced)).await;
    assert!(
        held <= 8 + 2,
        "{held} payloads produced for a prefetch of 8"
    );
    for n in 0..100_u32 {
        let answer = within(peer.request_response(n.to_string())).await.unwrap();
        assert_eq!(answer.data(), n.to_string().as_bytes());
    }
    for _ in 0..1_000 {
        assert!(within(unread.next()).await.unwrap().is_ok());
    }
}
