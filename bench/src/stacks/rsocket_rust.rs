//! `rsocket_rust` 0.7 over its TCP transport, as it comes.
//!
//! It ignores REQUEST_N, so a server's stream goes out as fast as its queue takes
//! it; it has no limit on that queue either.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rsocket_rust::prelude::{Flux, Payload, RSocket, RSocketFactory};
use rsocket_rust::{Client, async_trait};
use rsocket_rust_transport_tcp::{TcpClientTransport, TcpServerTransport};

use crate::child::Announce;
use crate::load::{Ask, Caller};

struct Service;

#[async_trait]
impl RSocket for Service {
    async fn metadata_push(&self, _: Payload) -> Result<()> {
        Ok(())
    }

    async fn fire_and_forget(&self, _: Payload) -> Result<()> {
        Ok(())
    }

    async fn request_response(&self, request: Payload) -> Result<Option<Payload>> {
        Ok(Some(request))
    }

    fn request_stream(&self, request: Payload) -> Flux<Result<Payload>> {
        let Some(ask) = request.data().and_then(|data| Ask::decode(data)) else {
            return Box::pin(stream::iter([Err(anyhow!("not eight bytes"))]));
        };
        let payload = ask.payload();
        Box::pin(stream::iter(0..ask.items).map(move |_| Ok(wrap(payload.clone()))))
    }

    fn request_channel(&self, requests: Flux<Result<Payload>>) -> Flux<Result<Payload>> {
        requests
    }
}

fn wrap(data: Bytes) -> Payload {
    Payload::new(Some(data), None)
}

/// Serves echoes and streams.
///
/// # Errors
///
/// When the port cannot be had.
pub async fn serve(announce: Announce) -> Result<()> {
    // It binds by itself and does not tell its port, so a free one is picked first.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    RSocketFactory::receive()
        .transport(TcpServerTransport::from(address))
        .acceptor(Box::new(|_setup, _requester| Ok(Box::new(Service))))
        .on_start(Box::new(move || announce(&address)))
        .serve()
        .await
}

/// A client of one connection.
#[derive(Clone)]
pub struct Peer(Client);

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}

/// Connects to a server of this module.
///
/// # Errors
///
/// When there is none.
pub async fn connect(server: SocketAddr) -> Result<Peer> {
    let client = RSocketFactory::connect()
        .transport(TcpClientTransport::from(server))
        .start()
        .await?;
    Ok(Peer(client))
}

impl Caller for Peer {
    async fn call(&self, request: Bytes) -> Result<usize> {
        let answer = self
            .0
            .request_response(wrap(request))
            .await?
            .context("no payload")?;
        Ok(answer.data().map_or(0, Bytes::len))
    }

    async fn stream(&self, ask: Ask, mut each: impl FnMut(usize) + Send) -> Result<()> {
        let mut items = self.0.request_stream(wrap(ask.encode()));
        while let Some(item) = items.next().await {
            each(item?.data().map_or(0, Bytes::len));
        }
        Ok(())
    }
}
