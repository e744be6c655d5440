"""What is checked between a server and a driver, one function a check.

The decorator says in a sentence what holds, which capabilities (`caps` keys) the driver needs
(`needs`) and the server's program needs (`server_needs`), the ids of the conformance checklist that
it exercises (`covers`), and with which options server and connection are made. A check raises
`CheckFailed` where the contract is broken; returning is passing. Checks never sleep: they wait for
events, and where nothing may happen they wait `QUIET_SECONDS`.
"""

import base64
import dataclasses
import re
import threading
import time
from collections.abc import Callable

from harness import MAX_REQUEST_N, QUIET_SECONDS, CheckFailed, Proxy, pattern, same

APPLICATION_ERROR = 0x201
SETUP_REFUSALS = (0x1, 0x2, 0x3)
OVER_ONE_FRAME = 16 * 1024 * 1024 + 100


@dataclasses.dataclass(frozen=True)
class Check:
    run: Callable
    name: str
    needs: tuple
    server_needs: tuple
    covers: tuple
    server: tuple
    connect: dict | None  # None: the check connects by itself
    transports: tuple | None
    timeout: float

    @property
    def id(self):
        return self.run.__name__


CHECKS = []


def check(
    name,
    needs=(),
    server_needs=(),
    covers="",
    server=(),
    connect=(),
    transports=None,
    timeout=10.0,
):
    def register(function):
        CHECKS.append(
            Check(
                run=function,
                name=name,
                needs=tuple(needs),
                server_needs=tuple(server_needs),
                covers=tuple(covers.split()),
                server=tuple(server),
                connect=None if connect is None else dict(connect),
                transports=transports,
                timeout=timeout,
            )
        )
        return function

    return register


class Session:
    """What a check works with: a server, a driver, and more of both on demand."""

    def __init__(self, server, driver, new_driver, new_server):
        self.server = server
        self.driver = driver
        self.broken = False  # set when the driver is of no use to later checks
        self._new_driver = new_driver
        self._new_server = new_server
        self._extra = []

    def second_driver(self, **options):
        """A further driver process, connected to the same server."""
        driver = self._new_driver()
        driver.deadline = self.driver.deadline
        self._extra.append(driver)
        driver.connect(self.server.url, **options)
        return driver

    def own_server(self, *options):
        """A further server, for checks that kill it."""
        server = self._new_server(options)
        self._extra.append(server)
        return server

    def own_proxy(self, server):
        proxy = Proxy(server.port)
        self._extra.append(_Closing(proxy))
        return proxy

    def end(self):
        for process in self._extra:
            process.kill()


class _Closing:
    def __init__(self, proxy):
        self._proxy = proxy

    def kill(self):
        self._proxy.close()


_STATS = re.compile(r"fnf=(\d+) cancel=(\d+) push=(\d+) maxout=(\d+) active=(\d+)$")


@dataclasses.dataclass(frozen=True)
class Stats:
    fnf: int
    cancel: int
    push: int
    maxout: int
    active: int


def stats(driver):
    call = driver.rr(b"stats")
    text = call.next().decode(errors="replace")
    call.complete()
    found = _STATS.match(text)
    if not found:
        raise CheckFailed(f"stats answered {text!r}")
    return Stats(*map(int, found.groups()))


def wait_stats(driver, what, wanted):
    """Asks again until `wanted(stats)` holds; the check's deadline bounds it."""
    pause = threading.Event()
    seen = stats(driver)
    while not wanted(seen):
        if time.monotonic() > driver.deadline - 0.5:
            raise CheckFailed(f"{what}; last seen: {seen}")
        pause.wait(0.01)
        seen = stats(driver)
    return seen


def echo(driver, text, **fields):
    call = driver.rr(b"echo:" + text, **fields)
    call.next(data=b"echo:" + text)
    call.complete()


def items(call, values):
    for value in values:
        call.next(data=b"%d" % value)


def echo_when_granted(driver, text):
    """An echo under leases: a client without one may let it wait or fail it at once."""
    pause = threading.Event()
    while True:
        call = driver.rr(text)
        event = call.event("an answer")
        if event["ev"] == "next":
            call.complete()
            return base64.b64decode(event["data"])
        if time.monotonic() > driver.deadline - 0.5:
            raise CheckFailed(f"no lease came: {event}")
        pause.wait(0.01)


def expect_refused(driver, url, **options):
    """Connects and demands that the connection is refused; returns the error event.

    A client may learn of it in place of `ok` or after it, as a client that does not wait for the
    server's consent may begin at once.
    """
    with driver.lock:
        driver.connection_events.clear()
    event = driver.call("connect", url=url, **options).event("the answer to connect")
    if event["ev"] == "error":
        return event
    return driver.wait_connection_event("conn_error", "closed")


# Request-response


