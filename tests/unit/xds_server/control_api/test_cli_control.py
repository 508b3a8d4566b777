"""The command line against a control plane that answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.xds_server.control_api.conftest import HandSteering
from xds_server.store.records import LabelRow

SERINUS = Path(sys.executable).with_name("serinus")


def serinus(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TERM": "dumb", "SERINUS_SERVER": address}
    return subprocess.run([str(SERINUS), *arguments], capture_output=True, text=True, timeout=60, check=False, env=env)


def test_what_is_known_of_a_release_is_shown_with_it(steering: HandSteering, address: str) -> None:
    told = ("--attribute", "lines_changed=120", "--attribute", "team=payments=eu")
    assert serinus(address, "rollout", "start", "checkout", "--canary", "v2", *told).returncode == 0
    assert steering.row is not None
    assert steering.row.attributes == {"lines_changed": 120.0, "team": "payments=eu"}
    serinus(address, "rollout", "set", "checkout", "--split", "1%")
    steering.said["checkout-1"] = LabelRow(
        rollout="checkout-1", at_unix_ns=0, verdict="bad", who="ann", reason="wrong [prices]"
    )
    line = "checkout-1: lines_changed=120, team=payments=eu, bad, says ann: wrong [prices]"
    assert line in serinus(address, "history").stdout
    (listed,) = json.loads(serinus(address, "rollout", "list", "--json").stdout)["rollouts"]
    assert listed["attributes"] == {"lines_changed": "120", "team": "payments=eu"}
    assert (listed["label"], listed["labelled_by"], listed["label_reason"]) == ("bad", "ann", "wrong [prices]")
    for wrong in (("--attribute", "lines"), ("--attribute", "a=1", "--attribute", "a=2")):
        assert serinus(address, "rollout", "start", "checkout", "--canary", "v2", *wrong).returncode == 2


def test_a_person_steers_a_rollout_and_reads_what_happened(address: str) -> None:
    """Start, set, status, history, explain and list tell one story."""
    started = serinus(address, "rollout", "start", "checkout", "--canary", "v2", "--reason", "release [2]")
    assert (started.returncode, started.stdout, started.stderr) == (0, "rollout checkout-1 of v2 started\n", "")
    moved = serinus(
        address,
        "rollout",
        "set",
        "checkout",
        "--split",
        "2.5%",
        "--segment",
        "power",
        "--who",
        "ada",
        "--reason",
        "[a] look",
    )
    assert (moved.returncode, moved.stdout) == (0, "set power\n")
    status = serinus(address, "status").stdout
    assert "2.5%" in status
    assert "1 of 1 Envoys connected" in status
    history = serinus(address, "history", "checkout").stdout
    assert "0 → 2.5 %" in history
    assert "[a] look" in history
    assert "\x1b" not in status + history
    told = serinus(address, "explain", "checkout", "power").stdout
    assert "2.5 % of its people get v2" in told
    assert "by ada" in told
    assert "checkout-1" in serinus(address, "rollout", "list").stdout


def test_json_has_every_field_and_numbers_as_numbers(address: str) -> None:
    """Scripts need not guess what a missing field means, nor parse integers out of strings."""
    reply = json.loads(serinus(address, "rollout", "start", "checkout", "--canary", "v2", "--json").stdout)
    assert reply["rollout"] == "checkout-1"
    (service,) = json.loads(serinus(address, "status", "--json").stdout)["services"]
    assert service["generation"] == 2**60
    assert service["waiting_for"] == []
    assert service["segments"][0]["split"] == 0
    assert service["segments"][0]["verdict"] == ""
    paused = json.loads(serinus(address, "rollout", "pause", "checkout", "--json").stdout)
    assert paused["message"] == "pause all segments"
    decisions = json.loads(serinus(address, "history", "--json").stdout)["decisions"]
    assert [row["verdict"] for row in decisions] == ["pause", "pause"]
    assert decisions[0]["who"].count("@") == 1
    assert decisions[0]["observed_only"] is False
    assert json.loads(serinus(address, "rollout", "list", "--json").stdout)["rollouts"][0]["outcome"] == {}
    explained = json.loads(serinus(address, "explain", "checkout", "--json").stdout)
    assert explained["text"].startswith("checkout: rollout checkout-1")


def test_what_the_control_plane_refuses_is_one_line_and_exit_code_1(address: str) -> None:
    """The reason is the control plane's own."""
    for arguments, reason in (
        (("rollout", "pause", "checkout"), "no rollout is running; start one first"),
        (("rollout", "start", "chekout", "--canary", "v2"), "no service 'chekout'; known: checkout"),
        (("rollout", "start", "checkout", "--canary", "v9"), "no version of checkout 'v9'; known: v1, v2"),
        (("status", "chekout"), "no service 'chekout'; known: checkout"),
        (("status", "chekout", "--watch"), "no service 'chekout'; known: checkout"),
    ):
        done = serinus(address, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"serinus: {reason}\n")


def test_a_person_adopts_what_was_learnt_and_drops_it_again(address: str) -> None:
    proposed = serinus(address, "segment", "list", "checkout").stdout
    assert "three visits [or fewer]" in proposed
    assert "nothing has been adopted" in proposed
    done = serinus(address, "segment", "adopt", "checkout", "2", "newcomers", "--who", "ada", "--reason", "new here")
    assert (done.returncode, done.stdout) == (0, "adopted cluster 2 as newcomers, 12 people (new here)\n")
    listed = serinus(address, "segment", "list", "checkout").stdout
    for text in (
        "newcomers",
        "12 → 0",
        "fresh",
        "2023-11-14 22:13:20Z ada",
        "table 4 waits until the rollout has ended",
    ):
        assert text in listed
    reply = json.loads(serinus(address, "segment", "list", "checkout", "--json").stdout)
    assert (reply["table"], reply["adopted"][0]["people"]) == (3, 12)
    dropped = serinus(address, "segment", "drop", "checkout", "newcomers", "--who", "ada")
    assert dropped.stdout == "dropped newcomers, 12 people (ada)\n"
    assert "nobody has adopted newcomers, so it matches nobody" in serinus(address, "status").stdout
    for arguments, reason in (
        (("adopt", "checkout", "7", "x"), "no cluster of checkout '7'; known: 2"),
        (("drop", "checkout", "x"), "no adopted segment of checkout 'x'; there is none"),
        (("list", "chekout"), "no service 'chekout'; known: checkout"),
    ):
        refused = serinus(address, "segment", *arguments)
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"serinus: {reason}\n")


def test_a_watch_prints_each_change_and_ends_quietly_on_ctrl_c(address: str, steering: Any) -> None:
    """One JSON line a status for programs."""
    env = {**os.environ, "SERINUS_SERVER": address}
    command = [str(SERINUS), "status", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert json.loads(watch.stdout.readline())["services"][0]["state"] == "idle"
        serinus(address, "rollout", "start", "checkout", "--canary", "v2")
        assert json.loads(watch.stdout.readline())["services"][0]["state"] == "running"
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0
        assert watch.stderr.read() == ""
