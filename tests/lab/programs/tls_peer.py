"""A TLS 1.3 peer with any certificate, good or bad, and the authority that signs it. Knows nothing of any mesh.

usage: tls_peer.py certificate ROOT NAME KIND IDENTITY   makes NAME.pem and NAME.key in $SCRATCH, signed by ROOT
       tls_peer.py root NAME                             makes a self-signed root, certificate and key in one file
       tls_peer.py revoke ROOT LIST CERTIFICATE...       writes a revocation list of ROOT that names these
       tls_peer.py client NAME ALPN HOST PORT            asks by HTTP, and says as JSON what came ("-": no certificate)
       tls_peer.py server NAME ALPN PORT COUNT           takes so many connections, and says as JSON how each went

ROOT and LIST are paths of PEM files; all else lies in $SCRATCH.
"""
import datetime
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys

scratch = pathlib.Path(os.environ["SCRATCH"])
DAY = datetime.timedelta(days=1)
LEAF = {"basicConstraints": "critical,CA:FALSE", "keyUsage": "critical,digitalSignature",
        "extendedKeyUsage": "serverAuth,clientAuth"}


def openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"openssl {words[0]}: {done.stderr}")
    return done.stdout


def authority(root):
    """The words that make `openssl ca` sign as ROOT, with books of its own."""
    books = scratch / ("books-" + pathlib.Path(root).stem)
    books.mkdir(exist_ok=True)
    for name, text in [("index.txt", ""), ("crlnumber", "01\n"), ("index.txt.attr", "unique_subject = no\n")]:
        if not (books / name).exists():
            (books / name).write_text(text)
    (books / "ca.cnf").write_text(
        "[ca]\ndefault_ca = it\n[it]\n"
        f"database = {books}/index.txt\nnew_certs_dir = {books}\ncrlnumber = {books}/crlnumber\nrand_serial = yes\n"
        "default_md = sha256\npolicy = any\ncrl_extensions = list\ndefault_crl_days = 1\n"
        "[any]\ncommonName = optional\n[list]\nauthorityKeyIdentifier = keyid:always\n")
    return ["-config", books / "ca.cnf", "-cert", root, "-keyfile", root]


def certificate(root, name, kind, identity):
    now = datetime.datetime.now(datetime.timezone.utc)
    begin, end, leaf, names = now - DAY, now + DAY, dict(LEAF), [f"URI:{identity}"]
    if kind == "expired":
        end = now - datetime.timedelta(hours=1)
    elif kind == "not_valid_yet":
        begin = now + datetime.timedelta(hours=1)
    elif kind == "two_names":
        names.append(f"URI:{identity}-too")
    elif kind == "dns_name":
        names = ["DNS:web.shop"]
    elif kind == "wrong_usage":
        leaf["extendedKeyUsage"] = "codeSigning"
    elif kind == "ca":
        leaf["basicConstraints"] = "critical,CA:TRUE"
    elif kind not in ("good", "self_signed"):
        sys.exit(f"what is {kind}?")
    leaf["subjectAltName"] = ",".join(names)
    request = ["-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    if kind == "self_signed":
        extensions = [word for item in leaf.items() for word in ("-addext", "=".join(item))]
        openssl("req", "-x509", *request, "-subj", "/CN=myself", "-days", 1, *extensions, "-out", f"{name}.pem")
        return
    openssl("req", *request, "-subj", "/CN=any", "-out", f"{name}.csr")
    (scratch / f"{name}.ext").write_text("".join(f"{key} = {value}\n" for key, value in leaf.items()))
    dates = [word for flag, at in (("-startdate", begin), ("-enddate", end)) for word in (flag, f"{at:%Y%m%d%H%M%SZ}")]
    openssl("ca", "-batch", "-notext", *authority(root), *dates, "-extfile", f"{name}.ext", "-in", f"{name}.csr",
            "-out", f"{name}.pem")


def make_root(name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-days", 1, "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", f"{name}.key", "-out", f"{name}.crt")
    (scratch / f"{name}.pem").write_text((scratch / f"{name}.crt").read_text() + (scratch / f"{name}.key").read_text())


def revoke(root, target, *certificates):
    for one in certificates:
        openssl("ca", *authority(root), "-revoke", one)
    openssl("ca", *authority(root), "-gencrl", "-out", "list.pem")
    # In one step, as somebody who knows that it is watched.
    aside = pathlib.Path(target + ".aside")
    aside.write_text((scratch / "list.pem").read_text())
    aside.rename(target)


def context(side, name, alpn):
    made = ssl.SSLContext(side)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols([alpn])
    if name != "-":
        made.load_cert_chain(scratch / f"{name}.pem", scratch / f"{name}.key")
    return made


def client(name, alpn, host, port):
    said = {"error": None, "received": ""}
    # Before it connects, so that its first bytes follow at once.
    made = context(ssl.PROTOCOL_TLS_CLIENT, name, alpn)
    try:
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            with made.wrap_socket(plain) as stream:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                # Of its certificate a client of TLS 1.3 hears only now.
                while chunk := stream.recv(65536):
                    said["received"] += chunk.decode(errors="replace")
    except OSError as error:
        said["error"] = f"{type(error).__name__}: {error}"
    return said


def server(name, alpn, port, count):
    made = context(ssl.PROTOCOL_TLS_SERVER, name, alpn)
    ends = []
    with socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        listener.settimeout(40)
        (scratch / "listening").write_text("")
        for _ in range(int(count)):
            plain, _ = listener.accept()
            plain.settimeout(10)
            try:
                with made.wrap_socket(plain, server_side=True) as stream:
                    stream.recv(1)
                ends.append("accepted")
            except OSError as error:
                ends.append(f"{type(error).__name__}: {error}")
    return ends


command = {"certificate": certificate, "root": make_root, "revoke": revoke, "client": client, "server": server}
print(json.dumps(command[sys.argv[1]](*sys.argv[2:])))
