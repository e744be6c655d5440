//! Directories as places to meet, with peers whose part is written out here once
//! more.

use std::{
    fs::{self, File},
    future::Future,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    task::{Context, Waker},
    time::Duration,
};

use rustix::fs::{CWD, FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock, mkfifoat};

use crate::common::*;
use rsocket_core::transport::{
    Connector as _, Listener as _, TransportErrorKind as Kind, Transports,
};
use rsocket_transport_shm::{ShmAddress, ShmConnector, ShmListener, ShmOptions, Users, raw};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn make_dir(path: &Path, mode: u32) {
    fs::DirBuilder::new().mode(mode).create(path).unwrap();
}

fn make_pipe(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

fn place() -> (Dir, PathBuf, ShmAddress) {
    let dir = Dir::new();
    let path = dir.0.join("app");
    (dir, path.clone(), ShmAddress::directory(path))
}

async fn refused(address: &ShmAddress, listener: bool) -> (Kind, String) {
    let error = if listener {
        ShmListener::bind(address.clone()).await.unwrap_err()
    } else {
        let connector = ShmConnector::new(address.clone());
        watched(connector.connect()).await.unwrap_err()
    };
    (error.kind(), chain(&error))
}

/// Polls a future once, which is not ready.
fn begin<T>(future: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.poll(&mut cx).is_pending());
}

#[tokio::test]
async fn processes_that_meet_in_a_directory_leave_nothing_there_but_the_bell() {
    let (_dir, path, address) = place();
    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    assert_eq!(listener.url(), format!("shm+dir:{}", path.display()));
    assert_eq!(Dir::names(&path), ["bell"]);
    let connector = ShmConnector::new(address);
    let links = [
        pair(&mut listener, &connector).await,
        pair(&mut listener, &connector).await,
    ];
    assert_eq!(Dir::names(&path), ["bell"]);
    for (client, server) in &links {
        for link in [client, server] {
            assert_eq!(link.info().scheme, "shm+dir");
            let peer = link.info().peer_process.unwrap();
            let us = rustix::process::geteuid().as_raw();
            assert_eq!((peer.uid, peer.pid), (us, None));
        }
    }
    // Two pipes on each of four sides, and the listener's directory and bell.
    let ours = |target: &Path| target.starts_with(&path);
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let descriptors = descriptors
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| ours(target));
    assert_eq!(descriptors.count(), 4 * 2 + 2);

    drop(listener);
    assert!(!path.exists(), "what it made is removed");
    let [(client, server), _] = links;
    let (mut tx, _client_rx) = client.split();
    let (_server_tx, mut rx) = server.split();
    send(&mut *tx, b"links live on").await.unwrap();
    flush(&mut *tx).await.unwrap();
    let received = watched(recv(&mut *rx, 1)).await;
    assert_eq!(received.unwrap(), [b"links live on"]);
}

#[tokio::test]
async fn a_directory_that_was_there_stays() {
    let (_dir, path, address) = place();
    make_dir(&path, 0o700);
    for _ in 0..2 {
        let mut listener = ShmListener::bind(address.clone()).await.unwrap();
        pair(&mut listener, &ShmConnector::new(address.clone())).await;
        drop(listener);
        assert_eq!(Dir::names(&path), [""; 0]);
    }
}

#[tokio::test]
async fn two_servers_cannot_live_in_one_directory() {
    let (_dir, path, address) = place();
    let mut first = ShmListener::bind(address.clone()).await.unwrap();
    let (kind, text) = refused(&address, true).await;
    assert_eq!(kind, Kind::Invalid);
    let expected = format!("listening on {}: address in use", path.display());
    assert!(text.contains(&expected), "{text}");
    pair(&mut first, &ShmConnector::new(address.clone())).await;
    drop(first);
    ShmListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn directories_within_others_reach_are_refused_by_both_sides() {
    let (_dir, path, address) = place();
    let listener = ShmListener::bind(address.clone()).await.unwrap();
    for mode in [0o755, 0o710, 0o701, 0o720] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (kind, text) = refused(&address, false).await;
        assert_eq!(kind, Kind::Invalid);
        assert!(text.contains(&format!("its mode is {mode:o}")), "{text}");
    }
    drop(listener);
    make_dir(&path, 0o755);
    let (kind, text) = refused(&address, true).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("its mode is 755"), "{text}");
    assert_eq!(Dir::names(&path), [""; 0]);

    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(77), None).unwrap();
        for listener in [true, false] {
            let (kind, text) = refused(&address, listener).await;
            assert_eq!(kind, Kind::Invalid);
            assert!(text.contains("belongs to user 77"), "{text}");
        }
    }
}

