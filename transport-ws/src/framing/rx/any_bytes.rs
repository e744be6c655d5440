//! Whatever bytes come, in whatever pieces: the receiving half against a reader that
//! has them all, takes its time, and was written from the RFC alone.

use std::{collections::VecDeque, sync::Mutex, task::Waker};

use rsocket_core::testkit::{Random, seeds};

use super::{super::header::LONGEST_CONTROL, *};

const MAX_FRAME_LEN: usize = 100_000;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;

/// What is left once all that can be read has been.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// More may come.
    Open,
    /// The peer closed in good order.
    Done,
    /// The peer closed with this code.
    Failed(u16),
    /// The peer is told this code.
    Refused(u16),
}

/// All messages in `bytes`, and how it ends.
fn read_slowly(bytes: &[u8], role: Role) -> (Vec<Vec<u8>>, Ending) {
    let mut messages = Vec::new();
    let mut parts = None;
    let mut rest = bytes;
    loop {
        match read_frame(&mut rest, role, &mut parts) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => {}
            Err(ending) => return (messages, ending),
        }
    }
}

/// Takes one frame from the front of `bytes`; returns the message that it ends.
fn read_frame(
    bytes: &mut &[u8],
    role: Role,
    parts: &mut Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, Ending> {
    let mut rest = *bytes;
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n).ok_or(Ending::Open)?;
        rest = left;
        Ok(taken)
    };
    let head = take(2)?;
    let (opcode, is_final) = (head[0] & 0x0F, head[0] & FIN != 0);
    let is_control = matches!(opcode, CLOSE | PING | PONG);
    let is_known = is_control || matches!(opcode, CONTINUATION | TEXT | BINARY);
    let short = usize::from(head[1] & 0x7F);
    if head[0] & 0x70 != 0
        || !is_known
        || (head[1] & 0x80 != 0) != (role == Role::Server)
        || is_control && (short > LONGEST_CONTROL || !is_final)
    {
        return Err(Ending::Refused(1002));
    }
    let len = match short {
        126 => take(2)?
            .iter()
            .fold(0, |len, byte| len << 8 | u64::from(*byte)),
        127 => take(8)?
            .iter()
            .fold(0, |len, byte| len << 8 | u64::from(*byte)),
        short => short as u64,
    };
    let is_shortest = match short {
        126 => len > 125,
        127 => len > 65_535 && len >> 63 == 0,
        _ => true,
    };
    if !is_shortest {
        return Err(Ending::Refused(1002));
    }
    let mask = match role {
        Role::Server => take(4)?,
        Role::Client => &[0; 4],
    };
    // What is wrong with a message is wrong before it has come.
    let before = parts.as_ref().map_or(0, Vec::len) as u64;
    match (opcode, &parts) {
        (TEXT, _) => return Err(Ending::Refused(1003)),
        (CONTINUATION, None) | (BINARY, Some(_)) => return Err(Ending::Refused(1002)),
        _ if !is_control && before + len > MAX_FRAME_LEN as u64 => {
            return Err(Ending::Refused(1009));
        }
        _ => {}
    }
    let mut payload = take(length(len))?.to_vec();
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    *bytes = rest;
    if opcode == CLOSE {
        return Err(closing(&payload));
    }
    if is_control {
        return Ok(None);
    }
    parts.get_or_insert_default().extend_from_slice(&payload);
    Ok(if is_final { parts.take() } else { None })
}

fn closing(payload: &[u8]) -> Ending {
    match payload {
        [] => Ending::Done,
        [_] => Ending::Refused(1002),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            ..1000 | 1004..=1006 | 1015..=2999 | 5000.. => Ending::Refused(1002),
            _ if std::str::from_utf8(reason).is_err() => Ending::Refused(1007),
            1000 | 1001 => Ending::Done,
            code => Ending::Failed(code),
        },
    }
}

