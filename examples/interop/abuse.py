#!/usr/bin/env python3
"""Abuses our interop server over raw sockets and sees that it stays upright.

    abuse.py [--interop PATH] [--only NAME] [--list] [--json FILE]

Every scenario gets a fresh server, a second one, its *twin*, that is left alone, and a *witness*: an
honest client in a process of its own that asks both for an echo all the time, in turn. A scenario
passes if what it demands of the abused connection holds, and if

- the witness was answered all along, as was a new connection while the abuse was going on,
- its 99th percentile at the abused server is not above twice that at the twin, unless the difference
  is below 24 ms. Abuser, witness and both servers may have to share a core or two, and what that
  makes slow is slow at both servers: the ratio shows what the server itself does to its honest
  clients. But the scheduler lets a process that works wait up to a tick (4 ms) longer than one that
  sleeps all the time, for each other that wants the same core, and a question and its answer may
  both meet that: a machine that has other things to do makes 24 ms of it. The table shows what was
  measured; on a quiet machine read that,
- the server's resident memory never rose by more than the stated bound (VmHWM of /proc/PID/status),
- the server comes to rest while the abuser is still connected (it does not spin), and
- once the abuser is gone, no request of its is left in work and no descriptor is left open.

Abuse that is over in less than a second is repeated for so long, on up to three pairs of servers, until
there are enough answers to tell a percentile from; what only takes a few frames shows none. A
percentile that is too high is measured once more, on its own: machines have other things to do too.

Exit status: 0 if all pass, 1 if not, 2 if the command line is wrong.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time
import traceback

import abuse_sessions  # noqa: F401 (its scenarios register themselves)
from harness import CheckFailed, Program, Server, end_children_on_signals
from matrix import REPOSITORY, first_existing
from rawsocket import (
    ANSWER_SECONDS,
    CANCEL,
    CANCELED,
    COMPLETE,
    CONNECTION_ERROR,
    ERROR,
    EXT,
    FOLLOWS,
    IGNORE,
    INVALID_SETUP,
    KEEPALIVE,
    LEASE,
    MAX_N,
    METADATA,
    METADATA_PUSH,
    NEXT,
    PAYLOAD,
    REJECTED_RESUME,
    REJECTED_SETUP,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    RESPOND,
    RESUME,
    RESUME_OK,
    SCENARIOS,
    SETUP,
    SETUP_FRAME,
    UNSUPPORTED_SETUP,
    Abuse,
    Failed,
    Raw,
    Witness,
    demand_error,
    frame,
    number,
    percentile99,
    prefixed,
    scenario,
    setup_body,
    wire,
)

SEED = 20_240_607

# Beyond both of these the server keeps honest clients waiting: how much later than its twin it
# answers, and how many seconds more that is.
SLOWDOWN, SLOW_SECONDS = 2, 0.024
# What takes less than this is no load; what takes less than that is done again meanwhile.
SHORT_SECONDS, LONG_SECONDS = 0.03, 0.8
# On how many servers a scenario may be run to get enough answers.
PAIRS = 3


# Overload and memory


@scenario(
    "50 endless streams with all the credit there is, never read", cluster=1, covers="C133 C256"
)
def endless_credit(a):
    raw = a.raw()
    for _ in range(50):
        raw.request(REQUEST_STREAM, b"infinite", credit=MAX_N)
    a.witness.endure()
    return "stopped producing"


@scenario("20 streams of large items with all the credit, never read", 64, cluster=1, covers="C256")
def endless_large_items(a):
    raw = a.raw()
    for _ in range(20):
        raw.request(REQUEST_STREAM, b"bigitems:100000:60000", credit=MAX_N)
    a.witness.endure()
    return "stopped producing"


@scenario("4000 responses of 100 kB asked for and never read", 64, cluster=1, covers="C256")
def responses_never_read(a):
    raw = a.raw()
    ask = b"".join(wire(raw.new_id(), REQUEST_RESPONSE, 0, b"big:100000") for _ in range(4000))
    seen = raw.pour([ask])
    a.witness.endure()
    return seen


def channel_without_credit(raw):
    """An echo channel that owes us nothing more, and the credit it granted.

    Its handler can emit one payload only, so that it does not take further ones and grant more.
    """
    stream = raw.request(REQUEST_CHANNEL, b"echo", credit=1)
    granted, emitted = 0, False
    while True:
        try:
            received = raw.read_on(stream, 0.3 if emitted and granted else ANSWER_SECONDS)
        except Failed:
            if emitted and granted:
                return stream, granted
            raise
        if received.kind == REQUEST_N:
            granted += struct.unpack(">I", received.body)[0]
        elif received.kind == PAYLOAD:
            emitted = True
        else:
            raise Failed(f"the channel got {received}")


@scenario("50 items more than a channel was granted", 16, cluster=2, covers="C123 C252")
def items_beyond_credit(a):
    raw = a.raw()
    stream, granted = channel_without_credit(raw)
    if granted > 100_000:
        raise Failed(f"the channel granted {granted} payloads to a handler that takes none")
    # Twice the grant on top: whatever the handler takes meanwhile, 50 are too many.
    count = 3 * granted + 50
    raw.pour([b"".join(wire(stream, PAYLOAD, NEXT, b"%d" % n) for n in range(count))])
    said = demand_error(raw, stream, (CANCELED,), "too many items")
    raw.echo()
    return said


@scenario("200 MiB of items that nobody granted", 32, cluster=2, covers="C252")
def items_far_beyond_credit(a):
    raw = a.raw()
    stream, _ = channel_without_credit(raw)
    item = wire(stream, PAYLOAD, NEXT, bytes(1000))
    seen = raw.pour((item * 1000 for _ in range(200)), drain=True)
    raw.echo()
    return seen


@scenario("a million REQUEST_N of 1, nothing read", cluster=3, covers="C131 C256")
def request_n_flood(a):
    raw = a.raw()
    stream = raw.request(REQUEST_STREAM, b"infinite", credit=1)
    grants = wire(stream, REQUEST_N, 0, number(1)) * 10_000
    seen = raw.pour(grants for _ in range(100))
    a.witness.endure()
    return seen


@scenario("credit that sums up far beyond 2^31-1", covers="C132 C133")
def request_n_overflow(a):
    raw = a.raw()
    stream = raw.request(REQUEST_STREAM, b"range:100", credit=MAX_N)
    raw.send(wire(stream, REQUEST_N, 0, number(MAX_N)) * 1000)
    for value in range(100):
        item = raw.read_on(stream)
        if item.kind != PAYLOAD or item.body != b"%d" % value:
            raise Failed(f"item {value}: {item}")
    raw.echo()
    return "all items came"


@scenario("256 MiB of KEEPALIVE with 64 KiB each, no answer read", cluster=4, covers="C104 C110")
def keepalive_flood(a):
    raw = a.raw()
    beat = wire(0, KEEPALIVE, RESPOND, bytes(8) + bytes(65_536))
    seen = raw.pour(beat for _ in range(4096))
    a.witness.endure()
    return seen


@scenario("500000 METADATA_PUSH", cluster=8, covers="C163 C165")
def metadata_push_storm(a):
    raw = a.raw()
    pushes = wire(0, METADATA_PUSH, METADATA, bytes(100)) * 1000
    seen = raw.pour((pushes for _ in range(500)), drain=True)
    raw.echo()
    return seen


@scenario("500000 fire-and-forgets", cluster=8, covers="C234")
def fnf_storm(a):
    raw = a.raw()
    seen = raw.pour(
        (
            b"".join(wire(raw.new_id(), REQUEST_FNF, 0, bytes(50)) for _ in range(1000))
            for _ in range(500)
        ),
        drain=True,
    )
    raw.echo()
    return seen


@scenario("fragments without end on one stream", 64, cluster=5, covers="C222 C224")
def endless_fragments(a):
    raw = a.raw()
    stream = raw.request(REQUEST_RESPONSE, bytes(65_536), FOLLOWS)
    more = wire(stream, PAYLOAD, NEXT | FOLLOWS, bytes(65_536))
    seen = raw.pour((more for _ in range(4096)), drain=True)
    if raw.closed:
        raise Failed("the connection did not survive")
    said = demand_error(raw, stream, (CANCELED,), "the endless request")
    raw.echo()
    return f"{seen}; {said}"


@scenario("64 requests in fragments, 8 MiB each and never finished", 160, cluster=5, covers="C222")
def many_endless_fragments(a):
    raw = a.raw()
    streams = [raw.request(REQUEST_RESPONSE, b"x", FOLLOWS) for _ in range(64)]
    part = bytes(65_536)
    seen = raw.pour(
        (wire(s, PAYLOAD, NEXT | FOLLOWS, part) for _ in range(128) for s in streams), drain=True
    )
    if not raw.closed:
        raw.echo()
    return seen


@scenario("two million fragments of one byte", 64, cluster=5, covers="C223")
def tiny_fragments(a):
    raw = a.raw()
    stream = raw.request(REQUEST_RESPONSE, b"x", FOLLOWS)
    more = wire(stream, PAYLOAD, NEXT | FOLLOWS, b"y") * 10_000
    seen = raw.pour((more for _ in range(200)), drain=True)
    if not raw.closed:
        raw.echo()
    return seen


@scenario("a million empty fragments", 16, cluster=6, covers="C223")
def empty_fragments(a):
    raw = a.raw()
    stream = raw.request(REQUEST_RESPONSE, b"", FOLLOWS)
    more = wire(stream, PAYLOAD, NEXT | FOLLOWS) * 10_000
    seen = raw.pour((more for _ in range(100)), drain=True)
    if raw.closed:
        return seen
    said = demand_error(raw, stream, range(0x201, 0x205), "the request that never advances")
    raw.echo()
    return f"{seen}; {said}"


@scenario(
    "a million frames for streams that do not exist",
    16,
    cluster=7,
    covers="C136 C141 C156 C332 C333 C334",
)
def dead_streams(a):
    raw = a.raw()
    kinds = (
        (CANCEL, 0, b""),
        (PAYLOAD, NEXT, b"x"),
        (PAYLOAD, COMPLETE, b""),
        (PAYLOAD, NEXT | FOLLOWS, b"x"),
        (ERROR, 0, number(0x201) + b"no"),
        (REQUEST_N, 0, number(1)),
    )
    frames = b"".join(wire(1_000_001 + 2 * n, *kinds[n % len(kinds)]) for n in range(10_000))
    seen = raw.pour((frames for _ in range(100)), drain=True)
    raw.echo()
    return seen


@scenario("200000 requests that are never answered", 64, covers="C041 C086")
def pending_flood(a):
    raw = a.raw()
    seen = raw.pour(
        (
            b"".join(wire(raw.new_id(), REQUEST_RESPONSE, 0, b"never") for _ in range(1000))
            for _ in range(200)
        ),
        drain=True,
    )
    return seen


@scenario("200000 requests each cancelled at once", covers="C140 C232")
def rapid_reset(a):
    raw = a.raw()

    def pairs():
        for _ in range(1000):
            stream = raw.new_id()
            yield wire(stream, REQUEST_RESPONSE, 0, b"never") + wire(stream, CANCEL)

    seen = raw.pour((b"".join(pairs()) for _ in range(200)), drain=True)
    raw.echo()
    return seen


@scenario("1000 connections that ask and vanish", covers="C054 C224")
def connection_churn(a):
    for n in range(1000):
        raw = Raw(a.port)
        raw.request(REQUEST_RESPONSE, b"never")
        raw.request(REQUEST_STREAM, b"infinite", credit=1000)
        raw.request(REQUEST_RESPONSE, bytes(10_000), FOLLOWS)
        raw.close(reset=n % 2 == 0)
    return "all released"


# Connections that do not begin


@scenario("300 connections without SETUP", 32, cluster=9, covers="C182")
def idle_without_setup(a):
    raws = [a.raw(setup=False) for _ in range(300)]
    deadline = time.monotonic() + 30
    for raw in raws:
        try:
            raw.fate(max(0.1, deadline - time.monotonic()))
        except Failed as error:
            raise Failed("idle connections are not closed within 30 s") from error
    return "closed by the server"


@scenario("a SETUP that comes byte by byte is accepted", covers="C009 C180")
def setup_byte_by_byte(a):
    raw = a.raw(setup=False)
    for byte in SETUP_FRAME:
        raw.send(bytes([byte]))
    raw.echo()
    return "accepted"


@scenario("a first frame that is not SETUP", covers="C181")
def first_frame_not_setup(a):
    count = 0
    first = [
        frame(stream, kind, flags, body)
        for (kind, flags), body in VALID_BODIES.items()
        for stream in {1 if REQUEST_RESPONSE <= kind <= ERROR else 0}
        if kind not in (SETUP, RESUME)
    ]
    first.append(frame(7, SETUP, 0, setup_body()))
    for raw_frame in first:
        raw = a.raw(setup=False)
        raw.send(prefixed(raw_frame))
        error = raw.fate()
        if error is None or error.code != INVALID_SETUP:
            raise Failed(f"{raw_frame[:12].hex()} as the first frame got {error}")
        count += 1
    return f"{count} times ERROR[INVALID_SETUP]"


@scenario("a RESUME where there is no resumption", covers="C290 C295")
def resume_without_resumption(a):
    raw = a.raw(setup=False)
    raw.send(wire(0, RESUME, 0, VALID_BODIES[RESUME, 0]))
    error = raw.fate()
    if error is None or error.code != REJECTED_RESUME:
        raise Failed(f"got {error}")
    return str(error)


@scenario("a SETUP of another version", covers="C074 C075")
def wrong_version(a):
    for major in (0, 2, 0xFFFF):
        raw = a.raw(setup=False)
        raw.send(wire(0, SETUP, 0, setup_body(major=major)))
        error = raw.fate()
        if error is None or error.code not in (INVALID_SETUP, UNSUPPORTED_SETUP):
            raise Failed(f"version {major} got {error}")
    return str(error)


@scenario("SETUPs with odd fields", covers="C013 C064 C065 C068")
def odd_setups(a):
    head = struct.pack(">HHII", 1, 0, 20_000, 90_000)
    odd = {
        "keepalive 0": setup_body(keepalive=0),
        "lifetime 0": setup_body(lifetime=0),
        "top bits": setup_body(keepalive=0xFFFF_FFFF, lifetime=0xFFFF_FFFF),
        "mime beyond the frame": head + b"\xff" + b"abc",
        "no mime": head,
        "mime not ascii": setup_body(mime=b"\xff\x00\xfe"),
        "empty mime": setup_body(mime=b""),
    }
    fates = []
    for what, body in odd.items():
        raw = a.raw(setup=False)
        raw.send(wire(0, SETUP, 0, body))
        fates.append(f"{what}: {accepted_or_refused(raw)}")
    raw = a.raw(setup=False)
    raw.send(wire(0, SETUP, FOLLOWS, head + number(0xFFFF_0000)))
    fates.append(f"token beyond the frame: {accepted_or_refused(raw)}")
    return "; ".join(fates)


def accepted_or_refused(raw):
    try:
        raw.echo()
        return "accepted"
    except Failed:
        if not raw.closed:
            raw.fate()
        return "refused"


# Malformed frames

VALID_BODIES = {
    (SETUP, 0): setup_body(),
    (LEASE, 0): number(1000) + number(10),
    (KEEPALIVE, RESPOND): bytes(8) + b"beat",
    (REQUEST_RESPONSE, METADATA): b"\0\0\x01m" + b"echo:x",
    (REQUEST_FNF, METADATA): b"\0\0\x01m" + b"x",
    (REQUEST_STREAM, METADATA): number(1) + b"\0\0\x01m" + b"range:1",
    (REQUEST_CHANNEL, METADATA): number(1) + b"\0\0\x01m" + b"echo",
    (REQUEST_N, 0): number(1),
    (CANCEL, 0): b"",
    (PAYLOAD, METADATA | NEXT): b"\0\0\x01m" + b"x",
    (ERROR, 0): number(0x201) + b"no",
    (METADATA_PUSH, METADATA): b"m",
    (RESUME, 0): struct.pack(">HHH", 1, 0, 3) + b"tok" + bytes(16),
    (RESUME_OK, 0): bytes(8),
    (EXT, 0): number(1) + b"z",
}


@scenario("every frame cut off at every byte", covers="C013 C034")
def truncated_frames(a):
    count = closed = 0
    for (kind, flags), body in VALID_BODIES.items():
        stream = 1 if REQUEST_RESPONSE <= kind <= ERROR else 0
        whole = frame(stream, kind, flags, body)
        for length in range(len(whole)):
            raw = a.raw(setup=kind != SETUP)
            raw.send(prefixed(whole[:length]))
            # Half the time the rest never comes, half the time it looks like more frames.
            if length % 2:
                raw.send(whole[length:])
                raw.socket.shutdown(socket.SHUT_WR)
            else:
                raw.socket.shutdown(socket.SHUT_WR)
            try:
                raw.fate(2)
                closed += 1
            except Failed:
                raise Failed(f"{whole[:length].hex()} and end of input: not closed") from None
            raw.close()
            count += 1
    return f"{count} cuts survived"


@scenario("300 length prefixes of 16 MiB with nothing behind them", 64, covers="C009 C012")
def lying_lengths(a):
    for _ in range(300):
        a.raw().send(b"\xff\xff\xff" + frame(1, REQUEST_RESPONSE, 0, b"x"))
    a.witness.endure(0.5)
    return "no memory on credit"


@scenario("frames shorter than a header", covers="C013")
def short_frames(a):
    for length in range(6):
        raw = a.raw()
        raw.send(prefixed(bytes(length)))
        error = raw.fate()
        if error is not None and error.code != CONNECTION_ERROR:
            raise Failed(f"a frame of {length} bytes got {error}")
    return "ERROR[CONNECTION_ERROR]" if error else "closed"


@scenario("metadata lengths beyond the frame", covers="C034")
def metadata_length_lies(a):
    for kind in (REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL, PAYLOAD):
        for claim in (b"\xff\xff\xff", b"\0\0\x05"):
            raw = a.raw()
            stream = raw.new_id()
            credit = number(1) if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else b""
            flags = METADATA | (NEXT if kind == PAYLOAD else 0)
            if kind == PAYLOAD:
                raw.send(wire(stream, REQUEST_CHANNEL, 0, number(1) + b"echo"))
            raw.send(wire(stream, kind, flags, credit + claim + b"abcd"))
            error = raw.fate()
            if error is None or error.code != CONNECTION_ERROR:
                raise Failed(f"type {kind:#x} got {error}")
    return str(error)


@scenario("metadata lengths beyond the frame with the ignore flag", covers="C034")
def metadata_length_lies_ignored(a):
    raw = a.raw()
    for kind in (REQUEST_RESPONSE, REQUEST_FNF):
        raw.send(wire(raw.new_id(), kind, METADATA | IGNORE, b"\xff\xff\xffabcd"))
    raw.echo()
    return "ignored"


UNKNOWN_TYPES = [0x00, *range(0x0F, 0x3F)]


@scenario("unknown frame types with the ignore flag", covers="C027 C171")
def unknown_types_ignored(a):
    raw = a.raw()
    for kind in UNKNOWN_TYPES:
        for stream in (0, 1, 2, 999):
            raw.send(wire(stream, kind, IGNORE, b"whatever"))
    raw.send(wire(0, EXT, IGNORE, number(77) + b"z"))
    raw.send(wire(5, EXT, IGNORE | METADATA, number(77) + b"z"))
    raw.echo()
    return "ignored"


@scenario("unknown frame types without the ignore flag", covers="C026 C171")
def unknown_types_refused(a):
    refused = 0
    for kind in [*UNKNOWN_TYPES, EXT]:
        raw = a.raw()
        raw.send(wire(0, kind, 0, number(77) + b"whatever"))
        try:
            raw.echo()
        except Failed:
            if not raw.closed:
                # read_on stops at the ERROR; what has to follow is the end of the connection.
                raw.fate()
            refused += 1
        raw.close()
    return f"{refused} of {len(UNKNOWN_TYPES) + 1} closed the connection, the rest were ignored"


@scenario("unassigned flags are not interpreted", covers="C024 C321")
def unassigned_flags(a):
    raw = a.raw()
    stream = raw.new_id()
    raw.send(wire(stream, REQUEST_RESPONSE, 0x01F | COMPLETE | NEXT, b"echo:flags"))
    answer = raw.read_on(stream)
    if answer.kind != PAYLOAD or answer.body != b"echo:flags":
        raise Failed(f"got {answer}")
    raw.send(wire(0, KEEPALIVE, RESPOND | 0x07F, bytes(8) + b"beat"))
    beat = raw.read()
    if beat is None or beat.kind != KEEPALIVE or beat.body[8:] != b"beat" or beat.flags & RESPOND:
        raise Failed(f"KEEPALIVE was answered with {beat}")
    return "ignored"


@scenario(
    "frames that make no sense on stream 0 or in this state",
    covers="C141 C156 C162 C194 C195 C335 C338",
)
def senseless_frames(a):
    raw = a.raw()
    raw.send(SETUP_FRAME)
    for code in (INVALID_SETUP, UNSUPPORTED_SETUP, REJECTED_SETUP, REJECTED_RESUME):
        raw.send(wire(0, ERROR, 0, number(code) + b"\xff\xfe"))
    raw.send(wire(0, PAYLOAD, NEXT, b"x"))
    raw.send(wire(0, CANCEL))
    raw.send(wire(0, REQUEST_N, 0, number(1)))
    raw.send(wire(9, METADATA_PUSH, METADATA, b"x"))
    raw.send(wire(9, KEEPALIVE, RESPOND, bytes(8)))
    raw.send(wire(9, LEASE, 0, number(1) + number(1)))
    raw.send(wire(0, LEASE, 0, number(1) + number(1)))
    raw.send(wire(9, SETUP, 0, setup_body()))
    raw.echo()
    return "ignored"


@scenario("stream ids that are 0, of the wrong parity, or in use", covers="C331 C337")
def misused_ids(a):
    raw = a.raw()
    live = raw.request(REQUEST_CHANNEL, b"echo", credit=1)
    for stream in (0, 2, 4, live):
        for kind, credit in (
            (REQUEST_RESPONSE, b""),
            (REQUEST_FNF, b""),
            (REQUEST_STREAM, number(1)),
            (REQUEST_CHANNEL, number(1)),
        ):
            raw.send(wire(stream, kind, 0, credit + b"echo"))
    fragmented = raw.request(REQUEST_RESPONSE, b"len:", FOLLOWS)
    raw.send(wire(fragmented, REQUEST_RESPONSE, 0, b"echo:intruder"))
    raw.send(wire(fragmented, PAYLOAD, NEXT, b"1234"))
    answer = raw.read_on(fragmented)
    if answer.kind == PAYLOAD and answer.body != b"8":
        raise Failed(f"the fragmented request was answered with {answer.body!r}")
    raw.echo()
    return "ignored"


@scenario("credit of 0 and beyond 31 bits", covers="C121 C130 C135")
def senseless_credit(a):
    raw = a.raw()
    for value in (0, 0x8000_0000, 0xFFFF_FFFF):
        raw.request(REQUEST_STREAM, b"range:3", credit=value)
        raw.request(REQUEST_CHANNEL, b"echo", credit=value)
        raw.send(
            wire(raw.request(REQUEST_STREAM, b"range:3", credit=1), REQUEST_N, 0, number(value))
        )
    raw.echo()
    return "survived"


@scenario("errors on streams with codes and texts of all kinds", covers="C081 C087 C238 C333")
def odd_errors(a):
    raw = a.raw()
    for code in (0, 1, 0x101, 0x201, 0x204, 0x300, 0x301, 0xFFFF_FFFE, 0xFFFF_FFFF):
        stream = raw.request(REQUEST_CHANNEL, b"echo", credit=1)
        raw.send(wire(stream, ERROR, 0, number(code) + b"\xff\xfe\x00"))
    raw.echo()
    return "survived"


@scenario("a CONNECTION_ERROR of the client ends the connection", covers="C084")
def connection_error(a):
    for code in (CONNECTION_ERROR, 0x301, 0):
        raw = a.raw()
        raw.echo()
        raw.send(wire(0, ERROR, 0, number(code) + b"\xff"))
        raw.fate()
    return "closed"


@scenario("300 connections of seeded random bytes", covers="C013")
def garbage(a):
    source = random.Random(SEED)
    kinds = [*range(0x00, 0x10), EXT]
    for n in range(300):
        raw = a.raw(setup=n % 2 == 0)
        noise = b""
        for _ in range(20):
            body = source.randbytes(source.randrange(0, 40))
            if n % 3 == 0:
                noise += body
            else:
                head = frame(source.randrange(0, 12), source.choice(kinds), source.randrange(1024))
                noise += prefixed(head + body)
        raw.send(noise)
        raw.close()
        if n % 20 == 0:
            a.witness.check()
    return f"survived (seed {SEED})"


# Running a scenario


class Memory:
    """The server's peak resident memory since the last reset, in KiB."""

    def __init__(self, pid):
        self._pid = pid

    def _field(self, name):
        text = pathlib.Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
        return int(text.split(f"{name}:")[1].split()[0])

    def begin(self):
        # 5 resets VmHWM to what is resident (Linux, proc(5)).
        pathlib.Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="ascii")
        self.base = self._field("VmRSS")

    def growth_mib(self):
        return max(0, self._field("VmHWM") - self.base) / 1024


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until(condition, seconds=ANSWER_SECONDS):
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True


