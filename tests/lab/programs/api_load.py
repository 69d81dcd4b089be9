"""Fills an API server with Services and endpoints, and watches it as the agents of many nodes do.

    api_load.py fill  SERVER CA TOKEN --services N --endpoints N [--pods N]
    api_load.py watch SERVER CA TOKEN --path PATH ... --agents N --rate N --seconds N --server-pid PID

`watch` opens each PATH (which may have a query) once for each agent, on a connection of its own as an agent does, then
changes EndpointSlices at a rate, and says in one line of JSON what that cost: bytes, processor time of the API server, and
how long a change took to each watcher. It must not know which paths agents watch.
"""

import argparse
import asyncio
import http.client
import json
import os
import ssl
import sys
import threading
import time

NAMESPACE = "scale"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
STAMP = b'"mesh-agent.dev/sent":"'
OPENING_AT_ONCE = 64
THREADS = 6


class Api:
    """Requests of the administrator, on one connection."""

    def __init__(self, arguments):
        self.token = open(arguments.token, encoding="ascii").read().strip()
        self.connection = http.client.HTTPSConnection(arguments.server, context=context(arguments), timeout=60)

    def send(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300 and answer.status != 409:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text)

    def patch(self, path, body):
        return self.send("PATCH", path, body, "application/merge-patch+json")


def context(arguments):
    # The certificate is for 127.0.0.1, which is where the server is.
    return ssl.create_default_context(cafile=arguments.ca)


def addr(number):
    return f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"


def pod(number):
    name = f"pod-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": f"s{number // 10}", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"nodeName": f"n{number % 100}", "containers": [{"name": "main", "image": "none"}]},
    }


def fill_some(arguments, services, failures):
    """Services by number, each with its slice, and pods behind the first endpoints."""
    try:
        api = Api(arguments)
        per_service = arguments.endpoints // arguments.services
        for service in services:
            name = f"s{service}"
            api.send(
                "POST",
                f"/api/v1/namespaces/{NAMESPACE}/services",
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": name},
                    "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
                },
            )
            endpoints = []
            for number in range(service * per_service, (service + 1) * per_service):
                endpoint = {
                    "addresses": [addr(number)],
                    "conditions": {"ready": True},
                    "nodeName": f"n{number % 100}",
                    "zone": f"zone-{number % 3}",
                }
                if number < arguments.pods:
                    made = api.send("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod(number))
                    status = {"phase": "Running", "podIP": addr(number), "podIPs": [{"ip": addr(number)}]}
                    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{made['metadata']['name']}/status"
                    api.patch(path, {"status": status})
                    reference = {"kind": "Pod", "namespace": NAMESPACE, "name": f"pod-{number}"}
                    endpoint["targetRef"] = reference | {"uid": made["metadata"]["uid"]}
                endpoints.append(endpoint)
            api.send(
                "POST",
                SLICES,
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": f"{name}-a", "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                    "endpoints": endpoints,
                },
            )
    except Exception as error:  # pylint: disable=broad-except
        failures.append(error)


