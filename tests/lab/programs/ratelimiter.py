"""A rate limit service over Envoy's own messages as the gRPC project publishes them.

usage: ratelimiter.py PORT

Of each domain and descriptor it takes as many hits as its key `most-N` says, for ever. The values hang, fail, garbage and unknown
get what they ask for.
"""
import collections
import json
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf import duration_pb2, json_format

hits = collections.Counter()
lock = threading.Lock()


def status(domain, descriptor):
    """Counts a hit, also one that is over the limit."""
    entries = tuple((entry.key, entry.value) for entry in descriptor.entries)
    most = min(int(key.rsplit("-", 1)[1]) for key, _ in entries if key.startswith("most-"))
    with lock:
        hits[(domain, entries)] += 1
        is_over = hits[(domain, entries)] > most
    code = rls_pb2.RateLimitResponse.OVER_LIMIT if is_over else rls_pb2.RateLimitResponse.OK
    return rls_pb2.RateLimitResponse.DescriptorStatus(
        code=code, duration_until_reset=duration_pb2.Duration(seconds=41, nanos=1))


def should_rate_limit(request, context):
    values = {entry.value for descriptor in request.descriptors for entry in descriptor.entries}
    if "hang" in values:
        threading.Event().wait(5)
    if "fail" in values:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
    if "garbage" in values:
        # Of the right length, and no message.
        return b"\xff" * 11
    if "unknown" in values:
        return rls_pb2.RateLimitResponse()
    statuses = [status(request.domain, descriptor) for descriptor in request.descriptors]
    is_over = any(one.code == rls_pb2.RateLimitResponse.OVER_LIMIT for one in statuses)
    # What it was asked goes to the application, which says it to the test.
    asked = json_format.MessageToDict(request, preserving_proto_field_name=True)
    return rls_pb2.RateLimitResponse(
        overall_code=rls_pb2.RateLimitResponse.OVER_LIMIT if is_over else rls_pb2.RateLimitResponse.OK,
        statuses=statuses,
        response_headers_to_add=[base_pb2.HeaderValue(key="x-told", value="yes")],
        request_headers_to_add=[base_pb2.HeaderValue(key="x-asked", value=json.dumps(asked))],
        raw_body=b"come back later\n" if is_over else b"")


def written(answer):
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


handler = grpc.unary_unary_rpc_method_handler(
    should_rate_limit,
    request_deserializer=rls_pb2.RateLimitRequest.FromString,
    response_serializer=written)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
    "envoy.service.ratelimit.v3.RateLimitService", {"ShouldRateLimit": handler})])
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
