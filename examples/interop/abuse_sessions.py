"""Scenarios of abuse.py about sessions that outlive their links, and about leases."""

import random
import struct
import time

from rawsocket import (
    ANSWER_SECONDS,
    CANCEL,
    CONNECTION_ERROR,
    ERROR,
    FOLLOWS,
    INVALID_SETUP,
    KEEPALIVE,
    LEASE,
    MAX_N,
    METADATA_PUSH,
    MIB,
    PAYLOAD,
    REJECTED_RESUME,
    REJECTED_SETUP,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    RESPOND,
    RESUME,
    RESUME_OK,
    SETUP,
    Failed,
    Raw,
    number,
    scenario,
    setup_body,
    wire,
)

SEED = 20_261_122
REJECTED = 0x202
RESUME_ENABLE, LEASE_ENABLE = 0x080, 0x040
# Of stream 0, and so without a position.
UNCOUNTED = (SETUP, LEASE, KEEPALIVE, METADATA_PUSH, RESUME, RESUME_OK)


def resume_frame(token, received=0, first=0):
    body = struct.pack(">HHH", 1, 0, len(token)) + token + struct.pack(">QQ", received, first)
    return wire(0, RESUME, 0, body)


def beat(position, flags=0, data=b""):
    return wire(0, KEEPALIVE, flags, struct.pack(">Q", position) + data)


class Session:
    """A client that counts positions as it should; what it says of them is up to the scenario."""

    def __init__(self, a, token, flags=0):
        self._abuse = a
        token = self.token = a.token(token)
        self.sent = self.received = 0
        self._next_id = 1
        self.raw = a.raw(setup=False)
        self.raw.send(wire(0, SETUP, RESUME_ENABLE | flags, setup_body(token=token)))

    def send(self, stream, kind, flags=0, body=b""):
        whole = wire(stream, kind, flags, body)
        self.sent += len(whole) - 3
        self.raw.send(whole)

    def request(self, kind, data, credit=None):
        stream = self._next_id
        self._next_id += 2
        self.send(stream, kind, 0, (b"" if credit is None else number(credit)) + data)
        return stream

    def read(self, seconds=ANSWER_SECONDS):
        received = self.raw.read(seconds)
        if received is not None and received.kind not in UNCOUNTED and received.stream:
            self.received += 6 + len(received.body)
        return received

    def read_on(self, stream, seconds=ANSWER_SECONDS):
        while (received := self.read(seconds)) is not None:
            if received.stream == stream:
                return received
            if received.stream == 0 and received.kind == ERROR:
                raise Failed(f"the session got {received}")
        raise Failed("the server closed the link")

    def echo(self):
        text = b"echo:%d" % self._next_id
        answer = self.read_on(self.request(REQUEST_RESPONSE, text))
        if answer.kind != PAYLOAD or answer.body != text:
            raise Failed(f"{text!r} was answered with {answer}")

    def settle(self):
        """Waits until the server has all that was sent: this client could not send it again."""
        self.raw.send(beat(self.received, RESPOND, b"all?"))
        while True:
            received = self.read()
            if received is None:
                raise Failed("the server closed the link")
            if received.kind == KEEPALIVE and received.body[8:] == b"all?":
                return

    def reconnect(self, received=None, first=None, cut=True):
        """RESUME on a new link, by default with what is true. Returns the answer."""
        if cut:
            self.raw.close(reset=True)
        self.raw = self._abuse.raw(setup=False)
        self.raw.send(
            resume_frame(
                self.token,
                self.received if received is None else received,
                self.sent if first is None else first,
            )
        )
        answer = self.raw.read()
        if answer is None:
            raise Failed("RESUME got no answer")
        return answer

    def resume(self, **how):
        answer = self.reconnect(**how)
        if answer.kind != RESUME_OK:
            raise Failed(f"RESUME got {answer}")
        if answer.body != struct.pack(">Q", self.sent):
            raise Failed(f"the server received {answer.body.hex()} of {self.sent:x} bytes")


def demand_refusal(raw, code, what):
    error = raw.fate()
    if error is None or error.code != code:
        raise Failed(f"{what} got {error}")
    return str(error)


def tokens(count):
    source = random.Random(SEED)
    return [source.randbytes(source.randrange(1, 64)) for _ in range(count)]


# Whose session is it?