def active_now(witness):
    return int(witness.ask(b"stats").rsplit(b"active=", 1)[1])


def idle(pid):
    """Whether the process used less than half a processor for a moment."""

    def used():
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1]
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    begin, before = time.monotonic(), used()
    threading.Event().wait(0.2)
    return used() - before < 0.5 * (time.monotonic() - begin)


def left_behind(pid, witness, open_before):
    """What the abuser left, a moment after it has gone; None if nothing."""
    left = [0, 0]

    def nothing():
        left[:] = [active_now(witness), descriptors(pid) - open_before]
        return left[0] == 0 and left[1] <= 0

    # Sessions that may be resumed are kept for a while, which is no leak.
    if wait_until(nothing, 3 * ANSWER_SECONDS):
        return None
    return f"{left[0]} requests are left in work and {left[1]} descriptors open"


@dataclasses.dataclass
class Outcome:
    failure: str | None = None
    seen: str | None = None
    growth_mib: float = 0.0
    # How long the witness waited for each answer of the twin and of the abused server, in seconds.
    waits: tuple = ((), ())

    def worst(self):
        return max(self.waits[1], default=0.0)

    def p99(self):
        """The 99th percentiles of both, in seconds; None if there are too few answers."""
        if min(len(waits) for waits in self.waits) < Witness.ENOUGH:
            return None
        return tuple(percentile99(waits) for waits in self.waits)

    def is_slow(self):
        if p99 := self.p99():
            twin, abused = p99
            return abused > SLOWDOWN * twin and abused - twin > SLOW_SECONDS
        return False

    def and_then(self, later):
        """The outcome of two rounds."""
        return Outcome(
            self.failure or later.failure,
            later.seen,
            max(self.growth_mib, later.growth_mib),
            [some + more for some, more in zip(self.waits, later.waits, strict=True)],
        )


