"""The report of experiments as one HTML page that needs nothing else: tables, and plots as SVG within it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from xds_server.errors import SerinusError

Row = Mapping[str, Any]

STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd }
td { text-align: right } td:first-child, td:nth-child(2), td:nth-child(3), th { text-align: left }
.bad { color: #b00020; font-weight: bold } svg { max-width: 100%; height: auto }
"""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"  # names in a table are not ours


class PlotError(SerinusError):
    """Plots cannot be drawn; the message says what to install."""


def page(reports: Iterable[Row]) -> str:
    """The page of all reports (`analysis.experiment.report.as_data`). Raises PlotError without matplotlib."""
    body = "\n".join(_section(report) for report in reports)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Experiments</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _section(report: Row) -> str:
    design = report["experiment"]
    parts = [f"<h1>{escape(design['name'])}</h1>", _standing(report), _checks(report["checks"])]
    parts.append(_effects(report))
    parts.append(_bayesian(report["bayesian"]))
    parts += [f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in _plots(report)]
    return "\n".join(parts)


def _standing(report: Row) -> str:
    lines = []
    for segment, verdict in report["verdicts"].items():
        said = f"{segment}: {verdict['standing']}"
        if verdict["winner"] is not None:
            said += f", {verdict['winner']} is ahead"
        said += "".join(f"; {name} is out: {why}" for name, why in verdict["withdrawn"].items())
        lines.append(f"<p><b>{escape(said)}</b></p>")
    return "\n".join(lines)


def _checks(checks: Row) -> str:
    ratio, multiple = checks["sample_ratio"], checks["multiple_exposure"]
    p = "none" if ratio["p_value"] is None else f"{ratio['p_value']:.2g}"
    mark = ' class="bad"' if ratio["mismatch"] or ratio["proven"] else ""
    expected = ", ".join(f"{n:.0f}" for n in ratio["expected"])
    observed = ", ".join(map(str, ratio["observed"]))
    also = ' class="bad"' if multiple["too_many"] else ""
    return (
        f"<p{mark}>People by variant: {observed}; expected: {expected}; p = {p} at one look, "
        f"log e-value {ratio['log_e']:.2f} at every look.</p>\n"
        f"<p{also}>{multiple['people']} people ({multiple['share']:.2%}) met several variants and are left out.</p>"
    )


def _effects(report: Row) -> str:
    head = ("segment", "metric", "variant", "people", "effect", "low", "high", "p", "p adjusted", "discovery")
    rows = [
        (
            row["segment"], row["metric"], row["variant"], f"{row['n'] + row['n_control']:,}", _shown(row["effect"]),
            _shown(row["low"]), _shown(row["high"]), _p(row["p"]), _p(row["p_adjusted"]),
            "yes" if row["discovery"] else "",
        )
        for row in report["effects"]
    ]  # fmt: skip
    level = 1 - report["experiment"]["alpha"]
    return f"<h2>Effects against the control, {level:.4g} at every look</h2>\n{_table(head, rows)}"


def _bayesian(rows: Sequence[Row]) -> str:
    head = ("segment", "metric", "variant", "effect", "95 % from", "to", "beats control", "is best", "expected loss")
    shown = [
        (
            row["segment"], row["metric"], row["variant"], _shown(row["effect"]), _shown(row["low"]),
            _shown(row["high"]), f"{row['chance_to_beat_control']:.3f}", f"{row['chance_best']:.3f}",
            f"{row['expected_loss']:.3g}",
        )
        for row in rows
        if row["known"]
    ]  # fmt: skip
    return f"<h2>The same as a posterior, for one look</h2>\n{_table(head, shown)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>\n{body}</table>"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< .001"


# -- plots -----------------------------------------------------------------------------------------------------------


def _plots(report: Row) -> Iterable[tuple[str, str]]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise PlotError("the page's plots need matplotlib: install serinus[experiment]") from None
    with mpl.rc_context({"svg.hashsalt": "serinus", "svg.fonttype": "none", "font.size": 8, "text.parse_math": False}):
        series: dict[tuple[str, str], dict[str, list[Row]]] = {}
        for look in report["effects_over_time"]:
            for row in look["rows"]:
                of_metric = series.setdefault((row["segment"], row["metric"]), {})
                of_metric.setdefault(row["variant"], []).append({"at_s": look["at_s"], **row})
        for (segment, metric), by_variant in series.items():
            yield f"{metric}, {segment}: effect over time", _svg(Figure, _draw_effects, by_variant)
        shared: dict[str, list[Row]] = {}
        for each in report["allocation_over_time"]:
            shared.setdefault(each["segment"], []).append(each)
        names = [variant["name"] for variant in report["experiment"]["variants"]]
        last = max((look["at_s"] for look in report["effects_over_time"]), default=0.0)
        for segment, rows in shared.items():
            yield f"{segment}: allocation over time", _svg(Figure, _draw_shares, (rows, names, last))


def _svg(figure_of: Any, draw: Any, what: Any) -> str:
    figure = figure_of(figsize=(8, 2.6), layout="tight")
    axes = figure.subplots()
    draw(axes, what)
    axes.set_xlabel("at")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize=7)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _draw_effects(axes: Any, by_variant: Mapping[str, Sequence[Row]]) -> None:
    for place, (variant, rows) in enumerate(by_variant.items()):
        known = [row for row in rows if row["effect"] is not None]
        at = [row["at_s"] for row in known]
        axes.plot(at, [row["effect"] for row in known], ".-", color=f"C{place}", label=variant)
        axes.fill_between(
            at, [row["low"] for row in known], [row["high"] for row in known], color=f"C{place}", alpha=0.2
        )
    axes.axhline(0.0, color="black", linewidth=0.6)


def _draw_shares(axes: Any, what: tuple[Sequence[Row], Sequence[str], float]) -> None:
    rows, names, last = what
    at = [row["at_s"] for row in rows] + [max(last, rows[-1]["at_s"])]
    columns = [[row["shares"][v] for row in rows] + [rows[-1]["shares"][v]] for v in range(len(names))]
    axes.stackplot(at, columns, labels=names, step="post", alpha=0.7)
    axes.set_ylim(0, 1)