@check("an echo without metadata comes back without metadata", covers="C030 C035 C230")
def echo_without_metadata(s):
    call = s.driver.rr(b"echo:hello")
    call.next(data=b"echo:hello", metadata=None)
    call.complete()


@check("an echo with empty metadata comes back with empty metadata", covers="C035 C230")
def echo_with_empty_metadata(s):
    call = s.driver.rr(b"echo:hello", metadata=b"")
    call.next(data=b"echo:hello", metadata=b"")
    call.complete()


@check("an echo with metadata comes back with the same metadata", covers="C030 C031 C230")
def echo_with_metadata(s):
    call = s.driver.rr(b"echo:hello", metadata=bytes(range(256)))
    call.next(data=b"echo:hello", metadata=bytes(range(256)))
    call.complete()


@check(
    "an echo of 70000 bytes and 30000 bytes of metadata comes back unchanged", covers="C031 C032"
)
def echo_of_much_data_and_metadata(s):
    call = s.driver.rr(b"echo:", metadata=b"m", gen=70_000, mgen=30_000)
    call.next(data=b"echo:" + pattern(70_000), metadata=b"m" + pattern(30_000))
    call.complete()


@check("an echo of nothing but its prefix comes back", covers="C230")
def echo_of_the_prefix(s):
    echo(s.driver, b"")


@check("an echo of text beyond ASCII comes back", covers="C230")
def echo_of_unicode(s):
    echo(s.driver, "grüße 🦀 \u0000".encode())


@check(
    "a request without data is answered with the error unknown",
    covers="C230 C080",
    needs=["errorcodes"],
)
def empty_request(s):
    s.driver.rr(b"").error(APPLICATION_ERROR, "unknown")


@check(
    "an error comes with its code and its message",
    covers="C080 C081 C083 C230",
    needs=["errorcodes"],
)
def error_code_and_message(s):
    s.driver.rr(b"error:no such thing").error(APPLICATION_ERROR, "no such thing")
    s.driver.rr("error:süß".encode()).error(APPLICATION_ERROR, "süß")


@check("an error without a message is still an error", covers="C080 C230", needs=["errorcodes"])
def error_without_message(s):
    s.driver.rr(b"error:").error(APPLICATION_ERROR, "")


@check(
    "an unknown request-response is answered with the error unknown",
    needs=["errorcodes"],
    covers="C230",
)
def unknown_response(s):
    s.driver.rr(b"what?").error(APPLICATION_ERROR, "unknown")
    echo(s.driver, b"alive")


@check(
    "an unknown request-stream is answered with the error unknown",
    needs=["errorcodes"],
    covers="C235",
)
def unknown_stream(s):
    s.driver.stream(b"what?").error(APPLICATION_ERROR, "unknown")
    echo(s.driver, b"alive")


@check(
    "an unknown request-channel is answered with the error unknown",
    needs=["channel", "errorcodes"],
    covers="C237 C238",
)
def unknown_channel(s):
    s.driver.channel(b"what?").error(APPLICATION_ERROR, "unknown")
    echo(s.driver, b"alive")


@check("an empty response is a payload of no bytes", covers="C032 C152 C230")
def big_nothing(s):
    call = s.driver.rr(b"big:0")
    call.next(data=b"")
    call.complete()


def big(s, size):
    call = s.driver.rr(b"big:%d" % size)
    call.next(data=pattern(size))
    call.complete()


@check("a response of 100 bytes arrives whole", covers="C230")
def big_100_bytes(s):
    big(s, 100)


@check("a response of 64 KiB arrives whole", covers="C230")
def big_64_kib(s):
    big(s, 65_536)


@check("a response of 1 MiB arrives whole", covers="C009 C230")
def big_1_mib(s):
    big(s, 1 << 20)


@check(
    "a response of more than 16 MiB arrives whole in fragments",
    server_needs=["mtu"],
    server=["--mtu", "65536"],
    covers="C010 C211 C215 C225",
    timeout=30,
)
def big_over_one_frame(s):
    big(s, OVER_ONE_FRAME)


def length(s, size):
    call = s.driver.rr(b"len:", gen=size)
    call.next(data=b"%d" % (size + 4))
    call.complete()


@check("a request of 100 bytes arrives whole", covers="C230")
def len_100_bytes(s):
    length(s, 96)


@check("a request of 64 KiB arrives whole", covers="C230")
def len_64_kib(s):
    length(s, 65_536)


@check("a request of 1 MiB arrives whole", covers="C009 C230")
def len_1_mib(s):
    length(s, 1 << 20)


@check(
    "a request of more than 16 MiB arrives whole in fragments",
    needs=["mtu"],
    connect={"mtu": 65536},
    covers="C010 C211 C215 C225",
    timeout=30,
)
def len_over_one_frame(s):
    length(s, OVER_ONE_FRAME)


