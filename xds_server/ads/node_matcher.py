"""Which nodes a question about clients is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import re2
from envoy.type.matcher.v3.node_pb2 import NodeMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from xds_server.errors import BadRequestError

MAX_MATCHERS = 64
MAX_PATTERN = 1_000  # characters

_Matches = Callable[[str], bool]


def node_matcher(matchers: Iterable[NodeMatcher]) -> _Matches:
    """Return what tells by its ID whether any of these match a node; without any, all do.

    Raises BadRequestError for what cannot be asked: metadata of nodes is not kept.
    """
    any_of = []
    for matcher in matchers:
        if matcher.node_metadatas:
            raise BadRequestError("node_metadatas is not supported: nodes are matched by node_id alone")
        any_of.append(_string_matcher(matcher.node_id) if matcher.HasField("node_id") else _everything)
        if len(any_of) > MAX_MATCHERS:
            raise BadRequestError(f"more than {MAX_MATCHERS} node_matchers")
    return (lambda node: any(matches(node) for matches in any_of)) if any_of else _everything


def _everything(_node: str) -> bool:
    return True


def _string_matcher(matcher: StringMatcher) -> _Matches:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return _regex(matcher.safe_regex.regex)  # which ignore_case does not concern
    if kind not in ("exact", "prefix", "suffix", "contains"):
        raise BadRequestError(
            f"node_id: {kind or 'no match_pattern'}; legal: exact, prefix, suffix, contains, safe_regex"
        )
    pattern = _bounded(getattr(matcher, kind))
    if matcher.ignore_case:
        folded = _by_pattern(kind, pattern.lower())
        return lambda node: folded(node.lower())
    return _by_pattern(kind, pattern)


def _by_pattern(kind: str, pattern: str) -> _Matches:
    match kind:
        case "exact":
            return lambda node: node == pattern
        case "prefix":
            return lambda node: node.startswith(pattern)
        case "suffix":
            return lambda node: node.endswith(pattern)
        case _:
            return lambda node: pattern in node


def _regex(pattern: str) -> _Matches:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(_bounded(pattern), options=options)
    except re2.error as error:
        raise BadRequestError(f"node_id.safe_regex: {error}") from error
    return lambda node: compiled.fullmatch(node) is not None


def _bounded(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN:
        raise BadRequestError(f"a pattern of {len(pattern)} characters; legal: up to {MAX_PATTERN}")
    return pattern