def run(item, program):
    """Runs a scenario, on as many pairs of servers as it takes to tell."""
    outcome = run_for_enough(item, program)
    if outcome.failure is None and outcome.is_slow():
        again = run_for_enough(item, program)
        if again.failure is not None or not again.is_slow():
            return again
        outcome = again
        twin, abused = outcome.p99()
        outcome.failure = (
            f"99 % of answers took up to {abused * 1000:.1f} ms, and {twin * 1000:.1f} ms at the twin"
        )
    return outcome


def run_for_enough(item, program):
    outcome = run_on_one(item, program)
    for _ in range(PAIRS - 1):
        few = min(len(waits) for waits in outcome.waits) < Witness.ENOUGH // PAIRS
        if outcome.failure is not None or outcome.p99() or few:
            break
        outcome = outcome.and_then(run_on_one(item, program))
    return outcome


def run_on_one(item, program):
    """Runs a scenario on a fresh server, beside a fresh twin: where the system puts a process, and
    beside whom, is chance and then stays, so that no pair should be looked at for long."""
    outcome = Outcome()
    server = twin = witness = None
    try:
        twin = Server(program, "tcp", item.server)
        server = Server(program, "tcp", item.server)
        abuse = Abuse(server)
        memory = Memory(server.pid)
        witness = abuse.witness = Witness(server.port, twin.port)
        open_before = descriptors(server.pid)
        memory.begin()
        witness.begin()
        try:
            outcome.seen, outcome.growth_mib = abuse_for_a_while(item, abuse, memory)
            honest = Raw(server.port)
            honest.echo()
            honest.close()
        except Failed as error:
            outcome.failure = str(error)
        except Exception:
            outcome.failure = "the scenario itself failed: " + traceback.format_exc(limit=-3)
        witness.end()
        if not server.alive():
            outcome.failure = f"the server died: {server.stderr_tail(400)}"
            return outcome
        if outcome.failure is None and not wait_until(lambda: idle(server.pid)):
            outcome.failure = "the server keeps a processor busy though nothing happens"
        abuse.leave()
        witness.stop()
        outcome.waits = witness.waits()
        if witness.failure:
            outcome.failure = f"the witness: {witness.failure}"
        elif outcome.failure is None and outcome.growth_mib > item.bound_mib:
            outcome.failure = f"memory grew by {outcome.growth_mib:.0f} MiB"
        if outcome.failure is None:
            outcome.failure = left_behind(server.pid, witness, open_before)
        witness.close()
        return outcome
    except (Failed, OSError) as error:
        died = "" if server is None or server.alive() else f" (it died: {server.stderr_tail(400)})"
        outcome.failure = f"{error}{died}"
        return outcome
    finally:
        for process in (witness, server, twin):
            if process:
                process.kill()


