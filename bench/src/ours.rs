//! This library, as a user would write it: nothing here is tuned.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::process;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use rsocket_core::transport::{
    Connector,
    memory::{MemoryConnector, MemoryListener},
};
use rsocket_core::{Demand, Failure, Payload, Requester, Responder};
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions, Spin};
use rsocket_transport_tcp::{TcpConnector, TcpListener};
use rsocket_transport_ws::{WsConnector, WsListener};

use crate::child::Announce;
use crate::load::{Ask, Caller};
use crate::plan::{Load, Stack};

/// Name under which the server within the process listens.
const IN_MEMORY: &str = "bench";

struct Service;

impl Responder for Service {
    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        Ok(request)
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        // Eight bytes or nothing: an empty stream is reported by whoever asked.
        let ask = Ask::decode(request.data()).unwrap_or(Ask { items: 0, bytes: 0 });
        let payload = Payload::new(ask.payload());
        stream::iter(0..ask.items).map(move |_| Ok(payload.clone()))
    }
}

/// Serves echoes and streams over TCP.
///
/// # Errors
///
/// When no port can be had, or the listener fails.
pub async fn serve(announce: Announce) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    announce(&listener.local_addr());
    rsocket_core::serve(listener, |_setup, _requester| async { Ok(Service) }).await?;
    Ok(())
}

/// Serves echoes and streams over WebSocket.
///
/// # Errors
///
/// When no port can be had, or the listener fails.
pub async fn serve_ws(announce: Announce) -> Result<()> {
    let listener = WsListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    announce(&listener.local_addr());
    rsocket_core::serve(listener, |_setup, _requester| async { Ok(Service) }).await?;
    Ok(())
}

/// How both sides use shared memory.
fn shm_options(stack: Stack) -> ShmOptions {
    let options = ShmOptions::new();
    match stack {
        #[expect(unsafe_code, reason = "what it costs not to trust is measured")]
        Stack::OursShmTrusted | Stack::OursShmPolling => {
            let spin = match stack {
                Stack::OursShmPolling => Spin::Poll,
                _ => Spin::default(),
            };
            // SAFETY: both processes run this program, which writes to no payload
            // that it has sent.
            unsafe { options.spin(spin).trust_peer() }
        }
        Stack::OursShmAsleep => options.spin(Spin::Sleep),
        _ => options,
    }
}

/// Serves echoes and streams over shared memory.
///
/// # Errors
///
/// When no socket can be had, or the listener fails.
pub async fn serve_shm(stack: Stack, announce: Announce) -> Result<()> {
    let name = format!("@rsocket-bench-{}", process::id());
    let listener = ShmListener::bind_with(&name, shm_options(stack)).await?;
    announce(&name);
    rsocket_core::serve(listener, |_setup, _requester| async { Ok(Service) }).await?;
    Ok(())
}

/// A client of one connection.
#[derive(Clone, Debug)]
pub struct Ours {
    requester: Requester,
    /// What streams ask ahead, unless it is the library's default.
    prefetch: Option<Demand>,
}

/// Connects to a server of this module over TCP.
///
/// # Errors
///
/// When there is none, or streams should ask for nothing.
pub async fn connect(server: SocketAddr, load: Load) -> Result<Ours> {
    connect_by(TcpConnector::new(server), load).await
}

/// Connects to a server of this module over WebSocket.
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_ws(server: SocketAddr, load: Load) -> Result<Ours> {
    connect_by(WsConnector::new(format!("ws://{server}/")), load).await
}

/// Connects to a server of this module over shared memory.
///
/// # Errors
///
/// As [`connect`].
pub async fn connect_shm(server: &str, stack: Stack, load: Load) -> Result<Ours> {
    connect_by(ShmConnector::new(server).options(shm_options(stack)), load).await
}

async fn connect_by(connector: impl Connector, load: Load) -> Result<Ours> {
    let prefetch = match load {
        Load::Stream { prefetch, .. } => prefetch,
        _ => None,
    };
    let demand = |n| Demand::new(n).context("a prefetch of 0 asks for nothing");
    Ok(Ours {
        requester: rsocket_core::connect(connector).await?,
        prefetch: prefetch.map(demand).transpose()?,
    })
}

/// A client and a server in this process, as tasks of the current runtime.
///
/// # Errors
///
/// When there is such a pair already.
pub async fn in_memory() -> Result<Ours> {
    let listener = MemoryListener::bind(IN_MEMORY)?;
    tokio::spawn(async move {
        rsocket_core::serve(listener, |_setup, _requester| async { Ok(Service) }).await
    });
    Ok(Ours {
        requester: rsocket_core::connect(MemoryConnector::new(IN_MEMORY)).await?,
        prefetch: None,
    })
}

impl Caller for Ours {
    fn call(&self, request: Bytes) -> impl Future<Output = Result<usize>> + Send {
        // Sent by this call, so that a window is full before anybody waits.
        let answer = self.requester.request_response(Payload::new(request));
        async move { Ok(answer.await?.data().len()) }
    }

    async fn stream(&self, ask: Ask, mut each: impl FnMut(usize) + Send) -> Result<()> {
        let mut items = self.requester.request_stream(Payload::new(ask.encode()));
        if let Some(prefetch) = self.prefetch {
            items = items.prefetch(prefetch);
        }
        while let Some(item) = items.next().await {
            each(item?.data().len());
        }
        Ok(())
    }
}
