"""An issuer of JSON Web Tokens, with the library that most Python services use. Knows nothing of any mesh.

usage: jwt_issuer.py publish DIR KID=ALG...   makes keys, replaces DIR/jwks.json by their public halves; says the set
       jwt_issuer.py sign DIR KID CLAIMS      says a token of that key; of CLAIMS (JSON), exp and nbf count from now
       jwt_issuer.py forge DIR KID CLAIMS     says tokens that only a careless reader would believe
"""
import base64
import hashlib
import hmac
import json
import os
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import algorithms

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def made(alg):
    if alg in CURVES:
        return ec.generate_private_key(CURVES[alg]()), algorithms.ECAlgorithm
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate(), algorithms.OKPAlgorithm
    return rsa.generate_private_key(public_exponent=65537, key_size=2048), algorithms.RSAAlgorithm


def publish(directory, wanted):
    keys = []
    for kid, alg in (one.split("=") for one in wanted):
        private, reader = made(alg)
        pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        with open(f"{directory}/{kid}.json", "w") as file:
            json.dump({"alg": alg, "pem": pem.decode()}, file)
        keys.append({**reader.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": alg})
    with open(f"{directory}/jwks.new", "w") as file:
        json.dump({"keys": keys}, file)
    os.replace(f"{directory}/jwks.new", f"{directory}/jwks.json")
    return {"jwks": json.dumps({"keys": keys})}


def read(directory, kid, claims):
    with open(f"{directory}/{kid}.json") as file:
        key = json.load(file)
    claims = json.loads(claims)
    for date in ("exp", "nbf"):
        if date in claims:
            claims[date] += int(time.time())
    return key, claims


def sign(directory, kid, claims):
    key, claims = read(directory, kid, claims)
    return {"token": jwt.encode(claims, key["pem"], algorithm=key["alg"], headers={"kid": kid})}


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def forge(directory, kid, claims):
    key, claims = read(directory, kid, claims)
    public = form.load_pem_private_key(key["pem"].encode(), None).public_key()
    pem = public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)

    def with_secret(header):
        signed = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
        return (signed + b"." + part(hmac.new(pem, signed, hashlib.sha256).digest())).decode()

    good = sign(directory, kid, sys.argv[4])["token"]
    mine, _ = made("RS256")
    own = algorithms.RSAAlgorithm.to_jwk(mine.public_key(), as_dict=True)
    return {
        "none": jwt.encode(claims, None, algorithm="none", headers={"kid": kid}),
        "public key as secret": with_secret({"alg": "HS256", "kid": kid, "typ": "JWT"}),
        "that, named RS256": with_secret({"alg": "RS256", "kid": kid, "typ": "JWT"}),
        "another's key": jwt.encode(claims, mine, algorithm="RS256", headers={"kid": kid}),
        "a key of its own": jwt.encode(claims, mine, algorithm="RS256", headers={"kid": kid, "jwk": own}),
        "no signature": good.rsplit(".", 1)[0] + ".",
        "other claims": ".".join([good.split(".")[0], part(b'{"iss":"lab","sub":"root"}').decode(), good.split(".")[2]]),
        "nonsense": "nonsense",
    }


command, directory, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
print(json.dumps(publish(directory, rest) if command == "publish" else {"sign": sign, "forge": forge}[command](directory, *rest)))
