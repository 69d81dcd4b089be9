"""The service that grpc_interop_client.py tries; messages are plain bytes, so no protoc is needed.

usage: grpc_interop_server.py PORT
"""
import sys
import threading
import time
from concurrent import futures

import grpc

DETAILS = b"\x08\x09\x12\x05words"
cancelled = threading.Event()


def unary(request, context):
    told = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-key")]
    context.send_initial_metadata(told)
    context.set_trailing_metadata([(key.replace("x-", "x-trailing-", 1), value) for key, value in told])
    return request


def collect(requests, context):
    return b",".join(requests)


def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def chat(requests, context):
    for request in requests:
        yield request


def size(request, context):
    return b"a" * int(request)


def length(request, context):
    return b"%d" % len(request)


def status(request, context):
    code = next(code for code in grpc.StatusCode if code.value[0] == int(request))
    context.abort(code, "words for %d: \u00e9 %% \u4e16" % int(request))


def details(request, context):
    context.set_trailing_metadata([("grpc-status-details-bin", DETAILS)])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "see details")


def midway(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "after two")


def left(request, context):
    return b"%f" % (context.time_remaining() or -1)


def slow(request, context):
    time.sleep(float(request))
    return b"late"


def endless(request, context):
    cancelled.clear()
    context.add_callback(cancelled.set)
    while context.is_active():
        yield b"more"
        time.sleep(0.01)


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(5) else b"no"


def early(requests, context):
    """Answers after the first message, whatever the client still wants to say."""
    return next(requests)


def silent(request, context):
    return
    yield


one, out, into, both = (grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler,
                        grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler)
handlers = {
    "Unary": one(unary), "Collect": into(collect), "Count": out(count), "Chat": both(chat), "Size": one(size),
    "Length": one(length), "Status": one(status), "Details": one(details), "Midway": out(midway), "Left": one(left),
    "Slow": one(slow), "Endless": out(endless), "WasCancelled": one(was_cancelled), "Early": into(early),
    "Silent": out(silent),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=150), options=[("grpc.max_receive_message_length", -1)])
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("lab.Interop", handlers)])
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
