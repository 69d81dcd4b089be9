"""Runs h2spec and says as JSON what it found.

usage: h2spec.py HOST PORT
"""
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as tree

report = os.path.join(os.environ["SCRATCH"], "h2spec.xml")
host, port = sys.argv[1], sys.argv[2]
run = subprocess.run(["h2spec", "-h", host, "-p", port, "-o", "1", "--strict", "-j", report], capture_output=True, text=True)
cases = []
for suite in tree.parse(report).getroot().iter("testsuite"):
    for number, case in enumerate(suite.iter("testcase"), 1):
        failure, skipped = case.find("failure"), case.find("skipped")
        why = "".join(failure.itertext()).strip() if failure is not None else None
        name = f'{case.get("package")}/{number}: {case.get("classname")}'
        cases.append({"name": name, "failure": why, "skipped": "by h2spec" if skipped is not None else None})
if not cases:
    sys.exit(f"h2spec ran no case: {run.stdout}{run.stderr}")
print(json.dumps(cases))
