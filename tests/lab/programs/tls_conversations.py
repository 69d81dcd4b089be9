"""Has TLS 1.3 conversations with a server that demands a client certificate, as tlsfuzzer's scripts do: some in good order,
some that break a rule of RFC 8446 in one place. Says as JSON how each ended. Knows nothing of any mesh.

usage: tls_conversations.py NAME ALPN HOST PORT

NAME.pem and NAME.key in $SCRATCH are the client's. The server speaks HTTP below TLS. "conversations" counts them,
"wrong" says of each that did not end as RFC 8446 wants what was wanted and what came.
"""
import concurrent.futures
import json
import os
import pathlib
import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.constants import AlertDescription, ContentType, ExtensionType, HandshakeType, KeyUpdateMessageType
from tlslite.errors import TLSAbruptCloseError, TLSAlert, TLSClosedConnectionError, TLSRemoteAlert
from tlslite.messages import (
    Alert, ApplicationData, Certificate, CertificateRequest, CertificateVerify, ChangeCipherSpec, ClientHello, Finished,
    KeyUpdate, Message, NewSessionTicket)

name, alpn, host, port = sys.argv[1], bytearray(sys.argv[2].encode()), sys.argv[3], int(sys.argv[4])
scratch = pathlib.Path(os.environ["SCRATCH"])
chain = X509CertChain()
chain.parsePemList((scratch / f"{name}.pem").read_text())
key = parsePEMKey((scratch / f"{name}.key").read_text(), private=True)
LIMIT = 10
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
HANDSHAKE, DATA, CCS, ALERT = (
    ContentType.handshake, ContentType.application_data, ContentType.change_cipher_spec, ContentType.alert)


class Late:
    """A socket that connects when there is something to send: a server waits for a ClientHello, and Python takes its time."""

    def __init__(self):
        self._socket = None

    def __getattr__(self, what):
        if self._socket is None:
            self._socket = socket.create_connection((host, port), timeout=LIMIT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return getattr(self._socket, what)


class Client(TLSConnection):
    """Sends each message of the handshake through `change`, which may return other messages in its place."""

    change = None

    def _sendMsg(self, msg, randomizeFirstBlock=True, update_hashes=True):
        messages = [msg] if self.change is None else self.change(self, msg)
        for one in messages:
            yield from super()._sendMsg(one, randomizeFirstBlock, update_hashes)

    def send(self, *messages):
        """Each as a record of its own, whatever it is."""
        for message in messages:
            for _ in self._sendMsg(message, False, False):
                pass

    def raw(self, data):
        """Bytes past the record layer."""
        self.sock.socket.sendall(data)


def settings(**changes):
    made = HandshakeSettings()
    made.minVersion = made.maxVersion = (3, 4)
    # It would compress its certificate although the server has not offered to read that.
    made.certificate_compression_send = []
    made.keyShares, made.eccCurves = ["x25519"], ["x25519", "secp256r1", "secp384r1"]
    for what, value in changes.items():
        setattr(made, what, value)
    return made


def connected(change=None, session=None, certificate=True, protocol=None, **changes):
    client = Client(Late())
    client.change = change
    # What the server does after its close is part of the conversation.
    client.ignoreAbruptClose = False
    client.handshakeClientCert(
        chain if certificate else None, key if certificate else None, session=session, settings=settings(**changes),
        alpn=[protocol or alpn], serverName=None)
    client.change = None
    return client


def answer(client, request=REQUEST):
    """What comes until the server closes."""
    if request:
        client.write(request)
    heard = bytearray()
    while chunk := client.read(max=16384):
        heard += chunk
    return "answered" if b" 200 " in heard else f"said {bytes(heard[:40])!r}"


def told(conversation):
    """How a conversation ended, in one word."""
    try:
        return conversation()
    except TLSRemoteAlert as alert:
        return AlertDescription.toStr(alert.description)
    except (TLSAbruptCloseError, TLSClosedConnectionError):
        return "closed"
    except TLSAlert as alert:
        return f"the client found {AlertDescription.toStr(alert.description)}"
    except TimeoutError:
        return "silence"
    except ConnectionError:
        return "reset"


def after(*messages, request=b""):
    """Sends messages once the handshake is over, then a request; and what comes of it."""
    def conversation():
        client = connected()
        client.send(*messages)
        return answer(client, request)
    return conversation


def during(kind, *instead):
    """Sends other messages in place of one of the client's handshake; a function makes one of it."""
    def change(_client, msg):
        if type(msg) is not kind:
            return [msg]
        return [one(msg) if callable(one) else one for one in instead]
    return lambda: answer(connected(change))


def changed(field, how):
    """The message with one field of bytes changed."""
    def apply(msg):
        setattr(msg, field, bytearray(how(bytes(getattr(msg, field)))))
        return msg
    return apply


def flipped(at):
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at:][1:]


