"""Whatever an Envoy, or somebody who poses as one, asks: the answer is a message or a status."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.xds_server.learnt.test_resolver import request, resolver
from xds_server.learnt.servicer import answered
from xds_server.pb import authz_pb2 as pb

HEADER = st.tuples(st.sampled_from([b"x-serinus-key", b"x-forwarded-proto", b"cookie"]) | st.binary(), st.binary())


@given(st.text(), st.lists(HEADER))
def test_every_question_has_an_answer(service: str, headers: list[tuple[bytes, bytes]]) -> None:
    asked = pb.CheckRequest()
    for key, value in headers:
        asked.attributes.request.http.header_map.headers.add(key=key, raw_value=value)
    who = resolver(1)
    who._hash_user = len  # type: ignore[assignment]  # keys are no numbers here
    for name in (service, "shop"):
        answer = answered(who, name, asked)
        assert answer.status.code == 0
        assert pb.CheckResponse.FromString(answer.SerializeToString()) == answer
        for option in answer.ok_response.response_headers_to_add:
            assert option.header.value.isascii()
            assert option.header.value.isprintable()


@given(st.binary())
def test_bytes_are_a_question_or_none(noise: bytes) -> None:
    raw = request().SerializeToString() + noise
    try:
        asked = pb.CheckRequest.FromString(raw)
    except DecodeError:  # for which the servicer has a status
        return
    who = resolver(1)
    who._hash_user = len  # type: ignore[assignment]
    answered(who, asked.attributes.context_extensions["service"], asked)
