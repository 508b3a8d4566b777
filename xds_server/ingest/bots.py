"""Who says of himself that he is a machine."""

from __future__ import annotations

import re

_LONGEST = 512  # bytes of a user agent that are looked at

_MACHINES = re.compile(
    rb"(?<!cu)bots?\b|bot[/_-]|crawl|spider|slurp|archiver|scrap(?:er|y)|facebookexternalhit|mediapartners-google"
    rb"|pingdom|uptime|statuscake|site24x7|monitoring|feedfetcher|kube-probe|healthcheck|elb-health",
    re.IGNORECASE,
)
"""Crawlers, monitors and probes. Not HTTP libraries, whose requests may well be a person's; Cubot makes phones."""


def is_bot(user_agent: bytes) -> bool:
    """Return whether a User-Agent header is that of a crawler, monitor or probe.

    >>> is_bot(b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"), is_bot(b"okhttp/4.12")
    (True, False)
    """
    return _MACHINES.search(user_agent[:_LONGEST]) is not None