/// A stream that brings what it was given, piece by piece, and then waits.
#[derive(Clone, Default)]
struct Pieces(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl AsyncRead for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pieces = self.0.lock().unwrap();
        let Some(mut piece) = pieces.pop_front() else {
            return Poll::Pending;
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

/// What the receiving half makes of `bytes` that come in pieces of these lengths,
/// the last of them again and again.
fn receive(bytes: &[u8], role: Role, pieces: &[usize]) -> (Vec<Vec<u8>>, Ending) {
    let stream = Pieces::default();
    let outlet = Arc::new(Outlet::new(tokio::io::sink(), role));
    let mut rx = SocketRx::new(stream.clone(), Bytes::new(), outlet, role, MAX_FRAME_LEN);
    let mut cx = Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    let mut lens = pieces.iter().copied();
    let mut len = 1;
    let (mut rest, mut arrived) = (bytes, 0);
    while !rest.is_empty() {
        len = lens.next().unwrap_or(len);
        let (piece, left) = rest.split_at(len.min(rest.len()));
        rest = left;
        arrived += piece.len();
        stream.0.lock().unwrap().push_back(piece.to_vec());
        // Pending may also mean that others should run first; so it is asked once
        // more when there is nothing to read.
        let mut idle = 0;
        while idle < 2 {
            let polled = rx.poll_recv(&mut cx, &mut |frame| {
                messages.push(frame.as_slice().to_vec());
                ControlFlow::Continue(())
            });
            match polled {
                Poll::Ready(Ok(Received::Frames)) => idle = 0,
                Poll::Ready(_) => return (messages, ending(&rx)),
                Poll::Pending if stream.0.lock().unwrap().is_empty() => idle += 1,
                Poll::Pending => {}
            }
            assert_modest(&rx, arrived);
        }
    }
    (messages, ending(&rx))
}

type Rx = SocketRx<Pieces, tokio::io::Sink>;

fn ending(rx: &Rx) -> Ending {
    match &rx.state {
        State::Open => Ending::Open,
        State::Ended => Ending::Done,
        State::Failed(Fault::Closed(reason)) => Ending::Failed(reason.code),
        State::Failed(fault) => Ending::Refused(fault.close_code().unwrap()),
    }
}

/// What is held follows what has arrived, not what was announced.
fn assert_modest(rx: &Rx, arrived: usize) {
    let held = rx
        .message
        .as_ref()
        .map_or(0, |message| message.bytes.capacity());
    assert!(
        held <= FIRST_STEP.max(2 * arrived),
        "{held} for {arrived} bytes"
    );
    assert!(rx.buffer.len() <= BUFFER_LEN);
}

/// Frames as they may come to `role`, with something wrong now and then.
fn any_bytes(random: &mut Random, role: Role) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut in_parts = false;
    for _ in 0..random.within(1..=12) {
        let part = random.length(3_000) - 1;
        let (first, len) = match random.within(0..=9) {
            0 => (FIN | PING, random.within(0..=LONGEST_CONTROL)),
            1 => (FIN | PONG, random.within(0..=LONGEST_CONTROL)),
            2 if random.once_in(6) => (FIN | BINARY, random.within(0..=MAX_FRAME_LEN + 10)),
            n if in_parts != random.once_in(50) => match n {
                ..7 => (CONTINUATION, part),
                _ => (FIN | CONTINUATION, part),
            },
            3 | 4 => (BINARY, part),
            5 => (BINARY, random.within(0..=MAX_FRAME_LEN)),
            _ => (FIN | BINARY, random.length(70_000) - 1),
        };
        in_parts = match first {
            BINARY => true,
            _ => in_parts && first != FIN | CONTINUATION,
        };
        let payload = random.bytes(len);
        put(random, role, first, &payload, &mut bytes);
        if random.once_in(60) {
            put(random, role, FIN | TEXT, b"text", &mut bytes);
        }
        if random.once_in(10) {
            let codes: [u16; 8] = [1000, 1001, 1002, 1005, 1011, 4999, 5000, 0];
            let mut payload = codes[random.within(0..=7)].to_be_bytes().to_vec();
            payload.extend(random.bytes(3));
            payload.truncate([0, 1, 2, 2, 2, 5][random.within(0..=5)]);
            put(random, role, FIN | CLOSE, &payload, &mut bytes);
        }
        if random.once_in(60) {
            let len = random.within(1..=20);
            bytes.extend(random.bytes(len));
        }
    }
    if random.once_in(4) {
        let at = random.within(0..=bytes.len() - 1);
        bytes[at] ^= 1 << random.within(0..=7);
    }
    if random.once_in(3) {
        bytes.truncate(random.within(1..=bytes.len()));
    }
    bytes
}

fn put(random: &mut Random, role: Role, first: u8, payload: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    Header::put(OpCode::Binary, None, payload.len(), bytes);
    bytes[start] = first;
    let mut key = vec![0; 4];
    if role == Role::Server {
        bytes[start + 1] |= 0x80;
        key = random.bytes(4);
        bytes.extend(&key);
    }
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ key[i % 4]),
    );
}

// [C007] [C012]
#[test]
fn what_arrives_depends_on_the_bytes_and_not_on_their_pieces() {
    let mut endings = [0; 4];
    for seed in seeds(500) {
        let mut random = Random::new(seed);
        let role = [Role::Client, Role::Server][random.within(0..=1)];
        let bytes = any_bytes(&mut random, role);
        let expected = read_slowly(&bytes, role);
        endings[match expected.1 {
            Ending::Open => 0,
            Ending::Done => 1,
            Ending::Failed(_) => 2,
            Ending::Refused(_) => 3,
        }] += 1;
        let pieces: Vec<_> = (0..50).map(|_| random.length(9_000)).collect();
        let ways = [&[bytes.len()][..], &[1, 2, 3, 7, 100, 1460], &pieces];
        for pieces in ways {
            let received = receive(&bytes, role, pieces);
            assert!(
                received == expected,
                "RSOCKET_TEST_SEED={seed}, {role:?}, {} bytes, in pieces of {pieces:?}: {} messages and {:?}, not {} and {:?}",
                bytes.len(),
                received.0.len(),
                received.1,
                expected.0.len(),
                expected.1,
            );
        }
    }
    // With a seed of somebody's own there is one of them.
    if endings.iter().sum::<usize>() > 1 {
        assert!(endings.iter().all(|n| *n > 10), "{endings:?}");
    }
}

#[test]
fn short_streams_are_read_alike_one_byte_at_a_time() {
    for seed in seeds(100) {
        let mut random = Random::new(seed);
        let role = [Role::Client, Role::Server][random.within(0..=1)];
        let mut bytes = any_bytes(&mut random, role);
        bytes.truncate(3_000);
        let expected = read_slowly(&bytes, role);
        assert_eq!(
            receive(&bytes, role, &[1]),
            expected,
            "RSOCKET_TEST_SEED={seed}"
        );
    }
}