#[tokio::test]
async fn links_and_files_are_no_directories() {
    let (dir, path, _) = place();
    make_dir(&path, 0o700);
    let link = dir.0.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let file = dir.0.join("file");
    fs::write(&file, "precious").unwrap();
    for not in [link.clone(), file.clone(), link.join("")] {
        for listener in [true, false] {
            refused(&ShmAddress::directory(&not), listener).await;
        }
    }
    assert_eq!(Dir::names(&path), [""; 0]);
    assert_eq!(fs::read(file).unwrap(), b"precious");
}

#[tokio::test]
async fn a_choice_of_users_does_not_go_with_a_directory() {
    let (_dir, path, address) = place();
    for users in [Users::Any, Users::Only(vec![0, 1000])] {
        let options = ShmOptions::new().users(users);
        let bound = ShmListener::bind_with(address.clone(), options.clone()).await;
        let connector = ShmConnector::new(address.clone()).options(options);
        for error in [bound.unwrap_err(), connector.connect().await.unwrap_err()] {
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(chain(&error).contains("no other choice of users"));
        }
    }
    let mut transports = Transports::new();
    rsocket_transport_shm::register(&mut transports);
    let url = format!("shm+dir:{}?users=any", path.display());
    let error = transports.connector(&url).err().unwrap();
    assert!(chain(&error).contains("no other choice of users"));
    assert!(!path.exists());
}

#[tokio::test]
async fn connecting_where_nobody_lives_fails_at_once() {
    let (_dir, path, address) = place();
    let unreachable = async || {
        let (kind, text) = refused(&address, false).await;
        assert_eq!(kind, Kind::Unreachable, "{text}");
        assert!(text.contains(&format!("connecting to {}", path.display())));
        text
    };
    assert!(unreachable().await.contains("No such file"));
    make_dir(&path, 0o700);
    assert!(unreachable().await.contains("nobody listens"));
    // As a server leaves it that was killed.
    make_pipe(&path.join("bell"));
    assert!(unreachable().await.contains("nobody listens"));
    assert_eq!(Dir::names(&path), ["bell"]);
}

