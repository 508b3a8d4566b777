"""What GrowthBook's SDKs take: features evaluated here for one person, or rules that they evaluate themselves.

Their own hash (FNV-1a) puts people elsewhere than Envoy's, so no rule asks for it. Rules go by an attribute that says
where Envoy has somebody: an object with rollout, segment and bucket, which is the metadata of an OFREP evaluation.
Those stay the same while a rollout lasts and its splits move. Who does not say them matches no rule and gets no value,
so that the application's fallback counts: a guess might be another version than Envoy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from xds_server import assign
from xds_server.flags.asking import Door, told, unless_known
from xds_server.flags.context import FlagError
from xds_server.flags.evaluation import only_version
from xds_server.http_requests import RefusedError
from xds_server.mesh import Service, ServiceSplits
from xds_server.resources.routes import split_of

FALLBACK_KEY: Final = "id"
"""The attribute that most of GrowthBook's applications know people by."""


def attribute(service: str) -> str:
    """Return the name of the attribute that says where Envoy has somebody in a service.

    Dots lead into an attribute, so there must be none in its name; colons are in no service's name.
    """
    return "serinus:" + service.replace(".", ":")


def feature(service: Service, splits: ServiceSplits) -> dict[str, Any]:
    """Return a service as a feature of an SDK payload."""
    only = only_version(service, splits)
    if only is not None:
        return {"defaultValue": only}
    rules = [rule for segment in service.spec.segments for rule in _rules(service, segment.name, splits)]
    return {"defaultValue": None, "rules": rules}


def _rules(service: Service, segment: str, splits: ServiceSplits) -> list[dict[str, Any]]:
    where = attribute(service.name)
    shares = assign.shares(split_of(service, service.spec.segments[service.spec.segment_index[segment]], splits))
    if len(shares) == 1:
        return [{"condition": {f"{where}.segment": segment}, "force": shares[0][0]}]
    return [
        {
            "condition": {
                f"{where}.rollout": splits.rollout,
                f"{where}.segment": segment,
                f"{where}.bucket": {"$gte": first, "$lt": end},
            },
            "force": version,
        }
        for version, first, end in shares
    ]


@dataclass(frozen=True, slots=True)
class GrowthBook:
    """Answers GrowthBook's SDKs. There is one payload, whatever a client calls its key."""

    door: Door

    def routes(self) -> list[Route]:
        """Return what is served."""
        features, remote = (self.door.opened(each, methods=m) for each, m in ((self._all, "GET"), (self._one, "POST")))
        return [
            Route("/api/features/{client_key}", features, methods=["GET", "OPTIONS"]),
            Route("/api/eval/{client_key}", remote, methods=["POST", "OPTIONS"]),
        ]

    async def _all(self, request: Request) -> Response:
        """Rules for everybody; they name segments, which nobody is told who may be anybody."""
        if self.door.is_public:
            raise RefusedError(403, "rules name segments: ask by remote evaluation (POST /api/eval)")
        found = {name: self.door.flags.told(name) for name in self.door.flags.names()}
        response = told({"features": {name: feature(*each) for name, each in found.items() if each is not None}})
        response = unless_known(request, response)
        response.headers["cache-control"] = "no-cache"  # may be kept, but not used without asking
        return response

    async def _one(self, request: Request) -> Response:
        """What one person gets. A feature that cannot be evaluated is left out: the application's fallback counts."""
        try:
            context = await self.door.context(request, "attributes", FALLBACK_KEY)
        except FlagError as error:
            return told({"errorCode": error.code, "errorDetails": str(error)}, 400)
        features = {}
        for name in list(self.door.flags.names()):
            try:
                features[name] = {"defaultValue": self.door.evaluate(request, name, context).version}
            except FlagError:
                continue  # counted
        return told({"features": features})