@check(
    "a request that is never answered can be cancelled",
    needs=["cancel_rr"],
    covers="C140 C230 C232",
)
def never_and_cancel(s):
    before = stats(s.driver)
    call = s.driver.rr(b"never")
    wait_stats(s.driver, "never is not active", lambda now: now.active == before.active + 1)
    call.cancel()
    wait_stats(
        s.driver,
        "the cancellation is not counted",
        lambda now: now.cancel == before.cancel + 1 and now.active == before.active,
    )
    call.quiet()


@check("no answer comes to a request that is never answered", covers="C253")
def never_is_silent(s):
    call = s.driver.rr(b"never")
    echo(s.driver, b"meanwhile")
    call.quiet()


@check("200 echoes at once each get their own answer", covers="C041 C042 C045 C255")
def concurrent_echoes(s):
    calls = [(n, s.driver.rr(b"echo:%d" % n)) for n in range(200)]
    for n, call in calls:
        call.next(data=b"echo:%d" % n)
        call.complete()


@check("1000 echoes one after another are answered", covers="C042 C230")
def sequential_echoes(s):
    for n in range(1000):
        echo(s.driver, b"%d" % n)


@check("200 requests in work at once are counted as such", needs=["cancel_rr"], covers="C041 C232")
def many_in_work(s):
    before = stats(s.driver)
    calls = [s.driver.rr(b"never") for _ in range(200)]
    seen = wait_stats(s.driver, "200 are not active", lambda now: now.active == before.active + 200)
    if seen.maxout < before.active + 200:
        raise CheckFailed(f"maxout below active: {seen}")
    for call in calls:
        call.cancel()
    wait_stats(
        s.driver,
        "200 cancellations are not counted",
        lambda now: now.active == before.active and now.cancel == before.cancel + 200,
    )


# Fire-and-forget and metadata push


@check("a fire-and-forget is counted once", needs=["fnf"], covers="C234")
def fnf_counted(s):
    before = stats(s.driver)
    s.driver.fnf(b"anything").complete()
    wait_stats(s.driver, "it is not counted", lambda now: now.fnf == before.fnf + 1)


@check(
    "100 fire-and-forgets with and without data and metadata are all counted",
    needs=["fnf"],
    covers="C234",
)
def many_fnf_counted(s):
    before = stats(s.driver)
    calls = [
        s.driver.fnf(b"" if n % 3 == 0 else b"x" * n, metadata=None if n % 2 else b"m" * n)
        for n in range(1, 101)
    ]
    for call in calls:
        call.complete()
    wait_stats(s.driver, "100 are not counted", lambda now: now.fnf == before.fnf + 100)


@check("a metadata push is counted once", needs=["push"], covers="C160 C161 C163")
def push_counted(s):
    before = stats(s.driver)
    s.driver.push(b"hello").complete()
    wait_stats(s.driver, "it is not counted", lambda now: now.push == before.push + 1)


@check("100 metadata pushes among requests are all counted", needs=["push"], covers="C163 C165")
def many_pushes_counted(s):
    before = stats(s.driver)
    for n in range(100):
        s.driver.push(b"p" * (n + 1)).complete()
    echo(s.driver, b"after")
    wait_stats(s.driver, "100 are not counted", lambda now: now.push == before.push + 100)


# The server asks the client


@check("a server asks its client and passes the answer on", needs=["responder"], covers="C043 C187")
def server_calls_client(s):
    call = s.driver.rr(b"callme:hello")
    call.next(data=b"echo:hello")
    call.complete()


@check(
    "20 requests of the server to its client run at once", needs=["responder"], covers="C043 C337"
)
def server_calls_client_often(s):
    calls = [(n, s.driver.rr(b"callme:%d" % n)) for n in range(20)]
    for n, call in calls:
        call.next(data=b"echo:%d" % n)
        call.complete()
    echo(s.driver, b"own ids are not disturbed")


# Request-stream


@check(
    "items come within credit: 3, then 2 more, then the rest",
    needs=["initial_n", "request_n"],
    covers="C121 C130 C131 C235 C250",
)
def range_within_credit(s):
    call = s.driver.stream(b"range:10", n=3)
    items(call, range(3))
    call.quiet()
    call.request_n(2)
    items(call, range(3, 5))
    call.quiet()
    call.request_n(1)
    items(call, range(5, 6))
    call.request_n(1)
    call.request_n(1)
    items(call, range(6, 8))
    call.quiet()
    call.request_n(100)
    items(call, range(8, 10))
    call.complete()


@check("completion needs no credit", needs=["initial_n"], covers="C150 C250")
def completion_without_credit(s):
    call = s.driver.stream(b"range:3", n=3)
    items(call, range(3))
    call.complete()


@check("a stream of 10000 items arrives in order", covers="C235 C255")
def long_range(s):
    call = s.driver.stream(b"range:10000")
    items(call, range(10_000))
    call.complete()