def abuse_for_a_while(item, abuse, memory):
    """Runs the scenario once, and again and again if that took some time, but not long.

    Returns what was seen and by how much memory grew, the first time.
    """
    begin = time.monotonic()
    seen = item.run(abuse)
    growth_mib = memory.growth_mib()
    if item.once or time.monotonic() - begin < SHORT_SECONDS:
        return seen, growth_mib
    while time.monotonic() - begin < LONG_SECONDS:
        abuse.leave()
        item.run(abuse)
    return seen, growth_mib


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interop", type=pathlib.Path, help="our program (built with --release)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this scenario")
    parser.add_argument("--list", action="store_true", help="list the scenarios, run nothing")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all results")
    options = parser.parse_args()
    end_children_on_signals()
    chosen = [item for item in SCENARIOS if not options.only or item.id in options.only]
    unknown = set(options.only or ()) - {item.id for item in SCENARIOS}
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; --list names them")
    if options.list:
        for item in chosen:
            print(f"{item.id:30} {item.name}")
        return 0

    target = os.environ.get("CARGO_TARGET_DIR")
    builds = [pathlib.Path(target)] if target else []
    builds.append(REPOSITORY / "target")
    path = options.interop or first_existing(build / "release" / "interop" for build in builds)
    if not path or not path.exists():
        parser.error("no interop program: cargo build --release -p examples --bin interop")
    program = Program("ours", [str(path.resolve())])

    print(
        f"{'':4}  {'growth':>7} {'bound':>6}  {'wait':>7} {'p99':>7} {'twin':>7} {'':>6}  "
        "scenario: what the server did"
    )
    report = []
    for item in chosen:
        try:
            outcome = run(item, program)
        except CheckFailed as error:
            outcome = Outcome(failure=str(error))
        base, abused = outcome.p99() or (None, None)
        factor = abused and abused / max(base, 1e-6)
        times = [f"{seconds * 1000:4.1f} ms" if seconds else "-" for seconds in (abused, base)]
        print(
            f"{'FAIL' if outcome.failure else 'ok':4}  {outcome.growth_mib:5.1f} M {item.bound_mib:4} M  "
            f"{outcome.worst() * 1000:4.0f} ms {times[0]:>7} {times[1]:>7} "
            f"{f'x {factor:.1f}' if factor else '-':>6}  "
            f"{item.name}: {outcome.failure or outcome.seen}",
            flush=True,
        )
        report.append(
            {
                "scenario": item.id,
                "name": item.name,
                "cluster": item.cluster,
                "covers": item.covers,
                "server": item.server,
                "ok": outcome.failure is None,
                "failure": outcome.failure,
                "seen": outcome.seen,
                "growth_mib": round(outcome.growth_mib, 1),
                "bound_mib": item.bound_mib,
                "worst_wait_ms": round(outcome.worst() * 1000, 1),
                "answers": len(outcome.waits[1]),
                "p99_ms": abused and round(abused * 1000, 2),
                "p99_twin_ms": base and round(base * 1000, 2),
            }
        )
    failed = [entry for entry in report if not entry["ok"]]
    print(f"{len(report) - len(failed)} of {len(report)} passed")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
