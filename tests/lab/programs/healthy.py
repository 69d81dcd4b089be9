"""A server that says how it is, as a file tells it: yes, no, or mute (a question is never answered).

usage: healthy.py http|grpc PORT MOOD_FILE NOTES_FILE
  /healthz                       200 or 503; each question is a line of JSON in the notes: when, how many are open, who asked
  grpc.health.v1.Health/Check    SERVING or NOT_SERVING
  anything else                  the pod's name
"""
import json
import os
import socket
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

kind, port, mood_file, notes_file = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
open_questions, lock = 0, threading.Lock()


def mood():
    with open(mood_file, encoding="utf-8") as file:
        return file.read().strip()


def asked(by):
    global open_questions
    with lock:
        open_questions += 1
        with open(notes_file, "a", encoding="utf-8") as notes:
            notes.write(json.dumps({"at": time.monotonic(), "open": open_questions, "by": by}) + "\n")


def done():
    global open_questions
    with lock:
        open_questions -= 1


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        status, body = 200, json.dumps({"pod": os.environ.get("POD_NAME")}).encode()
        if self.path == "/healthz":
            asked(self.client_address[0].removeprefix("::ffff:"))
            how = mood()
            if how == "mute":
                # Until the other side gives up.
                self.connection.recv(1)
                self.close_connection = True
                return done()
            status = 200 if how == "yes" else 503
            done()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve_grpc():
    import grpc

    def check(request, context):
        asked(context.peer())
        done()
        return b"\x08\x01" if mood() == "yes" else b"\x08\x02"

    def name(request, context):
        return os.environ["POD_NAME"].encode()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers([
        grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}),
        grpc.method_handlers_generic_handler(
            "lab.Greeter", {"Unary": grpc.unary_unary_rpc_method_handler(name)}),
    ])
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


if kind == "grpc":
    serve_grpc()
else:
    Server(("::", port), Handler).serve_forever()
