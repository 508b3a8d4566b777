"""Who is let in, as whom, and what a new certificate changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from xds_server.pb import control_pb2 as pb
from xds_server.snapshot import ResourceType
from xds_server.stamp import TAG

DENIED, UNAVAILABLE, OK = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK
ALS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
LRS = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SERVER_NAMES = ("localhost", "127.0.0.1")

ACCESS = """
access:
  - {san: "spiffe://mesh/ns/edge/sa/*", may: [xds, ingest], nodes: ["edge-*"]}
  - {san: "spiffe://mesh/ns/cart/**", may: [xds, ingest, observe], services: [cart]}
  - {san: "*.ops.internal", may: [observe, control]}
"""


@dataclass(frozen=True)
class Guarded:
    """A control plane that checks certificates, and certificates for it."""

    plane: Any
    ca: Path
    authority: Any
    server: Any
    edge: Any
    cart: Any
    operator: Any


@pytest.fixture(scope="module")
def guarded(kit, authorities, tmp_path_factory):
    authority = authorities("mesh")
    server = authority.issue(*SERVER_NAMES)
    options = ("--tls-certificate", server.certificate, "--tls-key", server.key, "--tls-client-ca", authority.ca)
    with kit.running(tmp_path_factory.mktemp("guarded"), kit.mesh_of(["shop", "cart"], ACCESS), *options) as plane:
        yield Guarded(
            plane=plane,
            ca=authority.ca,
            authority=authority,
            server=server,
            edge=authority.issue("spiffe://mesh/ns/edge/sa/envoy"),
            cart=authority.issue("spiffe://mesh/ns/cart/sa/pod/7"),
            operator=authority.issue("ann.ops.internal"),
        )


@contextlib.asynccontextmanager
async def beside_a_bystander(kit, guarded, splits=iter(range(100, 9_000, 50))):  # noqa: B008 -- one for all
    """Whatever is done here, another Envoy gets its next push at once."""
    async with (
        kit.client(guarded.plane, guarded.ca, guarded.edge) as other,
        kit.client(guarded.plane, guarded.ca, guarded.operator) as operator,
    ):
        bystander = await kit.join(other, "edge-1")
        yield
        began = time.monotonic()
        await kit.push(operator, next(splits))
        await bystander.until(ResourceType.RDS, within_s=5.0)
        assert time.monotonic() - began < 2.0


def said(kit, guarded, own, *messages, ca=None):
    """Say this on an xDS stream with a certificate; how it ends."""

    async def go():
        async with beside_a_bystander(kit, guarded), kit.client(guarded.plane, ca or guarded.ca, own) as client:
            return await client.said(*messages)

    return asyncio.run(go())


# --- Connections


def test_a_client_without_a_certificate_does_not_get_in(kit, guarded):
    before = guarded.plane.metrics("serinus_tls_handshakes_total")
    code, _ = said(kit, guarded, None, kit.request(ResourceType.CDS, node="edge-1"))
    after = guarded.plane.metrics("serinus_tls_handshakes_total")
    assert code is UNAVAILABLE
    assert after["hello"] - before["hello"] > after["call"] - before["call"]


def test_a_client_of_another_authority_does_not_get_in(kit, guarded, authorities):
    stranger = authorities("stranger").issue("spiffe://mesh/ns/edge/sa/envoy")
    code, _ = said(kit, guarded, stranger, kit.request(ResourceType.CDS, node="edge-1"))
    assert code is UNAVAILABLE


@pytest.mark.parametrize("days", [(-3, -1), (1, 3)])
def test_a_client_with_a_certificate_out_of_its_time_does_not_get_in(kit, guarded, days):
    late = guarded.authority.issue("spiffe://mesh/ns/edge/sa/envoy", days=days)
    code, _ = said(kit, guarded, late, kit.request(ResourceType.CDS, node="edge-1"))
    assert code is UNAVAILABLE


def test_a_client_that_does_not_know_the_authority_does_not_go_in(kit, guarded, authorities):
    code, text = said(kit, guarded, guarded.edge, kit.request(ResourceType.CDS), ca=authorities("other").ca)
    assert code is UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in text


def test_plain_text_does_not_get_in(kit, guarded):
    async def go():
        async with beside_a_bystander(kit, guarded), kit.client(guarded.plane) as client:
            return await client.said(kit.request(ResourceType.CDS, node="edge-1"))

    assert asyncio.run(go())[0] is UNAVAILABLE


def test_connections_that_end_in_the_middle_of_a_handshake_disturb_nobody(kit, guarded):
    host, _, port = guarded.plane.grpc.rpartition(":")

    async def go():
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                half = stack.enter_context(socket.create_connection((host, int(port))))
                half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            async with beside_a_bystander(kit, guarded):
                pass

    asyncio.run(go())


# --- What a certificate allows


@pytest.mark.parametrize(
    "sans", [("spiffe://other/ns/edge/sa/envoy",), ("spiffe://mesh/ns/edge/sa/a/b",), ("evil.com",)]
)
def test_a_name_that_no_entry_fits_may_do_nothing(kit, guarded, sans):
    own = guarded.authority.issue(*sans)

    async def go():
        async with kit.client(guarded.plane, guarded.ca, own) as client:
            yield await client.said(kit.request(ResourceType.CDS, node="edge-1"))
            yield await client.unary(TRACES, b"")
            yield await client.unary("/serinus.control.v1.Control/GetStatus", b"")

    async def collect():
        return [each async for each in go()]

    before = guarded.plane.metrics("serinus_access_refusals_total").get("no_rule", 0)
    assert asyncio.run(collect()) == [(DENIED, f"no entry of access fits {sans[0]}")] * 3
    assert guarded.plane.metrics("serinus_access_refusals_total")["no_rule"] >= before + 3  # it may ask again


@pytest.mark.shows("matrix", 14)
def test_a_node_id_belongs_to_its_certificate(kit, guarded):
    before = guarded.plane.metrics("serinus_access_refusals_total").get("node", 0)
    code, text = said(kit, guarded, guarded.edge, kit.request(ResourceType.CDS, node="inner-1"))
    assert (code, text) == (DENIED, "spiffe://mesh/ns/edge/sa/envoy may not be node 'inner-1'")
    assert guarded.plane.metrics("serinus_access_refusals_total")["node"] >= before + 1


def test_a_gateways_name_belongs_to_its_certificate_even_as_a_cluster(kit, guarded):
    """An Envoy is a gateway by its node cluster too, and that may come to be one's name in another mesh."""
    plane, text = guarded.plane, guarded.plane.mesh.read_text()
    gateway = 'gateways: {front: {listen: "127.0.0.1:8000"}}\n'

    async def go():
        async with kit.client(plane, guarded.ca, guarded.edge) as client:
            request = kit.request(ResourceType.CDS, node="edge-1", cluster="front")
            ending = asyncio.create_task(client.said(request))
            await asyncio.sleep(0.5)
            assert not ending.done()
            plane.mesh.write_text(text + gateway)
            return await asyncio.wait_for(ending, 10), await client.said(request)

    try:
        refused = (DENIED, "spiffe://mesh/ns/edge/sa/envoy may not be node 'front'")
        assert asyncio.run(go()) == (refused, refused)
    finally:
        plane.mesh.write_text(text)
        reads = "serinus_mesh_reads_total"
        before = plane.metrics(reads)["adopted"]
        plane.wait_for("the mesh of before", lambda: plane.metrics(reads)["adopted"] > before)


