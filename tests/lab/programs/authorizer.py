"""An authorizer for Envoy's gRPC protocol, over Envoy's own messages as the gRPC project publishes them.

usage: authorizer.py PORT

What it decides is the last part of the path: /…/allow, /…/deny, /…/hang, /…/fail, /…/garbage, /…/huge, /…/empty. Of a
connection without a request it is the word in $SCRATCH/connections, and what was asked lies in $SCRATCH/asked.json.
"""
import json
import os
import pathlib
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.protobuf import json_format, wrappers_pb2
from google.rpc import status_pb2


def header(name, value, append=False):
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value), append=wrappers_pb2.BoolValue(value=append))


def allow(request):
    # What it was asked goes to the application, which says it to the test.
    asked = json_format.MessageToDict(request.attributes, preserving_proto_field_name=True)
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0),
        ok_response=external_auth_pb2.OkHttpResponse(
            headers=[header("x-asked", json.dumps(asked)), header("x-user", "alice"), header("x-many", "b", append=True),
                     header("host", "elsewhere"), header("connection", "x-user")],
            headers_to_remove=["x-secret", "host"],
            response_headers_to_add=[header("x-told", "yes")],
            query_parameters_to_set=[base_pb2.QueryParameter(key="by", value="alice")],
            query_parameters_to_remove=["token"]))


def deny(_request):
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=7),
        denied_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=402), headers=[header("x-price", "5")], body="pay first\n"))


def empty(_request):
    return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=16))


def word_of(request):
    if request.attributes.request.HasField("http"):
        return request.attributes.request.http.path.split("?")[0].rsplit("/", 1)[-1]
    scratch = pathlib.Path(os.environ["SCRATCH"])
    asked = json_format.MessageToDict(request.attributes, preserving_proto_field_name=True)
    (scratch / "asked.json").write_text(json.dumps(asked))
    return (scratch / "connections").read_text()


class Authorization(external_auth_pb2_grpc.AuthorizationServicer):
    def Check(self, request, context):
        word = word_of(request)
        if word == "hang":
            threading.Event().wait(5)
        if word == "fail":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        if word == "garbage":
            # Of the right length, and no message.
            return b"\xff" * 11
        if word == "huge":
            answer = deny(request)
            answer.denied_response.body = "x" * (3 << 20)
            return answer
        return {"deny": deny, "empty": empty}.get(word, allow)(request)


def written(answer):
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


handler = grpc.unary_unary_rpc_method_handler(
    Authorization().Check,
    request_deserializer=external_auth_pb2.CheckRequest.FromString,
    response_serializer=written)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
    "envoy.service.auth.v3.Authorization", {"Check": handler})])
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
server.wait_for_termination()
