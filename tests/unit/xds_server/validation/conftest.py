from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from validate import validate_pb2

_NUMBER = count()


def _nested(descriptor: Descriptor) -> Iterator[Descriptor]:
    yield descriptor
    for each in descriptor.nested_types:
        yield from _nested(each)


@pytest.fixture(scope="session")
def envoy_types() -> tuple[Descriptor, ...]:
    """Every type of message that xds-protos has of Envoy's API and of what that imports."""
    site = Path(validate_pb2.__file__).parents[1]
    files = sorted(file for root in ("envoy", "udpa", "xds") for file in (site / root).rglob("*_pb2.py"))
    modules = [importlib.import_module(".".join(file.relative_to(site).with_suffix("").parts)) for file in files]
    tops = [each for module in modules for each in module.DESCRIPTOR.message_types_by_name.values()]
    return tuple(each for top in tops for each in _nested(top))


@pytest.fixture(scope="session")
def message_type() -> Callable[[str], Any]:
    """Make types of messages: given the text of a DescriptorProto called M, the class of M.

    Rules are written as `options { [validate.rules] { string { min_len: 1 } } }`. The file that holds M has an enum
    `Colour` {RED = 0; BLUE = 2} and a message `Inner` whose `name` must not be empty: `.PACKAGE.Colour`.
    """

    def make(text: str) -> Any:
        package = f"serinus.test.n{next(_NUMBER)}"
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        file.dependency.extend(
            ["validate/validate.proto", *(f"google/protobuf/{each}.proto" for each in _WELL_KNOWN_FILES)]
        )
        text_format.Parse(_COMMON + f"message_type {{ name: 'M' {text} }}".replace("PACKAGE", package), file)
        Default().AddSerializedFile(file.SerializeToString())
        return GetMessageClass(Default().FindMessageTypeByName(f"{package}.M"))

    return make


_WELL_KNOWN_FILES = ("any", "duration", "timestamp", "wrappers")
_COMMON = """
enum_type { name: 'Colour' value { name: 'RED' number: 0 } value { name: 'BLUE' number: 2 } }
message_type {
  name: 'Inner'
  field { name: 'name' number: 1 type: TYPE_STRING label: LABEL_OPTIONAL
          options { [validate.rules] { string { min_len: 1 } } } }
}
"""