def raw(*pieces):
    """Bytes that are no protected records, once the handshake is over."""
    def conversation():
        client = connected()
        for piece in pieces:
            client.raw(piece)
        return answer(client)
    return conversation


def handshake(kind, body):
    return Message(HANDSHAKE, bytearray([kind]) + len(body).to_bytes(3, "big") + body)


def data(body):
    return ApplicationData().create(bytearray(body))


def empty(count):
    """Each is another one: the record layer writes into what it sends."""
    return [data(b"") for _ in range(count)]


def key_updates(count, kind):
    def conversation():
        client = connected()
        for _ in range(count):
            # The next record is under the next key.
            for _ in client.send_keyupdate_request(kind):
                pass
        return answer(client)
    return conversation


def resumed(**changes):
    """A second connection by what the first one was given."""
    def conversation():
        first = connected()
        first.write(REQUEST)
        while first.read(max=16384):
            pass
        if not first.session.tickets:
            return "no ticket"
        second = connected(session=first.session, **changes)
        said = answer(second)
        return said + (", resumed" if second.resumed else "")
    return conversation


def corrupted():
    """A record whose authentication tag does not fit."""
    client = connected()
    sent = []
    client._recordLayer._recordSocket.send = lambda msg, padding=0: sent.append(msg.write()) or iter(())
    client.write(REQUEST)
    client.raw(b"\x17\x03\x03" + len(sent[0]).to_bytes(2, "big") + sent[0][:-1] + bytes([sent[0][-1] ^ 1]))
    return answer(client, b"")


def closing(*after_it, request=REQUEST):
    """A request, the end of what the client has to say, and something after all."""
    def conversation():
        client = connected()
        client.write(request)
        client.send(Alert().create(AlertDescription.close_notify, 1), *after_it)
        return answer(client, b"")
    return conversation


def fragments(size, count=1):
    """A request in records of so many bytes, with empty ones between."""
    def conversation():
        client = connected()
        for at in range(0, len(REQUEST), size):
            client.send(*empty(count), data(REQUEST[at:at + size]))
        return answer(client, b"")
    return conversation


def long_record(size):
    """One record of so many bytes of data: a header of a request that is long."""
    def conversation():
        client, request = connected(), b"GET / HTTP/1.0\r\nx-long: "
        # Past what would cut it in two.
        for _ in client._recordLayer.sendRecord(data(request + b"a" * (size - len(request) - 4) + b"\r\n\r\n")):
            pass
        return answer(client, b"")
    return conversation


def hello(change):
    """A ClientHello with something changed, whatever follows."""
    def apply(msg):
        change(msg)
        return msg
    return during(ClientHello, apply)


def without(kind):
    def change(msg):
        msg.extensions = [one for one in msg.extensions if one.extType != kind]
    return hello(change)


def assigned(field, value):
    return hello(lambda msg: setattr(msg, field, value))


