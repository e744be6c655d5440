//! The interop service and driver on rsocket_rust 0.7.5.
//!
//! `peer server [--tcp PORT] [--ws PORT] [--mtu N]` and `peer driver`.

mod driver;
mod service;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use rsocket_rust::prelude::*;
use rsocket_rust_transport_tcp::TcpServerTransport;
use rsocket_rust_transport_websocket::WebsocketServerTransport;

use service::Service;

const USAGE: &str = "usage: peer server [--tcp PORT] [--ws PORT] [--mtu N] | peer driver";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((command, rest)) if command == "server" => serve(rest).await,
        Some((command, [])) if command == "driver" => {
            driver::run().await;
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// The library's smallest MTU; its server panics below it.
const MIN_MTU: usize = 64;

/// What the library's `fragment` takes for an MTU that counts the length prefix too.
pub(crate) fn library_mtu(mtu: usize) -> usize {
    const LENGTH_PREFIX: usize = 3;
    match mtu {
        0 => 0,
        n => n.saturating_sub(LENGTH_PREFIX).max(MIN_MTU),
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn serve(args: &[String]) -> Result<(), String> {
    let (mut tcp, mut ws, mut mtu) = (None, None, 0);
    for pair in args.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("{} needs a value", pair[0]));
        };
        let bad = |_| format!("bad value for {name}: {value}");
        match name.as_str() {
            "--tcp" => tcp = Some(value.parse::<u16>().map_err(bad)?),
            "--ws" => ws = Some(value.parse::<u16>().map_err(bad)?),
            "--mtu" => mtu = library_mtu(value.parse().map_err(bad)?),
            other => return Err(format!("not supported: {other}\n{USAGE}")),
        }
    }
    let tcp = async {
        match tcp {
            Some(port) => {
                let transport = TcpServerTransport::from(local(port));
                listen(transport, mtu, format!("tcp://127.0.0.1:{port}")).await
            }
            None => Ok(()),
        }
    };
    let ws = async {
        match ws {
            Some(port) => {
                let transport = WebsocketServerTransport::from(local(port));
                listen(transport, mtu, format!("ws://127.0.0.1:{port}/")).await
            }
            None => Ok(()),
        }
    };
    tokio::try_join!(tcp, ws).map(|_| ())
}

async fn listen<S, T>(transport: S, mtu: usize, url: String) -> Result<(), String>
where
    S: Send + Sync + ServerTransport<Item = T> + 'static,
    T: Send + Sync + Transport + 'static,
{
    RSocketFactory::receive()
        .transport(transport)
        .fragment(mtu)
        .acceptor(Box::new(|_setup, peer| {
            Ok(Box::new(Service::of_server(peer)))
        }))
        .on_start(Box::new(move || {
            // `println!` flushes at the end of a line.
            println!("listening {url}");
        }))
        .serve()
        .await
        .map_err(|e| e.to_string())
}