@scenario("2000 RESUMEs with random tokens", 16, cluster=29, covers="C291 C302", server="--resume 3")
def random_tokens(a):
    victim = Session(a, b"a token that nobody guesses")
    victim.echo()
    for n, token in enumerate(tokens(2000)):
        raw = Raw(a.port, setup=False)
        raw.send(resume_frame(token, n % 3, n % 5))
        if n % 4 == 0:
            said = demand_refusal(raw, REJECTED_RESUME, f"token {token.hex()}")
        raw.close(reset=n % 2 == 0)
    victim.echo()
    return said


@scenario("RESUME for tokens that differ a little", 16, covers="C291", server="--resume 3")
def similar_tokens(a):
    victim = Session(a, b"0123456789abcdef")
    token = victim.token
    victim.echo()
    for at in range(len(token)):
        for wrong in (token[:at], token[:at] + b"x" + token[at + 1 :], token[at + 1 :] + b"0"):
            if wrong:
                raw = a.raw(setup=False)
                raw.send(resume_frame(wrong, victim.received, victim.sent))
                demand_refusal(raw, REJECTED_RESUME, wrong)
                raw.close()
    victim.echo()
    return "refused, and the session goes on"


@scenario(
    "RESUME for a live token with positions that cannot be",
    16,
    cluster=24,
    covers="C288 C294 C307",
    server="--resume 3",
)
def wrong_positions(a):
    wrong = {
        "received far ahead": (1 << 62, None),
        "received within a frame": (1, None),
        "first far ahead": (None, 1 << 62),
    }
    for what, (received, first) in wrong.items():
        session = Session(a, what.encode())
        session.echo()
        live = session.raw
        answer = session.reconnect(received, first, cut=False)
        if answer.kind != ERROR or answer.code != REJECTED_RESUME:
            raise Failed(f"{what} got {answer}")
        # It may be older than the link that the session has, so that goes on.
        session.raw.fate()
        session.raw = live
        session.echo()
    return f"{answer}; the session goes on"


@scenario("SETUPs with a token in use", 16, cluster=29, covers="C298", server="--resume 3")
def token_in_use(a):
    session = Session(a, b"mine")
    session.echo()
    for _ in range(500):
        raw = Raw(a.port, setup=False)
        raw.send(wire(0, SETUP, RESUME_ENABLE, setup_body(token=session.token)))
        said = demand_refusal(raw, REJECTED_SETUP, "the same token")
        raw.close()
    session.echo()
    # Likewise while the session is without a link.
    session.raw.close(reset=True)
    raw = a.raw(setup=False)
    raw.send(wire(0, SETUP, RESUME_ENABLE, setup_body(token=session.token)))
    demand_refusal(raw, REJECTED_SETUP, "the same token")
    session.resume(cut=False)
    session.echo()
    return said


# Once: after five times its sessions would fill the places for those without a link.
@scenario("tokens of 0, 1 and 65535 bytes", 48, covers="C302", server="--resume 3", once=True)
def token_lengths(a):
    raw = a.raw(setup=False)
    raw.send(wire(0, SETUP, RESUME_ENABLE, setup_body(token=b"")))
    said = demand_refusal(raw, INVALID_SETUP, "an empty token")
    raw = a.raw(setup=False)
    raw.send(resume_frame(b""))
    demand_refusal(raw, REJECTED_RESUME, "RESUME with an empty token")
    for token in (b"\0", b"\xff" * 65_535):
        session = Session(a, token)
        session.echo()
        session.resume()
        session.echo()
    for n in range(200):
        Session(a, b"%05d" % n + bytes(65_530)).echo()
    return f"empty: {said}; others resumed"


@scenario("1000 takeovers of one session", 32, cluster=29, covers="C299", server="--resume 3")
def takeovers(a):
    session = Session(a, b"shared")
    stream = session.request(REQUEST_STREAM, b"infinite", credit=MAX_N)
    session.read_on(stream)
    for n in range(1000):
        # The old link stays where it is, and nobody reads what is sent again.
        raw = Raw(a.port, setup=False)
        raw.send(resume_frame(session.token, 0, session.sent))
        answer = raw.read()
        if answer is None or answer.kind != RESUME_OK:
            raise Failed(f"takeover {n} got {answer}")
        raw.close(reset=n % 2 == 0)
    return "the last one has it"


# What a session may cost