@check(
    "a stream of 1000 items on credit of 1 at a time arrives in order",
    needs=["initial_n", "request_n"],
    covers="C131 C235",
)
def one_by_one(s):
    call = s.driver.stream(b"range:1000", n=1)
    for value in range(1000):
        items(call, [value])
        if value < 999:
            call.request_n(1)
    call.complete()


@check("a stream of no items completes", covers="C150 C235")
def empty_stream(s):
    s.driver.stream(b"empty").complete()
    s.driver.stream(b"range:0").complete()


@check(
    "a stream fails after its items with code and message", needs=["errorcodes"], covers="C080 C235"
)
def stream_fails(s):
    call = s.driver.stream(b"fail:3")
    items(call, range(3))
    call.error(APPLICATION_ERROR, "boom")


@check(
    "the error of a stream needs no credit",
    needs=["initial_n", "errorcodes"],
    covers="C235 C250",
)
def error_without_credit(s):
    call = s.driver.stream(b"fail:2", n=2)
    items(call, range(2))
    call.error(APPLICATION_ERROR, "boom")
    s.driver.stream(b"fail:0", n=1).error(APPLICATION_ERROR, "boom")


@check(
    "an infinite stream ends when it is cancelled",
    needs=["initial_n", "cancel_stream"],
    covers="C140 C235 C236",
)
def infinite_and_cancel(s):
    before = stats(s.driver)
    call = s.driver.stream(b"infinite", n=10)
    items(call, range(10))
    call.quiet()
    call.cancel()
    wait_stats(
        s.driver,
        "the stream is not released",
        lambda now: now.active == before.active and now.cancel == before.cancel + 1,
    )
    call.quiet()


def starves_nobody(s, flooded, flood):
    """Floods one driver and asks for echoes on another or on the same."""
    before = stats(s.driver)
    call = flooded.stream(flood, n=MAX_REQUEST_N, counting=True)
    call.wait_count(100)
    calls = [s.driver.rr(b"echo:%d" % n) for n in range(5)]
    for n, other in enumerate(calls):
        other.next(data=b"echo:%d" % n)
        other.complete()
    call.cancel()
    wait_stats(s.driver, "the stream is not released", lambda now: now.active == before.active)


# On the same connection an answer queues behind what the kernel's buffers hold already. Those are
# half a million items of `infinite`, more than some drivers read in ten seconds.


@check(
    "an infinite stream with all the credit there is starves no other connection",
    needs=["cancel_stream"],
    covers="C133 C256",
)
def infinite_starves_nobody(s):
    starves_nobody(s, s.second_driver(), b"infinite")


@check(
    "100 MB of items with all the credit there is starve no other stream",
    needs=["cancel_stream"],
    covers="C109 C133 C255 C256",
    timeout=20,
)
def large_items_starve_nobody(s):
    starves_nobody(s, s.driver, b"bigitems:100000:1000")


@check(
    "two grants of 2^31-1 are as good as one",
    needs=["initial_n", "request_n", "cancel_stream"],
    covers="C132 C133",
)
def credit_does_not_overflow(s):
    call = s.driver.stream(b"range:500", n=1)
    items(call, [0])
    call.request_n(MAX_REQUEST_N)
    call.request_n(MAX_REQUEST_N)
    items(call, range(1, 500))
    call.complete()


@check("20 items of 5000 bytes arrive whole", covers="C152 C235")
def big_items(s):
    call = s.driver.stream(b"bigitems:20:5000")
    for _ in range(20):
        call.next(data=pattern(5000))
    call.complete()


@check("items of no bytes are items", covers="C152 C235")
def items_of_no_bytes(s):
    call = s.driver.stream(b"bigitems:3:0")
    for _ in range(3):
        call.next(data=b"")
    call.complete()


@check("50 streams at once each keep their order", covers="C041 C255")
def concurrent_streams(s):
    calls = [s.driver.stream(b"range:100") for _ in range(50)]
    for call in calls:
        items(call, range(100))
        call.complete()


# Request-channel


@check(
    "a channel echoes every payload",
    needs=["channel"],
    covers="C122 C123 C126 C237 C241 C242",
)
def channel_echo(s):
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    for n in range(3):
        call.wait_demand(n + 1)
        call.send(b"item %d" % n)
        call.next(data=b"item %d" % n)
    call.send_complete()
    call.complete()


@check("a channel echoes metadata: some, empty, none", needs=["channel"], covers="C035 C237")
def channel_echo_metadata(s):
    call = s.driver.channel(b"echo", metadata=b"first")
    call.next(data=b"echo", metadata=b"first")
    for n, metadata in enumerate((b"more", b"", None)):
        call.wait_demand(n + 1)
        call.send(b"item", metadata=metadata)
        call.next(data=b"item", metadata=metadata)
    call.send_complete()
    call.complete()


@check("a channel echoes 1000 payloads in order", needs=["channel"], covers="C131 C237 C255")
def channel_echo_many(s):
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    for n in range(1000):
        call.wait_demand(n + 1)
        call.send(b"%d" % n)
    call.send_complete()
    items(call, range(1000))
    call.complete()


