"""Runs Debian's testssl.sh against a server that is known by the ALPN of its clients, and says as JSON what it found.

usage: testssl.py ALPN HOST PORT

testssl.sh offers no ALPN that it is told to. In a copy of the script the extension for next protocols, of which nobody hears
any more, becomes ALPN, and its openssl is one that offers it too. "findings" has all of them: id, severity, finding.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

alpn, host, port = sys.argv[1:]
scratch = pathlib.Path(os.environ["SCRATCH"])
NEXT_PROTOCOLS = "33, 74, 00, 00"


def bytes_of(data):
    return ", ".join(f"{byte:02x}" for byte in data)


def extension():
    name = alpn.encode()
    listed = bytes([len(name)]) + name
    body = len(listed).to_bytes(2, "big") + listed
    return bytes_of(b"\x00\x10" + len(body).to_bytes(2, "big") + body)


script = pathlib.Path(shutil.which("testssl")).read_text()
if script.count(NEXT_PROTOCOLS) != 1:
    sys.exit("this testssl.sh is another one than this program knows")
copy, openssl, found = scratch / "testssl", scratch / "openssl", scratch / "testssl.json"
copy.write_text(script.replace(NEXT_PROTOCOLS, extension()))
openssl.write_text(f'#!/bin/sh\n[ "$1" = s_client ] && set -- "$@" -alpn {alpn}\nexec {shutil.which("openssl")} "$@"\n')
for program in (copy, openssl):
    program.chmod(0o755)
found.unlink(missing_ok=True)
words = [copy, "--warnings", "off", "--nodns", "none", "--color", "0", "--openssl", openssl, "--connect-timeout", "10",
         "--openssl-timeout", "10", "--jsonfile", found, f"{host}:{port}"]
ran = subprocess.run(words, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True)
# Its exit code counts findings.
if not found.exists():
    sys.exit(f"testssl.sh ended with {ran.returncode} and no report: {ran.stdout[-2000:]} {ran.stderr[-2000:]}")
findings = [{key: one[key] for key in ("id", "severity", "finding")} for one in json.loads(found.read_text())]
print(json.dumps({"findings": findings}))
