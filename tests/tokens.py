"""Tokens as an identity provider signs them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Issuer:
    """An identity provider with a key of its own."""

    def __init__(self, name: str = "https://login.example") -> None:
        self.name = name
        self._key = Ed25519PrivateKey.generate()

    @property
    def jwks(self) -> str:
        """Its public key, as a JWK set."""
        public = _encoded(self._key.public_key().public_bytes_raw())
        return json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "1", "x": public}]})

    def token(self, *, lasts_s: float = 600.0, **claims: Any) -> str:
        """A token that says this."""
        times = {"iat": int(time.time()) - 5, "exp": int(time.time() + lasts_s)}
        head = {"alg": "EdDSA", "typ": "JWT", "kid": "1"}
        signed = ".".join(map(_packed, (head, {"iss": self.name, "sub": "anna", **times, **claims})))
        return f"{signed}.{_encoded(self._key.sign(signed.encode()))}"


def _packed(part: Mapping[str, Any]) -> str:
    return _encoded(json.dumps(part).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