@check("empty payloads of a channel are payloads", needs=["channel"], covers="C152 C237")
def channel_echo_empty(s):
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    for n in range(2):
        call.wait_demand(n + 1)
        call.send(b"")
        call.next(data=b"")
    call.send_complete()
    call.complete()


@check(
    "a channel that the requester has completed still delivers what it owes",
    needs=["channel", "initial_n", "request_n"],
    covers="C125 C237 C241 C250",
)
def channel_half_close(s):
    call = s.driver.channel(b"echo", n=1)
    call.next(data=b"echo")
    driver = s.driver
    if driver.caps.get("channel_demand"):
        # A responder may tie the credit it grants to the credit it has; then ours comes first.
        if driver.happens(lambda: call.demand >= 1, QUIET_SECONDS):
            call.send(b"late")
            call.send_complete()
            call.quiet()
            call.request_n(1)
        else:
            call.request_n(1)
            call.wait_demand(1)
            call.send(b"late")
            call.send_complete()
    else:
        call.send(b"late")
        call.send_complete()
        call.quiet()
        call.request_n(1)
    call.next(data=b"late")
    call.complete()


@check(
    "a channel that is completed at once is echoed and completed",
    needs=["channel"],
    covers="C124 C241",
)
def channel_of_one(s):
    call = s.driver.channel(b"echo")
    call.send_complete()
    call.next(data=b"echo")
    call.complete()


@check("a channel sums what it is sent", needs=["channel"], covers="C237 C241")
def channel_sum(s):
    call = s.driver.channel(b"sum")
    for sent, (n, total) in enumerate(((1, 1), (2, 3), (40, 43), (-3, 40))):
        call.wait_demand(sent + 1)
        call.send(b"%d" % n)
        call.next(data=b"%d" % total)
    call.send_complete()
    call.complete()


@check(
    "a responder that has enough completes and cancels its inbound",
    needs=["channel", "channel_demand"],
    covers="C240 C241",
)
def channel_stop(s):
    call = s.driver.channel(b"stop:3")
    call.next(data=b"stop:3")
    for n in range(2):
        call.wait_demand(n + 1)
        call.send(b"%d" % n)
        call.next(data=b"%d" % n)
    call.complete()
    call.wait_cancelled()
    echo(s.driver, b"alive")


@check("a channel that stops at its first payload completes", needs=["channel"], covers="C240 C241")
def channel_stop_at_once(s):
    call = s.driver.channel(b"stop:1")
    call.next(data=b"stop:1")
    call.complete()


@check(
    "an error of the requester ends a channel on both sides",
    needs=["channel", "channel_error"],
    covers="C238",
)
def channel_error_of_requester(s):
    before = stats(s.driver)
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    call.wait_demand(1)
    call.send_error("enough")
    wait_stats(s.driver, "the channel is not released", lambda now: now.active == before.active)
    echo(s.driver, b"alive")


@check(
    "a channel ends on both sides when it is cancelled",
    needs=["channel", "cancel_stream"],
    covers="C239",
)
def channel_cancel(s):
    before = stats(s.driver)
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    wait_stats(s.driver, "the channel is not active", lambda now: now.active == before.active + 1)
    call.cancel()
    wait_stats(
        s.driver,
        "the channel is not released",
        lambda now: now.active == before.active and now.cancel == before.cancel + 1,
    )
    call.quiet()


@check("20 channels at once each get their own echoes", needs=["channel"], covers="C041 C237")
def concurrent_channels(s):
    calls = [s.driver.channel(b"echo") for _ in range(20)]
    for call in calls:
        call.next(data=b"echo")
    for round_ in range(5):
        for n, call in enumerate(calls):
            call.wait_demand(round_ + 1)
            call.send(b"%d/%d" % (n, round_))
    for n, call in enumerate(calls):
        for round_ in range(5):
            call.next(data=b"%d/%d" % (n, round_))
        call.send_complete()
        call.complete()


# Fragmentation: requests in small fragments (the connection's mtu), answers (the server's)


@check(
    "requests arrive whole in fragments of 64 bytes",
    needs=["mtu"],
    connect={"mtu": 64},
    covers="C211 C215 C219",
)
def mtu_64_requests(s):
    for size in (0, 1, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 60, 64, 100, 110, 1000, 65_536):
        length(s, size)


@check(
    "requests arrive whole in fragments of 256 bytes",
    needs=["mtu"],
    connect={"mtu": 256},
    covers="C211 C219",
)
def mtu_256_requests(s):
    for size in (0, 200, 240, 243, 244, 247, 256, 300, 1000, 65_536, 1 << 20):
        length(s, size)


