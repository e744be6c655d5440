//! A peer that writes anything at all to all that it may write to.

use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use rsocket_core::{
    testkit::{Random, seeds},
    transport::{Listener as _, TransportErrorKind},
};
use rsocket_transport_shm::{
    ShmListener, ShmOptions,
    raw::{self, Data as _, Words as _},
};
use rustix::{
    cmsg_space,
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use tokio::time::timeout;

use crate::{
    ALONE,
    common::*,
    is_slow,
    role::{Actor, receive_all, send_all},
};

/// Memory that the victim may use for itself: copies of what it receives, all of
/// which are dropped at once.
const MEMORY: u64 = 256 << 20;

/// Where what lies in a region, as its documentation says.
const WORDS: [usize; 5] = [4096, 4608, 4608 + 128, 4608 + 256, 8192];

/// Connects again and again, and scribbles until it is thrown out.
pub(crate) async fn lie(address: &str, seed: u64) {
    let mut random = Random::new(seed);
    loop {
        let Ok(stream) = std::os::unix::net::UnixStream::connect(address) else {
            return;
        };
        lie_once(&stream, &mut random);
    }
}

fn lie_once(stream: &std::os::unix::net::UnixStream, random: &mut Random) {
    let geometry = raw::Geometry::new(64 << 10, 256 << 10).unwrap();
    let len = geometry.region_len();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("liar", flags).unwrap());
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64).unwrap();
    let (words, mut data) = raw::map_own(&file, len, raw::CONTROL_LEN).unwrap();
    raw::format(&words, &geometry, 0);
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();

    let mut hello = b"RSOCKSHM".to_vec();
    hello.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    hello.extend((len as u64).to_le_bytes());
    hello.extend(u64::MAX.to_le_bytes());
    hello.resize(64, 0);
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let hello = [IoSlice::new(&hello)];
    if rustix::net::sendmsg(stream, &hello, &mut control, SendFlags::NOSIGNAL).is_err() {
        return;
    }
    // The answer, whose descriptor the kernel throws away.
    let mut answer = [0; 64];
    let flags = rustix::net::RecvFlags::WAITALL;
    if !matches!(rustix::net::recv(stream, &mut answer, flags), Ok((64, _))) {
        return;
    }

    // Some rounds keep to what looks right, else nothing would get far.
    let subtle = random.once_in(2);
    let ring_at = raw::CONTROL_LEN as u64;
    let ring_lines = (geometry.ring_len() / 64) as u64;
    // Some write only as much as is there at a time, so that a victim finds it
    // however late it looks.
    let last_line = if random.once_in(2) {
        ring_lines
    } else {
        u64::MAX
    };
    let mut line = 0;
    for step in 0..200_000_u64 {
        let any = random_word(random);
        if subtle && line < last_line {
            // The next record: a kind, a length, and the right number of its line.
            let (kind, len) = match random.within(0..=20) {
                0 => (any % 16, any >> 40),
                1..=4 => (2, 24),
                5..=8 => (4, 64 << 10 >> 3),
                _ => (1, any % 3_000),
            };
            let at = usize::try_from(ring_at + line % ring_lines * 64).unwrap();
            if kind == 2 {
                data.store(at + 8, any % 80 * 4096);
                data.store(at + 16, (any >> 20) % (140 << 10));
                data.store(at + 24, any);
            }
            data.store_release(at, line << 32 | kind << 28 | len);
            line += (8 + len).div_ceil(64);
            words.store(WORDS[2], any % 8);
            words.store(WORDS[0], any % 8);
            if random.once_in(1_000) {
                words.store(WORDS[1], any % 100 * 64);
            }
        } else if !subtle {
            let at = random.within(0..=len / 8 - 1) * 8;
            match random.within(0..=3) {
                0 => words.store(WORDS[random.within(0..=4)], any),
                _ if at < raw::CONTROL_LEN => words.store(at, any),
                _ => data.store(at, any),
            }
        }
        if step % 16 == 0 {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let bytes = vec![7; random.within(1..=300)];
            match rustix::net::send(stream, &bytes, flags) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
        if subtle {
            // So that it is read now and then before it changes again.
            std::thread::yield_now();
        }
    }
}

fn random_word(random: &mut Random) -> u64 {
    let word = random.bytes(8);
    u64::from_le_bytes(word.try_into().unwrap()) >> random.within(0..=63)
}

/// Memory of this process, in bytes.
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn a_lying_peer_gets_an_error_and_does_no_harm() {
    let _alone = ALONE.lock().await;
    let period = Duration::from_secs(match std::env::var("RSOCKET_TEST_SECONDS") {
        Ok(seconds) => seconds.parse().expect("a number of seconds"),
        Err(_) if is_slow() => 120,
        Err(_) => 4,
    });
    for seed in seeds(1) {
        let dir = Dir::new();
        let options = ShmOptions::new().ring_len(64 << 10).arena_len(256 << 10);
        let mut listener = ShmListener::bind_with(dir.socket(), options).await.unwrap();
        let liar = Actor::start(&format!("lie {} {seed}", dir.socket().display()));
        let before = resident();
        let begin = Instant::now();
        let (mut links, mut frames, mut lies) = (0, 0, 0);
        while begin.elapsed() < period {
            let handshake = watched(listener.accept()).await.unwrap();
            let Ok(link) = watched(handshake).await else {
                continue;
            };
            let (tx, rx) = link.split();
            let sending = tokio::spawn(send_all(tx, seed));
            let receiving = tokio::spawn(receive_all(rx));
            // A liar may also look like a peer that is just slow; then we go.
            let both = timeout(Duration::from_millis(300), receiving);
            if let Ok(received) = both.await {
                let (count, end) = received.expect("no panic");
                frames += count;
                match end {
                    Ok(_) => {}
                    Err(error) if error.kind() == TransportErrorKind::PeerMisbehaved => lies += 1,
                    Err(error) => assert_eq!(error.kind(), TransportErrorKind::Lost),
                }
            }
            sending.abort();
            match sending.await {
                Err(error) => assert!(error.is_cancelled(), "seed {seed}: {error}"),
                Ok(error) => {
                    lies += usize::from(error.kind() == TransportErrorKind::PeerMisbehaved);
                }
            }
            links += 1;
            let grown = resident().saturating_sub(before);
            assert!(grown < MEMORY, "{grown} bytes, seed {seed}");
        }
        drop(liar);
        println!("{links} links, {frames} frames, {lies} lies, seed {seed}");
        assert!(links > 3 && frames > 0 && lies > 0, "seed {seed}");
    }
}
