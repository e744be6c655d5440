//! Unix sockets: their files, and whose processes are at their ends.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rsocket_core::testkit::halves::*;
use rsocket_core::transport::{Connector as _, Listener as _, Received, TransportErrorKind};
use rsocket_transport_tcp::{UnixConnector, UnixListener};

/// A directory of the test's own, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rsocket-unix-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a server leaves behind that was killed: a socket file without a socket.
fn leave_behind(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

#[tokio::test]
async fn frames_arrive_and_both_ends_know_the_others_process() {
    watched(async {
        let dir = Dir::new();
        let mut listener = UnixListener::bind(dir.socket()).await.unwrap();
        let connector = UnixConnector::new(dir.socket()).max_frame_len(1 << 20);
        let (client, server) = pair(&mut listener, &connector).await;

        let us = fs::metadata(&dir.0).unwrap();
        for link in [&client, &server] {
            assert_eq!(link.info().scheme, "unix");
            let peer = link.info().peer_process.unwrap();
            assert_eq!((peer.uid, peer.gid), (us.uid(), us.gid()));
            #[cfg(target_os = "linux")]
            assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        }
        assert_eq!(listener.url(), format!("unix:{}", dir.socket().display()));
        assert_eq!(client.limits().max_frame_len, 1 << 20);

        let (mut tx, mut client_rx) = client.split();
        let (server_tx, mut rx) = server.split();
        let frames = [pattern(0, 1), pattern(10, 2), pattern(1 << 20, 3)];
        let sender = async {
            for frame in &frames {
                send(&mut *tx, frame).await.unwrap();
            }
            close(&mut *tx).await.unwrap();
        };
        let ((), received) = tokio::join!(sender, recv(&mut *rx, 9));
        assert!(received.unwrap() == frames);
        drop(server_tx);
        assert_eq!(ending(&mut *client_rx).await.unwrap(), Received::End);
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced() {
    let dir = Dir::new();
    leave_behind(&dir.socket());
    let mut listener = UnixListener::bind(dir.socket()).await.unwrap();
    pair(&mut listener, &UnixConnector::new(dir.socket())).await;
}

#[tokio::test]
async fn a_socket_on_which_somebody_listens_is_not_taken_away() {
    let dir = Dir::new();
    let mut first = UnixListener::bind(dir.socket()).await.unwrap();

    let error = UnixListener::bind(dir.socket()).await.unwrap_err();

    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(chain(&error).contains(&dir.socket().display().to_string()));
    // The attempt to find out has left a connection that ends at once.
    drop(first.accept().await.unwrap());
    pair(&mut first, &UnixConnector::new(dir.socket())).await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_removed() {
    let dir = Dir::new();
    fs::write(dir.socket(), "precious").unwrap();
    let error = UnixListener::bind(dir.socket()).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert_eq!(fs::read(dir.socket()).unwrap(), b"precious");
}

#[tokio::test]
async fn a_listener_removes_its_file_and_no_other() {
    let dir = Dir::new();
    let listener = UnixListener::bind(dir.socket()).await.unwrap();
    drop(listener);
    assert!(!dir.socket().exists());

    let listener = UnixListener::bind(dir.socket()).await.unwrap();
    fs::remove_file(dir.socket()).unwrap();
    fs::write(dir.socket(), "somebody else's").unwrap();
    drop(listener);
    assert!(dir.socket().exists());
}

#[tokio::test]
async fn connecting_where_nobody_listens_fails_and_names_the_path() {
    let dir = Dir::new();
    for prepare in [|_: &Path| (), leave_behind] {
        prepare(&dir.socket());
        let error = UnixConnector::new(dir.socket())
            .connect()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Unreachable);
        let expected = format!("connecting to {}", dir.socket().display());
        assert!(chain(&error).contains(&expected), "{}", chain(&error));
    }
}
