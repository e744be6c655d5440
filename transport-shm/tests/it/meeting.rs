//! Peers that do not keep the rules of the rendezvous, which are written out
//! here once more.

use std::{
    fs::File,
    io::{IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::Duration,
};

use rustix::{
    cmsg_space,
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};

use crate::common::*;
use rsocket_core::transport::{
    Connector as _, Link, Listener as _, TransportError, TransportErrorKind as Kind,
};
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions, raw};

const HELLO: u32 = 1;
const ACCEPT: u32 = 2;
const REFUSE: u32 = 3;

/// A message, with numbers as the documentation has them.
fn message(major: u16, kind: u32, region_len: u64, longest: u64, why: u32) -> Vec<u8> {
    let mut out = b"RSOCKSHM".to_vec();
    out.extend(major.to_le_bytes());
    out.extend(0_u16.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(region_len.to_le_bytes());
    out.extend(longest.to_le_bytes());
    out.extend(why.to_le_bytes());
    out.resize(64, 0);
    out
}

/// Why the server refused.
fn refusal(stream: &mut UnixStream) -> Option<u32> {
    let mut answer = [0; 64];
    stream.read_exact(&mut answer).ok()?;
    assert_eq!(answer[12..16], REFUSE.to_le_bytes());
    Some(u32::from_le_bytes(answer[32..36].try_into().unwrap()))
}

fn send(stream: &UnixStream, message: &[u8], files: &[OwnedFd]) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = files.iter().map(OwnedFd::as_fd).collect();
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let message = [IoSlice::new(message)];
    rustix::net::sendmsg(stream, &message, &mut control, SendFlags::NOSIGNAL).unwrap();
}

const ALL: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// A region, with or without a good header.
fn region(good: bool, seals: SealFlags) -> OwnedFd {
    let geometry = raw::Geometry::default();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("liar", flags).unwrap());
    let len = geometry.region_len();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64).unwrap();
    if good {
        let (words, _) = raw::map_own(&file, len, raw::CONTROL_LEN).unwrap();
        raw::format(&words, &geometry, 0);
    }
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

fn region_len() -> u64 {
    raw::Geometry::default().region_len() as u64
}

fn connect(name: &str) -> UnixStream {
    let address = SocketAddr::from_abstract_name(name.trim_start_matches('@')).unwrap();
    UnixStream::connect_addr(&address).unwrap()
}

/// What a server makes of a client that does `misbehave`, and why it says that
/// it refuses.
async fn served(
    misbehave: impl FnOnce(&mut UnixStream),
) -> (Result<Link, TransportError>, Option<u32>) {
    watched(async {
        let name = name();
        let mut listener = ShmListener::bind(&name).await.unwrap();
        let mut client = connect(&name);
        misbehave(&mut client);
        let link = listener.accept().await.unwrap().await;
        let why = if link.is_ok() {
            None
        } else {
            refusal(&mut client)
        };
        // Nobody else is held up.
        pair(&mut listener, &ShmConnector::new(&name)).await;
        (link, why)
    })
    .await
}

#[tokio::test]
async fn a_client_that_keeps_the_rules_as_written_here_is_served() {
    let (link, why) = served(|client| {
        let hello = message(1, HELLO, region_len(), u64::MAX, 0);
        // Byte by byte: a socket may do that.
        send(client, &hello[..1], &[region(true, ALL)]);
        for byte in &hello[1..] {
            client.write_all(&[*byte]).unwrap();
        }
    })
    .await;
    assert_eq!((link.is_ok(), why), (true, None));
}

#[tokio::test]
async fn a_client_of_another_major_version_is_told_so() {
    let (link, why) = served(|client| send(client, &message(2, HELLO, 0, 0, 0), &[])).await;
    let error = link.unwrap_err();
    assert_eq!((error.kind(), why), (Kind::Invalid, Some(1)));
    assert!(chain(&error).contains("version 2.0"), "{}", chain(&error));
}

#[tokio::test]
async fn regions_over_the_limit_of_either_side_are_refused_before_they_are_mapped() {
    let long = u64::MAX;
    let (link, why) = served(|client| {
        send(
            client,
            &message(1, HELLO, long, long, 0),
            &[region(true, ALL)],
        );
    })
    .await;
    let error = link.unwrap_err();
    assert_eq!((error.kind(), why), (Kind::PeerMisbehaved, Some(3)));
    assert!(
        chain(&error).contains("over the limit"),
        "{}",
        chain(&error)
    );

    let (link, why) = served(|client| {
        let hello = message(1, HELLO, region_len(), region_len() - 1, 0);
        send(client, &hello, &[region(true, ALL)]);
    })
    .await;
    let error = link.unwrap_err();
    assert_eq!((error.kind(), why), (Kind::Invalid, Some(4)));
    assert!(chain(&error).contains("this side's region"));
}

#[tokio::test]
async fn regions_that_are_not_as_they_have_to_be_are_refused() {
    let unsealed = || region(true, SealFlags::SHRINK | SealFlags::GROW);
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let cases: [(&str, u64, Vec<OwnedFd>, &str); 7] = [
        ("none", 0, vec![], "did not send one descriptor"),
        (
            "two",
            0,
            vec![region(true, ALL), region(true, ALL)],
            "did not send one descriptor",
        ),
        ("no memory", 0, vec![null()], "is not memory"),
        ("unsealed", 0, vec![unsealed()], "lacks seals"),
        ("short", 4096, vec![region(true, ALL)], "bytes long, not"),
        ("blank", 0, vec![region(false, ALL)], "no region does"),
        (
            "a socket",
            0,
            vec![UnixStream::pair().unwrap().0.into()],
            "is not memory",
        ),
    ];
    for (case, longer, files, expected) in cases {
        let (link, why) = served(|client| {
            let hello = message(1, HELLO, region_len() + longer, u64::MAX, 0);
            send(client, &hello, &files);
        })
        .await;
        let error = link.unwrap_err();
        assert_eq!(
            (error.kind(), why),
            (Kind::PeerMisbehaved, Some(5)),
            "{case}"
        );
        let text = chain(&error);
        assert!(text.contains(expected), "{case}: {text}");
    }
}

