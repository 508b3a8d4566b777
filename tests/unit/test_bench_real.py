"""Other people's data as Serinus's tables, on archives as small as can be."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from analysis.backtest.backtest import backtest
from analysis.change import Verdict
from benchmarks.prediction import changerca, kontrast, tables
from xds_server.history_table import read_tables

COLUMNS = (
    "Time,Timestamp,SuccessRate,Latency,CPUUsageRate(%),MemoryUsageRate(%),NodeCpuUsageRate(%),NodeMemoryUsageRate(%)"
)
PLAN = {
    "plan": {
        "cart": {
            "release_time": 600,
            "process": {
                "600": {"release_pod": ["cart-v2-x"], "delete_pod": ["cart-v1-c"], "release_complete_timestamp": 660},
                "77": {"release_pod": ["cart-v2-y"], "delete_pod": ["cart-v1-b"], "release_complete_timestamp": 1_500},
            },
        }
    },
    "fault": "exception",
    "fault_release_service": "cart",
}  # fmt: skip


def archive(path: Path, files: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def pod(first: int, last: int, success: str = "100") -> str:
    rows = [f"t,{60 * minute},{success},{2 + minute % 3},10,5,1,1" for minute in range(first, last)]
    return "\n".join([COLUMNS, *rows]) + "\n"


def test_changerca_becomes_one_rollout_a_release_without_the_successor_s_rows(tmp_path: Path) -> None:
    case = "changerca/2023-01-01_1"
    files = {f"{case}/2023-01-01_1.json": json.dumps(PLAN)}
    files |= {f"{case}/cart-v1-{name}_frontend_cart.csv": pod(0, 40) for name in "ab"}
    files |= {
        f"{case}/cart-v1-c_frontend_cart.csv": pod(0, 10) + pod(10, 40, "0").split("\n", 1)[1],
        f"{case}/cart-v2-x_frontend_cart.csv": pod(12, 40, "0"),
        f"{case}/cart-v2-y_frontend_cart.csv": pod(25, 40, "0"),
        f"{case}/frontend-v1-a_frontend_cart.csv": pod(0, 40, "NaN"),
        f"{case}/dependency.csv": "a,b\n",
    }
    rollouts, series = changerca.tables(archive(tmp_path / "changerca.tar.xz", files))
    tables.write(tmp_path / "out", rollouts, series)
    (record,) = read_tables([tmp_path / "out"])
    assert (record.service, record.attributes["case"]) == ("cart", "2023-01-01_1")
    ends = {(each.kpi, each.source): each.at_s[-1] for each in record.gauges}
    assert ends["success_rate", "frontend>cart cart-v1-c"] == 0  # afterwards its file is the canary's
    assert ends["success_rate", "frontend>cart cart-v2-x"] == 14 * 60  # until the second step begins
    assert not [source for _, source in ends if "v2-y" in source]
    assert ("latency_ms", "@frontend frontend-v1-a") in ends
    assert not [kpi for kpi, source in ends if kpi == "success_rate" and "frontend-v1" in source]  # it had none
    (found,) = backtest([record], policy="budget")
    assert (found.verdict, found.bad) == (Verdict.ROLLBACK, True)


def test_kontrast_becomes_what_was_before_and_after(tmp_path: Path) -> None:
    labels = "instance_name,metric,change_start,change_end,label,case_id,case_label\nnone,m,600,600,1,0,1\n"
    values = "timestamp,value\n" + "\n".join(f"{60 * minute}.0,{minute}" for minute in range(20))
    path = archive(tmp_path / "kontrast.tar.xz", {"kontrast/labels.csv": labels, "kontrast/none$m.csv": values})
    tables.write(tmp_path / "out", *kontrast.tables(path))
    (record,) = read_tables([tmp_path / "out"])
    assert [(each.arm, each.at_s[0], each.at_s[-1]) for each in record.gauges] == [(0, -600, 0), (1, 60, 540)]
