"""A gRPC service whose first attempt of each call fails with UNAVAILABLE in its trailers, after the response has begun.

usage: grpc_flaky.py PORT
"""
import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata([("x-begun", "1")])
    attempt = dict(context.invocation_metadata()).get("x-envoy-attempt-count")
    if attempt == "1":
        context.abort(grpc.StatusCode.UNAVAILABLE, "not at first")
    return b"attempt " + str(attempt).encode()


handlers = grpc.method_handlers_generic_handler("lab.Greeter", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers([handlers])
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
