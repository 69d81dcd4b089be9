"""Sends requests one after another on one connection and counts answers by what they say of their version.

usage: load.py URL COUNT [HEADER:VALUE ...]
"""
import collections
import http.client
import json
import sys
import urllib.parse

url, count = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2])
headers = dict(pair.split(":", 1) for pair in sys.argv[3:])
versions, statuses, failures, pods = (collections.Counter() for _ in range(4))
connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=20)
for _ in range(count):
    try:
        connection.request("GET", url.path or "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        statuses[str(answer.status)] += 1
        versions[answer.headers.get("x-version", "none")] += 1
        pods[answer.headers.get("x-pod", "none")] += 1
    except OSError as error:
        failures[f"{type(error).__name__}: {error}"] += 1
        connection.close()
    except http.client.HTTPException as error:
        failures[f"{type(error).__name__}: {error}"] += 1
        connection.close()
print(json.dumps({"versions": versions, "statuses": statuses, "failures": failures, "pods": pods}))
