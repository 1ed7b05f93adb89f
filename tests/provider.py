"""An OIDC provider on loopback that really serves discovery and keys, and signs with real keys."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from rentgen.records.studies import Principal
from rentgen.service.tokens import (
    KeySource,
    Tokens,
)

AUDIENCE = "rentgen"

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
# Too short on purpose: it must be refused.
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
EC = ec.generate_private_key(ec.SECP256R1())
WIDE_EC = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Private, kid: str | None, **more: object) -> dict[str, object]:
    algorithm: Mapping[type, Callable[[object], str]] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm.to_jwk,  # type: ignore[dict-item]
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm.to_jwk,  # type: ignore[dict-item]
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm.to_jwk,  # type: ignore[dict-item]
    }
    turn = next(turn for kind, turn in algorithm.items() if isinstance(key, kind))
    entry: dict[str, object] = json.loads(turn(key.public_key()))
    entry.pop("key_ops", None)
    return {**entry, **({} if kid is None else {"kid": kid}), "use": "sig", **more}


@dataclass
class Provider:
    """What the provider serves, and what it was asked for."""

    url: str = ""
    keys: list[dict[str, object]] = field(default_factory=list)
    issuer: str | None = None
    jwks_uri: str | None = None
    status: int = 200
    body: bytes | None = None
    drip_s: float = 0.0
    redirect: str | None = None
    asked: list[str] = field(default_factory=list)

    def document(self, path: str) -> bytes:
        if path.endswith("/.well-known/openid-configuration"):
            return json.dumps(
                {"issuer": self.issuer or self.url, "jwks_uri": self.jwks_uri or f"{self.url}/keys"}
            ).encode()
        return self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()


@contextmanager
def provide() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            provider.asked.append(self.path)
            data = provider.document(self.path)
            self.send_response(302 if provider.redirect else provider.status)
            if provider.redirect:
                self.send_header("Location", provider.redirect)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                for start in range(0, len(data), 64 if provider.drip_s else max(1, len(data))):
                    self.wfile.write(data[start : start + 64] if provider.drip_s else data)
                    time.sleep(provider.drip_s)
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    provider.url = f"http://127.0.0.1:{server.server_port}"
    provider.keys = [
        jwk(RSA, "rsa"),
        jwk(EC, "ec", alg="ES256"),
        jwk(ED, "ed"),
        jwk(SHORT_RSA, "short"),
        jwk(WIDE_EC, "wide"),
        jwk(OTHER_RSA, "encryption", use="enc"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"},
        {"kty": "quantum", "kid": "new"},
    ]
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def tokens(provider: Provider, clock: Clock | None = None, *, claim: str = "roles", jwks: str | None = None) -> Tokens:
    keys = KeySource(provider.url, jwks, clock=clock or Clock())
    return Tokens(issuer=provider.url, audience=AUDIENCE, role_claim=claim, keys=keys)


def claims(provider: Provider, **more: object) -> dict[str, object]:
    now = int(time.time())
    base = {"iss": provider.url, "aud": AUDIENCE, "sub": "u1", "iat": now, "exp": now + 300, "roles": ["physician"]}
    return {name: value for name, value in {**base, **more}.items() if value is not None}


def sign(
    payload: dict[str, object], key: Private = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **header: object
) -> str:
    return jwt.encode(payload, key, algorithm, headers={**({} if kid is None else {"kid": kid}), **header})


def verify(verifier: Tokens, token: str) -> Principal | None:
    return asyncio.run(verifier.verify(token))


def segment(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