#[tokio::test]
async fn what_was_left_behind_is_removed_and_nothing_else() {
    let (_dir, path, address) = place();
    make_dir(&path, 0o700);
    make_pipe(&path.join("bell"));
    for (n, stage) in ["new", "ask", "met"].into_iter().enumerate() {
        let meeting = path.join(format!("{stage}-{n}{}", &ID[1..]));
        make_dir(&meeting, 0o700);
        for pipe in ["up", "down"].iter().take(n) {
            make_pipe(&meeting.join(pipe));
        }
        fs::write(meeting.join("client"), "memory").unwrap();
        fs::write(meeting.join("server"), "memory").unwrap();
    }
    let full = format!("ask-{ID}");
    make_dir(&path.join(&full), 0o700);
    fs::write(path.join(&full).join("precious"), "").unwrap();
    fs::write(path.join("precious"), "").unwrap();
    make_dir(&path.join("ask-me"), 0o700);

    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    let expected = [full.as_str(), "ask-me", "bell", "precious"];
    assert_eq!(Dir::names(&path), expected);
    pair(&mut listener, &ShmConnector::new(address.clone())).await;
    drop(listener);
    assert_eq!(Dir::names(&path), [full.as_str(), "ask-me", "precious"]);

    fs::write(path.join("bell"), "precious").unwrap();
    let (kind, text) = refused(&address, true).await;
    assert_eq!(kind, Kind::Invalid);
    assert!(text.contains("where a Fifo should be"), "{text}");
    assert_eq!(fs::read(path.join("bell")).unwrap(), b"precious");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let (_dir, path, address) = place();
    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    let connector = ShmConnector::new(address).connect_timeout(Duration::from_millis(50));
    let error = watched(connector.connect()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(chain(&error).contains("timed out"), "{}", chain(&error));
    assert_eq!(Dir::names(&path), ["bell"]);
    // It is not offered to the server any more, and others are.
    pair(
        &mut listener,
        &connector.connect_timeout(Duration::from_secs(60)),
    )
    .await;
}

#[tokio::test]
async fn a_client_hears_at_once_of_a_server_that_goes_before_it_answers() {
    let (_dir, path, address) = place();
    let listener = ShmListener::bind(address.clone()).await.unwrap();
    let connector = ShmConnector::new(address.clone());
    let mut connecting = std::pin::pin!(connector.connect());
    begin(connecting.as_mut());
    assert_eq!(Dir::names(&path).len(), 2);
    drop(listener);
    let error = watched(connecting).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Lost);
    assert!(chain(&error).contains("the server is gone"));
    // The server could not remove the directory, since the client was in it.
    assert_eq!(Dir::names(&path), [""; 0]);

    let mut listener = ShmListener::bind(address).await.unwrap();
    let mut connecting = std::pin::pin!(connector.connect());
    begin(connecting.as_mut());
    let handshake = listener.accept().await.unwrap();
    assert_eq!(Dir::names(&path).len(), 2);
    // As the core does with one that takes too long.
    drop(handshake);
    drop(listener);
    let error = watched(connecting).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Lost);
    assert_eq!(Dir::names(&path), [""; 0]);
}

#[tokio::test]
async fn a_meeting_that_was_taken_on_outlives_the_listener() {
    let (_dir, _, address) = place();
    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    let connector = ShmConnector::new(address.clone());
    let mut connecting = std::pin::pin!(connector.connect());
    begin(connecting.as_mut());
    let handshake = listener.accept().await.unwrap();
    drop(listener);
    let next = ShmListener::bind(address).await.unwrap();
    let (server, client) = watched(async { tokio::join!(handshake, connecting) }).await;
    assert!(server.is_ok() && client.is_ok());
    drop(next);
}

#[tokio::test]
async fn a_client_that_gives_up_leaves_nothing_whenever_that_is() {
    let (_dir, path, address) = place();
    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    let connector = ShmConnector::new(address);
    // Before it is noticed.
    {
        let mut connecting = std::pin::pin!(connector.connect());
        begin(connecting.as_mut());
    }
    assert_eq!(Dir::names(&path), ["bell"]);
    // While the server answers.
    let mut connecting = Box::pin(connector.connect());
    begin(connecting.as_mut());
    let handshake = watched(listener.accept()).await.unwrap();
    let mut handshake = std::pin::pin!(handshake);
    begin(handshake.as_mut());
    assert_eq!(Dir::names(&path).len(), 2);
    drop(connecting);
    let error = watched(handshake).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Lost);
    assert_eq!(Dir::names(&path), ["bell"]);
    pair(&mut listener, &connector).await;
}

/// A client that does as it likes.
struct Liar {
    path: PathBuf,
    meeting: PathBuf,
    lock: File,
    up: File,
    down: File,
}

impl Liar {
    fn new(path: &Path) -> Self {
        let meeting = path.join(format!("new-{ID}"));
        make_dir(&meeting, 0o700);
        let lock = File::open(&meeting).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let pipe = |name| {
            make_pipe(&meeting.join(name));
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let mut options = File::options();
            let options = options.read(true).write(true).custom_flags(flags);
            options.open(meeting.join(name)).unwrap()
        };
        Self {
            up: pipe("up"),
            down: pipe("down"),
            path: path.to_owned(),
            meeting,
            lock,
        }
    }

