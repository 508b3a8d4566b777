"""The messages of xDS, put together from parts that every stream shares.

A response is its resources' bytes plus a few short strings: a push to a thousand streams serialises nothing a thousand
times. And a message that consists of known fields can be recognised by its bytes, so an ACK need not be parsed.
"""

from __future__ import annotations

from collections.abc import Iterable

from xds_server.snapshot import Resource, ResourceType
from xds_server.snapshot.encoding import bytes_field, header, text_field, varint

RESOURCE_URL = "type.googleapis.com/envoy.service.discovery.v3.Resource"
NOT_FOUND = 5
"""google.rpc.Code: to proxyless gRPC the one that says that a resource does not exist (xRFC TP3)."""

_SOTW_TYPE = {kind: text_field(4, kind.url) for kind in ResourceType}
_DELTA_TYPE = {kind: text_field(2, kind.url) for kind in ResourceType}


def sotw_body(*, type_url: str, version: str, resources: Iterable[Resource], missing: Iterable[str] = ()) -> bytes:
    """Encode an envoy.service.discovery.v3.DiscoveryResponse but for its nonce.

    `missing`: names that were asked for and do not exist; older clients skip that field.
    """
    parts = [text_field(1, version)]  # version_info
    for resource in resources:
        packed = resource.packed if not resource.ttl_ms else _with_lifetime(resource, version)
        parts += (header(2, packed), packed)
    parts.append(text_field(4, type_url))
    parts += (bytes_field(7, _not_found(name, type_url)) for name in missing)
    return b"".join(parts)


def delta_body(
    *,
    type_url: str,
    version: str,
    resources: Iterable[Resource],
    removed: Iterable[str] = (),
    missing: Iterable[str] = (),
) -> bytes:
    """Encode an envoy.service.discovery.v3.DeltaDiscoveryResponse but for its nonce."""
    parts = [text_field(1, version)]  # system_version_info, for people only
    parts += (bytes_field(2, _entry(resource, resource.version)) for resource in resources)
    parts.append(text_field(4, type_url))
    parts += (text_field(6, name) for name in removed)
    parts += (bytes_field(9, _not_found(name, type_url)) for name in missing)
    return b"".join(parts)


def _entry(resource: Resource, version: str) -> bytes:
    """Encode an envoy.service.discovery.v3.Resource."""
    fields = text_field(1, version) + bytes_field(2, resource.packed) + text_field(3, resource.name)
    if not resource.ttl_ms:
        return fields
    seconds, rest_ms = divmod(resource.ttl_ms, 1_000)
    return fields + bytes_field(6, b"\x08" + varint(seconds) + b"\x10" + varint(rest_ms * 1_000_000))  # Duration


def _with_lifetime(resource: Resource, version: str) -> bytes:
    """Encode an Any that holds a Resource: the only way to give a lifetime in state of the world."""
    return text_field(1, RESOURCE_URL) + bytes_field(2, _entry(resource, version))


def nonce_field(nonce: str) -> bytes:
    """Encode the nonce of a response, of either variant: what makes a body a message."""
    return text_field(5, nonce)


def sotw_ack(kind: ResourceType, version: str, nonce: str) -> tuple[bytes, bytes]:
    """Both ends of a DiscoveryRequest that ACKs and changes nothing; between them there are the names."""
    return text_field(1, version), _SOTW_TYPE[kind] + text_field(5, nonce)


def delta_ack(kind: ResourceType, nonce: str) -> bytes:
    """The bytes of a DeltaDiscoveryRequest that ACKs and changes nothing."""
    return _DELTA_TYPE[kind] + text_field(6, nonce)


def names_field(names: Iterable[str]) -> bytes:
    """The `resource_names` of a DiscoveryRequest."""
    return b"".join(text_field(3, name) for name in names)


def _not_found(name: str, type_url: str) -> bytes:
    """Encode a ResourceError. The message is what callers of a proxyless gRPC client will read."""
    kind = type_url.rpartition(".")[2]
    status = b"\x08" + varint(NOT_FOUND) + text_field(2, f"Serinus serves no {kind} called {name}")
    return bytes_field(1, text_field(1, name)) + bytes_field(2, status)