@pytest.mark.parametrize("method", ["Act", "StartRollout", "ExcludeNode", "GetStatus"])
def test_an_envoy_may_not_steer_nor_look(kit, guarded, method):
    async def go():
        async with kit.client(guarded.plane, guarded.ca, guarded.edge) as client:
            return await client.unary(f"/serinus.control.v1.Control/{method}", b"")

    code, text = asyncio.run(go())
    right = "observe" if method == "GetStatus" else "control"
    assert code is DENIED
    assert text == f"spiffe://mesh/ns/edge/sa/envoy may not call serinus.control.v1.Control/{method}: it needs {right}"


def test_an_operator_may_not_be_an_envoy(kit, guarded):
    assert said(kit, guarded, guarded.operator, kit.request(ResourceType.CDS))[0] is DENIED


@pytest.mark.parametrize(
    ("who", "service", "code", "text"),
    [
        ("edge", "shop", OK, ""),
        ("cart", "cart", OK, ""),
        ("cart", "shop", DENIED, "spiffe://mesh/ns/cart/sa/pod/7 may not see service 'shop'"),
        (
            "operator",
            "shop",
            DENIED,
            "ann.ops.internal may not call envoy.service.auth.v3.Authorization/Check: it needs xds",
        ),
    ],
)
def test_only_envoys_ask_who_is_in_a_learned_segment_and_of_services_that_they_may_see(
    kit, guarded, who, service, code, text
):
    async def go():
        request = CheckRequest()
        request.attributes.context_extensions["service"] = service
        async with kit.client(guarded.plane, guarded.ca, getattr(guarded, who)) as client:
            return await client.unary("/envoy.service.auth.v3.Authorization/Check", request.SerializeToString())

    assert asyncio.run(go()) == (code, text)