#[tokio::test]
async fn what_is_no_hello_ends_the_connection() {
    let garbage = vec![0xA5; 64];
    let unknown = message(1, 77, 0, 0, 0);
    let out_of_turn = message(1, ACCEPT, region_len(), 0, 0);
    for hello in [garbage, unknown, out_of_turn] {
        let (link, why) = served(|client| send(client, &hello, &[region(true, ALL)])).await;
        assert_eq!(link.unwrap_err().kind(), Kind::PeerMisbehaved);
        assert_eq!(why, None);
    }
    let (link, why) = served(|client| {
        client.write_all(&[b'R'; 63]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
    })
    .await;
    assert_eq!((link.unwrap_err().kind(), why), (Kind::Lost, None));
}

#[tokio::test]
async fn descriptors_without_end_are_not_kept() {
    let (link, _) = served(|client| {
        let hello = message(1, HELLO, region_len(), u64::MAX, 0);
        for byte in &hello[..63] {
            let null = || OwnedFd::from(File::open("/dev/null").unwrap());
            send(client, &[*byte], &[null(), null(), null(), null()]);
        }
    })
    .await;
    link.unwrap_err();
}

/// What a client makes of a server that answers with `answer`.
async fn asked(answer: Vec<u8>, files: Vec<OwnedFd>) -> TransportError {
    let name = name();
    let address = SocketAddr::from_abstract_name(name.trim_start_matches('@')).unwrap();
    let server = UnixListener::bind_addr(&address).unwrap();
    let serving = tokio::task::spawn_blocking(move || {
        let (mut client, _) = server.accept().unwrap();
        client.read_exact(&mut [0; 64]).unwrap();
        send(&client, &answer, &files);
    });
    let error = watched(ShmConnector::new(&name).connect()).await;
    serving.await.unwrap();
    error.unwrap_err()
}

#[tokio::test]
async fn a_client_says_what_is_wrong_with_a_server() {
    let accept = |len| message(1, ACCEPT, len, 0, 0);
    let cases = [
        (
            vec![0x5A; 64],
            vec![],
            Kind::PeerMisbehaved,
            "does not speak",
        ),
        (
            vec![b'R'; 10],
            vec![],
            Kind::Lost,
            "meeting over the socket",
        ),
        (
            message(9, 99, 0, 0, 0),
            vec![],
            Kind::PeerMisbehaved,
            "kind 99",
        ),
        (
            message(9, ACCEPT, 0, 0, 0),
            vec![],
            Kind::Invalid,
            "version 9.0",
        ),
        (
            message(1, HELLO, 0, 0, 0),
            vec![],
            Kind::PeerMisbehaved,
            "out of turn",
        ),
        (
            accept(u64::MAX),
            vec![],
            Kind::PeerMisbehaved,
            "over the limit",
        ),
        (
            accept(region_len()),
            vec![],
            Kind::PeerMisbehaved,
            "one descriptor",
        ),
        (
            accept(region_len()),
            vec![region(false, ALL)],
            Kind::PeerMisbehaved,
            "no region does",
        ),
        (
            accept(region_len()),
            vec![region(true, SealFlags::empty())],
            Kind::PeerMisbehaved,
            "lacks seals",
        ),
    ];
    for (answer, files, kind, expected) in cases {
        let error = asked(answer, files).await;
        let text = chain(&error);
        assert!(text.contains(expected), "{text}");
        assert_eq!(error.kind(), kind, "{text}");
    }
}

#[tokio::test]
async fn a_client_says_why_it_was_refused() {
    let cases = [
        (1, Kind::Invalid, "version"),
        (2, Kind::Invalid, "user"),
        (3, Kind::Invalid, "longer than it maps"),
        (4, Kind::Invalid, "longer than this side maps"),
        (5, Kind::Invalid, "unusable"),
        (6, Kind::Unreachable, "no memory"),
        (99, Kind::Invalid, "number 99"),
    ];
    for (why, kind, expected) in cases {
        let error = asked(message(1, REFUSE, 0, 4711, why), vec![]).await;
        let text = chain(&error);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("4711"), "the server's limit: {text}");
        assert_eq!(error.kind(), kind, "{text}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let name = name();
    // It accepts nobody, but its backlog does.
    let address = SocketAddr::from_abstract_name(name.trim_start_matches('@')).unwrap();
    let _server = UnixListener::bind_addr(&address).unwrap();
    let connector = ShmConnector::new(&name).connect_timeout(Duration::from_millis(50));
    let error = watched(connector.connect()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(chain(&error).contains("timed out"), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_with_too_long_regions_is_told_apart_from_one_that_is_down() {
    let name = name();
    let mut listener = ShmListener::bind(&name).await.unwrap();
    let options = ShmOptions::new().longest_peer_region(1 << 20);
    let connector = ShmConnector::new(&name).options(options);
    let accept = async { listener.accept().await?.await };
    let (client, server) = tokio::join!(connector.connect(), accept);
    let error = client.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(chain(&error).contains("1048576"), "{}", chain(&error));
    assert_eq!(server.unwrap_err().kind(), Kind::Invalid);
}
