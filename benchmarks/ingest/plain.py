"""The floor: a lean message as anybody would write it down, with the fields that are wanted and nothing clever."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_BYTES, _INT32, _INT64, _UINT32 = (
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_UINT32,
)
_MESSAGES: dict[str, list[tuple[str, int, int | str]]] = {
    "Logs": [("http_logs", 2, "Entries")],
    "Entries": [("log_entry*", 1, "Entry")],
    "Entry": [("common_properties", 1, "Common"), ("request", 3, "Request"), ("response", 4, "Response")],
    "Common": [
        ("start_time", 5, "Instant"),
        ("time_to_last_downstream_tx_byte", 12, "Instant"),
        ("upstream_cluster", 15, _BYTES),
        ("custom_tags*", 22, "Text"),
        ("access_log_type", 33, _INT32),
    ],
    "Instant": [("seconds", 1, _INT64), ("nanos", 2, _INT32)],
    "Text": [("key", 1, _BYTES), ("value", 2, _BYTES)],
    "Request": [("path", 5, _BYTES), ("user_agent", 6, _BYTES)],
    "Response": [("response_code", 1, "Code")],
    "Code": [("value", 1, _UINT32)],
}


def message_class() -> Any:
    """The class of `StreamAccessLogsMessage`, in that form."""
    file = FileDescriptorProto(name="plain.proto", package="plain", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name.rstrip("*"), number=number)
            field.label = field.LABEL_REPEATED if field_name.endswith("*") else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = field.TYPE_MESSAGE, f".plain.{kind}"
            else:
                field.type = kind  # type: ignore[assignment]
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("plain.Logs"))


def touch(logs: Any) -> int:
    """Read eight fields of each entry from Python, one after the other."""
    n = 0
    for entry in logs.http_logs.log_entry:
        common = entry.common_properties
        _ = (
            common.start_time.seconds,
            common.start_time.nanos,
            common.time_to_last_downstream_tx_byte.nanos,
            common.upstream_cluster,
            common.access_log_type,
            entry.request.path,
            entry.request.user_agent,
            entry.response.response_code.value,
        )
        n += 1
    return n