@check(
    "metadata and data in fragments of 64 bytes are kept apart",
    needs=["mtu"],
    connect={"mtu": 64},
    covers="C035 C212 C213",
)
def mtu_64_metadata(s):
    for gen, mgen in (
        (0, 39),
        (0, 40),
        (0, 200),
        (10, 40),
        (10, 41),
        (10, 42),
        (300, 0),
        (300, 500),
    ):
        call = s.driver.rr(b"echo:", metadata=b"meta", gen=gen, mgen=mgen)
        call.next(data=b"echo:" + pattern(gen), metadata=b"meta" + pattern(mgen))
        call.complete()


@check(
    "a fragmented fire-and-forget is counted once",
    needs=["mtu", "fnf"],
    connect={"mtu": 64},
    covers="C211 C220",
)
def mtu_64_fnf(s):
    before = stats(s.driver)
    s.driver.fnf(b"x", gen=5000, metadata=b"m", mgen=500).complete()
    s.driver.fnf(b"x", gen=5000).complete()
    wait_stats(s.driver, "they are not counted once each", lambda now: now.fnf >= before.fnf + 2)
    echo(s.driver, b"after")
    same(stats(s.driver).fnf, before.fnf + 2, "fire-and-forgets")


@check(
    "a fragmented request-stream keeps its initial credit",
    needs=["mtu", "initial_n", "request_n"],
    connect={"mtu": 64},
    covers="C214 C250",
)
def mtu_64_stream(s):
    call = s.driver.stream(b"range:5", n=2, metadata=b"m", mgen=300)
    items(call, range(2))
    call.quiet()
    call.request_n(3)
    items(call, range(2, 5))
    call.complete()


@check(
    "a channel of fragmented payloads echoes them whole and in order",
    needs=["mtu", "channel"],
    connect={"mtu": 64},
    covers="C123 C211 C216 C220",
)
def mtu_64_channel(s):
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    for n in range(20):
        call.wait_demand(n + 1)
        call.send(b"%02d" % n, gen=500)
    call.send_complete()
    for n in range(20):
        call.next(data=b"%02d" % n + pattern(500))
    call.complete()


@check(
    "a channel of fragmented metadata echoes it",
    needs=["mtu", "channel"],
    connect={"mtu": 64},
    covers="C212 C213 C217",
)
def mtu_64_channel_metadata(s):
    call = s.driver.channel(b"echo", metadata=b"m", mgen=300)
    call.next(data=b"echo", metadata=b"m" + pattern(300))
    for n, (gen, mgen) in enumerate(((0, 300), (300, 300), (300, 0))):
        call.wait_demand(n + 1)
        call.send(b"x", gen=gen, metadata=b"m", mgen=mgen)
        call.next(data=b"x" + pattern(gen), metadata=b"m" + pattern(mgen))
    call.send_complete()
    call.complete()


@check(
    "fragments of many requests at once do not mix",
    needs=["mtu"],
    connect={"mtu": 64},
    covers="C221",
)
def mtu_64_concurrent_requests(s):
    calls = [(n, s.driver.rr(b"len:", gen=1000 + n)) for n in range(50)]
    for n, call in calls:
        call.next(data=b"%d" % (1004 + n))
        call.complete()


@check(
    "answers arrive whole in fragments of 64 bytes",
    server=["--mtu", "64"],
    server_needs=["mtu"],
    covers="C211 C215 C216 C219",
)
def server_mtu_64_responses(s):
    for size in (1, 54, 55, 56, 57, 58, 64, 100, 110, 111, 112, 1000, 65_536):
        big(s, size)


@check(
    "answers with metadata arrive whole in fragments of 64 bytes",
    server=["--mtu", "64"],
    server_needs=["mtu"],
    covers="C035 C212 C213",
)
def server_mtu_64_metadata(s):
    for gen, mgen in ((0, 40), (0, 47), (0, 48), (0, 49), (10, 47), (300, 0), (300, 500)):
        call = s.driver.rr(b"echo:", metadata=b"meta", gen=gen, mgen=mgen)
        call.next(data=b"echo:" + pattern(gen), metadata=b"meta" + pattern(mgen))
        call.complete()


@check(
    "items in fragments of 64 bytes arrive whole and count once each",
    server=["--mtu", "64"],
    server_needs=["mtu"],
    needs=["initial_n", "request_n"],
    covers="C211 C220 C250",
)
def server_mtu_64_stream(s):
    call = s.driver.stream(b"bigitems:10:1000", n=4)
    for _ in range(4):
        call.next(data=pattern(1000))
    call.quiet()
    call.request_n(6)
    for _ in range(6):
        call.next(data=pattern(1000))
    call.complete()


@check(
    "fragments of many answers at once do not mix",
    server=["--mtu", "64"],
    server_needs=["mtu"],
    covers="C221",
)
def server_mtu_64_concurrent(s):
    calls = [(n, s.driver.rr(b"big:%d" % (1000 + n))) for n in range(20)]
    streams = [s.driver.stream(b"bigitems:5:700") for _ in range(5)]
    for n, call in calls:
        call.next(data=pattern(1000 + n))
        call.complete()
    for call in streams:
        for _ in range(5):
            call.next(data=pattern(700))
        call.complete()


