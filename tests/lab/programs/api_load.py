"""Fills an API server with Services and endpoints, and watches it as the agents of many nodes do.

    api_load.py fill  SERVER CA TOKEN --etcd HOST:PORT --services N --endpoints N [--pods N]
    api_load.py watch SERVER CA TOKEN --path PATH ... --agents N --rate N --seconds N --server-pid PID

`watch` opens each PATH (which may have a query) once for each agent, on a connection of its own as an agent does, then
changes EndpointSlices at a rate, and says in one line of JSON what that cost: bytes, processor time of the API server, and
how long a change took to each watcher. It must not know which paths agents watch.
"""

import argparse
import asyncio
import base64
import http.client
import itertools
import json
import os
import ssl
import sys
import time

NAMESPACE = "scale"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
STAMP = b'"mesh-agent.dev/sent":"'
SINCE = "2026-11-22T00:00:00Z"
OPENING_AT_ONCE = 64
# Some 0.5 MB, of 1.5 that etcd takes.
PUT_AT_ONCE = 100


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


def uid(number):
    return f"5ca1ab1e-0000-4000-8000-{number:012x}"


def fields_of(manager, *paths):
    """What an API server notes of whoever wrote fields of an object."""
    fields = {}
    for path in paths:
        inner = fields
        for part in path.split("."):
            inner = inner.setdefault(f"f:{part}", {})
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": SINCE,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def pod(number):
    """As a controller makes it, an API server fills it in, and a kubelet says how it stands."""
    app, template, ip = f"s{number // 10}", "5d4f8c7b9", addr(number)
    states = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    token = {
        "serviceAccountToken": {"expirationSeconds": 3607, "path": "token"},
    }
    roots = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
    container = {
        "name": "main",
        "image": "registry.example/shop/none:1.2.3",
        "imagePullPolicy": "IfNotPresent",
        "args": ["--listen", ":8080"],
        "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "REGION", "value": "eu-central-1"}],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"},
            "timeoutSeconds": 1,
            "periodSeconds": 10,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "volumeMounts": [
            {
                "name": "kube-api-access-x2v8q",
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            }
        ],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(number),
            "namespace": NAMESPACE,
            "uid": uid(number),
            "creationTimestamp": SINCE,
            "labels": {"app": app, "version": "v1", "pod-template-hash": template},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{app}-{template}",
                    "uid": uid(number // 10 + (1 << 40)),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                fields_of("kube-controller-manager", "metadata.labels", "spec.containers", "spec.restartPolicy"),
                fields_of("kubelet", "status.conditions", "status.containerStatuses", "status.podIPs"),
            ],
        },
        "spec": {
            "nodeName": f"n{number % 1000}",
            "serviceAccountName": f"account-{number // 100}",
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "enableServiceLinks": True,
            "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority",
            "securityContext": {},
            "containers": [container],
            "tolerations": [
                {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                for key in ["not-ready", "unreachable"]
            ],
            "volumes": [{"name": "kube-api-access-x2v8q", "projected": {"sources": [token, roots], "defaultMode": 420}}],
        },
        "status": {
            "phase": "Running",
            "qosClass": "Burstable",
            "startTime": SINCE,
            "hostIP": f"192.168.{number % 1000 // 250}.{number % 250}",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [
                {"type": state, "status": "True", "lastProbeTime": None, "lastTransitionTime": SINCE} for state in states
            ],
            "containerStatuses": [
                {
                    "name": "main",
                    "image": container["image"],
                    "imageID": f"registry.example/shop/none@sha256:{'5ca1ab1e' * 8}",
                    "containerID": f"containerd://{number:064x}",
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "lastState": {},
                    "state": {"running": {"startedAt": SINCE}},
                }
            ],
        },
    }


def pod_name(number):
    return f"s{number // 10}-5d4f8c7b9-{number % 10:05}"


def service(number):
    ip = f"10.96.{16 + number // 256}.{number % 256}"
    spec = {"ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}], "clusterIP": ip}
    spec |= {"clusterIPs": [ip], "type": "ClusterIP", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
    spec |= {"selector": {"app": f"s{number}"}, "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
    return named("v1", "Service", f"s{number}", number + (2 << 40)) | {"spec": spec}


def endpoint(arguments, number):
    found = {
        "addresses": [addr(number)],
        "conditions": {"ready": True},
        "nodeName": f"n{number % 1000}",
        "zone": f"zone-{number % 3}",
    }
    if number < arguments.pods:
        reference = {"kind": "Pod", "namespace": NAMESPACE, "name": pod_name(number), "uid": uid(number)}
        found["targetRef"] = reference
    return found


def endpoint_slice(arguments, number):
    share = arguments.endpoints // arguments.services
    slice_of = named("discovery.k8s.io/v1", "EndpointSlice", f"s{number}-a", number + (3 << 40))
    slice_of["metadata"]["labels"] = {"kubernetes.io/service-name": f"s{number}"}
    return slice_of | {
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint(arguments, behind) for behind in range(number * share, (number + 1) * share)],
    }


def named(version, kind, name, number):
    meta = {"name": name, "namespace": NAMESPACE, "uid": uid(number), "creationTimestamp": SINCE}
    return {"apiVersion": version, "kind": kind, "metadata": meta}


def put(arguments, collection, objects):
    """Straight into etcd, as an API server stores what is written as JSON: through it a pod would be two requests."""
    connection = http.client.HTTPConnection(arguments.etcd, timeout=60)

    def coded(text):
        return base64.b64encode(text.encode()).decode()

    while some := list(itertools.islice(objects, PUT_AT_ONCE)):
        puts = []
        for one in some:
            key = f"/registry/{collection}/{NAMESPACE}/{one['metadata']['name']}"
            puts.append({"requestPut": {"key": coded(key), "value": coded(json.dumps(one))}})
        connection.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"etcd does not take {collection}: {answer.status} {text[:300]!r}")


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
    put(arguments, "pods", map(pod, range(arguments.pods)))
    put(arguments, "services/specs", map(service, range(arguments.services)))
    put(arguments, "endpointslices", (endpoint_slice(arguments, number) for number in range(arguments.services)))
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
    parser.add_argument("--etcd")
    parser.add_argument("--path", action="append", default=[])
    arguments = parser.parse_args()
    if arguments.command == "fill":
        fill(arguments)
    elif not asyncio.run(watch(arguments)):
        sys.exit("some events did not arrive")


main()
