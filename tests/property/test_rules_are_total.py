"""Whatever a message holds, checking it ends with lines of text."""

from __future__ import annotations

from typing import Any

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st

from xds_server.validation.rules import violations

TYPES = (Bootstrap, Cluster, HttpConnectionManager, Listener, RouteConfiguration, AnyMessage)
URLS = [f"type.googleapis.com/{each.DESCRIPTOR.full_name}" for each in TYPES]
INTS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
}
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 20_000, "a\nb", *URLS]))


def scalar(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=20))
    return draw(INTS[field.cpp_type])


def fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    """Set some fields of a message, whatever they are."""
    descriptor: Descriptor = message.DESCRIPTOR
    fields = draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=6)) if descriptor.fields else []
    for field in fields:
        value = getattr(message, field.name)
        of = field.message_type
        if of is not None and of.GetOptions().map_entry:
            key, mapped = of.fields_by_name["key"], of.fields_by_name["value"]
            if mapped.message_type is None:
                value[scalar(draw, key)] = scalar(draw, mapped)
            else:
                fill(draw, value[scalar(draw, key)], depth - 1)
        elif of is None and field.is_repeated:
            value.extend(scalar(draw, field) for _ in range(draw(st.integers(0, 3))))
        elif of is None:
            setattr(message, field.name, scalar(draw, field))
        elif depth:
            child = value.add() if field.is_repeated else value
            if not field.is_repeated:
                child.SetInParent()
            fill(draw, child, depth - 1)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    message = draw(st.sampled_from(TYPES))()
    fill(draw, message, depth=5)
    if draw(st.booleans()):
        packed = AnyMessage()
        packed.Pack(message)
        return packed
    return message


@given(message=messages())
@example(message=AnyMessage(type_url=URLS[0], value=b"\xff"))
def test_any_message_can_be_checked(message: Message) -> None:
    for line in violations(message):
        assert line.isprintable()
        assert " breaks " in line


@given(url=st.one_of(st.sampled_from(URLS), st.text()), value=st.binary())
def test_any_bytes_can_be_checked(url: str, value: bytes) -> None:
    for line in violations(AnyMessage(type_url=url, value=value)):
        assert line.isprintable()


@given(data=st.binary())
def test_what_can_be_read_can_be_checked(data: bytes) -> None:
    for kind in TYPES:
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        violations(message)
