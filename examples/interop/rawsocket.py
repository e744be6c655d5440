"""What the scenarios of abuse.py have in common: frames, sockets, the witness, their register."""

import contextlib
import dataclasses
import gc
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

MIB = 1 << 20
MAX_N = 0x7FFF_FFFF

SETUP, LEASE, KEEPALIVE = 0x01, 0x02, 0x03
REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL = 0x04, 0x05, 0x06, 0x07
REQUEST_N, CANCEL, PAYLOAD, ERROR, METADATA_PUSH = 0x08, 0x09, 0x0A, 0x0B, 0x0C
RESUME, RESUME_OK, EXT = 0x0D, 0x0E, 0x3F

IGNORE, METADATA, FOLLOWS, COMPLETE, NEXT = 0x200, 0x100, 0x080, 0x040, 0x020
RESPOND = FOLLOWS

INVALID_SETUP, UNSUPPORTED_SETUP, REJECTED_SETUP, REJECTED_RESUME = 1, 2, 3, 4
CONNECTION_ERROR, CANCELED = 0x101, 0x203

# How long the server may take nothing before it counts as having stopped reading.
STALL_SECONDS = 1.0
# How long the abuse that consists in not reading is kept up.
ENDURE_SECONDS = 2.0
ANSWER_SECONDS = 5.0


class Failed(Exception):
    pass


# Frames


def frame(stream, kind, flags=0, body=b""):
    return struct.pack(">IH", stream, kind << 10 | flags) + body


def prefixed(raw):
    return struct.pack(">I", len(raw))[1:] + raw


def wire(*arguments):
    return prefixed(frame(*arguments))


def setup_body(
    major=1,
    minor=0,
    keepalive=20_000,
    lifetime=90_000,
    mime=b"application/octet-stream",
    token=None,
):
    head = struct.pack(">HHII", major, minor, keepalive, lifetime)
    if token is not None:
        head += struct.pack(">H", len(token)) + token
    mimes = bytes([len(mime)]) + mime
    return head + mimes + mimes


def number(value):
    return struct.pack(">I", value)


SETUP_FRAME = wire(0, SETUP, 0, setup_body())


@dataclasses.dataclass(frozen=True)
class Received:
    stream: int
    kind: int
    flags: int
    body: bytes

    @property
    def code(self):
        return struct.unpack_from(">I", self.body)[0]

    def __str__(self):
        if self.kind == ERROR:
            return f"ERROR[{self.code:#x}] {self.body[4:].decode(errors='replace')!r}"
        return f"frame {self.kind:#x} on stream {self.stream}"


