"""Processes that the matrix drives: servers, drivers, and a proxy that cuts links.

A *program* implements examples/interop/README.md: `PROGRAM server --tcp PORT ...` and
`PROGRAM driver`, a client that is moved by JSON lines. This module starts and ends them and turns
the lines into `Call` objects that checks can wait on. It knows nothing of what a check expects.
"""

import atexit
import base64
import collections
import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time

# Long enough for a stray item to arrive on a loaded machine, short enough to be paid often.
QUIET_SECONDS = 0.15
MAX_REQUEST_N = 2**31 - 1
# How a server's last words and a driver's answer to `connect` begin if an option is beyond them.
NOT_SUPPORTED = "not supported:"

ABSENT = object()  # no expectation about this part of a payload
_PATTERN = bytes(i % 251 for i in range(251 * 4096))
_ID = re.compile(rb'"id"\s*:\s*(\d+)')


class CheckFailed(Exception):
    """What was seen is not what the contract demands."""


class TimedOut(CheckFailed):
    """The check's time ran out while waiting for an event."""


class Crashed(CheckFailed):
    """A program ended, or did not start."""


class Unsupported(Exception):
    """A program says that it cannot do what an option asks of it."""


def pattern(size):
    """The contract's pattern: byte i is i mod 251."""
    if size <= len(_PATTERN):
        return _PATTERN[:size]
    return (_PATTERN * (size // len(_PATTERN) + 1))[:size]


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_running = set()


def _end_all():
    for process in list(_running):
        if process.poll() is None:
            process.kill()


atexit.register(_end_all)


def end_children_on_signals():
    """Makes SIGTERM run the exit handlers, so that no program outlives the matrix."""

    def stop(number, _frame):
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)


class Program:
    """How to run one implementation."""

    def __init__(self, name, argv, env=None):
        self.name = name
        self.argv = list(argv)
        self.env = {**os.environ, **(env or {})}
        self.caps = None  # filled by the matrix from the driver's answer

    @property
    def impl(self):
        return (self.caps or {}).get("impl", "")


class _Process:
    """A child whose stderr is kept for the report."""

    def __init__(self, program, arguments, **pipes):
        self.name = program.name
        self._stderr = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                program.argv + arguments, stderr=self._stderr, env=program.env, **pipes
            )
        except OSError as error:
            raise Crashed(f"{program.name} does not start: {error}") from error
        _running.add(self.process)

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def stderr_tail(self, size=2000):
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - size))
        text = self._stderr.read().decode(errors="replace").strip()
        return text

    def read_by(self, function):
        """Runs `function` in a thread that alone reads the program's stdout."""
        self._reader = threading.Thread(target=function, daemon=True)
        self._reader.start()

    def kill(self):
        """SIGKILL, as in a power cut: the program gets no chance to say goodbye."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        _running.discard(self.process)
        # Not before the reader has seen the end: it would go on with whatever file gets the
        # descriptor's number next, and swallow the output of another program.
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Server(_Process):
    """A running server on one transport."""

    def __init__(self, program, transport, options=(), ready_seconds=20):
        self.transport = transport
        self.directory = None
        flags, self.url = self._address(transport)
        super().__init__(
            program,
            ["server", *flags, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._ready = threading.Event()
        self.read_by(self._drain)
        # Counted in waits, not by the clock: a machine that stood still is not a slow server.
        for _ in range(ready_seconds * 50):
            if self._ready.wait(0.02):
                return
            if not self.alive():
                raise self._not_started("ended at once")
        self.kill()
        raise self._not_started(f"is not ready after {ready_seconds} s")

    def _address(self, transport):
        if transport == "ws":
            # A program listens on TCP as well, as its command line demands a port.
            port, other = free_port(), free_port()
            self.port = port
            return ["--tcp", str(other), "--ws", str(port)], f"ws://127.0.0.1:{port}/"
        if transport == "tcp":
            self.port = free_port()
            return ["--tcp", str(self.port)], f"tcp://127.0.0.1:{self.port}"
        if transport == "udp":
            self.port = free_port(socket.SOCK_DGRAM)
            return ["--udp", str(self.port)], f"udp://127.0.0.1:{self.port}"
        self.directory = tempfile.TemporaryDirectory(prefix="interop-")
        path = os.path.join(self.directory.name, transport)
        return [f"--{transport}", path], f"{transport}:{path}"

    def _not_started(self, why):
        said = self.stderr_tail()
        if said.startswith(NOT_SUPPORTED):
            return Unsupported(f"server {self.name}: {said}")
        return Crashed(f"server {self.name} {why}: {said}")

    def _drain(self):
        wanted = 2 if self.transport == "ws" else 1
        for line in self.process.stdout:
            if line.startswith(b"listening "):
                wanted -= 1
                if wanted == 0:
                    self._ready.set()

    def resident_kib(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        return 0


class Call:
    """One request of a driver: what was sent by its id, and what came back."""

    def __init__(self, driver, number, op, counting):
        self.driver = driver
        self.id = number
        self.op = op
        self.count = 0  # events seen, whether taken or not
        self.demand = 0
        self.cancelled = False
        self._events = collections.deque()
        self._counting = counting

    # Called by the driver's reader with its lock held.
    def _push(self, line):
        self.count += 1
        if self.op == "channel":
            if b'"demand"' in line:
                event = json.loads(line)
                if event["ev"] == "demand":
                    self.demand += event["n"]
                    return
            elif b'"cancelled"' in line:
                event = json.loads(line)
                if event["ev"] == "cancelled":
                    self.cancelled = True
                    return
        if self._counting and b'"next"' in line:
            return
        self._events.append(line)

    def _tell(self, op, **fields):
        self.driver.send({"id": self.id, "op": op, **fields})

    def request_n(self, n):
        self._tell("request_n", n=n)

    def cancel(self):
        self._tell("cancel")

    def send(self, data=b"", metadata=None, **fields):
        self._tell("send", **_payload(data, metadata), **fields)

    def send_complete(self):
        self._tell("send_complete")

    def send_error(self, message):
        self._tell("send_error", message=message)

    def event(self, awaited="an event"):
        """The next event of this call but demand and cancelled, which are counted apart."""
        self.driver.wait_for(lambda: self._events, f"{awaited} of {self.op}")
        with self.driver.lock:
            return json.loads(self._events.popleft())

    def next(self, data=ABSENT, metadata=ABSENT):
        """Waits for one item; checks it against what is given; returns its data."""
        event = self.event("an item")
        if event["ev"] != "next":
            raise CheckFailed(f"{self.op}: an item was due, {describe(event)} came")
        got = base64.b64decode(event.get("data") or "")
        if data is not ABSENT:
            same(got, data, f"{self.op}: data")
        if metadata is not ABSENT:
            raw = event.get("metadata")
            same(None if raw is None else base64.b64decode(raw), metadata, f"{self.op}: metadata")
        return got

    def complete(self):
        event = self.event("completion")
        if event["ev"] != "complete":
            raise CheckFailed(f"{self.op}: completion was due, {describe(event)} came")

    def error(self, code=None, message=None):
        event = self.event("an error")
        if event["ev"] != "error":
            raise CheckFailed(f"{self.op}: an error was due, {describe(event)} came")
        if code is not None:
            same(event.get("code"), code, f"{self.op}: error code")
        if message is not None:
            same(event.get("message"), message, f"{self.op}: error message")
        return event

    def error_after_items(self):
        """Skips the items that were on the way, then demands an error."""
        while (event := self.event("an error"))["ev"] == "next":
            pass
        if event["ev"] != "error":
            raise CheckFailed(f"{self.op}: an error was due, {describe(event)} came")

    def quiet(self, seconds=QUIET_SECONDS):
        """Fails if anything but demand and cancelled arrives within `seconds`."""
        if self.driver.happens(lambda: self._events, seconds):
            with self.driver.lock:
                event = json.loads(self._events[0])
            raise CheckFailed(f"{self.op}: nothing was due, {describe(event)} came")

    def wait_demand(self, total):
        """Waits until the responder's credit sums up to `total`, where the driver can tell."""
        if self.driver.caps.get("channel_demand"):
            self.driver.wait_for(lambda: self.demand >= total, f"credit for {total} payloads")

    def wait_cancelled(self):
        self.driver.wait_for(lambda: self.cancelled, "cancellation by the responder")

    def wait_count(self, count):
        self.driver.wait_for(lambda: self.count >= count, f"{count} events")


