"""What Envoys are answered, and what that is worth."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from hypothesis import given
from hypothesis import strategies as st

from xds_server.learnt.cookies import CookieSigner
from xds_server.learnt.memberships import Adopted, Memberships, Table
from xds_server.learnt.resolver import COUNTS_S, Resolver, Result, Served
from xds_server.learnt.servicer import SERVICE, add_authorization

NOW_S = 1_700_000_000
SIGNER = CookieSigner(b"s" * 32)


class Clock:
    def now_unix_ns(self) -> int:
        return NOW_S * 10**9 + 999_999_999

    def monotonic(self) -> float:
        return 0.0


def resolver(*newcomers: int) -> Resolver:
    """Keys are numbers, and hash to themselves."""
    result = Resolver(hash_user=int, signer=SIGNER, clock=Clock())
    adopted = Adopted(name="newcomers", description="", at_unix_ns=1, who="ada")
    members = Memberships(current=Table(version=6).adopting(adopted, newcomers))
    result.services["shop"] = Served(memberships=members, learned={"fresh": "newcomers"}, gap_s=1_800.0)
    return result


def test_the_table_decides_and_the_answer_counts_for_a_day() -> None:
    asked = resolver(1)
    answer, other = asked.answer("shop", b"1"), asked.answer("shop", b"2")
    assert answer is not None
    assert other is not None
    assert (answer.name, answer.table, answer.expires_s) == ("newcomers", 7, NOW_S + COUNTS_S)
    assert (other.name, other.counts_s) == ("", COUNTS_S)
    assert asked.counts == {Result.LEARNED: 1, Result.NONE: 1}


@pytest.mark.parametrize(
    ("user", "session", "name", "counts_s"),
    [
        (b"1", None, "newcomers", COUNTS_S),
        (b"1", "fresh", "newcomers", COUNTS_S),  # where the table says, too
        (b"1", "default", "", 1_800),  # nobody answered when the session began
        (b"2", "fresh", "newcomers", 1_800),  # another table says otherwise
        (b"2", "default", "", COUNTS_S),
        (b"1", "beta", "newcomers", COUNTS_S),  # a declared one was chosen by what was asked, not by who asked
        (b"2", "gone", "", COUNTS_S),
    ],
)
def test_an_open_session_elsewhere_goes_first_until_it_can_be_over(
    user: bytes, session: str | None, name: str, counts_s: int
) -> None:
    asked = resolver(1)
    asked.held = lambda service, hashed: session if (service, hashed) == ("shop", int(user)) else None
    answer = asked.answer("shop", user)
    assert answer is not None
    assert (answer.name, answer.counts_s) == (name, counts_s)
    assert asked.name("shop", user) == name, "flags are told what Envoys are"
    assert asked.counts.total() == 1, "that was no question of an Envoy's"
    assert (asked.counts[Result.HELD] == 1) == (counts_s != COUNTS_S)


def test_there_is_no_answer_without_a_person_or_a_service() -> None:
    asked = resolver(1)
    assert asked.answer("blog", b"1") is None
    assert [asked.name("blog", b"1"), asked.name("shop", b""), asked.name("shop", b"1" * 257)] == ["", "", ""]
    assert asked.answer("shop", b"") is None
    assert asked.answer("shop", b"1" * 257) is None
    assert asked.counts == {Result.UNKNOWN_SERVICE: 1, Result.NO_KEY: 2}


@given(st.binary(min_size=1, max_size=256), st.binary(min_size=1, max_size=256))
def test_a_cookie_holds_for_its_person_and_is_the_same_persons_only(key: bytes, other: bytes) -> None:
    value = SIGNER.value(service="shop", key=key, table=7, expires_s=NOW_S, segment="newcomers")
    _, table, expires, signature, segment = value.split(".")
    public = load_der_public_key(bytes.fromhex(SIGNER.public_key))
    assert isinstance(public, ec.EllipticCurvePublicKey)

    def verify(whose: bytes, service: bytes = b"shop") -> None:
        text = b"\n".join(
            (b"serinus-segment", b"1", service, table.encode(), expires.encode(), segment.encode(), whose)
        )
        public.verify(bytes.fromhex(signature), text, ec.ECDSA(hashes.SHA256()))

    verify(key)
    for wrong in ((other, b"shop"), (key, b"blog")) if other != key else ():
        with pytest.raises(InvalidSignature):
            verify(*wrong)


def test_the_key_is_the_same_after_a_restart_and_another_elsewhere() -> None:
    assert CookieSigner(b"s" * 32).public_key == SIGNER.public_key != CookieSigner(b"t" * 32).public_key
    for secret in (b"\0" * 32, b"\xff" * 32):  # not every number is a key as it is
        assert CookieSigner(secret).public_key


# --- over gRPC, with Envoy's own messages


def request(key: bytes = b"1", service: str = "shop", **headers: str) -> CheckRequest:
    result = CheckRequest()
    result.attributes.context_extensions["service"] = service
    result.attributes.request.http.path = "/cart"
    found = result.attributes.request.http.header_map.headers
    found.add(key="x-serinus-key", raw_value=key)
    for name, value in headers.items():
        found.add(key=name.replace("_", "-"), raw_value=value.encode())
    return result


def ask(asked: Resolver, *raw: bytes) -> list[bytes | grpc.StatusCode]:
    async def scenario() -> list[bytes | grpc.StatusCode]:
        server = grpc.aio.server()
        add_authorization(server, asked)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        answers: list[bytes | grpc.StatusCode] = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/Check")
            for each in raw:
                try:
                    answers.append(await call(each))
                except grpc.aio.AioRpcError as error:
                    answers.append(error.code())
        await server.stop(None)
        return answers

    return asyncio.run(scenario())


def test_envoy_reads_the_answer() -> None:
    raw = [request(), request(x_forwarded_proto="https"), request(b"2"), request(service="blog")]
    answers = ask(resolver(1), *(each.SerializeToString() for each in raw))
    read = [CheckResponse.FromString(answer) for answer in answers if isinstance(answer, bytes)]
    assert len(read) == 4
    assert all(answer.status.code == 0 and not answer.HasField("denied_response") for answer in read)
    said = [{h.header.key: h.header.value for h in answer.ok_response.headers} for answer in read]
    assert said == [{"x-serinus-segment": "newcomers"}, {"x-serinus-segment": "newcomers"}, {}, {}]
    lines = [[h.header.value for h in answer.ok_response.response_headers_to_add] for answer in read]
    assert lines[0][0].startswith("serinus-segment-shop=1.7.")
    assert lines[0][0].endswith(".newcomers; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax")
    assert lines[1][0].endswith("; SameSite=Lax; Secure")
    assert (len(lines[2]), lines[3]) == (1, [])
    metadata = [dict(answer.dynamic_metadata) for answer in read]
    assert metadata[0] == {"said": f"7 {NOW_S + COUNTS_S} newcomers"}
    assert metadata[2:] == [{"said": f"7 {NOW_S + COUNTS_S} "}, {}]


def test_what_is_no_question_is_counted_and_answered_with_a_status() -> None:
    asked = resolver(1)
    answers = ask(asked, b"\xff\xff", b"", request(b"").SerializeToString())
    assert answers[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert asked.counts == {Result.MALFORMED: 1, Result.UNKNOWN_SERVICE: 1, Result.NO_KEY: 1}
