"""The interop server and driver on top of rsocket-py 0.4.20.

    peer.py server --tcp PORT [--ws PORT] [--mtu N] [--lease REQUESTS:TTL_MS]
    peer.py driver

The library is used as its documentation shows it, and its bugs are not worked around: they are what
the matrix is to find. What the library cannot do is reported as such by the driver's `caps`.
"""

import argparse
import asyncio
import base64
import json
import logging
import sys
from datetime import timedelta
from importlib.metadata import version
from urllib.parse import urlsplit

from aiohttp import web
from reactivestreams.publisher import Publisher
from reactivestreams.subscriber import DefaultSubscriber, Subscriber
from reactivestreams.subscription import Subscription
from rsocket.exceptions import RSocketProtocolError
from rsocket.helpers import single_transport_provider
from rsocket.lease import DefinedLease
from rsocket.payload import Payload
from rsocket.request_handler import BaseRequestHandler
from rsocket.rsocket_client import RSocketClient
from rsocket.rsocket_server import RSocketServer
from rsocket.transports.aiohttp_websocket import (
    TransportAioHttpClient,
    TransportAioHttpWebsocket,
)
from rsocket.transports.tcp import TransportTCP

OCTETS = b"application/octet-stream"
MAX_REQUEST_N = 2**31 - 1
APPLICATION_ERROR = 0x201
# Items handed to the library before its send queue must have emptied once; the library itself
# queues without bound.
BURST = 32
# Payloads of a channel that the requester may have on the way.
CHANNEL_CREDIT = 16

CAPS = {
    "impl": f"rsocket-py {version('rsocket')}",
    "tcp": True,
    "ws": True,
    "request_n": True,
    "initial_n": True,
    "cancel_rr": True,
    "cancel_stream": True,
    "lease": True,
    "resume": False,
    "mtu": True,
    "channel": True,
    "channel_demand": True,
    "channel_error": True,
    "push": True,
    "fnf": True,
    "responder": True,
    "errorcodes": True,
}