def test_an_envoy_is_sent_only_what_its_certificate_lets_it_see(kit, guarded):
    async def go():
        async with (
            kit.client(guarded.plane, guarded.ca, guarded.cart) as own,
            kit.client(guarded.plane, guarded.ca, guarded.edge) as all_seeing,
        ):
            for client, node in ((own, "any"), (all_seeing, "edge-2")):
                bystander = await kit.join(client, node)
                yield sorted(bystander.names[ResourceType.CDS])

    async def collect():
        return [each async for each in go()]

    own, everything = asyncio.run(collect())
    assert own == ["cart|v1", "cart|v2"]
    assert everything == ["cart|v1", "cart|v2", "shop|v1", "shop|v2"]


def test_the_control_api_shows_and_tells_only_what_a_certificate_lets_its_owner_see(kit, guarded):
    async def go():
        async with kit.client(guarded.plane, guarded.ca, guarded.cart) as client:
            status = await client.control.GetStatus(pb.GetStatusRequest())
            history = await client.control.GetHistory(pb.GetHistoryRequest())
            rollouts = await client.control.ListRollouts(pb.ListRolloutsRequest())
            with pytest.raises(grpc.aio.AioRpcError) as denied:
                await client.control.Explain(pb.ExplainRequest(service="shop"))
            return status, history, rollouts, denied.value

    status, history, rollouts, denied = asyncio.run(go())
    assert [service.service for service in status.services] == ["cart"]
    assert not history.decisions
    assert not rollouts.rollouts
    assert (denied.code(), denied.details()) == (
        DENIED,
        "spiffe://mesh/ns/cart/sa/pod/7 may not see service 'shop'",
    )


def test_a_command_is_journalled_with_the_name_in_the_certificate(kit, guarded):
    async def go():
        async with kit.client(guarded.plane, guarded.ca, guarded.operator) as client:
            await kit.push(client, 50)
            return (await client.control.GetHistory(pb.GetHistoryRequest(service="shop"))).decisions[-1]

    assert asyncio.run(go()).who == "test (ann.ops.internal)"


def logs(node, service):
    """One access log entry of a service."""
    message = StreamAccessLogsMessage()
    message.identifier.node.id = node
    common = message.http_logs.log_entry.add().common_properties
    common.custom_tags[TAG] = f"{service}|default||1\n\nDownstreamEnd\n200\n-\n\n\n\n\n"
    return message.SerializeToString()


