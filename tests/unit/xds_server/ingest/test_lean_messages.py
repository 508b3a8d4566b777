"""Our own access log messages are Envoy's, with fewer fields."""

from __future__ import annotations

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2 as service_pb2
from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor

from xds_server.pb import als_pb2

ENVOYS = {
    als_pb2.StreamAccessLogsMessage: service_pb2.StreamAccessLogsMessage,
    als_pb2.StreamOpening: service_pb2.StreamAccessLogsMessage,
    als_pb2.StreamLength: service_pb2.StreamAccessLogsMessage,
    als_pb2.UnreadEntries: service_pb2.StreamAccessLogsMessage.HTTPAccessLogEntries,
    als_pb2.Identifier: service_pb2.StreamAccessLogsMessage.Identifier,
    als_pb2.HttpEntries: service_pb2.StreamAccessLogsMessage.HTTPAccessLogEntries,
    als_pb2.TcpEntries: service_pb2.StreamAccessLogsMessage.TCPAccessLogEntries,
    als_pb2.HttpEntry: accesslog_pb2.HTTPAccessLogEntry,
    als_pb2.Common: accesslog_pb2.AccessLogCommon,
    als_pb2.Request: accesslog_pb2.HTTPRequestProperties,
    als_pb2.Instant: timestamp_pb2.Timestamp,
}
LENGTH_DELIMITED = {FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE}
VARINT = {
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_ENUM,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
}


ONE_OF_MANY = {("Common", "custom_tags")}
"""Fields that repeat, of which our log has one."""


def on_the_wire(field: FieldDescriptor) -> tuple[int, str, bool]:
    kind = "bytes" if field.type in LENGTH_DELIMITED else "varint" if field.type in VARINT else str(field.type)
    return field.number, kind, field.is_repeated


@pytest.mark.parametrize(("ours", "envoys"), ENVOYS.items(), ids=lambda message: message.DESCRIPTOR.name)
def test_a_field_is_where_envoy_writes_it(ours: type, envoys: type) -> None:
    for field in ours.DESCRIPTOR.fields:
        number, kind, is_repeated = on_the_wire(envoys.DESCRIPTOR.fields_by_name[field.name])
        is_repeated &= (ours.DESCRIPTOR.name, field.name) not in ONE_OF_MANY
        assert on_the_wire(field) == (number, kind, is_repeated)


def test_timestamps_and_durations_look_the_same() -> None:
    assert [on_the_wire(field) for field in timestamp_pb2.Timestamp.DESCRIPTOR.fields] == [
        on_the_wire(field) for field in duration_pb2.Duration.DESCRIPTOR.fields
    ]