    fn region(&self, mode: u32) -> File {
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true).mode(mode);
        options.open(self.meeting.join("client")).unwrap()
    }

    /// A region as it should be.
    fn good_region(&self) -> File {
        let file = self.region(0o600);
        fill(&file);
        file
    }

    fn hello(&mut self, major: u16) {
        let mut hello = b"RSOCKSHM".to_vec();
        hello.extend(major.to_le_bytes());
        hello.extend([0, 0, 1, 0, 0, 0]);
        hello.extend(region_len().to_le_bytes());
        hello.extend(u64::MAX.to_le_bytes());
        hello.resize(64, 0);
        self.up.write_all(&hello).unwrap();
    }

    fn ask(&self) {
        fs::rename(&self.meeting, self.path.join(format!("ask-{ID}"))).unwrap();
        let mut bell = File::options();
        let mut bell = bell.write(true).open(self.path.join("bell")).unwrap();
        bell.write_all(&[0]).unwrap();
    }

    /// Why the server refused, if that is its answer.
    fn refusal(&mut self) -> Option<u32> {
        let mut answer = [0; 64];
        self.down.read_exact(&mut answer).ok()?;
        (answer[12] == 3).then(|| u32::from_le_bytes(answer[32..36].try_into().unwrap()))
    }
}

fn region_len() -> u64 {
    raw::Geometry::default().region_len() as u64
}

fn fill(file: &File) {
    let geometry = raw::Geometry::default();
    fallocate(file, FallocateFlags::empty(), 0, region_len()).unwrap();
    let len = geometry.region_len();
    let (words, _) = raw::map_own(file, len, raw::CONTROL_LEN).unwrap();
    raw::format(&words, &geometry, 0);
}

/// What a server makes of such a client: the kind and text of its error, and why
/// it says that it refuses. Nothing is left, and nobody else is held up.
async fn served(misbehave: impl FnOnce(&mut Liar)) -> (Kind, String, Option<u32>) {
    let (_dir, path, address) = place();
    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    let mut liar = Liar::new(&path);
    misbehave(&mut liar);
    liar.ask();
    let answered = watched(async { listener.accept().await.unwrap().await }).await;
    let error = answered.unwrap_err();
    assert_eq!(Dir::names(&path), ["bell"]);
    pair(&mut listener, &ShmConnector::new(address)).await;
    (error.kind(), chain(&error), liar.refusal())
}

#[tokio::test]
async fn a_client_that_keeps_the_rules_as_written_here_is_served() {
    let (_dir, path, address) = place();
    let mut listener = ShmListener::bind(address).await.unwrap();
    let mut liar = Liar::new(&path);
    liar.good_region();
    liar.hello(1);
    liar.ask();
    let mut handshake = watched(listener.accept()).await.unwrap();
    begin(handshake.as_mut());
    let mut answer = [0; 64];
    liar.down.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..16], *b"RSOCKSHM\x01\0\0\0\x02\0\0\0");
    let region = path.join(format!("met-{ID}")).join("server");
    assert_eq!(fs::metadata(region).unwrap().len(), region_len());
    liar.up.write_all(&[1]).unwrap();
    watched(handshake).await.unwrap();
    assert_eq!(Dir::names(&path), ["bell"]);
}

#[tokio::test]
async fn a_client_of_another_major_version_is_told_so() {
    let (kind, text, why) = served(|liar| liar.hello(2)).await;
    assert_eq!((kind, why), (Kind::Invalid, Some(1)));
    assert!(text.contains("version 2.0"), "{text}");
}

