"""Asks a CA for a certificate with a client generated from ca.proto, and says as JSON what came of it.

usage: ca_client.py HOST:PORT ROOTS TOKEN_FILE IDENTITY WORK_DIR [SECONDS]

Key, request and verification are openssl's. ROOTS is a PEM file; the answer's chain is verified against it.
"""
import json
import pathlib
import subprocess
import sys

import grpc
from google.protobuf import struct_pb2
from grpc_tools import protoc

target, roots, token_file, identity, work = sys.argv[1:6]
seconds = int(sys.argv[6]) if len(sys.argv) > 6 else 60
work = pathlib.Path(work)
work.mkdir(parents=True, exist_ok=True)
here = pathlib.Path(__file__).parent
include = pathlib.Path(protoc.__file__).parent / "_proto"
if protoc.main(["protoc", f"-I{here}", f"-I{include}", f"--python_out={work}", f"--grpc_python_out={work}", "ca.proto"]):
    sys.exit("ca.proto cannot be compiled")
sys.path.insert(0, str(work))
import ca_pb2  # noqa: E402 - generated above
import ca_pb2_grpc  # noqa: E402 - generated above


def openssl(*words):
    return subprocess.run(["openssl", *words], cwd=work, check=True, capture_output=True, text=True).stdout


# The request asks for a CA's certificate with another name: nothing of that may come back.
openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem",
        "-subj", "/CN=mallory", "-addext", "subjectAltName=URI:spiffe://cluster.local/ns/mallory/sa/mallory",
        "-addext", "basicConstraints=critical,CA:TRUE", "-out", "request.pem")
metadata = struct_pb2.Struct()
metadata["ImpersonatedIdentity"] = identity
request = ca_pb2.IstioCertificateRequest(
    csr=(work / "request.pem").read_text(), validity_duration=seconds, metadata=metadata)
result = {"code": None, "details": None}
credentials = grpc.ssl_channel_credentials(pathlib.Path(roots).read_bytes())
with grpc.secure_channel(target, credentials) as channel:
    token = pathlib.Path(token_file).read_text().strip()
    try:
        answer = ca_pb2_grpc.IstioCertificateServiceStub(channel).CreateCertificate(
            request, metadata=[("authorization", f"Bearer {token}")], timeout=20)
        result["code"] = "OK"
    except grpc.RpcError as error:
        result["code"], result["details"] = error.code().name, error.details()
        answer = None
if answer is not None:
    leaf, *above, root = answer.cert_chain
    (work / "leaf.pem").write_text(leaf)
    (work / "above.pem").write_text("".join(above))
    result["elements"] = len(answer.cert_chain)
    result["root_is_trusted"] = root == pathlib.Path(roots).read_text()
    chain = ["-untrusted", "above.pem"] if above else []
    result["verified"] = openssl("verify", "-CAfile", roots, "-purpose", "sslserver", *chain, "leaf.pem").strip()
    result["verified_client"] = openssl("verify", "-CAfile", roots, "-purpose", "sslclient", *chain, "leaf.pem").strip()
    result["text"] = openssl("x509", "-in", "leaf.pem", "-noout", "-subject", "-ext",
                             "subjectAltName,basicConstraints,keyUsage,extendedKeyUsage")
    ours = openssl("pkey", "-in", "key.pem", "-pubout")
    result["key_is_ours"] = ours == openssl("x509", "-in", "leaf.pem", "-noout", "-pubkey")
print(json.dumps(result))
