"""Calls the service of grpc_server.py and says as JSON what came of it.

usage: grpc_client.py TARGET unary|stream|fail ARGUMENT [CALLS]
"""
import json
import os
import sys
import time

os.environ["GRPC_DNS_RESOLVER"] = "native"
import grpc  # noqa: E402 - the resolver has to be chosen first

target, kind, argument = sys.argv[1], sys.argv[2], sys.argv[3].encode()
calls = int(sys.argv[4]) if len(sys.argv) > 4 else 1
result = {"messages": [], "at_ms": [], "code": None, "details": None, "trailers": {}, "calls": 0}
with grpc.insecure_channel(target) as channel:
    for _ in range(calls):
        began = time.monotonic()
        try:
            if kind == "stream":
                call = channel.unary_stream("/lab.Greeter/Stream")(argument, timeout=20)
                for message in call:
                    result["messages"].append(message.decode())
                    result["at_ms"].append((time.monotonic() - began) * 1000)
            else:
                method = "/lab.Greeter/Fail" if kind == "fail" else "/lab.Greeter/Unary"
                message, call = channel.unary_unary(method).with_call(argument, timeout=20)
                result["messages"].append(message.decode())
        except grpc.RpcError as error:
            call = error
        result["calls"] += 1
        result["code"], result["details"] = call.code().name, call.details()
        result["trailers"] = {key: value for key, value in call.trailing_metadata() or [] if isinstance(value, str)}
print(json.dumps(result))