#[tokio::test]
async fn regions_that_are_not_as_they_have_to_be_are_refused() {
    type Case = (&'static str, fn(&mut Liar), &'static str);
    let cases: [Case; 7] = [
        ("none", |_| {}, "No such file"),
        (
            "short",
            |liar| liar.region(0o600).set_len(4096).unwrap(),
            "bytes long, not",
        ),
        (
            "sparse",
            |liar| liar.region(0o600).set_len(region_len()).unwrap(),
            "are there",
        ),
        (
            "blank",
            |liar| {
                let file = liar.region(0o600);
                fallocate(file, FallocateFlags::empty(), 0, region_len()).unwrap();
            },
            "no region does",
        ),
        (
            "others'",
            |liar| fill(&liar.region(0o640)),
            "its mode is 640",
        ),
        (
            "a pipe",
            |liar| make_pipe(&liar.meeting.join("client")),
            "where a RegularFile should be",
        ),
        (
            "a link",
            |liar| {
                let file = liar.path.join("elsewhere");
                std::os::unix::fs::symlink(file, liar.meeting.join("client")).unwrap();
            },
            "symbolic link",
        ),
    ];
    for (case, misbehave, expected) in cases {
        let (_, text, why) = served(|liar| {
            misbehave(liar);
            liar.hello(1);
        })
        .await;
        assert!(text.contains(expected), "{case}: {text}");
        assert!(matches!(why, Some(5 | 6)), "{case}: {why:?}");
    }
}

#[tokio::test]
async fn pipes_that_are_none_are_refused() {
    let (kind, text, _) = served(|liar| {
        liar.good_region();
        liar.hello(1);
        fs::remove_file(liar.meeting.join("down")).unwrap();
        fs::write(liar.meeting.join("down"), "").unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(liar.meeting.join("down"), mode).unwrap();
    })
    .await;
    assert_eq!(kind, Kind::PeerMisbehaved);
    assert!(text.contains("where a Fifo should be"), "{text}");
}

#[tokio::test]
async fn garbage_and_an_early_end_end_the_meeting() {
    let (kind, text, why) = served(|liar| liar.up.write_all(&[0xA5; 64]).unwrap()).await;
    assert_eq!((kind, why), (Kind::PeerMisbehaved, None), "{text}");

    // The lock is still held, which a process that died cannot do, so the end of
    // its pipe has to be noticed.
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let (kind, text, _) = served(|liar| liar.up = null().into()).await;
    assert_eq!(kind, Kind::Lost, "{text}");

    let (kind, text, _) = served(|liar| {
        liar.good_region();
        liar.hello(1);
        // Instead of the word that it has the server's region.
        liar.up.write_all(&[9]).unwrap();
    })
    .await;
    assert_eq!(kind, Kind::Lost, "{text}");
}

#[tokio::test]
async fn a_client_that_died_after_it_asked_is_not_offered() {
    let (_dir, path, address) = place();
    let mut listener = ShmListener::bind(address.clone()).await.unwrap();
    let mut liar = Liar::new(&path);
    liar.good_region();
    liar.hello(1);
    liar.ask();
    let Liar { lock, .. } = liar;
    drop(lock);
    assert_eq!(Dir::names(&path).len(), 2);
    // The first that is accepted is the one who lives.
    pair(&mut listener, &ShmConnector::new(address)).await;
    assert_eq!(Dir::names(&path), ["bell"]);
}

#[tokio::test]
async fn many_clients_at_once_are_served_one_by_one() {
    const CLIENTS: usize = 60;

    let (_dir, path, address) = place();
    let options = ShmOptions::new().ring_len(4096).arena_len(0);
    let listener = ShmListener::bind_with(address.clone(), options.clone()).await;
    let mut listener = listener.unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let connector = ShmConnector::new(address.clone()).options(options.clone());
            tokio::spawn(async move { connector.connect().await })
        })
        .collect();
    let mut links = Vec::new();
    for _ in 0..CLIENTS {
        links.push(
            watched(async { listener.accept().await.unwrap().await })
                .await
                .unwrap(),
        );
    }
    for client in clients {
        links.push(watched(client).await.unwrap().unwrap());
    }
    assert_eq!(Dir::names(&path), ["bell"]);
}