@scenario(
    "2000 sessions that ask and vanish",
    48,
    cluster=26,
    covers="C296 C306",
    server="--resume 4",
)
def vanishing_sessions(a):
    def kept():
        return int(a.witness.ask(b"stats").rsplit(b"active=", 1)[1])

    tokens = [a.token(b"session %d" % n) for n in range(2000)]
    for n, token in enumerate(tokens):
        raw = Raw(a.port, setup=False)
        raw.send(wire(0, SETUP, RESUME_ENABLE, setup_body(token=token)))
        raw.send(wire(1, REQUEST_RESPONSE, 0, b"never"))
        raw.send(wire(3, REQUEST_RESPONSE, FOLLOWS, bytes(1000)))
        raw.close(reset=n % 2 == 0)
    # Of those that came last the server may not know yet that they are gone: they count as having a
    # link. A moment later, and long before their time is over, there are no more than it keeps.
    most = at_the_end = kept()
    deadline = time.monotonic() + 1
    while at_the_end > 1024:
        if time.monotonic() > deadline:
            raise Failed(f"{at_the_end} sessions are kept")
        a.witness.endure(0.05)
        at_the_end = kept()
    deadline = time.monotonic() + 15
    while kept():
        if time.monotonic() > deadline:
            raise Failed("sessions outlive their time")
        a.witness.endure(0.1)
    raw = a.raw(setup=False)
    raw.send(resume_frame(tokens[-1], 0, 0))
    demand_refusal(raw, REJECTED_RESUME, "a session whose time is over")
    return f"{at_the_end} kept at the end ({most} in work then), none after their time"


def read_all(session, seconds, answer=None):
    """Reads for a while; KEEPALIVEs that ask are answered with the position `answer`.

    Returns what ended it: an ERROR on stream 0, the end of the link, or None for the time.
    """
    deadline = time.monotonic() + seconds
    error = None
    while (left := deadline - time.monotonic()) > 0:
        try:
            received = session.read(left)
        except Failed:
            return None
        if received is None:
            return error or "closed"
        if received.stream == 0 and received.kind == ERROR:
            error = received
        if received.kind == KEEPALIVE and received.flags & RESPOND and answer is not None:
            session.raw.send(beat(answer))
    return None


@scenario(
    "a session that confirms nothing and asks for all there is",
    32,
    covers="C300 C306 C307",
    server="--resume 3",
)
def never_confirms(a):
    session = Session(a, b"forgetful")
    session.request(REQUEST_STREAM, b"bigitems:100000:1000", credit=MAX_N)
    # It asks as well: answers confirm nothing, and neither do its own questions.
    session.raw.send(beat(0, RESPOND) * 20)
    end = read_all(session, 20, answer=0)
    if end in (None, "closed") or end.code != CONNECTION_ERROR:
        raise Failed(f"it ended with {end} after {session.received / MIB:.1f} MiB")
    taken = session.received
    answer = session.reconnect()
    if answer.kind != ERROR or answer.code != REJECTED_RESUME:
        raise Failed(f"the session is still there: {answer}")
    return f"{end} after {taken / MIB:.1f} MiB"


@scenario(
    "a session that does not answer when asked to confirm", 32, covers="C306", server="--resume 3"
)
def never_answers(a):
    session = Session(a, b"silent")
    stream = session.request(REQUEST_STREAM, b"bigitems:100000:1000", credit=MAX_N)
    end = read_all(session, 3)
    taken = session.received
    if taken > 16 * MIB:
        raise Failed(f"{taken / MIB:.0f} MiB were sent and none confirmed")
    if end is not None:
        return f"{end} after {taken / MIB:.1f} MiB"
    # It stops there, and goes on once it knows what arrived.
    session.raw.send(beat(taken))
    session.read_on(stream)
    return f"stopped at {taken / MIB:.1f} MiB, went on when told"


@scenario(
    "positions in KEEPALIVE that cannot be: ahead, within a frame, going back",
    16,
    cluster=24,
    covers="C301",
    server="--resume 3",
)
def senseless_positions(a):
    session = Session(a, b"confused")
    for _ in range(20):
        session.echo()
    true = session.received
    for position in (1 << 62, (1 << 63) - 1, true + 1, true - 1, true, 1, 0):
        session.raw.send(beat(position) + beat(position, RESPOND))
        session.echo()
    session.resume()
    session.echo()
    return "ignored, and the session was resumed"


@scenario(
    "200 resumptions that have 8 MiB sent again and do not read it",
    64,
    covers="C292 C306",
    server="--resume 3",
)
def replays_never_read(a):
    session = Session(a, b"again")
    session.request(REQUEST_STREAM, b"bigitems:100000:1000", credit=MAX_N)
    read_all(session, 2)
    held, session.received = session.received, 0
    for _ in range(200):
        session.resume()
    return f"{held / MIB:.1f} MiB held"


