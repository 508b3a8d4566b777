"""What is played: services with shipped defaults, and what is true of them.

Rates are judged sessions a second: people come once, since a person is judged once.
"""

from __future__ import annotations

from xds_server.scenario_file import ScenarioFile, parse_scenario

LOADS = (2.0, 20.0, 200.0)

ONE = "segments: {default: {share: 100%}}\npeople: {visits: 1}\n"
TEN = """people: {visits: 1}
session: {goal: {path: /checkout/done}}
segments:
  mobile: {share: 20%}
  eu: {share: 15%}
  newcomers: {share: 10%}
  apac: {share: 7%}
  business: {share: 3%}
  power: {share: 2%}
  staff: {share: 1%}
  beta: {share: 1%}
  press: {share: 1%}
  default: {share: 40%}
"""
"""Ten segments of five KPIs: 50 streams."""

NOISE = "traffic: {daily: 40%, peak: 6h, bursts_per_h: 6, burst: 2s, unlucky: 1%, unlucky_visits: 20}\n"
"""Bursts of errors, and 1 % of people who meet an error in each of their 20 sessions."""

ERRORS_ALONE = "rollout: {harm: {bad: [error]}}\n"


def plan(title: str, *parts: str, must: str = "keep", effects: str = "") -> ScenarioFile:
    """A scenario from pieces of a scenario file."""
    text = f"title: {title}\nmust: {must}\nhorizon: 48h\n" + "".join(parts)
    if effects:
        text += f"effects: [{effects}]\n"
    return parse_scenario(text, title)
