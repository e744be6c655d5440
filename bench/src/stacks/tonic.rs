//! `tonic` 0.14: gRPC over HTTP/2, one connection.
//!
//! Messages hold `Bytes`, so that no side copies them more than it must, and the
//! limits that would hold it back (streams a connection, bytes in flight) are
//! raised.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;

use anyhow::Result;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::child::Announce;
use crate::load::{Ask, Caller};

use stubs::yardstick_client::YardstickClient;
use stubs::yardstick_server::{Yardstick, YardstickServer};

mod stubs {
    #![expect(
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/bench.Yardstick.rs"));
}

/// HTTP/2 windows, in bytes: more than the product of bandwidth and delay here.
const WINDOW: u32 = 4 << 20;

/// The only message: a field of bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    /// Whatever it carries.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

struct Service;

#[tonic::async_trait]
impl Yardstick for Service {
    async fn echo(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type ItemsStream = Pin<Box<dyn Stream<Item = Result<Blob, Status>> + Send>>;

    async fn items(&self, request: Request<Blob>) -> Result<Response<Self::ItemsStream>, Status> {
        let ask = Ask::decode(&request.get_ref().data)
            .ok_or_else(|| Status::invalid_argument("not eight bytes"))?;
        let item = Blob {
            data: ask.payload(),
        };
        let items = stream::iter(0..ask.items).map(move |_| Ok(item.clone()));
        Ok(Response::new(Box::pin(items)))
    }
}

/// Serves echoes and streams.
///
/// # Errors
///
/// When no port can be had, or accepting fails.
pub async fn serve(announce: Announce) -> Result<()> {
    let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())?.with_nodelay(Some(true));
    announce(&incoming.local_addr()?);
    Server::builder()
        .max_concurrent_streams(1024)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(YardstickServer::new(Service))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// A client of one connection.
#[derive(Clone, Debug)]
pub struct Peer(YardstickClient<Channel>);

/// Connects to a server of this module.
///
/// # Errors
///
/// When there is none.
pub async fn connect(server: SocketAddr) -> Result<Peer> {
    let channel = Endpoint::from_shared(format!("http://{server}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect()
        .await?;
    Ok(Peer(YardstickClient::new(channel)))
}

impl Caller for Peer {
    async fn call(&self, request: Bytes) -> Result<usize> {
        // Its methods take `&mut self`; a clone is how it is meant to be shared.
        let answer = self.0.clone().echo(Blob { data: request }).await?;
        Ok(answer.get_ref().data.len())
    }

    async fn stream(&self, ask: Ask, mut each: impl FnMut(usize) + Send) -> Result<()> {
        let mut items = self
            .0
            .clone()
            .items(Blob { data: ask.encode() })
            .await?
            .into_inner();
        while let Some(item) = items.message().await? {
            each(item.data.len());
        }
        Ok(())
    }
}
