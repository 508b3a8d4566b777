"""Tables of other tools: what is right is taken, what is wrong is named by file, row and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.history.record import Verdict
from tests.deployments import deployment
from xds_server.errors import HistoryTableError
from xds_server.history_table import read_tables, write_tables

ROLLOUTS = "rollout,service,baseline,canary,started_unix_s,interval_s,label,attribute.lines,attribute.lang,outcome.eu\n"
SERIES = "rollout,at_s,segment,arm,kpi,n,bad,value,source\n"
ROLLOUT = "r1,shop,v1,v2,1700000000,60,bad,120,go,rolled_back\n"


def tables(directory: Path, rollouts: str = ROLLOUT, series: str = "") -> list[Path]:
    paths = [directory / "a.csv", directory / "b.csv"]
    paths[0].write_text(ROLLOUTS + rollouts)
    paths[1].write_text(SERIES + series)
    return paths


def test_tables_of_another_tool_are_read(tmp_path: Path) -> None:
    series = (
        "r1,60,eu,canary,error_rate,10,2,,pod-1\n"
        "r1,60,eu,canary,error_rate,5,1,,pod-2\n"
        "r1,120,us,baseline,error_rate,7,0,,\n"
        "r1,-60,eu,canary,latency_ms,,,12.5,pod-1\n"
    )
    (record,) = read_tables(tables(tmp_path, series=series))
    assert (record.segments, record.kpis, record.at_s.tolist()) == (("eu", "us"), ("error_rate",), [60.0, 120.0])
    assert record.n[:, :, 0].tolist() == [[[0, 15], [0, 0]], [[0, 0], [7, 0]]]  # the pods' counts add up
    assert record.bad[0, 0, 0].tolist() == [0, 3]
    assert np.isnan(record.arrived).all()
    assert record.attributes == {"lines": 120.0, "lang": "go"}
    assert record.outcome == {"eu": "rolled_back"}
    assert record.label is not None
    assert record.label.verdict is Verdict.BAD
    assert [(g.kpi, g.arm, g.source, g.at_s.tolist(), g.value.tolist()) for g in record.gauges] == [
        ("latency_ms", 1, "pod-1", [-60.0], [12.5])
    ]


@pytest.mark.parametrize(
    ("rollouts", "series", "message"),
    [
        (ROLLOUT + ROLLOUT, "", "line 3: rollout 'r1' is there already"),
        (",shop,v1,v2,0,60,,,,\n", "", "line 2: rollout is empty"),
        ("r1,shop,v1,v2,soon,60,,,,\n", "", "line 2: started_unix_s is 'soon'; legal: a finite number"),
        ("r1,shop,v1,v2,0,0,,,,\n", "", "line 2: interval_s is 0.0; legal: above 0"),
        ("r1,shop,v1,v2,0,60,evil,,,\n", "", "line 2: label is 'evil'; legal: bad, good, unknown"),
        ("r1,shop,v1,v2,0,60,,,,gone\n", "", "line 2: outcome.eu is 'gone'; legal: waiting"),
        ("r1,shop,v1,v2,0,60,,,\n", "", "line 2: 9 cells; the header has 10"),
        (ROLLOUT, "r2,60,eu,canary,e,1,0,,\n", "line 2: rollout 'r2' is in no table of rollouts"),
        (ROLLOUT, "r1,60,eu,treatment,e,1,0,,\n", "line 2: arm is 'treatment'; legal: baseline, canary"),
        (ROLLOUT, "r1,60,eu,canary,e,-1,0,,\n", "line 2: n is -1; legal: a whole number"),
        (ROLLOUT, "r1,60,eu,canary,e,nan,0,,\n", "line 2: n is 'nan'; legal: a finite number"),
        (ROLLOUT, "r1,60,eu,canary,e,1.5,0,,\n", "line 2: n is 1.5; legal: a whole number"),
        (ROLLOUT, "r1,60,eu,canary,e,1,2,,\n", "line 2: 2 bad ones of 1"),
        (ROLLOUT, "r1,60,eu,canary,e,,,NaN,\n", "line 2: value is 'NaN'; legal: a finite number"),
        (ROLLOUT, "r1,60,eu,canary,e,1,0,3,\n", "line 2: n and bad (of counted people), or value"),
        (ROLLOUT, "r1,60,eu,canary,e,,,,\n", "line 2: n and bad (of counted people), or value"),
        (ROLLOUT, "r1,60,eu,canary,e,1,0,,\n" * 2, "line 3: a second row of 'e' of canary in 'eu' at 60.0 s"),
        (ROLLOUT, "r1,inf,eu,canary,e,1,0,,\n", "line 2: at_s is 'inf'; legal: a finite number"),
        (ROLLOUT, "r1,60,eu,canary,serinus.x,1,0,,\n", "line 2: kpi 'serinus.x'"),
        (ROLLOUT, "r1,60,eu,canary,serinus.split_bp,,,10001,\n", "line 2: value is 10001; legal: a split"),
        (ROLLOUT, "r1,60,eu,canary,serinus.sessions,1,,,\n", "only those of canary; both arms are needed"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rollouts: str, series: str, message: str) -> None:
    with pytest.raises(HistoryTableError) as caught:
        read_tables(tables(tmp_path, rollouts, series))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ".csv" in str(caught.value)


def test_names_within_names_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{ROLLOUTS.strip()},kpis\n{ROLLOUT.strip()},{'[' * 15_000}\n")
    with pytest.raises(HistoryTableError, match=r"line 2: kpis is .* legal: a JSON list"):
        read_tables([tmp_path])


def test_few_rows_that_stand_for_many_places_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"r1,{i},segment-{i},canary,kpi-{i},1,0,,\n" for i in range(300))
    with pytest.raises(HistoryTableError, match="line 2: 300 ticks of 300 segments and 300 KPIs are 27000000 places"):
        read_tables(tables(tmp_path, rollouts=ROLLOUT.replace("rolled_back", ""), series=rows))


def test_unknown_and_missing_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for header, message in (
        (ROLLOUTS.strip() + ",attributes.team\n", "unknown column 'attributes.team'; legal: rollout"),
        ("rollout,started_unix_s\n", "a table of rollouts needs column 'service' as well"),
        ("when,what\n", "none of the tables by its columns"),
        ("rollout,rollout,kpi\n", "column 'rollout' is there twice"),
        ("", "is empty"),
        (SERIES, "no table of rollouts among the files"),
    ):
        path.write_text(header)
        with pytest.raises(HistoryTableError, match=message):
            read_tables([path])
    with pytest.raises(HistoryTableError, match=r"no \.csv and no \.parquet file in it"):
        read_tables([tmp_path.joinpath("none").mkdir() or tmp_path / "none"])  # type: ignore[func-returns-value]
    with pytest.raises(HistoryTableError, match=r"gone\.csv cannot be read: No such file"):
        read_tables([tmp_path / "gone.csv"])


def test_an_export_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    write_tables([deployment()], tmp_path, "csv")
    broken = deployment(rollout="\ud800")  # cannot be written as UTF-8
    with pytest.raises(HistoryTableError, match="is no character"):
        write_tables([broken], tmp_path, "csv")
    assert read_tables([tmp_path]) == [deployment()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decisions.csv", "rollouts.csv", "series.csv"]
