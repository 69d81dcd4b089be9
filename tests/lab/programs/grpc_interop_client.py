"""Tries what gRPC promises on the service of grpc_interop_server.py and says as JSON what came of each case.

usage: grpc_interop_client.py TARGET
"""
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

os.environ["GRPC_DNS_RESOLVER"] = "native"
import grpc  # noqa: E402 - the resolver has to be chosen first

LIMIT = 20
cases = {}


def case(name):
    return lambda function: cases.setdefault(name, function)


def same(got, expected):
    if got != expected:
        raise AssertionError(f"{str(got)[:300]} instead of {str(expected)[:300]}")


def unary(channel, method, request=b"", **options):
    return channel.unary_unary(f"/lab.Interop/{method}")(request, **{"timeout": LIMIT, **options})


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


@case("a unary call")
def _(channel):
    same(unary(channel, "Unary", b"hello"), b"hello")


@case("an empty message")
def _(channel):
    same(unary(channel, "Unary", b""), b"")


@case("a thousand calls on one channel")
def _(channel):
    for number in range(1000):
        same(unary(channel, "Unary", b"%d" % number), b"%d" % number)


@case("a hundred calls at once")
def _(channel):
    with ThreadPoolExecutor(100) as pool:
        same(list(pool.map(lambda number: unary(channel, "Unary", b"%d" % number), range(100))), [b"%d" % n for n in range(100)])


@case("messages of a client's stream")
def _(channel):
    method = channel.stream_unary("/lab.Interop/Collect")
    same(method((b"%d" % number for number in range(100)), timeout=LIMIT), b",".join(b"%d" % n for n in range(100)))


@case("a client's stream without messages")
def _(channel):
    same(channel.stream_unary("/lab.Interop/Collect")(iter(()), timeout=LIMIT), b"")


@case("messages of a server's stream")
def _(channel):
    same(list(channel.unary_stream("/lab.Interop/Count")(b"500", timeout=LIMIT)), [b"%d" % n for n in range(500)])


@case("a server's stream without messages")
def _(channel):
    same(list(channel.unary_stream("/lab.Interop/Silent")(b"", timeout=LIMIT)), [])


@case("both sides of a stream in turn")
def _(channel):
    turn = threading.Semaphore(1)

    def requests():
        for number in range(50):
            assert turn.acquire(timeout=LIMIT)
            yield b"%d" % number

    got = []
    for answer in channel.stream_stream("/lab.Interop/Chat")(requests(), timeout=LIMIT):
        got.append(answer)
        turn.release()
    same(got, [b"%d" % n for n in range(50)])


@case("a server that answers before the client is done")
def _(channel):
    def requests():
        yield b"first"
        for _ in range(200):
            time.sleep(0.01)
            yield b"more"

    same(channel.stream_unary("/lab.Interop/Early")(requests(), timeout=LIMIT), b"first")


for what, value in [("text", "value with spaces"), ("empty", "")]:
    def metadata(channel, value=value):
        call = channel.unary_unary("/lab.Interop/Unary").with_call(b"", metadata=[("x-key", value)], timeout=LIMIT)[1]
        same(dict(call.initial_metadata()).get("x-key"), value)
        same(dict(call.trailing_metadata()).get("x-trailing-key"), value)
    cases[f"{what} metadata both ways"] = metadata


@case("binary metadata both ways")
def _(channel):
    value = bytes(range(256))
    call = channel.unary_unary("/lab.Interop/Unary").with_call(b"", metadata=[("x-key-bin", value)], timeout=LIMIT)[1]
    same(dict(call.initial_metadata()).get("x-key-bin"), value)
    same(dict(call.trailing_metadata()).get("x-trailing-key-bin"), value)


@case("metadata of 6 KiB")
def _(channel):
    value = "a" * 6144
    call = channel.unary_unary("/lab.Interop/Unary").with_call(b"", metadata=[("x-key", value)], timeout=LIMIT)[1]
    same(dict(call.initial_metadata()).get("x-key"), value)


for size in [1, 16384, 65535, 65536, 4_000_000]:
    cases[f"an answer of {size} bytes"] = lambda channel, size=size: same(len(unary(channel, "Size", b"%d" % size)), size)
    cases[f"a message of {size} bytes"] = lambda channel, size=size: same(unary(channel, "Length", b"a" * size), b"%d" % size)


@case("a message of 32 MB there and back")
def _(channel):
    same(len(unary(channel, "Unary", b"a" * 32_000_000)), 32_000_000)


@case("an answer above the client's limit")
def _(channel):
    with grpc.insecure_channel(sys.argv[1]) as small:
        error = failure(lambda: unary(small, "Size", b"5000000"))
        same(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)


for code in grpc.StatusCode:
    if code is not grpc.StatusCode.OK:
        def status(channel, code=code):
            error = failure(lambda: unary(channel, "Status", b"%d" % code.value[0]))
            same((error.code(), error.details()), (code, "words for %d: \u00e9 %% \u4e16" % code.value[0]))
        cases[f"status {code.value[0]} and its words"] = status


@case("details of a status")
def _(channel):
    error = failure(lambda: unary(channel, "Details"))
    same(error.code(), grpc.StatusCode.FAILED_PRECONDITION)
    same(dict(error.trailing_metadata()).get("grpc-status-details-bin"), b"\x08\x09\x12\x05words")


@case("a stream that fails after two messages")
def _(channel):
    got = []

    def call():
        for message in channel.unary_stream("/lab.Interop/Midway")(b"", timeout=LIMIT):
            got.append(message)

    error = failure(call)
    same((got, error.code(), error.details()), ([b"one", b"two"], grpc.StatusCode.DATA_LOSS, "after two"))


@case("a method that does not exist")
def _(channel):
    same(failure(lambda: unary(channel, "Nothing")).code(), grpc.StatusCode.UNIMPLEMENTED)


@case("the deadline is told to the server")
def _(channel):
    remaining = float(unary(channel, "Left", timeout=10))
    # grpcio rounds up what it sends.
    assert 5 < remaining <= 11, remaining


@case("a deadline that passes")
def _(channel):
    error = failure(lambda: unary(channel, "Slow", b"2", timeout=0.3))
    same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)


@case("a client's cancellation reaches the server")
def _(channel):
    call = channel.unary_stream("/lab.Interop/Endless")(b"", timeout=LIMIT)
    same(next(call), b"more")
    call.cancel()
    same(unary(channel, "WasCancelled"), b"yes")


for name in ["Gzip", "Deflate"]:
    cases[f"a message compressed by {name}"] = lambda channel, name=name: same(
        unary(channel, "Length", b"a" * 100_000, compression=getattr(grpc.Compression, name)), b"100000")


@case("a channel that waits for the server")
def _(channel):
    same(unary(channel, "Unary", b"x", wait_for_ready=True), b"x")


outcomes = []
options = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 65536)]
with grpc.insecure_channel(sys.argv[1], options=options) as channel:
    for name, attempt in cases.items():
        try:
            attempt(channel)
            outcomes.append({"name": name})
        except Exception as error:  # Whatever it is, it is the case's failure.
            outcomes.append({"name": name, "failure": f"{type(error).__name__}: {error}"[:500]})
print(json.dumps(outcomes))