def fill(arguments):
    api = Api(arguments)
    api.send(
        "POST",
        "/api/v1/namespaces",
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"mesh-agent.dev/dataplane": "enabled"}},
        },
    )
    api.send(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
    )
    failures = []
    parts = [range(start, arguments.services, THREADS) for start in range(THREADS)]
    threads = [threading.Thread(target=fill_some, args=(arguments, part, failures)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    print(json.dumps({"filled": arguments.services}))


class Watch(asyncio.Protocol):
    """One watch; it counts bytes, and how long what was stamped took to here."""

    def __init__(self, request, delays):
        self.request, self.delays = request, delays
        self.bytes, self.rest, self.head = 0, b"", b""
        self.opened = asyncio.get_running_loop().create_future()
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        if not self.opened.done():
            self.head += data
            if b"\r\n\r\n" not in self.head:
                return
            status = self.head.split(b"\r\n", 1)[0]
            if b" 200 " not in status:
                self.opened.set_exception(RuntimeError(f"{status!r} to {self.request[:120]!r}"))
                return
            self.opened.set_result(None)
            return
        self.bytes += len(data)
        now = time.monotonic_ns()
        text = self.rest + data
        at = 0
        while (found := text.find(STAMP, at)) >= 0:
            begin = found + len(STAMP)
            end = text.find(b'"', begin)
            if end < 0:
                # The rest of the stamp is on its way.
                self.rest = text[found:]
                return
            self.delays.append((now - int(text[begin:end])) / 1e6)
            at = end
        self.rest = text[max(at, len(text) - len(STAMP)) :]

    def connection_lost(self, exc):
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed before it was answered"))


async def opened(arguments, api, delays):
    """All watches, from the version that each collection has now."""
    host, port = arguments.server.rsplit(":", 1)
    tls, bound = context(arguments), asyncio.Semaphore(OPENING_AT_ONCE)
    loop = asyncio.get_running_loop()

    async def one(request):
        async with bound:
            _, watch = await loop.create_connection(lambda: Watch(request, delays), host, int(port), ssl=tls)
            # A watch is answered when there is something to say: the bookmarks of a minute are waited for, not needed.
            return watch

    requests = []
    for path in arguments.path:
        more = "&" if "?" in path else "?"
        version = api.send("GET", f"{path}{more}limit=1")["metadata"]["resourceVersion"]
        target = f"{path}{more}watch=true&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={version}"
        head = f"GET {target} HTTP/1.1\r\nHost: {arguments.server}\r\nAuthorization: Bearer {api.token}\r\n\r\n"
        requests.append(head.encode())
    watches = await asyncio.gather(*(one(request) for _ in range(arguments.agents) for request in requests))
    await asyncio.gather(*(watch.opened for watch in watches))
    return watches


def processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(delays, percent):
    return round(delays[min(len(delays) - 1, len(delays) * percent // 100)], 1)


async def watch(arguments):
    delays = []
    began = time.monotonic()
    watches = await opened(arguments, Api(arguments), delays)
    opening = time.monotonic() - began
    # Another connection: the first has been idle for long.
    api = Api(arguments)
    received = sum(one.bytes for one in watches)
    loop, changes = asyncio.get_running_loop(), arguments.rate * arguments.seconds
    spent, began = processor_seconds(arguments.server_pid), time.monotonic()
    for number in range(changes):
        await asyncio.sleep(max(0.0, began + number / arguments.rate - time.monotonic()))
        stamped = {"metadata": {"annotations": {"mesh-agent.dev/sent": str(time.monotonic_ns())}}}
        name = f"{SLICES}/s{number % arguments.services}-a"
        await loop.run_in_executor(None, api.patch, name, stamped)
    took = time.monotonic() - began
    expected, patience = changes * arguments.agents, time.monotonic() + 60
    while len(delays) < expected and time.monotonic() < patience:
        await asyncio.sleep(0.05)
    spent = processor_seconds(arguments.server_pid) - spent
    delays.sort()
    found = {
        "agents": arguments.agents,
        "watches": len(watches),
        "opening_s": round(opening, 2),
        "changes": changes,
        "changes_a_second": round(changes / took, 2),
        "events_expected": expected,
        "events_seen": len(delays),
        "bytes": sum(one.bytes for one in watches) - received,
        "bytes_per_event": round((sum(one.bytes for one in watches) - received) / max(1, len(delays))),
        "seconds": round(took, 2),
        "api_server_cpu_s": round(spent, 2),
        "delay_p50_ms": percentile(delays, 50) if delays else None,
        "delay_p99_ms": percentile(delays, 99) if delays else None,
        "delay_max_ms": round(delays[-1], 1) if delays else None,
    }
    for one in watches:
        one.transport.abort()
    print(json.dumps(found))
    return len(delays) == expected


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["fill", "watch"])
    for name in ["server", "ca", "token"]:
        parser.add_argument(name)
    for name, default in [("services", 1), ("endpoints", 0), ("pods", 0), ("agents", 1), ("rate", 1), ("seconds", 1)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--server-pid", type=int, default=0)
    parser.add_argument("--path", action="append", default=[])
    arguments = parser.parse_args()
    if arguments.command == "fill":
        fill(arguments)
    elif not asyncio.run(watch(arguments)):
        sys.exit("some events did not arrive")


main()
