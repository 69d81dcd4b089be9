"""A gRPC service with unary, server-streaming and failing methods; messages are plain bytes, so no protoc is needed.

usage: grpc_server.py PORT
"""
import os
import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata([("x-served-by", os.environ["POD_NAME"])])
    return b"hello " + request + b" from " + context.peer().encode()


def stream(request, context):
    for number in range(int(request)):
        yield b"message %d" % number
        time.sleep(0.02)
    context.set_trailing_metadata([("x-served-by", os.environ["POD_NAME"])])


def fail(request, context):
    context.set_trailing_metadata([("x-served-by", os.environ["POD_NAME"])])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")


handlers = grpc.method_handlers_generic_handler("lab.Greeter", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Stream": grpc.unary_stream_rpc_method_handler(stream),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers([handlers])
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
