"""Bugs of the peers that the matrix meets, so that they can be told from ours.

Every entry was seen to happen. A failure that an entry names is explained; a failure that none
names is ours until shown otherwise. The matrix also fails when an entry no longer happens, so that
this list stays true. An entry holds for the version named; another version has to earn its own.
"""

import dataclasses

SERVER = "server"
DRIVER = "driver"


@dataclasses.dataclass(frozen=True)
class Bug:
    peer: str  # the name of the program: py, js0, js1, rust
    version: str  # must be part of what the driver calls itself in `caps`
    roles: tuple  # in which role of the peer it shows
    what: str  # the bug of the peer, in a sentence
    we: str  # what we do about it
    checks: tuple  # the ids of the checks that it fails
    transports: tuple = ("tcp", "ws")
    always: bool = True  # False: a race, it may also pass
    # Where it shows only against some programs on the other side: their names.
    against: tuple | None = None


_PY = ("py", "0.4.20")
_JS0 = ("js0", "0.0.27")
_JS1 = ("js1", "1.0.0-alpha.3")
_RUST = ("rust", "0.7.5")

BUGS = [
    # rsocket-py
    Bug(
        *_PY,
        (DRIVER,),
        "absent metadata is delivered as empty metadata",
        "nothing: what goes out is right",
        ("echo_without_metadata", "channel_echo_metadata"),
    ),
    Bug(
        *_PY,
        (SERVER,),
        "empty metadata is sent as absent",
        "nothing: it cannot be told from what was meant",
        ("echo_with_empty_metadata", "channel_echo_metadata"),
        against=("ours", "js0", "js1", "rust"),
    ),
    Bug(
        *_PY,
        (SERVER,),
        "an empty response goes out as a completion without a payload",
        "it is reported as a completion without a payload",
        ("big_nothing",),
        against=("ours", "js0", "js1", "rust"),
    ),
    Bug(
        *_PY,
        (SERVER,),
        "an empty item goes out as a PAYLOAD that is neither item nor completion",
        "such a PAYLOAD is ignored, as the specification has it",
        ("items_of_no_bytes", "channel_echo_empty"),
        against=("ours", "py", "js0", "rust"),
    ),
    Bug(
        *_PY,
        (DRIVER,),
        "an empty item goes out as a PAYLOAD that is neither item nor completion",
        "such a PAYLOAD is ignored, as the specification has it",
        ("channel_echo_empty",),
        against=("ours", "py", "js0", "rust"),
    ),
    Bug(
        *_PY,
        (SERVER,),
        "with an MTU, fragments of payloads of one stream are interleaved, which corrupts them",
        "nothing: nobody can put them together again",
        ("server_mtu_64_stream", "server_mtu_64_concurrent"),
    ),
    Bug(
        *_PY,
        (DRIVER,),
        "with an MTU, fragments of payloads of one stream are interleaved, which corrupts them",
        "nothing: nobody can put them together again",
        ("mtu_64_channel",),
    ),
    Bug(
        *_PY,
        (SERVER,),
        "the end of a WebSocket connection is not noticed and releases nothing",
        "a client that closes cancels its requests first; nothing helps if it dies",
        ("death_of_client_releases",),
        transports=("ws",),
    ),
    Bug(
        *_PY,
        (SERVER,),
        "the end of a WebSocket connection is not noticed and releases nothing",
        "nothing: it is the server's memory",
        ("close_releases",),
        transports=("ws",),
        against=("py", "js0", "js1", "rust"),
    ),
    Bug(
        *_PY,
        (DRIVER,),
        "the end of a WebSocket connection is not noticed and its requests never end",
        "nothing: the link is gone",
        ("death_of_server",),
        transports=("ws",),
    ),
    # rsocket-js 0.0.27
    Bug(
        *_JS0,
        (SERVER,),
        "the metadata of a response or item is not sent",
        "nothing: it never leaves the server",
        (
            "echo_with_empty_metadata",
            "echo_with_metadata",
            "echo_of_much_data_and_metadata",
            "channel_echo_metadata",
            "mtu_64_metadata",
            "mtu_64_channel_metadata",
        ),
        against=("ours", "js0", "js1", "rust"),
    ),
    Bug(
        *_JS0,
        (SERVER,),
        "the metadata of a response or item is not sent",
        "nothing: it never leaves the server",
        (
            "echo_with_metadata",
            "echo_of_much_data_and_metadata",
            "channel_echo_metadata",
            "mtu_64_metadata",
            "mtu_64_channel_metadata",
        ),
        against=("py",),
    ),
    Bug(
        *_JS0,
        (DRIVER,),
        "empty metadata is delivered as absent",
        "nothing: what goes out is right",
        ("echo_with_empty_metadata", "channel_echo_metadata"),
    ),
    Bug(
        *_JS0,
        (DRIVER,),
        "a client that is refused its leases throws while it disposes of its lease sender, and the "
        "code of the refusal is lost",
        "nothing: the ERROR goes out before the connection is closed",
        ("lease_refused",),
    ),
    Bug(
        *_JS0,
        (DRIVER,),
        "a request without a lease fails at once, as nothing is queued",
        "nothing: the specification leaves it to the client",
        ("lease_paces",),
    ),
    Bug(
        *_JS0,
        (SERVER,),
        "the resume flag of SETUP is ignored",
        "nothing: a client learns of it when it tries to resume",
        ("resume_refused",),
        against=("ours", "js0", "js1"),
    ),
    Bug(
        *_JS0,
        (DRIVER,),
        "a session with rsocket-js 1.0 cannot be resumed: the two disagree about positions",
        "nothing: ours is not involved",
        ("resume_over_cuts",),
        against=("js1",),
    ),
    # rsocket-js 1.0.0-alpha.3
    Bug(
        *_JS1,
        (DRIVER,),
        "empty metadata is delivered as absent",
        "nothing: what goes out is right",
        ("echo_with_empty_metadata", "channel_echo_metadata"),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "empty metadata is delivered as absent, so that an echo has none",
        "nothing: what goes out is right",
        ("echo_with_empty_metadata", "channel_echo_metadata"),
        against=("ours", "js0", "js1", "rust"),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "a server never fragments, and a frame beyond 16 MiB throws",
        "nothing: the answer never leaves the server",
        ("big_over_one_frame",),
        transports=("tcp",),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "a server never fragments, and sends a WebSocket message beyond the frame limit of 16 MiB",
        "the message is refused, as the specification has it",
        ("big_over_one_frame",),
        transports=("ws",),
        against=("ours", "py", "rust"),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "METADATA_PUSH closes the connection",
        "nothing: do not push to it",
        ("push_counted", "many_pushes_counted"),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "the end of a WebSocket connection does not release its streams",
        "a client that closes cancels its requests first; nothing helps if it dies",
        ("death_of_client_releases",),
        transports=("ws",),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "the end of a WebSocket connection does not release its streams",
        "nothing: it is the server's memory",
        ("close_releases",),
        transports=("ws",),
        against=("py", "js0", "js1", "rust"),
    ),
    Bug(
        *_JS1,
        (SERVER,),
        "a SETUP that arrives in pieces is never answered",
        "SETUP goes out in one write",
        ("setup_payload",),
        transports=("tcp",),
        against=("py",),
        always=False,
    ),
    Bug(
        *_JS1,
        (DRIVER,),
        "REQUEST_N between fragments ends the stream",
        "nothing: REQUEST_N cannot wait for the end of a payload without risking a deadlock",
        ("both_fragment",),
        always=False,
    ),
    # rsocket_rust
    Bug(
        *_RUST,
        (SERVER,),
        "there is no flow control: a stream or channel is sent at once, whatever was requested",
        "what exceeds the credit ends the stream; request 2^31-1 from such a server",
        (
            "range_within_credit",
            "one_by_one",
            "infinite_and_cancel",
            "channel_half_close",
            "mtu_64_stream",
            "two_connections",
            "death_of_client_releases",
        ),
        against=("ours",),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "there is no flow control: a stream or channel is sent at once, whatever was requested",
        "what exceeds the credit ends the stream; request 2^31-1 from such a server",
        ("credit_does_not_overflow",),
        transports=("tcp",),
        against=("ours",),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "there is no flow control: a stream or channel is sent at once, whatever was requested",
        "what exceeds the credit ends the stream; request 2^31-1 from such a server",
        ("credit_does_not_overflow",),
        transports=("ws",),
        against=("ours",),
        # One write for each message, so that the grants may come in time.
        always=False,
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "there is no flow control: a stream or channel is sent at once, whatever was requested",
        "what exceeds the credit ends the stream; request 2^31-1 from such a server",
        ("range_within_credit", "infinite_and_cancel", "channel_half_close", "mtu_64_stream"),
        against=("py", "js1"),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "there is no flow control: a stream or channel is sent at once, whatever was requested",
        "what exceeds the credit ends the stream; request 2^31-1 from such a server",
        (
            "range_within_credit",
            "one_by_one",
            "infinite_and_cancel",
            "credit_does_not_overflow",
            "channel_half_close",
            "two_connections",
        ),
        against=("js0",),
        always=False,
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "a channel that was cancelled is completed",
        "a frame for a stream that has ended is ignored",
        ("channel_cancel",),
        against=("py",),
    ),
    Bug(
        *_RUST,
        (DRIVER,),
        "a requester does not wait for REQUEST_N before it sends the payloads of a channel",
        "what exceeds the credit ends the channel with ERROR[CANCELED]",
        ("channel_echo_many", "channel_sum", "concurrent_channels"),
        against=("ours",),
        always=False,
    ),
    Bug(
        *_RUST,
        (DRIVER,),
        "a request made while the items of a stream are not taken fast enough deadlocks the "
        "client: it waits with the lock of its table of streams held",
        "nothing: the client is lost",
        ("large_items_starve_nobody", "concurrent_streams"),
        always=False,
    ),
    Bug(
        *_RUST,
        (DRIVER,),
        "a requester has no way to cancel a channel",
        "nothing: the server cannot know",
        ("channel_cancel",),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "CANCEL of a request-response has no effect",
        "nothing: it is the server's memory",
        ("never_and_cancel", "many_in_work"),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "the first request of a server goes out on stream 0",
        "a request on stream 0 is ignored",
        ("server_calls_client", "server_calls_client_often"),
        against=("ours", "py", "js0", "js1"),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "a responder cannot cancel the inbound half of a channel",
        "nothing: the requester completes when it likes",
        ("channel_stop",),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "the end of a connection releases nothing",
        "nothing: it is the server's memory",
        ("close_releases", "death_of_client_releases"),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "a WebSocket close is not answered, and the client waits ten seconds for it",
        "nothing: give closing a time limit",
        ("two_connections", "connect_again"),
        transports=("ws",),
        against=("py",),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "the lease flag of SETUP is ignored, so that the client waits for ever",
        "nothing: give connecting a time limit",
        ("lease_refused",),
    ),
    Bug(
        *_RUST,
        (SERVER,),
        "the resume flag of SETUP is ignored",
        "nothing: a client learns of it when it tries to resume",
        ("resume_refused",),
    ),
]


def find(role_programs, transport, check_id):
    """The bugs that explain a failure of `check_id`; `role_programs` maps role to Program."""
    return [
        bug
        for bug in BUGS
        if check_id in bug.checks
        and transport in bug.transports
        and any(
            role in bug.roles
            and program.name == bug.peer
            and bug.version in program.impl
            and (bug.against is None or _other(role_programs, role) in bug.against)
            for role, program in role_programs.items()
        )
    ]


def _other(role_programs, role):
    return role_programs[DRIVER if role == SERVER else SERVER].name