class Raw:
    """A TCP connection that may send anything."""

    def __init__(self, port, setup=True):
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._next_id = 1
        self.closed = False  # by the server
        if setup:
            self.send(SETUP_FRAME)

    def send(self, data):
        try:
            self.socket.settimeout(ANSWER_SECONDS)
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Failed("the server does not take what is sent") from error
        except OSError:
            self.closed = True

    def pour(self, chunks, drain=False):
        """Sends until all is sent, the server closes, or it takes nothing for a while.

        Without `drain` nothing is read. Returns what happened, in words.
        """
        self.socket.setblocking(False)
        sent = 0
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    wanted = [self.socket] if drain else []
                    readable, writable, _ = select.select(wanted, [self.socket], [], STALL_SECONDS)
                    if readable:
                        data = self.socket.recv(1 << 20)
                        if not data:
                            raise ConnectionError
                        self._buffer += data
                        if len(self._buffer) > MIB:
                            self._drop_whole_frames()
                    if writable:
                        done = self.socket.send(view)
                        sent += done
                        view = view[done:]
                    elif not readable:
                        return f"stopped reading after {sent / MIB:.1f} MiB"
        except OSError:
            self.closed = True
            return f"closed after {sent / MIB:.1f} MiB"
        return f"took {sent / MIB:.1f} MiB"

    def _drop_whole_frames(self):
        at = 0
        while len(self._buffer) - at >= 3:
            length = int.from_bytes(self._buffer[at : at + 3], "big")
            if len(self._buffer) - at < 3 + length:
                break
            at += 3 + length
        del self._buffer[:at]

    def read(self, seconds=ANSWER_SECONDS):
        """The next frame; None if the server closed; `Failed` if neither comes in time."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self._buffer) >= 3:
                length = int.from_bytes(self._buffer[:3], "big")
                if len(self._buffer) >= 3 + length:
                    raw = bytes(self._buffer[3 : 3 + length])
                    del self._buffer[: 3 + length]
                    if length < 6:
                        raise Failed(f"the server sent a frame of {length} bytes")
                    stream, word = struct.unpack_from(">IH", raw)
                    return Received(stream, word >> 10, word & 0x3FF, raw[6:])
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"nothing came within {seconds:.0f} s")
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return None
            self._buffer += data

    def new_id(self):
        self._next_id += 2
        return self._next_id - 2

    def request(self, kind, data, flags=0, credit=None):
        stream = self.new_id()
        body = (b"" if credit is None else number(credit)) + data
        self.send(wire(stream, kind, flags, body))
        return stream

    def respond(self, data):
        """A request-response; returns the data of the answer, skipping frames of other streams."""
        stream = self.request(REQUEST_RESPONSE, data)
        answer = self.read_on(stream)
        if answer.kind != PAYLOAD:
            raise Failed(f"{data!r} was answered with {answer}")
        return answer.body

    def read_on(self, stream, seconds=ANSWER_SECONDS):
        """The next frame on `stream`; frames of other streams and keepalives are skipped."""
        deadline = time.monotonic() + seconds
        while True:
            received = self.read(max(0.01, deadline - time.monotonic()))
            if received is None:
                raise Failed("the server closed the connection")
            if received.stream == stream:
                return received
            if received.stream == 0 and received.kind == ERROR:
                raise Failed(f"the connection got {received}")

    def echo(self):
        text = b"echo:%d" % self._next_id
        answer = self.respond(text)
        if answer != text:
            raise Failed(f"{text!r} was answered with {answer!r}")

    def fate(self, seconds=ANSWER_SECONDS):
        """Reads until the server closes; returns the last ERROR on stream 0, or None."""
        deadline = time.monotonic() + seconds
        error = None
        while (received := self.read(max(0.01, deadline - time.monotonic()))) is not None:
            if received.stream == 0 and received.kind == ERROR:
                error = received
        return error

    def close(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Witness:
    """An honest client, a process of its own, that asks two servers for an echo, in turn.

    One of them is the server under test. The other one, its *twin*, is the same program with the
    same options and is left alone: what both are late with is the machine's doing, the abuser's
    use of the processors included, and only what is beyond that is the server's.

    A thread of this process would measure how long the abuser keeps the interpreter to itself.
    """

    # Answers of each server from which its slowest 1 % can be told.
    ENOUGH = 500

    def __init__(self, port, twin):
        self._raw = Raw(port)
        self._raw.echo()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port), str(twin)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._samples = [], []
        self._begin = self._end = None
        self.failure = None
        # It says that it is at work.
        if not self._process.stdout.readline():
            raise Failed("the witness does not start")

    def begin(self):
        """From now on there is abuse."""
        self._begin = time.monotonic()

    def end(self):
        """From now on there is none."""
        self._end = time.monotonic()

    def check(self):
        if self._process.poll() is not None:
            self.stop()
        if self.failure:
            raise Failed(f"the witness got no answer: {self.failure}")

    def endure(self, seconds=ENDURE_SECONDS):
        """Lets the abuse go on, while the witness keeps asking."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.check()

    def stop(self):
        if self._process.stdin.closed:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        said = self._process.stdout.read()
        self._process.stdout.close()
        try:
            self._process.wait(2 * ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        try:
            told = json.loads(said)
            self._samples, self.failure = told["samples"], told["failure"]
        except ValueError:
            self.failure = "it ended without a word"

    def waits(self):
        """How long each answer took during the abuse, in seconds: the twin's, the abused server's."""
        abused, twin = self._samples
        return [
            [took for at, took in samples if at + took >= self._begin and at < self._end]
            for samples in (twin, abused)
        ]

    def ask(self, data):
        return self._raw.respond(data)

    def close(self):
        self._raw.close()

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def percentile99(samples):
    return sorted(samples)[(len(samples) * 99 + 99) // 100 - 1]


def be_witness(ports):
    """The process of a `Witness`: asks until stdin ends, and tells when each answer came."""
    samples, failure = [[] for _ in ports], None
    try:
        raws = [Raw(port) for port in ports]
        for raw in raws:
            raw.echo()
        turns = list(zip(raws, samples, strict=True))
        # A pause of the collector would count as a server's.
        gc.disable()
        print("at work", flush=True)
        at_work = True
        while at_work:
            for raw, seen in turns:
                # Before each question, so that both are asked by a process that just woke up.
                if select.select([sys.stdin], [], [], 0.0005)[0]:
                    at_work = False
                    break
                begin = time.monotonic()
                raw.echo()
                seen.append((begin, time.monotonic() - begin))
            # Neither is always the one that is asked after the other.
            turns.reverse()
    except (Failed, OSError) as error:
        failure = str(error)
    print(json.dumps({"samples": samples, "failure": failure}))


# A scenario's tools


class Abuse:
    def __init__(self, server):
        self.port = server.port
        self.server = server
        self.raws = []
        self.witness = None
        self._turn = 0

    def raw(self, setup=True):
        raw = Raw(self.port, setup)
        self.raws.append(raw)
        return raw

    def token(self, name):
        """A resume token: another one each time that the scenario is run on this server."""
        return bytes([name[0] ^ self._turn]) + name[1:]

    def leave(self):
        """Closes all connections."""
        for raw in self.raws:
            raw.close()
        self.raws.clear()
        self._turn += 1


@dataclasses.dataclass(frozen=True)
class Scenario:
    run: Callable
    name: str
    bound_mib: int
    cluster: int | None
    covers: tuple
    server: tuple
    once: bool

    @property
    def id(self):
        return self.run.__name__


SCENARIOS = []


def scenario(name, bound_mib=32, cluster=None, covers="", server="", once=False):
    """Registers a scenario, for a server with these options.

    With `once` it is not run again on a server that has seen it.
    """

    def register(function):
        item = Scenario(
            function, name, bound_mib, cluster, tuple(covers.split()), tuple(server.split()), once
        )
        SCENARIOS.append(item)
        return function

    return register


def demand_error(raw, stream, codes, what):
    answer = raw.read_on(stream)
    while answer.kind in (PAYLOAD, REQUEST_N):
        answer = raw.read_on(stream)
    if answer.kind != ERROR or answer.code not in codes:
        raise Failed(f"{what} got {answer}")
    return str(answer)


if __name__ == "__main__":
    be_witness([int(port) for port in sys.argv[1:]])
