"""Asks many things one after the other and says as JSON what came of each.

usage: ask_many.py FILE

FILE holds a JSON list of {"kind": "http1" | "http2" | "tcp" | "grpc", "host", "port"} and for HTTP "method", "path",
"headers". Answers are a status code, for gRPC the name of one, "ok" for a TCP server that echoed, else "refused".
"""
import http.client
import json
import os
import socket
import subprocess
import sys

os.environ["GRPC_DNS_RESOLVER"] = "native"


def http1(ask):
    connection = http.client.HTTPConnection(ask["host"], ask["port"], timeout=10)
    connection.putrequest(ask["method"], ask["path"])
    for name, value in {"content-length": "0", **ask["headers"]}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    connection.close()
    return str(response.status)


def http2(ask):
    url = f"http://{ask['host']}:{ask['port']}{ask['path']}"
    headers = [word for name, value in ask["headers"].items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-s", "-m", "10", "--noproxy", "*", "--http2-prior-knowledge", "--path-as-is", "-o", "/dev/null",
               "-w", "%{http_code}", "-X", ask["method"], *headers, url]
    status = subprocess.run(command, capture_output=True, text=True).stdout
    if status == "000":
        raise OSError("no answer")
    return status


def tcp(ask):
    with socket.create_connection((ask["host"], ask["port"]), timeout=10) as connection:
        connection.sendall(b"a line\n")
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
    return "ok" if b"a line\n" in received else "refused"


def grpc(ask):
    import grpc as library
    with library.insecure_channel(f"{ask['host']}:{ask['port']}") as channel:
        try:
            channel.unary_unary(ask["path"])(b"you", timeout=10)
            return "OK"
        except library.RpcError as error:
            return error.code().name


kinds = {"http1": http1, "http2": http2, "tcp": tcp, "grpc": grpc}
answers = []
with open(sys.argv[1]) as file:
    asks = json.load(file)
for ask in asks:
    try:
        answers.append(kinds[ask["kind"]](ask))
    except OSError:
        answers.append("refused")
    except http.client.HTTPException:
        answers.append("refused")
print(json.dumps(answers))