@scenario("a session that is cut 500 times, after each request", 16, cluster=26, covers="C292 C304", server="--resume 3")
def resume_churn(a):
    session = Session(a, b"restless")
    for n in range(500):
        stream = session.request(REQUEST_RESPONSE, b"echo:%d" % n)
        pending = session.request(REQUEST_RESPONSE, b"never")
        answer = session.read_on(stream)
        if answer.body != b"echo:%d" % n:
            raise Failed(f"request {n} got {answer}")
        session.send(pending, CANCEL)
        session.settle()
        session.resume()
    session.echo()
    return "all answered"


# Frames that have no place


@scenario("300000 RESUME_OKs and LEASEs that nobody asked for", 16, covers="C097", server="--resume 3")
def answers_without_question(a):
    raw = a.raw()
    frames = wire(0, RESUME_OK, 0, bytes(8)) + wire(0, LEASE, 0, number(1000) + number(5))
    seen = raw.pour((frames * 1000 for _ in range(150)), drain=True)
    raw.echo()
    session = Session(a, b"odd")
    session.raw.send(frames * 1000)
    session.echo()
    session.resume()
    session.raw.send(frames * 1000)
    session.echo()
    return f"ignored; {seen}"


@scenario("RESUME in the middle of a session", 16, covers="C282", server="--resume 3")
def resume_in_the_middle(a):
    session = Session(a, b"middle")
    session.echo()
    session.raw.send(resume_frame(session.token, session.received, session.sent))
    return demand_refusal(session.raw, CONNECTION_ERROR, "RESUME on a link in use")


# Leases


def leased(a):
    raw = a.raw(setup=False)
    raw.send(wire(0, SETUP, LEASE_ENABLE, setup_body()))
    lease = raw.read()
    if lease is None or lease.kind != LEASE:
        raise Failed(f"instead of LEASE came {lease}")
    return raw


@scenario("100000 requests on a lease of 5", 16, covers="C202", server="--lease 5:60000")
def beyond_the_lease(a):
    raw = leased(a)
    ids = [raw.new_id() for _ in range(100_000)]
    for at in range(0, len(ids), 1000):
        some = ids[at : at + 1000]
        raw.send(b"".join(wire(n, REQUEST_RESPONSE, 0, b"echo:x") for n in some))
        answers = [raw.read() for _ in some]
        served = sum(answer.kind == PAYLOAD for answer in answers)
        refused = sum(answer.kind == ERROR and answer.code == REJECTED for answer in answers)
        if (served, refused) != ((5, 995) if at == 0 else (0, 1000)):
            raise Failed(f"{served} of the requests from {at} on were served, {refused} rejected")
    return "5 served, all others rejected"


@scenario(
    "a million requests beyond a lease, no answer read", 16, covers="C202", server="--lease 5:60000"
)
def beyond_the_lease_unread(a):
    raw = leased(a)
    seen = raw.pour(
        b"".join(wire(raw.new_id(), REQUEST_RESPONSE, 0, b"echo:x") for _ in range(1000))
        for _ in range(1000)
    )
    a.witness.endure()
    return seen


@scenario("300000 LEASEs to a server that uses them", 16, covers="C092 C094", server="--lease 5:1500")
def lease_flood(a):
    raw = leased(a)
    for requests, ttl in ((0, 0), (MAX_N, MAX_N), (1, 1), (0, 5)):
        grants = wire(0, LEASE, 0, number(ttl) + number(requests)) * 1000
        seen = raw.pour((grants for _ in range(75)), drain=True)
    raw.echo()
    return f"4 times: {seen}"


@scenario(
    "resuming again and again to get more than was granted",
    16,
    covers="C202 C206",
    server="--resume 3 --lease 5:60000",
)
def leases_by_resuming(a):
    session = Session(a, b"greedy", LEASE_ENABLE)
    served = 0
    for _ in range(20):
        waiting = {session.request(REQUEST_RESPONSE, b"echo:x") for _ in range(50)}
        while waiting:
            answer = session.read()
            if answer is None:
                raise Failed("the server closed the link")
            if answer.stream in waiting:
                waiting.remove(answer.stream)
                served += answer.kind == PAYLOAD
        session.resume()
    # Each resumption brings a lease of 5, and may bring what was left of the last once more.
    if served > 21 * 10:
        raise Failed(f"{served} requests were served")
    return f"{served} of 1000 served, in 20 resumptions with 5 each"