def test_access_logs_come_from_who_the_certificate_says_and_of_what_it_may_see(kit, guarded):
    async def report(own, node, service):
        async with kit.client(guarded.plane, guarded.ca, own) as client:
            call = client.channel.stream_unary(ALS)()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(logs(node, service))
                await call.done_writing()
                await call
            said = await call.code(), await call.details()
            return said if said != kit.lost else await report(own, node, service)

    entries = "serinus_ingest_entries_total"
    before = guarded.plane.metrics(entries)
    assert asyncio.run(report(guarded.edge, "inner-1", "shop"))[0] is DENIED
    assert guarded.plane.metrics(entries) == before
    assert asyncio.run(report(guarded.cart, "any", "shop"))[0] is OK
    after = guarded.plane.metrics(entries)
    assert after["not_allowed,access_log"] == before.get("not_allowed,access_log", 0) + 1
    assert asyncio.run(report(guarded.operator, "edge-1", "shop"))[0] is DENIED


def test_load_reports_come_from_who_the_certificate_says_and_of_what_it_may_see(kit, guarded):
    """Who opens a second stream of a node stops the comparison of its logs."""

    async def report(own, node):
        async with kit.client(guarded.plane, guarded.ca, own) as client:
            call = client.channel.stream_stream(LRS)()
            request = LoadStatsRequest()
            request.node.id = node
            try:
                await call.write(request.SerializeToString())
                answer = await asyncio.wait_for(call.read(), 5.0)
            except grpc.aio.AioRpcError as error:
                return error.code()
            call.cancel()
            return list(LoadStatsResponse.FromString(answer).clusters)

    async def go():
        assert await report(guarded.edge, "inner-1") is DENIED
        assert await report(guarded.operator, "edge-1") is DENIED
        async with kit.client(guarded.plane, guarded.ca, guarded.operator) as operator:
            await kit.push(operator, 90)
        assert await report(guarded.edge, "edge-1") == ["shop|v1", "shop|v2"]
        assert await report(guarded.cart, "any") == []

    asyncio.run(go())


def test_spans_are_taken_only_of_services_that_the_certificate_lets_its_owner_see(kit, guarded):
    request = ExportTraceServiceRequest()
    for service in ("shop", "cart"):
        spans = request.resource_spans.add()
        spans.resource.attributes.add(key="service.name").value.string_value = service
        spans.scope_spans.add().spans.add(name="GET")

    async def go():
        async with kit.client(guarded.plane, guarded.ca, guarded.cart) as client:
            return await client.unary(TRACES, request.SerializeToString())

    before = guarded.plane.metrics("serinus_ingest_entries_total").get("not_allowed,span", 0)
    assert asyncio.run(go())[0] is OK
    assert guarded.plane.metrics("serinus_ingest_entries_total")["not_allowed,span"] == before + 1


# --- The command line


def test_a_way_in_without_certificates_takes_nothing_from_servers(kit, guarded):
    headers = {"content-type": "application/json"}
    asked = urllib.request.Request(f"http://{guarded.plane.http}/v1/traces", b"{}", headers)
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(asked, timeout=10)  # noqa: S310 -- http, as one sees
    with refused.value as answer:
        assert json.load(answer) == {"message": "HTTP brings no certificate: send OTLP over gRPC"}


def test_the_command_line_talks_tls(kit, guarded):
    def run(*words, own=None, ca=guarded.ca):
        tls = ("--tls-certificate", own.certificate, "--tls-key", own.key) if own is not None else ()
        command = [kit.binary, *words, "--server", guarded.plane.address, "--tls-ca", ca, *tls]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout, done.stderr

    code, out, _ = run("status", "--json", own=guarded.operator)
    assert code == 0
    assert [service["service"] for service in json.loads(out)["services"]] == ["shop", "cart"]
    code, _, err = run("rollout", "freeze", "cart", own=guarded.cart)
    assert code == 1
    assert "serinus.control.v1.Control/Act: it needs control" in err
    code, _, err = run("status")
    assert code == 1
    assert f"no control plane answers at {guarded.plane.address} over TLS" in err
    code, _, err = run("status", ca="/no/such/file")
    assert (code, err) == (1, "serinus: /no/such/file: No such file or directory\n")


