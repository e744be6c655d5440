//! Socket files and names, and whose processes are at their ends.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use crate::common::*;
use rsocket_core::transport::{Connector as _, Listener as _, TransportErrorKind};
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions, Users};

/// What a server leaves behind that was killed: a socket file without a socket.
fn leave_behind(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

#[tokio::test]
async fn both_ends_know_the_others_process() {
    let dir = Dir::new();
    let mut listener = ShmListener::bind(dir.socket()).await.unwrap();
    let connector = ShmConnector::new(dir.socket());
    let (client, server) = pair(&mut listener, &connector).await;

    let us = fs::metadata(&dir.0).unwrap();
    for link in [&client, &server] {
        assert_eq!(link.info().scheme, "shm");
        let peer = link.info().peer_process.unwrap();
        assert_eq!((peer.uid, peer.gid), (us.uid(), us.gid()));
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
    }
    assert_eq!(listener.url(), format!("shm:{}", dir.socket().display()));
}

#[tokio::test]
async fn a_link_keeps_one_descriptor_on_each_side() {
    // Others of these tests run in this process, so only ours are counted.
    fn descriptors() -> usize {
        let is_ours = |target: &Path| target.to_string_lossy().contains("rsocket-shm");
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| is_ours(target))
            .count()
    }
    let name = name();
    let mut listener = ShmListener::bind(&name).await.unwrap();
    let links = pair(&mut listener, &ShmConnector::new(&name)).await;
    // Regions of other tests live for moments only.
    while descriptors() > 0 {
        tokio::task::yield_now().await;
    }
    drop(links);
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced() {
    let dir = Dir::new();
    leave_behind(&dir.socket());
    let mut listener = ShmListener::bind(dir.socket()).await.unwrap();
    pair(&mut listener, &ShmConnector::new(dir.socket())).await;
}

#[tokio::test]
async fn two_servers_cannot_have_one_address() {
    let dir = Dir::new();
    for address in [dir.socket().display().to_string(), name()] {
        let mut first = ShmListener::bind(&address).await.unwrap();

        let error = ShmListener::bind(&address).await.unwrap_err();

        assert_eq!(error.kind(), TransportErrorKind::Invalid);
        let text = chain(&error);
        assert!(text.contains(&format!("listening on {address}")), "{text}");
        assert!(text.contains("in use"), "{text}");
        if first.address().path().is_some() {
            // The attempt to find out has left a connection that ends at once.
            assert!(first.accept().await.unwrap().await.is_err());
        }
        pair(&mut first, &ShmConnector::new(&address)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_removed() {
    let dir = Dir::new();
    fs::write(dir.socket(), "precious").unwrap();
    let error = ShmListener::bind(dir.socket()).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert_eq!(fs::read(dir.socket()).unwrap(), b"precious");
}

#[tokio::test]
async fn a_listener_removes_its_file_and_no_other() {
    let dir = Dir::new();
    let listener = ShmListener::bind(dir.socket()).await.unwrap();
    drop(listener);
    assert!(!dir.socket().exists());

    let listener = ShmListener::bind(dir.socket()).await.unwrap();
    fs::remove_file(dir.socket()).unwrap();
    fs::write(dir.socket(), "somebody else's").unwrap();
    drop(listener);
    assert!(dir.socket().exists());
}

#[tokio::test]
async fn a_socket_file_is_open_to_those_who_may_come() {
    let dir = Dir::new();
    let cases = [
        (None, 0o600),
        (Some(Users::Same), 0o600),
        (Some(Users::Any), 0o666),
        (Some(Users::Only(vec![1])), 0o666),
    ];
    for (users, mode) in cases {
        let options = users.clone().map(|users| ShmOptions::new().users(users));
        let options = options.unwrap_or_default();
        let _listener = ShmListener::bind_with(dir.socket(), options).await.unwrap();
        let found = fs::metadata(dir.socket()).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{users:?}");
    }
}

#[tokio::test]
async fn connecting_where_nobody_listens_fails_and_names_the_address() {
    let dir = Dir::new();
    let path = dir.socket().display().to_string();
    for (address, prepare) in [
        (path.clone(), None),
        (path, Some(leave_behind as fn(&Path))),
        (name(), None),
    ] {
        if let Some(prepare) = prepare {
            prepare(&dir.socket());
        }
        let error = ShmConnector::new(&address).connect().await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Unreachable);
        let expected = format!("connecting to {address}");
        assert!(chain(&error).contains(&expected), "{}", chain(&error));
    }
}

#[tokio::test]
async fn addresses_that_name_no_socket_are_invalid() {
    for address in ["", "@", "a\0b"] {
        let error = ShmListener::bind(address).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
        let error = ShmConnector::new(address).connect().await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
    }
    let long = "/x".repeat(100);
    let error = ShmListener::bind(long.as_str()).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
}

#[tokio::test]
async fn users_who_may_not_come_are_told_so() {
    let name = name();
    let options = ShmOptions::new().users(Users::Only(vec![77]));
    let mut listener = ShmListener::bind_with(&name, options).await.unwrap();
    let connector = ShmConnector::new(&name);
    let accept = async { listener.accept().await?.await };
    let (client, server) = tokio::join!(connector.connect(), accept);

    let error = client.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(chain(&error).contains("does not serve this user"));
    let error = server.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::PeerMisbehaved);
    assert!(chain(&error).contains("who may not"), "{}", chain(&error));
}

#[tokio::test]
async fn a_client_turns_away_from_a_server_of_another_user() {
    let name = name();
    let mut listener = ShmListener::bind(&name).await.unwrap();
    let connector =
        ShmConnector::new(&name).options(ShmOptions::new().users(Users::Only(vec![77])));
    let accept = async { listener.accept().await?.await };
    let (client, server) = tokio::join!(connector.connect(), accept);
    assert_eq!(
        client.unwrap_err().kind(),
        TransportErrorKind::PeerMisbehaved
    );
    assert_eq!(server.unwrap_err().kind(), TransportErrorKind::Lost);
}
