"""Both ends of a connection, and what each says of it, as JSON."""
import errno, ipaddress, json, select, socket, sys, time
def text(end):
    ip = ipaddress.ip_address(end[0])
    return f"[{ip}]:{end[1]}" if ip.version == 6 else f"{ip}:{end[1]}"
def server(ip):
    s = socket.create_server((ip, 0), family=socket.AF_INET6 if ":" in ip else socket.AF_INET)
    print(s.getsockname()[1], flush=True)
    c, end = s.accept()
    seen = {"own": text(c.getsockname()), "peer": text(c.getpeername()), "accepted": text(end)}
    c.recv(5)
    c.sendall(b"hello")
    c.close()
    print(json.dumps(seen), flush=True)
def wait_for_time_wait(port):
    # The socket itself is gone once its row has timer 3, the one of a time-wait entry.
    end = time.monotonic() + 10
    while time.monotonic() < end:
        rows = [row.split() for row in open("/proc/self/net/tcp")][1:]
        if any(row[1].endswith(f":{port:04X}") and row[5].startswith("03:") for row in rows): return
    raise TimeoutError
def client(how, ip, port):
    family = socket.AF_INET if ":" not in ip and how != "mapped" else socket.AF_INET6
    if how == "mapped": ip = "::ffff:" + ip
    c = socket.socket(family, socket.SOCK_STREAM, 262 if how == "mptcp" else 0)
    c.settimeout(10)
    to = (ip, int(port))
    try:
        if how == "bound": c.bind(("", 0))
        if how == "nonblocking":
            c.setblocking(False)
            if c.connect_ex(to) not in (0, errno.EINPROGRESS): raise OSError(c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            select.select([], [c], [], 10)
            c.settimeout(10)
        if how == "fastopen":
            c.settimeout(None)
            c.sendto(b"ahoy!", socket.MSG_FASTOPEN, to)
        else:
            if how != "nonblocking": c.connect(to)
            c.sendall(b"ahoy!")
        seen = {"own": text(c.getsockname()), "peer": text(c.getpeername())}
        if how == "hasty":
            own = c.getsockname()[1]
            c.close()
            wait_for_time_wait(own)
        else: seen["reply"] = c.recv(5, socket.MSG_WAITALL).decode()
    except TimeoutError:
        seen = {"errno": "ETIMEDOUT"}
    except OSError as e:
        seen = {"errno": errno.errorcode[e.errno]}
    print(json.dumps(seen), flush=True)
def held(ip, port):
    open("/proc/sys/net/ipv4/tcp_fastopen", "w").write("5") # client, and without a cookie
    c = socket.socket()
    c.setsockopt(socket.IPPROTO_TCP, 30, 1) # TCP_FASTOPEN_CONNECT
    c.settimeout(10)
    c.connect((ip, int(port)))
    print("held", flush=True)
    sys.stdin.read()
    try:
        c.sendall(b"ahoy!")
        seen = {"reply": c.recv(5, socket.MSG_WAITALL).decode() or None}
    except TimeoutError:
        seen = {"errno": "ETIMEDOUT"}
    except OSError as e:
        seen = {"errno": errno.errorcode[e.errno]}
    print(json.dumps(seen), flush=True)
{"server": server, "client": client, "held": held}[sys.argv[1]](*sys.argv[2:])
