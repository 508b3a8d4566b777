"""The signed cookie by which Envoys know a person's learned segment without asking.

`1.<table>.<expires>.<signature>.<segment>`: the table by which it was said, the Unix time until which it counts, and
an ECDSA signature (P-256, SHA-256) in hex; an empty segment is none. What is signed holds the service and the person's
key as well, which are not in the cookie: it counts for that service and person only, and tells nobody who that is.
Envoys have the public key alone, so none of them can make one.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from xds_server.resources.learned import cookie_name

FORMAT: Final = "1"
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


class CookieSigner:
    """Signs with a key that is made from `secret` (32 random bytes)."""

    def __init__(self, secret: bytes) -> None:
        number = int.from_bytes(secret, "big") % (_ORDER - 1) + 1
        self._key = ec.derive_private_key(number, ec.SECP256R1())
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.public_key: Final = der.hex()

    def value(self, *, service: str, key: bytes, table: int, expires_s: int, segment: str) -> str:
        """The cookie's value."""
        said = "\n".join(("serinus-segment", FORMAT, service, str(table), str(expires_s), segment, ""))
        signature = self._key.sign(said.encode() + key, ec.ECDSA(hashes.SHA256()))
        return f"{FORMAT}.{table}.{expires_s}.{signature.hex()}.{segment}"


def set_cookie(service: str, value: str, *, max_age_s: int, secure: bool) -> str:
    """The line that makes a browser keep it. Lax: a link that leads here from elsewhere changes nothing."""
    end = "; Secure" if secure else ""
    return f"{cookie_name(service)}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{end}"
