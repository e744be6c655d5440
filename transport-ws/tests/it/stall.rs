//! Peers that stop reading.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::*;
use futures_util::stream;
use rsocket_core::{Handlers, Payload, serve};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::sleep};

/// REQUEST_STREAM on stream 1 that asks for all there is, without end.
fn request_all() -> Vec<u8> {
    [
        &[0, 0, 0, 1, 0x18, 0][..],
        &0x7FFF_FFFF_u32.to_be_bytes(),
        b"all",
    ]
    .concat()
}

// [C252]
#[tokio::test]
async fn a_peer_that_asks_for_everything_and_stops_reading_stalls_the_stream_not_memory() {
    const ITEM: usize = 1024;
    // More than the buffers of both sockets grow to.
    const MOST: usize = (64 << 20) / ITEM;

    watched(async {
        let listener = listener().await;
        let address = listener.local_addr();
        let produced = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&produced);
        let handlers = Handlers::new().on_request_stream(move |_| {
            let counter = Arc::clone(&counter);
            stream::repeat_with(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(Payload::new(vec![7; ITEM]))
            })
        });
        tokio::spawn(serve(listener, move |_, _| {
            let handlers = handlers.clone();
            async move { Ok(handlers) }
        }));

        let mut peer = TcpStream::connect(address).await.unwrap();
        put(&mut peer, request("/", &[]).as_bytes()).await;
        head(&mut peer).await;
        put(&mut peer, &masked(FIN | BINARY, &setup(90_000))).await;
        put(&mut peer, &masked(FIN | BINARY, &request_all())).await;

        // Nothing tells that nothing happens any more: a while without an item.
        let mut before = 0;
        let stalled = loop {
            sleep(Duration::from_millis(100)).await;
            let now = produced.load(Ordering::Relaxed);
            assert!(now < MOST, "{now} items for a peer that does not read");
            if now == before && now > 0 {
                break now;
            }
            before = now;
        };

        // And it goes on once it reads.
        let mut buffer = vec![0; 1 << 20];
        while produced.load(Ordering::Relaxed) < stalled + 1000 {
            assert!(peer.read(&mut buffer).await.unwrap() > 0, "it ended");
        }
    })
    .await;
}