def pattern(size):
    block = bytes(i % 251 for i in range(251))
    return (block * (size // 251 + 1))[:size]


def octets(part):
    """What the library delivers may be None or a bytearray that it still owns."""
    return bytes(part or b"")


# The service


class Stats:
    fnf = cancel = push = maxout = active = 0

    def enter(self):
        self.active += 1
        self.maxout = max(self.maxout, self.active)

    def leave(self, cancelled=False):
        self.active -= 1
        self.cancel += cancelled

    def __str__(self):
        return (
            f"fnf={self.fnf} cancel={self.cancel} push={self.push} "
            f"maxout={self.maxout} active={self.active}"
        )


STATS = Stats()


class Drained:
    """Mixed into a transport: lets a producer wait until the library's send queue was empty."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._waiting = []

    async def on_send_queue_empty(self):
        await super().on_send_queue_empty()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def drained(self):
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future


class Tcp(Drained, TransportTCP):
    pass


class WsServer(Drained, TransportAioHttpWebsocket):
    pass


class WsClient(Drained, TransportAioHttpClient):
    pass


class Items(Publisher, Subscription):
    """A stream that sends the payloads of an iterable within credit."""

    def __init__(self, transport, payloads, error=None):
        self._transport = transport
        self._payloads = payloads
        self._error = error
        self._credit = 0
        self._granted = asyncio.Event()
        self._task = None

    def subscribe(self, subscriber):
        STATS.enter()
        subscriber.on_subscribe(self)
        self._task = asyncio.create_task(self._run(subscriber))
        self._task.add_done_callback(lambda task: STATS.leave(cancelled=task.cancelled()))

    def request(self, n):
        self._credit += n
        self._granted.set()

    def cancel(self):
        self._task.cancel()

    async def _run(self, subscriber):
        burst = 0
        for payload in self._payloads:
            while self._credit == 0:
                self._granted.clear()
                await self._granted.wait()
            self._credit -= 1
            subscriber.on_next(payload)
            burst += 1
            if burst == BURST:
                burst = 0
                await self._transport.drained()
        if self._error is None:
            subscriber.on_complete()
        else:
            subscriber.on_error(self._error)


class Channel(Publisher, Subscriber, Subscription):
    """A channel's responder: `react` maps each inbound payload to one outbound payload."""

    def __init__(self, first, react, limit=None):
        STATS.enter()
        self._outbox = [] if first is None else [first]
        self._react = react
        self._left = None if limit is None else limit - 1
        self._credit = 0
        self._completing = False
        self._ended = False
        self._inbound = None
        self._outbound = None

    # The inbound half

    def on_subscribe(self, subscription):
        self._inbound = subscription
        if self._left != 0:
            subscription.request(CHANNEL_CREDIT)

    def on_next(self, value, is_complete=False):
        if self._left != 0:
            self._outbox.append(self._react(value))
            if self._left is not None:
                self._left -= 1
        self._completing |= is_complete
        self._flush()

    def on_complete(self):
        self._completing = True
        self._flush()

    def on_error(self, exception):
        self._end()

    # The outbound half

    def subscribe(self, subscriber):
        self._outbound = subscriber
        subscriber.on_subscribe(self)

    def request(self, n):
        self._credit += n
        self._flush()

    def cancel(self):
        self._end(cancelled=True)

    def _flush(self):
        if self._outbound is None:
            return
        while self._outbox and self._credit and not self._ended:
            self._credit -= 1
            self._outbound.on_next(self._outbox.pop(0))
            if not self._completing and self._left is None:
                self._inbound.request(1)
        if self._outbox or self._ended:
            return
        if self._left == 0 and not self._completing:
            self._end()
            self._outbound.on_complete()
            self._inbound.cancel()
        elif self._completing:
            self._end()
            self._outbound.on_complete()

    def _end(self, cancelled=False):
        if not self._ended:
            self._ended = True
            STATS.leave(cancelled)


def summing():
    total = 0

    def add(payload):
        nonlocal total
        total += int(octets(payload.data))
        return Payload(b"%d" % total)

    return add


def same(payload):
    return Payload(payload.data, payload.metadata)


class Service(BaseRequestHandler):
    """The handlers of one connection, on either side of it."""

    def __init__(self, transport):
        self.transport = transport
        self.socket = None

    async def request_response(self, payload):
        loop = asyncio.get_running_loop()
        request = octets(payload.data)
        if request == b"stats":
            answer = loop.create_future()
            answer.set_result(Payload(str(STATS).encode()))
            return answer
        if request == b"never":
            answer = loop.create_future()
        elif request.startswith(b"callme:"):
            # A task, as the receiver of the connection has to go on meanwhile.
            answer = asyncio.create_task(self._call_back(request.removeprefix(b"callme:")))
        else:
            answer = loop.create_future()
            try:
                answer.set_result(self._respond(payload, request))
            except RuntimeError as error:
                answer.set_exception(error)
        STATS.enter()
        answer.add_done_callback(lambda done: STATS.leave(cancelled=done.cancelled()))
        return answer

    def _respond(self, payload, request):
        if request.startswith(b"echo:"):
            return same(payload)
        if request.startswith(b"big:"):
            return Payload(pattern(int(request.removeprefix(b"big:"))))
        if request.startswith(b"len:"):
            return Payload(b"%d" % len(request))
        if request.startswith(b"error:"):
            raise RuntimeError(request.removeprefix(b"error:").decode())
        raise RuntimeError("unknown")

    async def _call_back(self, text):
        return await self.socket.request_response(Payload(b"echo:" + text))

    async def request_fire_and_forget(self, payload):
        STATS.fnf += 1

    async def on_metadata_push(self, payload):
        STATS.push += 1

    async def request_stream(self, payload):
        kind, *numbers = octets(payload.data).decode().split(":")
        counts = [int(number) for number in numbers]
        if kind == "range" and len(counts) == 1:
            return self._numbers(range(counts[0]))
        if kind == "fail" and len(counts) == 1:
            return self._numbers(range(counts[0]), RuntimeError("boom"))
        if kind == "infinite":
            return self._numbers(iter(range(sys.maxsize)))
        if kind == "empty":
            return self._numbers(())
        if kind == "bigitems" and len(counts) == 2:
            item = pattern(counts[1])
            return Items(self.transport, (Payload(item) for _ in range(counts[0])))
        raise RuntimeError("unknown")

    def _numbers(self, values, error=None):
        return Items(self.transport, (Payload(b"%d" % value) for value in values), error)

    async def request_channel(self, payload):
        request = octets(payload.data)
        if request == b"echo":
            channel = Channel(same(payload), same)
        elif request == b"sum":
            channel = Channel(None, summing())
        elif request.startswith(b"stop:"):
            channel = Channel(same(payload), same, int(request.removeprefix(b"stop:")))
        else:
            raise RuntimeError("unknown")
        return channel, channel


class Leases(Publisher):
    """Grants the same lease again whenever its time is over."""

    def __init__(self, requests, ttl_ms):
        self._requests = requests
        self._ttl = timedelta(milliseconds=ttl_ms)
        self._task = None

    def subscribe(self, subscriber):
        self._task = asyncio.create_task(self._run(subscriber))

    async def _run(self, subscriber):
        while True:
            subscriber.on_next(DefinedLease(self._requests, self._ttl))
            await asyncio.sleep(self._ttl.total_seconds())

    def stop(self):
        if self._task is not None:
            self._task.cancel()


# The server


class ServerSide(Service):
    def __init__(self, transport, leases):
        super().__init__(transport)
        self._leases = leases

    async def on_close(self, rsocket, exception=None):
        if self._leases is not None:
            self._leases.stop()


def serve(transport, options):
    leases = Leases(*options.lease) if options.lease else None
    service = ServerSide(transport, leases)

    def ready(socket):
        service.socket = socket

    return RSocketServer(
        transport,
        handler_factory=lambda: service,
        # The library cannot make it depend on SETUP whether it waits for the client's leases.
        honor_lease=leases is not None,
        lease_publisher=leases,
        fragment_size_bytes=options.mtu,
        data_encoding=OCTETS,
        metadata_encoding=OCTETS,
        on_ready=ready,
    )


async def server(options):
    if options.tcp is not None:
        await asyncio.start_server(
            lambda reader, writer: serve(Tcp(reader, writer), options) and None,
            "127.0.0.1",
            options.tcp,
        )
        print(f"listening tcp://127.0.0.1:{options.tcp}", flush=True)
    if options.ws is not None:

        async def websocket(request):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            transport = WsServer(socket)
            serve(transport, options)
            await transport.handle_incoming_ws_messages()
            return socket

        application = web.Application()
        application.router.add_get("/", websocket)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", options.ws).start()
        print(f"listening ws://127.0.0.1:{options.ws}/", flush=True)
    await asyncio.Event().wait()


# The driver


class Unsupported(Exception):
    pass


def tell(number, kind, **fields):
    sys.stdout.write(json.dumps({"id": number, "ev": kind, **fields}) + "\n")
    sys.stdout.flush()


def tell_next(number, payload):
    # The library delivers absent metadata as empty; here it is passed on as delivered.
    metadata = payload.metadata
    tell(
        number,
        "next",
        data=base64.b64encode(octets(payload.data)).decode(),
        metadata=None if metadata is None else base64.b64encode(metadata).decode(),
    )


def tell_error(number, error):
    if isinstance(error, RSocketProtocolError):
        tell(number, "error", code=int(error.error_code), message=error.data or "")
    else:
        tell(number, "error", code=APPLICATION_ERROR, message=str(error))


def payload_of(command):
    def part(name, generated):
        if name not in command and generated not in command:
            return None
        return base64.b64decode(command.get(name) or "") + pattern(command.get(generated, 0))

    return Payload(part("data", "gen"), part("metadata", "mgen"))


class ClientSide(Service):
    def __init__(self, transport):
        super().__init__(transport)
        self.failure = None
        self.closing = False
        self.leases = None

    async def on_error(self, error_code, payload):
        message = octets(payload.data).decode(errors="replace")
        tell(0, "conn_error", code=int(error_code), message=message)

    async def on_connection_error(self, rsocket, exception):
        self.failure = exception

    async def on_keepalive_timeout(self, time_since_last_keepalive, rsocket):
        tell(0, "keepalive_timeout")

    async def on_close(self, rsocket, exception=None):
        if self.leases is not None:
            self.leases.stop()
        if not self.closing:
            tell(0, "closed")


class Running(DefaultSubscriber):
    """A request-stream or the inbound half of a request-channel."""

    def __init__(self, driver, number):
        super().__init__()
        self._driver = driver
        self._number = number

    def request_n(self, command):
        self.subscription.request(command["n"])

    def cancel(self, _command):
        self._driver.running.pop(self._number, None)
        self.subscription.cancel()

    def on_next(self, value, is_complete=False):
        tell_next(self._number, value)
        if is_complete:
            self.on_complete()

    def on_complete(self):
        tell(self._number, "complete")
        self.ended()

    def on_error(self, exception):
        tell_error(self._number, exception)
        self._driver.running.pop(self._number, None)

    def ended(self):
        self._driver.running.pop(self._number, None)


class RunningChannel(Running, Publisher):
    """Both halves of a request-channel; it stays known until both have ended."""

    def __init__(self, driver, number):
        super().__init__(driver, number)
        self._outbound = None
        self._open_halves = 2

    def ended(self):
        self._open_halves -= 1
        if self._open_halves == 0:
            super().ended()

    def subscribe(self, subscriber):
        self._outbound = subscriber
        subscriber.on_subscribe(Demand(self._driver, self._number, self))

    def send(self, command):
        self._outbound.on_next(payload_of(command))

    def send_complete(self, _command):
        self.ended()
        self._outbound.on_complete()

    def send_error(self, command):
        super().ended()
        self._outbound.on_error(RuntimeError(command["message"]))


class Demand(Subscription):
    def __init__(self, driver, number, channel):
        self._driver = driver
        self._number = number
        self._channel = channel

    def request(self, n):
        tell(self._number, "demand", n=n)

    def cancel(self):
        if self._number in self._driver.running:
            tell(self._number, "cancelled")
            self._channel.ended()


class RunningResponse:
    def __init__(self, driver, number, answer):
        self._driver = driver
        self._number = number
        self._answer = answer
        answer.add_done_callback(self._done)

    def cancel(self, _command):
        self._answer.cancel()

    def _done(self, answer):
        self._driver.running.pop(self._number, None)
        if answer.cancelled():
            return
        if answer.exception() is not None:
            tell_error(self._number, answer.exception())
        else:
            tell_next(self._number, answer.result())
            tell(self._number, "complete")


class Driver:
    def __init__(self):
        self.client = None
        self.service = None
        self.running = {}
        self._tasks = set()

    async def run(self):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 26)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            if command["op"] == "quit":
                return
            await self._obey(command)

    async def _obey(self, command):
        number, op = command["id"], command["op"]
        if op == "caps":
            tell(number, "caps", **CAPS)
            return
        if op in ("request_n", "cancel", "send", "send_complete", "send_error"):
            running = self.running.get(number)
            # None: it ended while the command was on its way.
            if running is not None:
                getattr(running, op)(command)
            return
        if op == "close":
            await self._close()
            tell(number, "ok")
            return
        try:
            if op == "connect":
                await self._connect(command)
                tell(number, "ok")
            elif self.client is None:
                tell(number, "error", code=0, message="not connected")
            else:
                self._request(number, op, command)
        except Unsupported as lack:
            tell(number, "error", code=0, message=f"not supported: {lack}")
        except Exception as error:
            tell(number, "error", code=0, message=f"{type(error).__name__}: {error}")

    async def _connect(self, command):
        await self._close()
        if command.get("resume"):
            raise Unsupported("resume")
        url = urlsplit(command["url"])
        if url.scheme == "tcp":
            transport = Tcp(*await asyncio.open_connection(url.hostname, url.port))
        elif url.scheme == "ws":
            transport = WsClient(command["url"])
        else:
            raise Unsupported(f"{url.scheme} transport")

        self.service = service = ClientSide(transport)
        if command.get("grant"):
            service.leases = Leases(*command["grant"])
        setup = {
            name: base64.b64decode(command[f"setup_{name}"])
            for name in ("data", "metadata")
            if command.get(f"setup_{name}") is not None
        }
        self.client = service.socket = RSocketClient(
            single_transport_provider(transport),
            handler_factory=lambda: service,
            honor_lease=bool(command.get("lease")),
            lease_publisher=service.leases,
            data_encoding=OCTETS,
            metadata_encoding=OCTETS,
            keep_alive_period=timedelta(milliseconds=command.get("keepalive_ms", 20_000)),
            max_lifetime_period=timedelta(milliseconds=command.get("lifetime_ms", 90_000)),
            setup_payload=Payload(**setup) if setup else None,
            fragment_size_bytes=command.get("mtu"),
        )
        await self.client.connect()
        if service.failure is not None:
            failure = service.failure
            await self._close()
            raise failure

    async def _close(self):
        client, self.client = self.client, None
        if client is not None:
            self.service.closing = True
            self.running.clear()
            await client.close()

    def _request(self, number, op, command):
        payload = payload_of(command)
        credit = command.get("n", MAX_REQUEST_N)
        if op == "rr":
            answer = asyncio.ensure_future(self.client.request_response(payload))
            self.running[number] = RunningResponse(self, number, answer)
        elif op in ("fnf", "push"):
            if op == "fnf":
                sent = self.client.fire_and_forget(payload)
            else:
                sent = self.client.metadata_push(payload.metadata)
            task = asyncio.ensure_future(self._tell_when_sent(number, sent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif op == "stream":
            self.running[number] = Running(self, number)
            stream = self.client.request_stream(payload)
            stream.initial_request_n(credit).subscribe(self.running[number])
        elif op == "channel":
            self.running[number] = channel = RunningChannel(self, number)
            stream = self.client.request_channel(payload, channel)
            stream.initial_request_n(credit).subscribe(channel)
        else:
            raise ValueError(f"unknown op {op}")

    async def _tell_when_sent(self, number, sent):
        await sent
        tell(number, "complete")


def main():
    parser = argparse.ArgumentParser(description="Interop peer on rsocket-py")
    modes = parser.add_subparsers(dest="mode", required=True)
    serving = modes.add_parser("server")
    serving.add_argument("--tcp", type=int, metavar="PORT")
    serving.add_argument("--ws", type=int, metavar="PORT")
    serving.add_argument("--mtu", type=int, metavar="N")
    serving.add_argument(
        "--lease",
        type=lambda text: [int(part) for part in text.split(":")],
        metavar="REQUESTS:TTL_MS",
    )
    for option in ("--unix", "--shm", "--udp", "--resume"):
        serving.add_argument(option, help=argparse.SUPPRESS)
    modes.add_parser("driver")
    options = parser.parse_args()
    for option in ("unix", "shm", "udp", "resume"):
        if getattr(options, option, None) is not None:
            sys.exit(f"not supported: --{option}")
    # The library logs every failed request with a traceback.
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger("pyrsocket").setLevel(logging.CRITICAL)
    asyncio.run(server(options) if options.mode == "server" else Driver().run())


if __name__ == "__main__":
    main()