@check(
    "both sides fragment at once",
    server=["--mtu", "64"],
    server_needs=["mtu"],
    needs=["mtu", "channel"],
    connect={"mtu": 256},
    covers="C211 C221",
)
def both_fragment(s):
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    calls = [s.driver.rr(b"echo:", gen=2000, metadata=b"m", mgen=100) for _ in range(10)]
    for n in range(10):
        call.wait_demand(n + 1)
        call.send(b"%d" % n, gen=3000)
        call.next(data=b"%d" % n + pattern(3000))
    call.send_complete()
    call.complete()
    for call in calls:
        call.next(data=b"echo:" + pattern(2000), metadata=b"m" + pattern(100))
        call.complete()


# Connections


@check("a connection with a setup payload is accepted", connect=None, covers="C062 C071")
def setup_payload(s):
    s.driver.connect(
        s.server.url,
        setup_data=base64.b64encode(b"who").decode(),
        setup_metadata=base64.b64encode(bytes(range(256))).decode(),
    )
    echo(s.driver, b"hello")


@check(
    "an idle connection is kept alive beyond its lifetime",
    connect={"keepalive_ms": 100, "lifetime_ms": 800},
    covers="C101 C103 C104 C105",
)
def keepalive(s):
    # The one long wait: the lifetime has to pass, or nothing is shown.
    call = s.driver.rr(b"never")
    call.quiet(1.0)
    echo(s.driver, b"still here")
    with s.driver.lock:
        events = [event["ev"] for event in s.driver.connection_events]
    if events:
        raise CheckFailed(f"the connection reported {events}")


@check(
    "two connections do not disturb each other",
    needs=["initial_n", "request_n"],
    covers="C040 C054",
)
def two_connections(s):
    other = s.second_driver()
    mine = s.driver.stream(b"range:100", n=50)
    theirs = other.stream(b"range:100", n=50)
    items(mine, range(50))
    items(theirs, range(50))
    echo(other, b"theirs")
    echo(s.driver, b"mine")
    other.close()
    mine.request_n(50)
    items(mine, range(50, 100))
    mine.complete()


@check("closing a connection releases what the server did for it", covers="C054 C224")
def close_releases(s):
    before = stats(s.driver)
    other = s.second_driver()
    other.rr(b"never")
    other.rr(b"never")
    wait_stats(s.driver, "they are not active", lambda now: now.active == before.active + 2)
    other.close()
    wait_stats(
        s.driver,
        "what the closed connection asked for is still active",
        lambda now: now.active == before.active and now.cancel == before.cancel + 2,
    )


@check(
    "the death of a client releases what the server did for it",
    needs=["initial_n"],
    covers="C054 C224",
)
def death_of_client_releases(s):
    before = stats(s.driver)
    other = s.second_driver()
    other.rr(b"never")
    stream = other.stream(b"infinite", n=5)
    items(stream, range(5))
    due = 2
    if other.caps.get("channel"):
        channel = other.channel(b"echo")
        channel.next(data=b"echo")
        due += 1
    wait_stats(s.driver, "they are not active", lambda now: now.active == before.active + due)
    other.kill()
    wait_stats(
        s.driver,
        "what the dead client asked for is still active",
        lambda now: now.active == before.active and now.cancel == before.cancel + due,
    )


@check("a client that died can be followed by another", covers="C054 C180")
def reconnect_after_death(s):
    for n in range(3):
        other = s.second_driver()
        echo(other, b"%d" % n)
        other.rr(b"never")
        other.kill()
    echo(s.driver, b"alive")


@check("a driver connects again after it closed", connect=None, covers="C180")
def connect_again(s):
    for n in range(5):
        s.driver.connect(s.server.url)
        echo(s.driver, b"%d" % n)
        s.driver.close()
    s.driver.connect(s.server.url)
    echo(s.driver, b"last")


@check(
    "when the server dies every request ends with an error",
    connect=None,
    needs=["initial_n"],
    covers="C054",
)
def death_of_server(s):
    s.broken = True
    server = s.own_server()
    s.driver.connect(server.url, keepalive_ms=500, lifetime_ms=2000)
    pending = [s.driver.rr(b"never"), s.driver.stream(b"infinite", n=3)]
    items(pending[1], range(3))
    if s.driver.caps.get("channel"):
        channel = s.driver.channel(b"echo")
        channel.next(data=b"echo")
        pending.append(channel)
    server.kill()
    for call in pending:
        call.error_after_items()
    s.driver.wait_connection_event("closed", "conn_error", "keepalive_timeout")


@check("connecting to nobody is an error, not a crash", connect=None)
def connect_to_nobody(s):
    server = s.own_server()
    server.kill()
    event = expect_refused(s.driver, server.url)
    if event["ev"] not in ("error", "closed", "conn_error"):
        raise CheckFailed(f"connect said {event}")
    s.broken = True