def test_rules_that_nothing_is_checked_by_are_refused(kit, tmp_path):
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(kit.mesh_of(["shop", "cart"], ACCESS))
    done = subprocess.run(
        [kit.binary, "run", mesh, "--grpc-port", "0", "--otlp-port", "0", "--http-port", "0", "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "access in the mesh file needs clients with certificates: --tls-client-ca" in done.stderr


def test_an_envoy_is_told_how_to_talk_tls(kit, guarded):
    words = ("--xds", "xds.internal:18000", "--tls-ca", "/ca.pem", "--tls-certificate", "/a.crt", "--tls-key", "/a.key")
    done = subprocess.run(
        [kit.binary, "bootstrap", guarded.plane.mesh, "--node", "edge-1", *words], capture_output=True, check=True
    )
    (cluster,) = yaml.safe_load(done.stdout)["static_resources"]["clusters"]
    context = cluster["transport_socket"]["typed_config"]
    assert context["sni"] == "xds.internal"
    assert context["common_tls_context"]["validation_context"] == {
        "trusted_ca": {"filename": "/ca.pem"},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "xds.internal"}}],
    }


# --- Change


def serial(plane, ca, own):
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(own.certificate, own.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = plane.grpc.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert()["serialNumber"]


def test_a_new_certificate_is_shown_at_once_and_a_broken_one_never(kit, guarded, authorities):
    plane = guarded.plane
    reads = "serinus_tls_reads_total"

    async def go():
        async with beside_a_bystander(kit, guarded):  # whose connection is older than all of this
            before = await asyncio.to_thread(serial, plane, guarded.ca, guarded.edge)
            breaks = (
                lambda: guarded.server.key.write_bytes(guarded.edge.key.read_bytes()),
                lambda: guarded.server.certificate.write_bytes(b"junk"),
                lambda: guarded.authority.issue(*SERVER_NAMES, days=(-3, -1), to=guarded.server),
                guarded.server.key.unlink,
            )
            for n, spoil in enumerate(breaks, 1):
                spoil()
                await asyncio.to_thread(
                    plane.wait_for, "a refusal", lambda n=n: plane.metrics(reads).get("refused", 0) >= n
                )
                assert await asyncio.to_thread(serial, plane, guarded.ca, guarded.edge) == before
            guarded.authority.issue(*SERVER_NAMES, to=guarded.server)
            await asyncio.to_thread(plane.wait_for, "adoption", lambda: plane.metrics(reads).get("adopted", 0) >= 1)
            assert await asyncio.to_thread(serial, plane, guarded.ca, guarded.edge) != before

    asyncio.run(go())
    until = plane.metrics("serinus_tls_certificate_not_after_seconds")[""]
    assert until == pytest.approx(time.time() + 86_400, abs=120)
    log = plane.log.read_text()
    assert "the certificate in force stays" in log
    assert "the key is not the certificate's" in log
    assert "has expired" in log
    assert "No such file" in log


def test_a_change_of_what_is_allowed_ends_streams_that_it_concerns(kit, guarded):
    plane = guarded.plane
    text = plane.mesh.read_text()

    async def go():
        async with (
            beside_a_bystander(kit, guarded),
            kit.client(plane, guarded.ca, guarded.cart) as own,
        ):
            ending = asyncio.create_task(own.said(kit.request(ResourceType.CDS, node="any")))
            await asyncio.sleep(0.5)
            assert not ending.done()
            plane.mesh.write_text(text.replace("services: [cart]", "services: [shop]"))
            assert (await ending)[0] is UNAVAILABLE
            bystander = await kit.join(own, "any")
            return sorted(bystander.names[ResourceType.CDS])

    try:
        assert asyncio.run(go()) == ["shop|v1", "shop|v2"]
    finally:
        plane.mesh.write_text(text)
    assert plane.metrics("serinus_access_refusals_total")["changed"] >= 1
