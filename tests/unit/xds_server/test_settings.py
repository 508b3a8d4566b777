"""Mesh files: what they become, and the one line that each mistake gives."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType

import pytest

from analysis.spec import HarmSpec, KpiKind, KpiSpec, Mode, Outcome, RolloutSpec, SegmentSpec, SessionSpec
from tests.tokens import Issuer
from xds_server.mesh import (
    ClaimMatch,
    CookieIdentity,
    EndpointFile,
    ErrorRule,
    HeaderIdentity,
    HealthCheck,
    JwtProvider,
    Mesh,
    Registered,
    Route,
    SegmentMatch,
    ValueMatch,
    with_hold_secret,
)
from xds_server.settings import MeshError, load_mesh, mesh_schema, parse_mesh

MESHES = Path(__file__).parents[3] / "envoy-configs" / "meshes"

BASE = """\
services:
  shop:
    domains: [shop, shop.internal]
    port: 10000
    identity: [{header: x-user-id}]
    session: {gap: 30m, goal: {path: /done}}
    routes: [{prefix: /api/, timeout: 2s}, {prefix: /}]
    versions:
      v1: {endpoints: [10.0.0.1:80, 10.0.0.2:80]}
      v2: {endpoints: [10.0.0.3:80], health: {path: /healthz}}
    baseline: v1
    segments:
      staff: {match: {headers: [{name: x-staff, present: true}]}, weight: 0.1}
      vip: {match: {headers: [{name: x-plan, exact: vip}]}, pin: v1}
      eu: {match: {query: [{name: region, prefix: eu}]}, after: [staff], max_split: 50%}
    kpis:
      error_rate: {limit: 2%, max_regression: 0.5pp}
      latency_p95: {limit: 400ms}
    rollout: {interval: 10s, policy: budget, harm: {budget: 50}}
  cart:
    domains: [cart]
    port: 10001
    identity: [{cookie: {name: sid}}]
    versions: {v1: {endpoints: [10.0.1.1:80]}}
    baseline: v1
gateways:
  edge: {listen: 127.0.0.1:8000, services: [shop], to: web, strip: [x-plan]}
sidecars:
  web: {listen: 127.0.0.1:8001}