# Lease


@check(
    "a client that asks for leases where there are none is refused",
    needs=["lease"],
    connect=None,
    covers="C072 C183 C190",
)
def lease_refused(s):
    s.broken = True
    event = expect_refused(s.driver, s.server.url, lease=True)
    if event.get("code") not in SETUP_REFUSALS:
        raise CheckFailed(f"the refusal has no setup code: {event}")


@check(
    "requests beyond a lease wait for the next one and are answered",
    needs=["lease"],
    server_needs=["lease"],
    server=["--lease", "4:300"],
    connect={"lease": True},
    covers="C092 C093 C095 C185 C186 C200 C201",
)
def lease_paces(s):
    begin = time.monotonic()
    calls = [(n, s.driver.rr(b"echo:%d" % n)) for n in range(12)]
    for n, call in calls:
        call.next(data=b"echo:%d" % n)
        call.complete()
    if time.monotonic() - begin < 0.3:
        raise CheckFailed("12 requests on leases of 4 took less than one lease's time")


@check(
    "a server with leases takes only as many requests as it granted",
    needs=["lease", "fnf"],
    server_needs=["lease"],
    server=["--lease", "3:60000"],
    connect={"lease": True},
    covers="C200 C201 C202",
)
def lease_is_not_exceeded(s):
    for n in range(3):
        same(echo_when_granted(s.driver, b"echo:%d" % n), b"echo:%d" % n, "echo")
    beyond = s.driver.rr(b"echo:beyond")
    # A client that holds the request back is silent; one that fails it says so.
    if s.driver.happens(lambda: beyond._events, QUIET_SECONDS):
        beyond.error()


@check(
    "a client grants its server leases and the server keeps to them",
    needs=["lease", "responder"],
    server_needs=["lease", "responder"],
    server=["--lease", "100:60000"],
    connect={"lease": True, "grant": [2, 60000]},
    covers="C188 C189 C201",
)
def lease_of_client(s):
    for n in range(2):
        same(echo_when_granted(s.driver, b"callme:%d" % n), b"echo:%d" % n, "echo")
    beyond = s.driver.rr(b"callme:beyond")
    if s.driver.happens(lambda: beyond._events, QUIET_SECONDS):
        beyond.error()
    echo(s.driver, b"own lease is not used up")


# Resumption


@check(
    "a client that asks for resumption where there is none is refused",
    needs=["resume"],
    connect=None,
    covers="C073 C183",
)
def resume_refused(s):
    s.broken = True
    event = expect_refused(s.driver, s.server.url, resume=True, token="interop-refused")
    if event.get("code") not in SETUP_REFUSALS:
        raise CheckFailed(f"the refusal has no setup code: {event}")


@check(
    "a session survives 5 cuts: nothing is lost, doubled or reordered",
    needs=["resume", "initial_n", "request_n"],
    server_needs=["resume"],
    server=["--resume", "20"],
    connect=None,
    transports=("tcp", "ws"),
    covers="C264 C280 C282 C286 C292 C305",
    timeout=20,
)
def resume_over_cuts(s):
    s.broken = True
    proxy = s.own_proxy(s.server)
    url = s.server.url.replace(str(s.server.port), str(proxy.port))
    s.driver.connect(url, resume=True, token="interop-cuts", keepalive_ms=200, lifetime_ms=60_000)
    call = s.driver.stream(b"range:1000", n=10)
    waiting = s.driver.rr(b"never")
    for first in range(0, 1000, 10):
        items(call, range(first, first + 10))
        if first % 200 == 100:
            proxy.cut()
            echo(s.driver, b"asked while cut off %d" % first)
        if first < 990:
            call.request_n(10)
    call.complete()
    waiting.quiet()
    if proxy.accepted < 6:
        raise CheckFailed(f"5 cuts, but only {proxy.accepted} connections")


@check(
    "a channel continues over a cut",
    needs=["resume", "channel"],
    server_needs=["resume", "channel"],
    server=["--resume", "20"],
    connect=None,
    transports=("tcp", "ws"),
    covers="C286 C292",
    timeout=20,
)
def resume_channel(s):
    s.broken = True
    proxy = s.own_proxy(s.server)
    url = s.server.url.replace(str(s.server.port), str(proxy.port))
    s.driver.connect(
        url, resume=True, token="interop-channel", keepalive_ms=200, lifetime_ms=60_000
    )
    call = s.driver.channel(b"echo")
    call.next(data=b"echo")
    for n in range(30):
        call.wait_demand(n + 1)
        call.send(b"%d" % n, gen=2000)
        if n % 10 == 5:
            proxy.cut()
    call.send_complete()
    for n in range(30):
        call.next(data=b"%d" % n + pattern(2000))
    call.complete()
