//! Sessions that outlive their links, seen at the wire.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`. How links are handed over is in `resume.rs`.

mod client;
mod confirming;
mod ending;
mod positions;
mod server;
mod unknown;

use std::time::Duration;

use rsocket_core::{
    CloseReason,
    frame::{ErrorCode, Frame, Interaction},
    proto::{Config, Event, Limits, ResumeOptions, SetupOptions},
    testkit::{Peer, frame, request},
    transport::Limits as LinkLimits,
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

const NOTHING: [&str; 0] = [];

fn config() -> Config {
    Config {
        resume: Some(ResumeOptions::default()),
        ..Config::default()
    }
}

/// A config whose log is full after `max_resume_len` bytes.
fn tight(max_resume_len: usize) -> Config {
    let mut config = config();
    config.limits = Limits::default();
    config.limits.max_resume_len = max_resume_len;
    config
}

/// The server of a client that said SETUP and was not answered.
fn new_client(config: Config) -> Peer {
    let setup = SetupOptions {
        resume_token: Some("tok".into()),
        ..SetupOptions::default()
    };
    let mut peer = Peer::of_new_client(config, &setup);
    let heard = peer.heard();
    let [setup, rest @ ..] = heard.as_slice() else {
        panic!("nothing was said");
    };
    assert!(setup.starts_with("SETUP v=1.0") && setup.contains(" token=tok "));
    assert_eq!(rest, ["KEEPALIVE R"]);
    peer
}

/// The server of a client that it has answered.
fn client_with(config: Config) -> Peer {
    let mut peer = new_client(config);
    assert_eq!(peer.ask("KEEPALIVE"), NOTHING);
    peer
}

fn client() -> Peer {
    client_with(config())
}

/// The client of a server that accepted it.
fn server_with(config: Config) -> Peer {
    let mut peer = Peer::of_new_server(config);
    peer.say("SETUP token=tok");
    assert!(matches!(peer.event(), Some(Event::Setup(_))));
    peer.session.accept(peer.now());
    peer
}

fn server() -> Peer {
    server_with(config())
}

/// What the session says that it has received.
fn position(peer: &mut Peer) -> u64 {
    let heard = peer.ask("KEEPALIVE R");
    let last = heard.iter().rfind(|text| text.starts_with("KEEPALIVE"));
    let position = last.and_then(|text| text.strip_prefix("KEEPALIVE p="));
    position.map_or(0, |n| n.parse().expect("a number"))
}

fn bytes(texts: &[String]) -> u64 {
    texts.iter().map(|text| frame(text).len() as u64).sum()
}

/// How the session ended, if it did.
fn ending(peer: &mut Peer) -> String {
    assert!(peer.session.is_closed());
    assert!(!peer.session.needs_link());
    peer.events().pop().unwrap_or_default()
}