EMPTY_CERTIFICATE = handshake(HandshakeType.certificate, b"\0\0\0\0")
NEW_TICKET = NewSessionTicket().create(600, 1, bytearray(8), bytearray(32), [])
HELLO_REQUEST = handshake(HandshakeType.hello_request, b"")
RECORD = b"\x03\x03"
GOOD = {"answered"}
UNEXPECTED = {"unexpected_message"}
conversations = {
    # In good order.
    "a request": (lambda: answer(connected()), GOOD),
    "aes 256": (lambda: answer(connected(cipherNames=["aes256gcm"])), GOOD),
    "chacha20": (lambda: answer(connected(cipherNames=["chacha20-poly1305"])), GOOD),
    "p-256": (lambda: answer(connected(keyShares=["secp256r1"], eccCurves=["secp256r1"])), GOOD),
    "p-384": (lambda: answer(connected(keyShares=["secp384r1"], eccCurves=["secp384r1"])), GOOD),
    "a retry, for no key share": (lambda: answer(connected(keyShares=[])), GOOD),
    "a retry, for a key share of another group": (
        lambda: answer(connected(keyShares=["secp521r1"], eccCurves=["secp521r1", "secp256r1"])), GOOD),
    "versions down to 1.0": (lambda: answer(connected(minVersion=(3, 1))), GOOD),
    "resumption": (resumed(), {"answered, resumed"}),
    "new keys": (key_updates(1, KeyUpdateMessageType.update_not_requested), GOOD),
    "new keys of both": (key_updates(1, KeyUpdateMessageType.update_requested), GOOD),
    "new keys of both, thrice": (key_updates(3, KeyUpdateMessageType.update_requested), GOOD),
    "records of one byte": (fragments(1, 0), GOOD),
    "empty records between": (fragments(4, 2), GOOD),
    "the longest record": (long_record(1 << 14), GOOD),
    "close_notify after the request": (closing(), GOOD),
    # Versions, suites and groups that are not to be had.
    "1.2 at most": (lambda: answer(connected(minVersion=(3, 3), maxVersion=(3, 3))), {"protocol_version"}),
    "1.1 at most": (lambda: answer(connected(minVersion=(3, 2), maxVersion=(3, 2))), {"protocol_version"}),
    "1.0 at most": (lambda: answer(connected(minVersion=(3, 1), maxVersion=(3, 1))), {"protocol_version"}),
    "a suite that nobody has": (lambda: answer(connected(cipherNames=["aes128ccm"])), {"handshake_failure"}),
    "a group that nobody has": (
        lambda: answer(connected(keyShares=["secp521r1"], eccCurves=["secp521r1"])), {"handshake_failure"}),
    "no suite": (assigned("cipher_suites", []), {"decode_error", "illegal_parameter", "handshake_failure"}),
    "suites of 1.2 alone": (assigned("cipher_suites", [0xc02b, 0xc02f]), {"handshake_failure"}),
    "unknown suites": (assigned("cipher_suites", [0x1306, 0xfafa]), {"handshake_failure"}),
    "compression": (assigned("compression_methods", [1, 0]), {"illegal_parameter"}),
    "no supported_versions": (without(ExtensionType.supported_versions), {"protocol_version"}),
    "no key_share": (without(ExtensionType.key_share), {"missing_extension"}),
    "no signature_algorithms": (without(ExtensionType.signature_algorithms), {"missing_extension"}),
    "no supported_groups": (without(ExtensionType.supported_groups), {"missing_extension"}),
    # The client's part of the handshake.
    "no certificate": (lambda: answer(connected(certificate=False)), {"certificate_required"}),
    "an empty certificate message": (during(Certificate, EMPTY_CERTIFICATE), {"certificate_required", "decrypt_error"}),
    "no proof of the key": (during(CertificateVerify), UNEXPECTED),
    "a proof of another key": (during(CertificateVerify, changed("signature", flipped(-1))), {"decrypt_error"}),
    "an empty proof": (during(CertificateVerify, changed("signature", lambda _: b"")), {"decrypt_error"}),
    "neither certificate nor proof": (
        lambda: answer(connected(lambda _, msg: [] if type(msg) in (Certificate, CertificateVerify) else [msg])),
        UNEXPECTED),
    "the certificate twice": (during(Certificate, lambda msg: msg, lambda msg: msg), UNEXPECTED),
    "the first byte of Finished": (during(Finished, changed("verify_data", flipped(0))), {"decrypt_error"}),
    "the last byte of Finished": (during(Finished, changed("verify_data", flipped(-1))), {"decrypt_error"}),
    "a short Finished": (
        during(Finished, changed("verify_data", lambda all: all[:-1])), {"decrypt_error", "decode_error"}),
    "a long Finished": (
        during(Finished, changed("verify_data", lambda all: all + b"\0")), {"decrypt_error", "decode_error"}),
    "an empty Finished": (during(Finished, changed("verify_data", lambda _: b"")), {"decrypt_error", "decode_error"}),
    "data before Finished": (during(Finished, data(REQUEST), lambda msg: msg), UNEXPECTED),
    "new keys before Finished": (during(Finished, KeyUpdate().create(0), lambda msg: msg), UNEXPECTED),
    # After the handshake.
    "a second handshake": (after(handshake(HandshakeType.client_hello, bytes(60))), UNEXPECTED | {"decode_error"}),
    "a hello request": (after(HELLO_REQUEST), UNEXPECTED),
    "a ticket from the client": (after(NEW_TICKET), UNEXPECTED),
    "a second Finished": (after(handshake(HandshakeType.finished, bytes(32))), UNEXPECTED),
    "a certificate request": (after(handshake(HandshakeType.certificate_request, b"\0\0\0")), UNEXPECTED),
    "a certificate that nobody asked for": (after(EMPTY_CERTIFICATE), UNEXPECTED),
    "a message of an unknown kind": (after(handshake(99, b"x")), UNEXPECTED),
    "new keys of a third kind": (after(handshake(HandshakeType.key_update, b"\2")), {"illegal_parameter", "decode_error"}),
    "new keys without a kind": (after(handshake(HandshakeType.key_update, b"")), {"decode_error"}),
    "two messages of new keys in one record": (
        after(Message(HANDSHAKE, bytearray(b"\x18\0\0\1\0" * 2))), UNEXPECTED),
    "a message that is cut by data": (after(Message(HANDSHAKE, bytearray(b"\x18\0\0")), request=REQUEST), UNEXPECTED),
    "an empty handshake record": (after(Message(HANDSHAKE, bytearray()), request=REQUEST), UNEXPECTED | {"decode_error"}),
    "a cipher change": (after(ChangeCipherSpec().create(), request=REQUEST), UNEXPECTED),
    "a heartbeat": (after(Message(24, bytearray(b"\1\x40\0")), request=REQUEST), UNEXPECTED),
    "a record of no kind": (after(Message(0, bytearray()), request=REQUEST), UNEXPECTED | {"decode_error"}),
    "a fatal alert": (after(Alert().create(AlertDescription.internal_error, 2), request=b""), {"closed", "reset"}),
    "an alert of one byte": (after(Message(ALERT, bytearray(b"\2"))), {"decode_error"}),
    # Records.
    "a record one byte too long": (long_record((1 << 14) + 1), {"record_overflow"}),
    "a tag that does not fit": (corrupted, {"bad_record_mac"}),
    "data in plaintext": (raw(b"\x17" + RECORD + b"\0\x12" + REQUEST), {"bad_record_mac"}),
    "an alert in plaintext": (raw(b"\x15" + RECORD + b"\0\2\1\0"), UNEXPECTED | {"bad_record_mac"}),
    "a handshake in plaintext": (raw(b"\x16" + RECORD + b"\0\4\0\0\0\0"), UNEXPECTED | {"bad_record_mac"}),
    "an empty record in plaintext": (raw(b"\x17" + RECORD + b"\0\0"), {"bad_record_mac", "decode_error"} | UNEXPECTED),
    "http in plaintext": (raw(REQUEST), {"decode_error", "protocol_version", "record_overflow"} | UNEXPECTED),
    # Floods: what matters is that they end, and who is served after them.
    "two thousand new keys": (
        key_updates(2000, KeyUpdateMessageType.update_requested), GOOD | UNEXPECTED | {"closed", "reset"}),
    "ten thousand empty records": (
        after(*empty(10_000), request=REQUEST), GOOD | UNEXPECTED | {"closed", "reset"}),
    "two thousand warnings": (
        after(*[Alert().create(AlertDescription.user_canceled, 1)] * 2000, request=REQUEST),
        GOOD | UNEXPECTED | {"closed", "reset", "decode_error"}),
}


def judged(item):
    what, (conversation, wanted) = item
    # What the client sends after its fault may make the server's end a reset, which takes the alert with it.
    return what, sorted(wanted if wanted & GOOD else wanted | {"reset"}), told(conversation)


with concurrent.futures.ThreadPoolExecutor(4) as pool:
    results = list(pool.map(judged, conversations.items()))
print(json.dumps({
    "conversations": len(results),
    "wrong": {what: {"wanted": wanted, "came": came} for what, wanted, came in results if came not in wanted},
    "ended": {what: came for what, _, came in results},
}))