def same(got, wanted, what):
    if got == wanted:
        return
    where = ""
    if isinstance(got, bytes) and isinstance(wanted, bytes) and len(got) + len(wanted) > 80:
        differing = (n for n, (a, b) in enumerate(zip(got, wanted)) if a != b)
        where = f", differing from byte {next(differing, min(len(got), len(wanted)))}"
    raise CheckFailed(f"{what}: wanted {brief(wanted)}, got {brief(got)}{where}")


def brief(value):
    if isinstance(value, bytes) and len(value) > 40:
        return f"{len(value)} bytes"
    return repr(value)


def describe(event):
    kind = event.get("ev")
    if kind == "next":
        return "item " + brief(base64.b64decode(event.get("data") or ""))
    if kind == "error":
        return f"error {event.get('code')} {event.get('message')!r}"
    return str(kind)


def _payload(data, metadata):
    fields = {}
    if data is not None:
        fields["data"] = base64.b64encode(data).decode()
    if metadata is not None:
        fields["metadata"] = base64.b64encode(metadata).decode()
    return fields


class Driver(_Process):
    """A running driver: at most one connection at a time, any number of requests on it."""

    def __init__(self, program):
        super().__init__(program, ["driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.program = program
        self.caps = program.caps or {}
        self.deadline = time.monotonic() + 15
        self.lock = threading.Condition()
        self.connection_events = []
        self._calls = {}
        self._next_id = 1
        self._ended = False
        self.read_by(self._read)

    def _read(self):
        # By the chunk, not by the line: an unbounded stream prints faster than locks are taken.
        descriptor = self.process.stdout.fileno()
        partial = []
        try:
            while chunk := os.read(descriptor, 1 << 20):
                if b"\n" not in chunk:
                    partial.append(chunk)
                    continue
                lines = b"".join([*partial, chunk]).split(b"\n")
                partial = [lines.pop()]
                with self.lock:
                    for line in lines:
                        self._dispatch(line)
                    self.lock.notify_all()
        finally:
            with self.lock:
                self._ended = True
                self.lock.notify_all()

    def _dispatch(self, line):
        found = _ID.search(line)
        if not found:
            return
        number = int(found.group(1))
        if number == 0:
            self.connection_events.append(json.loads(line))
        elif number in self._calls:
            self._calls[number]._push(line)

    def happens(self, condition, seconds):
        with self.lock:
            return bool(self.lock.wait_for(lambda: condition() or self._ended, seconds)) and bool(
                condition()
            )

    def wait_for(self, condition, awaited):
        """Waits for `condition`, evaluated under the lock, until the check's deadline."""
        with self.lock:
            left = max(0.0, self.deadline - time.monotonic())
            self.lock.wait_for(lambda: condition() or self._ended, left)
            if condition():
                return
            if self._ended:
                raise Crashed(f"driver {self.name} ended while {awaited} was awaited")
        raise TimedOut(f"timed out waiting for {awaited}{self._connection_note()}")

    def _connection_note(self):
        if not self.connection_events:
            return ""
        kinds = [
            event["ev"] + (f" {event.get('code')}" if event.get("code") else "")
            for event in self.connection_events[:3]
        ]
        return f" (connection: {', '.join(kinds)})"

    def send(self, message):
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except (OSError, ValueError) as error:
            raise Crashed(f"driver {self.name} takes no more commands: {error}") from error

    def call(self, op, counting=False, **fields):
        with self.lock:
            call = Call(self, self._next_id, op, counting)
            self._calls[call.id] = call
            self._next_id += 1
        self.send({"id": call.id, "op": op, **fields})
        return call

    def ask_caps(self):
        event = self.call("caps").event("capabilities")
        if event.get("ev") != "caps":
            raise CheckFailed(f"caps answered with {describe(event)}")
        self.caps = event
        return event

    def connect(self, url, **options):
        """Connects, or raises: some programs learn of a refusal only after `ok`."""
        with self.lock:
            self.connection_events.clear()
        event = self.call("connect", url=url, **options).event("the answer to connect")
        if event["ev"] == "error" and (event.get("message") or "").startswith(NOT_SUPPORTED):
            raise Unsupported(f"driver {self.name}: {event['message']}")
        if event["ev"] != "ok":
            raise CheckFailed(f"connect: {describe(event)}")

    def close(self):
        event = self.call("close").event("the answer to close")
        if event["ev"] != "ok":
            raise CheckFailed(f"close: {describe(event)}")
        with self.lock:
            self._calls.clear()

    def wait_connection_event(self, *kinds):
        def found():
            return [event for event in self.connection_events if event["ev"] in kinds]

        self.wait_for(found, " or ".join(kinds))
        with self.lock:
            return found()[0]

    # The requests of the contract.

    def rr(self, data, metadata=None, **fields):
        return self.call("rr", **_payload(data, metadata), **fields)

    def fnf(self, data, metadata=None, **fields):
        return self.call("fnf", **_payload(data, metadata), **fields)

    def push(self, metadata):
        return self.call("push", **_payload(None, metadata))

    def stream(self, data, n=None, metadata=None, counting=False, **fields):
        credit = {} if n is None else {"n": n}
        return self.call("stream", counting, **_payload(data, metadata), **credit, **fields)

    def channel(self, data, n=None, metadata=None, **fields):
        credit = {} if n is None else {"n": n}
        return self.call("channel", **_payload(data, metadata), **credit, **fields)


class Proxy:
    """Forwards TCP to a server and can cut every link at once, without a goodbye."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._links = []
        self._lock = threading.Lock()
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._links.append((client, server))
                self.accepted += 1
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    @staticmethod
    def _forward(client, server):
        other = {client: server, server: client}
        try:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    other[ready].sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            client.close()
            server.close()

    def cut(self):
        """Ends all present links; later connections are forwarded as before."""
        with self._lock:
            links, self._links = self._links, []
        for pair in links:
            for end in pair:
                try:
                    # shutdown, not close: it wakes the forwarding thread, which closes.
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        try:
            # Wakes the thread that waits in accept(), which close() alone does not.
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.cut()