"""

SERVICE_KEYS = (
    "domains, port, identity, session, errors, routes, idle_timeout, versions, baseline, segments, learned, profile, "
    "kpis, resources, rollout"
)
ROLLOUT_KEYS = (
    "mode, harm, budget_risk, false_rollback, policy, shadow, interval, warmup, max_step, min_dwell, horizon, settle, "
    "bake, bake_split"
)
KINDS = "exact, prefix, suffix, contains, regex, present, range"
ENDPOINTS = "host:port, such as 10.0.0.1:8080, [::1]:8080 or shop.internal:8080"
GIVEN_ENDPOINTS = f"a list, each item {ENDPOINTS}, or a mapping with file, registered"
LISTEN = "IP:port, such as 127.0.0.1:10000, 0.0.0.0:10000 or [::]:10000"
TOP = "a YAML mapping with services (required), gateways, sidecars"
NETWORKS = "an IP network such as 10.1.0.0/16 or 2001:db8::/32, or an IP address"
DURATIONS = "such as 500ms, 10s, 30m, 2h or 30d"
HEADER = "a header name such as x-plan, not x-serinus-*"
NEEDS_GOAL = "session: {goal: {path: /...}} with it, so that a session can be complete or abandoned"
MANY = "a" * 97

# (what is wrong, text of the base to replace, replacement, expected line without "mesh.yaml:")
WRONG = [
    (
        "a misspelt key",
        "interval: 10s",
        "intervall: 10s",
        f"19: services.shop.rollout.intervall: unknown key; did you mean interval? legal: {ROLLOUT_KEYS}",
    ),
    (
        "a misspelt key that is required",
        "    baseline: v1\n    segments",
        "    baselin: v1\n    segments",
        f"11: services.shop.baselin: unknown key; did you mean baseline? legal: {SERVICE_KEYS}",
    ),
    (
        "a key that means nothing here",
        "weight: 0.1",
        "colour: red",
        "13: services.shop.segments.staff.colour: unknown key; legal: match, learned, weight, pin, after, max_split",
    ),
    (
        "an unknown baseline",
        "baseline: v1\n    segments",
        "baseline: v3\n    segments",
        "11: services.shop.baseline: v3: unknown version; legal: v1, v2",
    ),
    (
        "an unknown pin",
        "pin: v1",
        "pin: release-7",
        "14: services.shop.segments.vip.pin: release-7: unknown version; legal: v1, v2",
    ),
    (
        "a weight out of range",
        "weight: 0.1",
        "weight: -1",
        "13: services.shop.segments.staff.weight: -1: out of range; legal: 0.01 to 100",
    ),
    (
        "a limit out of range",
        "limit: 2%",
        "limit: 200%",
        "17: services.shop.kpis.error_rate.limit: 200%: out of range; "
        "legal: 0.01% to 99%, or the same as a number, 0.0001 to 0.99",
    ),
    (
        "a limit that forgot its per cent sign",
        "limit: 2%",
        "limit: 2",
        "17: services.shop.kpis.error_rate.limit: 2: out of range; "
        "legal: 0.01% to 99%, or the same as a number, 0.0001 to 0.99",
    ),
    (
        "a difference in per cent, which might be meant as a ratio",
        "max_regression: 0.5pp",
        "max_regression: 5%",
        "17: services.shop.kpis.error_rate.max_regression: 5%: wrong unit: a difference of two shares is written in pp "
        "(percentage points); legal: 0pp to 50pp, or the same as a number, 0 to 0.5",
    ),
    (
        "a budget out of range",
        "budget: 50",
        "budget: 0",
        "19: services.shop.rollout.harm.budget: 0: out of range; legal: 1 to 1,000,000",
    ),
    (
        "a split finer than a hash bucket",
        "max_split: 50%",
        "max_split: 0.015%",
        "15: services.shop.segments.eu.max_split: 0.015%: finer than 0.01%, one hash bucket of 10,000; "
        "legal: 0.01% to 100%, or the same as a number, 0.0001 to 1",
    ),
    (
        "a duplicate domain",
        "[shop, shop.internal]",
        "[shop, Shop]",
        "3: services.shop.domains[1]: Shop: duplicate domain; legal: each domain once",
    ),
    (
        "a domain of another service on the same listener",
        "domains: [cart]",
        "domains: [cart, shop]",
        "21: services.cart.domains[1]: shop: duplicate domain: service shop has it too, on sidecar web; "
        "legal: domains that no other service on the same listener has",
    ),
    (
        "a bad domain",
        "domains: [cart]",
        "domains: [cart/x]",
        "21: services.cart.domains[0]: cart/x: not a domain; legal: a host name, *.suffix, prefix.* or *",
    ),
    (
        "a domain with a port",
        "domains: [cart]",
        "domains: [cart:80]",
        "21: services.cart.domains[0]: cart:80: a port does not belong to it: every port of the domain matches; "
        "legal: a host name, *.suffix, prefix.* or *",
    ),
    (
        "an unknown kind of match",
        "exact: vip",
        "exakt: vip",
        f"14: services.shop.segments.vip.match.headers[0].exakt: unknown key; did you mean exact? legal: name, {KINDS}",
    ),
    (
        "two kinds of match at once",
        "exact: vip",
        "exact: vip, prefix: v",
        f"14: services.shop.segments.vip.match.headers[0]: exact and prefix at once; legal: exactly one of {KINDS}",
    ),
    (
        "no kind of match",
        "{name: x-plan, exact: vip}",
        "{name: x-plan}",
        f"14: services.shop.segments.vip.match.headers[0]: no way to match; legal: exactly one of {KINDS}",
    ),
    (
        "an empty header name",
        "name: x-plan",
        'name: ""',
        f"14: services.shop.segments.vip.match.headers[0].name: '': empty; legal: {HEADER}",
    ),
    (
        "a header that Serinus sets itself",
        "name: x-plan",
        "name: x-serinus-key",
        "14: services.shop.segments.vip.match.headers[0].name: x-serinus-key: reserved: Serinus sets these headers "
        f"itself; legal: {HEADER}",
    ),
    (
        "an empty range",
        "exact: vip",
        "range: [5, 5]",
        "14: services.shop.segments.vip.match.headers[0].range: [5, 5]: matches nothing; "
        "legal: [a, b] with a < b: a <= value < b",
    ),
    (
        "a range with one end",
        "exact: vip",
        "range: [5]",
        "14: services.shop.segments.vip.match.headers[0].range: not two numbers; "
        "legal: [a, b] with a < b: a <= value < b",
    ),
    (
        "a range of a query parameter, which Envoy cannot match",
        "prefix: eu",
        "range: [1, 2]",
        "15: services.shop.segments.eu.match.query[0].range: Envoy matches a range in headers and claims only; "
        "legal: name, exact, prefix, suffix, contains, regex, present",
    ),
    (
        "an empty match",
        "match: {headers: [{name: x-plan, exact: vip}]}",
        "match: {}",
        "14: services.shop.segments.vip.match: empty: it would match everybody; "
        "legal: one or more of headers, cookies, query, "
        "path, source, claims",
    ),
    (
        "a bad regex",
        "exact: vip",
        'regex: "(vip"',
        "14: services.shop.segments.vip.match.headers[0].regex: (vip: bad regular expression: missing ): (vip; "
        "legal: a regular expression in RE2 syntax that matches the whole value",
    ),
    (
        "a regex that Python takes and Envoy does not",
        "exact: vip",
        'regex: "(?=vip)"',
        "14: services.shop.segments.vip.match.headers[0].regex: (?=vip): bad regular expression: invalid perl "
        "operator: (?=; legal: a regular expression in RE2 syntax that matches the whole value",
    ),
    (
        "a regex too large for Envoy",
        "exact: vip",
        f"regex: {MANY}",
        f"14: services.shop.segments.vip.match.headers[0].regex: {MANY[:57]}...: regular expression too large for "
        "Envoy: size 101, at most 100; legal: a regular expression in RE2 syntax that matches the whole value",
    ),
    (
        "segments that match the same",
        "headers: [{name: x-plan, exact: vip}]",
        "headers: [{name: x-staff, present: true}]",
        "14: services.shop.segments.vip.match: never reached: segment staff matches the same; "
        "legal: a match of its own",
    ),
    (
        "a duplicate segment",
        "      vip: {",
        "      staff: {match: {path: /}}\n      vip: {",
        "14: services.shop.segments.staff: duplicate key, first at line 13; legal: each key once",
    ),
    (
        "the default segment by hand",
        "      vip: {",
        "      default: {",
        "14: services.shop.segments.default: is there anyway, last, for whoever matches no other segment; "
        "legal: any other name",
    ),
    (
        "a wait for an unknown segment",
        "after: [staff]",
        "after: [stuff]",
        "15: services.shop.segments.eu.after[0]: stuff: unknown segment; did you mean staff? "
        "legal: staff, vip, default",
    ),
    (
        "a wait for oneself",
        "after: [staff]",
        "after: [eu]",
        "15: services.shop.segments.eu.after: waits for itself: eu after eu; legal: an order without cycles",
    ),
    (
        "a cycle of waits",
        "weight: 0.1",
        "after: [eu]",
        "13: services.shop.segments.staff.after: waits for itself: staff after eu after staff; "
        "legal: an order without cycles",
    ),
    (
        "a wait for a pinned segment",
        "after: [staff]",
        "after: [vip]",
        "15: services.shop.segments.eu.after[0]: vip: a pinned segment is never promoted, so the wait would never end; "
        "legal: other segments",
    ),
    (
        "a setting that does nothing beside a pin",
        "pin: v1",
        "pin: v1, max_split: 5%",
        "14: services.shop.segments.vip.max_split: 5%: does nothing: a pinned segment takes part in no rollout; "
        "legal: pin alone",
    ),
    (
        "a segment that is matched and learned",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {query: [{name: region, prefix: eu}]}, learned: eu",
        "15: services.shop.segments.eu: match and learned at once; legal: exactly one of match, learned",
    ),
    (
        "a segment of nobody",
        "match: {query: [{name: region, prefix: eu}]}",
        "weight: 2",
        "15: services.shop.segments.eu: no way to tell who is in it; legal: exactly one of match, learned",
    ),
    (
        "a learned segment with an impossible name",
        "match: {query: [{name: region, prefix: eu}]}",
        "learned: eu/west",
        "15: services.shop.segments.eu.learned: eu/west: not a name; "
        "legal: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63",
    ),
    (
        "how to ask, where nobody is asked for",
        "port: 10000",
        "port: 10000\n    learned: {timeout: 5ms}",
        "5: services.shop.learned: does nothing: no segment is learned; "
        "legal: segments: {NAME: {learned: NAME}} with it",
    ),
    (
        "a network that is none",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {source: [10.1.0.0/33]}",
        f"15: services.shop.segments.eu.match.source[0]: 10.1.0.0/33: not a network; legal: {NETWORKS}",
    ),
    (
        "a network with bits behind its prefix",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {source: ['2001:db8::1/32']}",
        "15: services.shop.segments.eu.match.source[0]: 2001:db8::1/32: has bits set behind its prefix; "
        f"did you mean 2001:db8::/32? legal: {NETWORKS}",
    ),
    (
        "a network with a zone",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {source: ['fe80::1%eth0']}",
        "15: services.shop.segments.eu.match.source[0]: fe80::1%eth0: a zone means something on one machine only; "
        f"legal: {NETWORKS}",
    ),
    (
        "a network twice",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {source: [10.0.0.1, 10.0.0.1]}",
        "15: services.shop.segments.eu.match.source[1]: 10.0.0.1: given twice; legal: each network once",
    ),
    (
        "a cookie that no browser can have",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {cookies: [{name: 'a b', exact: b}]}",
        "15: services.shop.segments.eu.match.cookies[0].name: 'a b': not a token; legal: a name such as sid",
    ),
    (
        "a cookie matched in two ways",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {cookies: [{name: a, exact: b, present: true}]}",
        "15: services.shop.segments.eu.match.cookies[0]: exact and present at once; "
        "legal: exactly one of exact, prefix, suffix, contains, regex, present",
    ),
    (
        "a claim without anybody who could make it",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {claims: [{name: plan, exact: pro}]}",
        "15: services.shop.segments.eu.match.claims[0]: nobody is there whose tokens could be verified; "
        "legal: jwt: {NAME: ...}",
    ),
    (
        "a claim of a provider that is not there",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {claims: [{name: plan, exact: pro, provider: people}]}",
        "15: services.shop.segments.eu.match.claims[0].provider: people: unknown provider; legal: none are defined",
    ),
    (
        "a claim without a name between its dots",
        "match: {query: [{name: region, prefix: eu}]}",
        "match: {claims: [{name: a..b, exact: pro}]}",
        "15: services.shop.segments.eu.match.claims[0].name: a..b: empty between two dots; legal: the name of a claim, "
        "such as plan, realm_access.roles (a claim in a claim) or https://shop.example/plan",
    ),
    (
        "an unknown policy",
        "policy: budget",
        "policy: learnt",
        "19: services.shop.rollout.policy: learnt: unknown; did you mean learned? legal: budget, learned, thompson, "
        "fixed",
    ),
    (
        "a duration without unit",
        "interval: 10s",
        "interval: 10",
        f"19: services.shop.rollout.interval: 10: needs a unit; legal: 200ms to 1h, {DURATIONS}",
    ),
    (
        "a duration out of range",
        "interval: 10s",
        "interval: 100ms",
        f"19: services.shop.rollout.interval: 100ms: out of range; legal: 200ms to 1h, {DURATIONS}",
    ),
    (
        "a list where a word belongs",
        "port: 10000",
        "port: [10000]",
        "4: services.shop.port: a list where a single value belongs; legal: a whole number, 1 to 65535",
    ),
    (
        "a word where a mapping belongs",
        "rollout: {interval: 10s, policy: budget, harm: {budget: 50}}",
        "rollout: fast",
        "19: services.shop.rollout: fast: a single value where a mapping belongs; "
        f"legal: a mapping with {ROLLOUT_KEYS}",
    ),
    (
        "a word where a list belongs",
        "domains: [cart]",
        "domains: cart",
        "21: services.cart.domains: cart: a single value where a list belongs; "
        "legal: a list, each item a host name, *.suffix, prefix.* or *",
    ),
    (
        "a key without a value",
        "rollout: {interval: 10s, policy: budget, harm: {budget: 50}}",
        "rollout:",
        f"19: services.shop.rollout: nothing given; legal: a mapping with {ROLLOUT_KEYS}",
    ),
    (
        "a missing key",
        "    port: 10001\n",
        "",
        "20: services.cart.port: missing; legal: a whole number, 1 to 65535",
    ),
    (
        "a port out of range",
        "port: 10001",
        "port: 70000",
        "22: services.cart.port: 70000: out of range; legal: a whole number, 1 to 65535",
    ),
    (
        "an endpoint without port",
        "10.0.0.3:80",
        "10.0.0.3",
        f"10: services.shop.versions.v2.endpoints[0]: 10.0.0.3: not host:port; legal: {ENDPOINTS}",
    ),
    (
        "an endpoint given twice",
        "10.0.0.2:80",
        "10.0.0.1:80",
        "9: services.shop.versions.v1.endpoints[1]: 10.0.0.1:80: given twice; legal: each endpoint once",
    ),
    (
        "an endpoint that is Envoy itself",
        "10.0.0.2:80",
        "127.0.0.1:8000",
        "9: services.shop.versions.v1.endpoints[1]: 127.0.0.1:8000: gateway edge itself listens there: a loop; "
        "legal: where the version's own servers listen",
    ),
    (
        "no endpoints",
        "endpoints: [10.0.0.3:80]",
        "endpoints: []",
        f"10: services.shop.versions.v2.endpoints: empty; legal: one or more: {GIVEN_ENDPOINTS}",
    ),
    (
        "an endpoint where a list belongs",
        "endpoints: [10.0.0.3:80]",
        "endpoints: 10.0.0.3:80",
        "10: services.shop.versions.v2.endpoints: 10.0.0.3:80: a single value where a list belongs; "
        f"legal: {GIVEN_ENDPOINTS}",
    ),
    (
        "endpoints from nowhere",
        "endpoints: [10.0.0.3:80]",
        "endpoints: {}",
        "10: services.shop.versions.v2.endpoints: no source of endpoints; legal: exactly one of file, registered",
    ),
    (
        "endpoints from two places",
        "endpoints: [10.0.0.3:80]",
        "endpoints: {file: v2.txt, registered: {}}",
        "10: services.shop.versions.v2.endpoints: file and registered at once; legal: exactly one of file, registered",
    ),
    (
        "an unknown source of endpoints",
        "endpoints: [10.0.0.3:80]",
        "endpoints: {files: v2.txt}",
        "10: services.shop.versions.v2.endpoints.files: unknown key; did you mean file? legal: file, registered",
    ),
    (
        "a lease out of range",
        "endpoints: [10.0.0.3:80]",
        "endpoints: {registered: {lease: 100ms}}",
        f"10: services.shop.versions.v2.endpoints.registered.lease: 100ms: out of range; legal: 1s to 1h, {DURATIONS}",
    ),
    (
        "registration without a value",
        "endpoints: [10.0.0.3:80]",
        "endpoints: {registered: }",
        "10: services.shop.versions.v2.endpoints.registered: nothing given; legal: a mapping with lease",
    ),
    (
        "a file without a name",
        "endpoints: [10.0.0.3:80]",
        'endpoints: {file: ""}',
        "10: services.shop.versions.v2.endpoints.file: '': empty or not printable; "
        "legal: the name of a file, seen from the mesh file's folder",
    ),
    (
        "two identities in one",
        "{header: x-user-id}",
        "{header: x-user-id, cookie: {name: sid}}",
        "5: services.shop.identity[0]: header and cookie at once; legal: exactly one of header, cookie",
    ),
    (
        "a stream with a timeout",
        "{prefix: /api/, timeout: 2s}",
        "{prefix: /api/, timeout: 2s, stream: true}",
        "7: services.shop.routes[0].timeout: 2s: a stream has no timeout; legal: stream: true without a timeout",
    ),
    (
        "a route behind a shorter one",
        "[{prefix: /api/, timeout: 2s}, {prefix: /}]",
        "[{prefix: /}, {prefix: /api/}]",
        "7: services.shop.routes[1].prefix: /api/: never reached: / matches first; "
        "legal: longer prefixes before shorter ones, each once",
    ),
    (
        "an unknown status",
        "    routes:",
        "    errors: {status: [5xx, 6xx]}\n    routes:",
        "7: services.shop.errors.status: 6xx: not a status; "
        "legal: a status from 100 to 599, a range such as 500-504, a class such as 5xx, or a list of these",
    ),
    (
        "a resource that is given twice",
        "domains: [cart]",
        "domains: [cart]\n    resources: [{name: a, metric: m.x, limit: 5}, {name: a, metric: m.y, limit: 6}]",
        "22: services.cart.resources[1].name: a: given twice; legal: each name once",
    ),
    (
        "a metric of two resources",
        "domains: [cart]",
        "domains: [cart]\n    resources: [{name: a, metric: m.x, limit: 5}, {name: b, metric: m.x, limit: 6}]",
        "22: services.cart.resources[1].metric: m.x: given twice; "
        "legal: each metric once: a process has one value of it",
    ),
    (
        "a resource without a limit above 0",
        "domains: [cart]",
        "domains: [cart]\n    resources: [{name: a, metric: m.x, limit: 0}]",
        "22: services.cart.resources[0].limit: 0: out of range; legal: 0.001 to 1,000,000,000,000,000",
    ),
    (
        "a KPI without its goal",
        "domains: [cart]",
        "domains: [cart]\n    kpis: {abandonment: {max_regression: 2pp}}",
        f"22: services.cart.kpis.abandonment: session.goal is missing; legal: {NEEDS_GOAL}",
    ),
    (
        "a policy that watches itself",
        "domains: [cart]",
        "domains: [cart]\n    rollout: {policy: fixed, shadow: fixed}",
        "22: services.cart.rollout.shadow: fixed: it is the policy that acts; legal: another policy, or no shadow",
    ),
    (
        "harm without its goal",
        "domains: [cart]",
        "domains: [cart]\n    rollout: {harm: {bad: [error, abandoned]}}",
        f"22: services.cart.rollout.harm.bad[1]: abandoned: session.goal is missing; legal: {NEEDS_GOAL}",
    ),
    (
        "a gateway that hands over to nobody",
        "to: web",
        "to: wep",
        "27: gateways.edge.to: wep: unknown sidecar; did you mean web? legal: web",
    ),
    (
        "a gateway of an unknown service",
        "services: [shop]",
        "services: [shop, card]",
        "27: gateways.edge.services[1]: card: unknown service; did you mean cart? legal: shop, cart",
    ),
    (
        "two listeners on one address",
        "listen: 127.0.0.1:8001",
        "listen: 127.0.0.1:8000",
        "29: sidecars.web.listen: 127.0.0.1:8000: gateway edge listens there already; "
        "legal: an address of its own for each gateway and sidecar",
    ),
    (
        "a gateway that listens on a name",
        "listen: 127.0.0.1:8000",
        "listen: localhost:8000",
        "27: gateways.edge.listen: localhost:8000: Envoy listens on an IP address, not on a host name; "
        f"legal: {LISTEN}",
    ),
    (
        "a hand-over to an address that nobody can send to",
        "listen: 127.0.0.1:8001",
        "listen: 0.0.0.0:8001",
        "27: gateways.edge.to: web: listens on 0.0.0.0:8001, and a gateway cannot send requests to that address; "
        "legal: a sidecar that listens on an address or name that the gateway can reach",
    ),
    (
        "a gateway that takes away the identity",
        "strip: [x-plan]",
        "strip: [X-User-ID]",
        "27: gateways.edge.strip[0]: X-User-ID: all that tells the people of service shop apart; "
        "legal: headers that are no service's only identity",
    ),
    (
        "a node with two roles",
        "  web: {listen: 127.0.0.1:8001}",
        "  web: {listen: 127.0.0.1:8001}\n  edge: {listen: 127.0.0.1:8002}",
        "30: sidecars.edge: a gateway has this name; legal: a name of its own for each node",
    ),
    (
        "a gateway that every sidecar would take for itself",
        "  edge: {listen",
        "  sidecar: {listen",
        "27: gateways.sidecar: the node cluster of all sidecars; legal: any other name",
    ),
    (
        "a name that would break the names of clusters",
        "  cart:\n",
        "  cart|x:\n",
        "20: services.cart|x: cart|x: not a name; "
        "legal: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63",
    ),
    (
        "a custom YAML tag",
        "port: 10001",
        "port: !secret 10001",
        "22: services.cart.port: !secret: a tag has no meaning here; legal: plain YAML",
    ),
]

WHOLE_FILES = [
    ("", f"1: (top level): empty file; legal: {TOP}"),
    ("# nothing\n", f"1: (top level): empty file; legal: {TOP}"),
    ("{}", f"1: (top level): empty file; legal: {TOP}"),
    ("hello", f"1: (top level): hello: not a mapping; legal: {TOP}"),
    ("- a\n", f"1: (top level): a list: not a mapping; legal: {TOP}"),
    (
        "services:\n  shop: [\n",
        "3: (top level): not YAML: expected the node content, but found '<stream end>' "
        f"(while parsing a flow node); legal: {TOP}",
    ),
    ("a: \x00", f"1: (top level): not YAML: character '\\x00' is not allowed; legal: {TOP}"),
    (
        'a: "\\U99999999"',
        f"1: (top level): not YAML: an escape such as \\U99999999 that stands for no character; legal: {TOP}",
    ),
    ("[" * 5_000, f"1: (top level): not YAML: nested too deeply; legal: {TOP}"),
    (
        "a: &a [*a]",
        f"1: a[0][0]: nested too deeply, or too large once aliases are filled in; legal: {TOP}",
    ),
    (
        "services: 3",
        "1: services: 3: a single value where a mapping belongs; legal: a mapping of names, "
        f"each to a mapping with {SERVICE_KEYS}",
    ),
]


def mistakes(text: str) -> list[str]:
    with pytest.raises(MeshError) as caught:
        parse_mesh(text, "mesh.yaml")
    return [str(problem).removeprefix("mesh.yaml:") for problem in caught.value.problems]


@pytest.mark.parametrize(("old", "new", "line"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_each_mistake_gives_one_line_with_place_value_and_what_is_legal(old: str, new: str, line: str) -> None:
    assert BASE.count(old) == 1, "the case must change one place of the base"
    assert mistakes(BASE.replace(old, new)) == [line]


@pytest.mark.parametrize(("text", "line"), WHOLE_FILES)
def test_a_file_that_is_no_mesh_gives_one_line(text: str, line: str) -> None:
    assert mistakes(text) == [line]


def test_the_base_of_the_wrong_cases_is_right() -> None:
    assert list(parse_mesh(BASE, "mesh.yaml").services) == ["shop", "cart"]


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = BASE.replace("to: web", "to: wep").replace("port: 10000", "port: 0").replace("baseline: v1", "baseline: v9")
    places = [line.split(": ")[:2] for line in mistakes(text)]
    assert places == [
        ["4", "services.shop.port"],
        ["11", "services.shop.baseline"],
        ["25", "services.cart.baseline"],
        ["27", "gateways.edge.to"],
    ]


def test_a_billion_laughs_are_refused_in_time() -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "too large once aliases are filled in" in mistakes("\n".join(layers))[0]


def test_a_file_that_cannot_be_read_gives_one_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"services:\n  caf\xe9: {}\n")
    expected = {
        tmp_path / "none.yaml": f"{tmp_path}/none.yaml: no such file; legal: a file with {TOP}",
        tmp_path: f"{tmp_path}: cannot be read: Is a directory; legal: a file with {TOP}",
        latin: f"{latin}:2: (top level): not YAML: not UTF-8 text; legal: a file with {TOP}",
    }
    for path, line in expected.items():
        with pytest.raises(MeshError) as caught:
            load_mesh(path)
        assert [str(problem) for problem in caught.value.problems] == [line]


def test_five_keys_are_enough_and_the_rest_has_the_documented_defaults() -> None:
    service = load_mesh(MESHES / "minimal.yaml").services["checkout"]
    assert service.routes == (Route(prefix="/", timeout_ms=15_000, retries=0),)
    assert service.errors == ErrorRule()
    assert service.matches == {"default": None}
    assert service.spec.segments == (SegmentSpec(name="default"),)
    assert service.spec.session == SessionSpec(gap_s=1_800.0, goal_path=None)
    assert service.spec.rollout == RolloutSpec(harm=HarmSpec(bad=frozenset({Outcome.ERROR})))
    assert service.spec.kpis == (
        KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=60.0, tolerance=0.005),
        KpiSpec(kind=KpiKind.LATENCY, judge_after_s=60.0, tolerance=0.02, regression=0.1),
        KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=60.0, tolerance=0.1),
    )


def test_a_goal_brings_the_abandonment_kpi() -> None:
    spec = parse_mesh(BASE, "mesh.yaml").services["shop"].spec
    abandonment = [kpi for kpi in spec.kpis if kpi.kind is KpiKind.ABANDONMENT]
    assert abandonment == [KpiSpec(kind=KpiKind.ABANDONMENT, judge_after_s=600.0, tolerance=0.02)]
    assert spec.rollout.harm.bad == {Outcome.ERROR}, "who left counts as harm only where it is asked for"
    asked = parse_mesh(
        BASE.replace("harm: {budget: 50}", "harm: {budget: 50, bad: [error, slow, abandoned]}"), "m.yaml"
    )
    assert asked.services["shop"].spec.rollout.harm.bad == set(Outcome)


def test_the_full_example_becomes_what_it_says() -> None:
    mesh = load_mesh(MESHES / "shop.yaml")
    service = mesh.services["checkout"]
    assert service.identity == (HeaderIdentity(header="x-user-id"), CookieIdentity(cookie="sid", ttl_s=2_592_000))
    assert service.errors.status == ((500, 599), (429, 429))
    assert service.routes[0] == Route(prefix="/api/", timeout_ms=2_000, retries=1)
    assert service.idle_timeout_ms == 3_600_000
    assert service.versions["v1"].endpoints == (("127.0.0.1", 9001), ("127.0.0.1", 9011))
    assert service.versions["v1"].health == HealthCheck(path="/healthz", interval_ms=2_000, timeout_ms=1_000)
    assert list(service.matches) == [
        *("internal", "vip", "power", "beta", "recent", "invited", "europe", "trial", "newcomers", "default")
    ]
    assert service.matches["beta"] == SegmentMatch(
        query=(ValueMatch(name="beta", kind="regex", value="1|true"),), path_prefix="/api/"
    )
    assert service.matches["newcomers"] == SegmentMatch(learned="newcomers")
    assert (service.learned, service.learned_timeout_ms) == ({"newcomers": "newcomers"}, 20)
    assert service.matches["recent"] == SegmentMatch(headers=(ValueMatch(name="x-visits", kind="range", value=(0, 3)),))
    assert service.spec.segments[2] == SegmentSpec(name="power", after=("internal",), max_split_bp=5_000)
    assert {kpi.name: (kpi.limit, kpi.slow_ms, kpi.tolerance) for kpi in service.spec.kpis} == {
        "error_rate": (0.02, None, 0.005),
        "latency_p95": (None, 400.0, 0.02),
        "abandonment": (0.4, None, 0.02),
        "feature:voucher": (None, None, 0.02),
        "anomaly": (None, None, 0.1),
    }
    assert service.spec.rollout.max_step_bp == 2_500
    assert service.holds
    assert service.matches["europe"] == SegmentMatch(source=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    assert service.matches["trial"] == SegmentMatch(
        claims=(ClaimMatch(provider="people", path=("shop", "plan"), kind="exact", value="trial"),)
    )
    assert service.matches["invited"].cookies == (ValueMatch(name="invited", kind="present", value=True),)
    assert mesh.jwt["people"].issuer == "https://login.shop.example"
    assert mesh.jwt["people"].audiences == ("shop",)
    assert mesh.gateways["edge"].trusted_hops == 1
    assert mesh.gateways["edge"].to == "web"
    assert mesh.sidecars["web"].listen == ("127.0.0.1", 10_000)


def test_keys_of_an_issuer_are_checked_each_mistake_in_one_line(tmp_path: Path) -> None:
    """What Envoy could verify nothing with, and what must not be handed out."""
    expected = 'a JWK set of public keys, {"keys": [...]}'
    key = json.loads(Issuer().jwks)["keys"][0]
    mistakes = {
        "file: keys.json": "keys.json: no such file",
        "file: .": ".: no such file",
        "inline: '{'": "not JSON",
        "inline: '[]'": "no list of keys in it",
        "inline: '{\"keys\": []}'": "no list of keys in it",
        'inline: \'{"keys": [{"kty": "RSA", "e": "AQAB"}]}\'': (
            "no key of a known type: RSA, EC, OKP, each with its parts"
        ),
        f"inline: '{json.dumps({'keys': [{**key, 'd': 'x'}]})}'": (
            "key 0 is a private or secret key; every Envoy is sent these keys"
        ),
        'inline: \'{"keys": [{"kty": "oct", "k": "x"}]}\'': (
            "key 0 is a private or secret key; every Envoy is sent these keys"
        ),
    }
    for given, said in mistakes.items():
        with pytest.raises(MeshError) as caught:
            parse_mesh(f"{BASE}\njwt: {{people: {{jwks: {{{given}}}}}}}\n", str(tmp_path / "mesh.yaml"))
        way = given.partition(":")[0]
        (problem,) = caught.value.problems
        assert str(problem).partition(": ")[2] == f"jwt.people.jwks.{way}: {said}; legal: {expected}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{}", "jwt.people.jwks: no keys; legal: exactly one of file, inline"),
        ("{file: a, inline: b}", "jwt.people.jwks: file and inline at once; legal: exactly one of file, inline"),
    ],
)
def test_keys_of_an_issuer_are_in_one_place(given: str, said: str) -> None:
    with pytest.raises(MeshError) as caught:
        parse_mesh(f"{BASE}\njwt: {{people: {{jwks: {given}}}}}\n", "mesh.yaml")
    assert [str(problem).partition(": ")[2] for problem in caught.value.problems] == [said]


def test_a_token_is_where_it_is_said_to_be() -> None:
    """After `Bearer` where nothing is said; in another header, without."""
    jwks = Issuer().jwks
    places = {
        "": ("authorization", "Bearer ", None),
        "token: {header: Authorization}": ("authorization", "Bearer ", None),
        "token: {header: x-token}": ("x-token", "", None),
        "token: {header: x-token, prefix: 'T '}": ("x-token", "T ", None),
        "token: {cookie: id}": ("", "", "id"),
    }
    for given, (header, prefix, cookie) in places.items():
        text = f"{BASE}\njwt: {{people: {{jwks: {{inline: '{jwks}'}}, {given}}}}}\n"
        provider = JwtProvider(name="people", jwks=jwks, header=header, prefix=prefix, cookie=cookie)
        assert parse_mesh(text, "mesh.yaml").jwt == {"people": provider}
    for given, said in (
        ("{}", "no place; legal: exactly one of header, cookie"),
        ("{header: a, cookie: b}", "header and cookie at once; legal: exactly one of header, cookie"),
        ("{cookie: b, prefix: x}", "prefix: x: does nothing: only a header has a prefix; legal: header with it"),
    ):
        with pytest.raises(MeshError) as caught:
            parse_mesh(f"{BASE}\njwt: {{people: {{jwks: {{inline: '{jwks}'}}, token: {given}}}}}\n", "mesh.yaml")
        (problem,) = caught.value.problems
        assert said in str(problem)


def test_the_full_example_shows_every_key_there_is() -> None:
    """It is the reference for authors; only the kinds of match are told in README."""
    used = set(re.findall(r"([a-z_0-9]+):", (MESHES / "shop.yaml").read_text()))
    schema = mesh_schema()
    known = {key for shape in [schema, *schema["$defs"].values()] for key in shape["properties"]}
    assert known - used == {"prefix", "suffix", "contains"} - used


def test_endpoints_come_from_the_mesh_from_a_file_beside_it_or_from_those_who_register() -> None:
    versions = load_mesh(MESHES / "shop.yaml").services["search"].versions
    assert versions["v7"].endpoints == (("search-v7.internal", 8080),)
    assert [v.source for v in versions.values()] == [
        None,
        EndpointFile(path=str(MESHES / "../endpoints/search-v8.yaml")),
        Registered(lease_s=30.0),
    ]
    assert [v.endpoints for v in versions.values()][1:] == [(), ()]


@pytest.mark.parametrize(("given", "lease_s"), [("{}", 30.0), ("{lease: 5m}", 300.0)])
def test_a_lease_has_a_default(given: str, lease_s: float) -> None:
    text = BASE.replace("endpoints: [10.0.0.3:80]", f"endpoints: {{registered: {given}}}")
    assert parse_mesh(text, "mesh.yaml").services["shop"].versions["v2"].source == Registered(lease_s=lease_s)


def test_observing_is_a_mode() -> None:
    assert load_mesh(MESHES / "observe.yaml").services["checkout"].spec.rollout.mode is Mode.OBSERVE


@pytest.mark.parametrize(
    ("given", "bp"), [("50%", 5_000), ("0.5", 5_000), ("50pp", 5_000), ("0.01%", 1), ("100%", 10_000)]
)
def test_a_split_may_be_written_in_several_ways(given: str, bp: int) -> None:
    mesh = parse_mesh(BASE.replace("max_split: 50%", f"max_split: {given}"), "mesh.yaml")
    assert mesh.services["shop"].spec.segments[2].max_split_bp == bp


@pytest.mark.parametrize(
    ("given", "seconds"), [("500ms", 0.5), ("10s", 10.0), ("30m", 1_800.0), ("1h", 3_600.0), ("1.5s", 1.5)]
)
def test_a_duration_carries_its_unit(given: str, seconds: float) -> None:
    mesh = parse_mesh(BASE.replace("interval: 10s", f"interval: {given}"), "mesh.yaml")
    assert mesh.services["shop"].spec.rollout.interval_s == seconds


@pytest.mark.parametrize(
    ("given", "ranges"),
    [("5xx", ((500, 599),)), ("404", ((404, 404),)), ("[429, 500-504]", ((429, 429), (500, 504))), ("[]", ())],
)
def test_what_counts_as_an_error_is_settable(given: str, ranges: tuple[tuple[int, int], ...]) -> None:
    text = BASE.replace(
        "    routes:", f"    errors: {{status: {given}, flags: none, grpc_status: ignore}}\n    routes:"
    )
    errors = parse_mesh(text, "mesh.yaml").services["shop"].errors
    assert (errors.status, errors.flags, errors.grpc_failing) == (ranges, frozenset(), False)


def test_a_version_keeps_the_name_that_was_written() -> None:
    """YAML would read 1.10 as the number 1.1, and `no` as false."""
    text = BASE.replace("v1", "1.10").replace("exact: vip", "exact: no")
    service = parse_mesh(text, "mesh.yaml").services["shop"]
    assert service.spec.baseline == "1.10"
    assert service.matches["vip"] == SegmentMatch(headers=(ValueMatch(name="x-plan", kind="exact", value="no"),))


def test_a_gateway_serves_every_service_unless_told_otherwise() -> None:
    mesh = parse_mesh(BASE.replace(" services: [shop],", ""), "mesh.yaml")
    assert mesh.gateways["edge"].services == ("shop", "cart")


def test_services_may_share_a_domain_on_different_listeners() -> None:
    text = BASE[: BASE.index("gateways:")].replace("domains: [cart]", "domains: [shop]")
    assert len(parse_mesh(text, "mesh.yaml").services) == 2


def test_wildcard_addresses_do_not_clash() -> None:
    """Two gateways on 0.0.0.0:8000 are two machines."""
    text = BASE.replace("127.0.0.1:8000", "0.0.0.0:8000") + "  spare: {listen: 0.0.0.0:8000}\n"
    assert parse_mesh(text, "mesh.yaml").sidecars["spare"].listen == ("0.0.0.0", 8000)


def test_nothing_in_a_mesh_can_be_changed() -> None:
    mesh: Mesh = parse_mesh(BASE, "mesh.yaml")
    shop = mesh.services["shop"]
    for mapping in (mesh.services, mesh.gateways, mesh.sidecars, shop.versions, shop.matches):
        assert isinstance(mapping, MappingProxyType)


def test_the_published_schema_is_up_to_date() -> None:
    """`serinus schema > envoy-configs/mesh.schema.json` after a change."""
    assert json.loads((MESHES.parent / "mesh.schema.json").read_text()) == mesh_schema()


def test_the_schema_knows_every_key_and_allows_no_other() -> None:
    schema = mesh_schema()
    assert schema["required"] == ["services"]
    assert schema["$defs"]["ServiceShape"]["required"] == ["domains", "port", "identity", "versions", "baseline"]
    for shape in schema["$defs"].values():
        assert shape["additionalProperties"] is False


def test_people_are_held_by_cookies_unless_told_otherwise_where_a_secret_signs_them() -> None:
    """In segments of people: neither in what is pinned nor in what is of a request."""
    text = BASE.replace(
        "match: {query: [{name: region, prefix: eu}]}", "match: {headers: [{name: ':method', exact: PUT}]}"
    )
    mesh = with_hold_secret(parse_mesh(text, "mesh.yaml"), b"secret")
    assert parse_mesh(text, "mesh.yaml").services["shop"].held_segments == ()
    assert "secret" not in repr(mesh)
    shop = mesh.services["shop"]
    assert [segment.name for segment in shop.spec.segments] == ["staff", "vip", "eu", "default"]
    assert shop.held_segments == ("staff", "default")
    both = with_hold_secret(parse_mesh(BASE, "mesh.yaml"), b"secret").services["shop"]
    assert both.held_segments == ("staff", "eu", "default")
    off = parse_mesh(BASE.replace("{gap: 30m,", "{gap: 30m, hold: false,"), "mesh.yaml")
    assert with_hold_secret(off, b"secret").services["shop"].held_segments == ()
