"""Stored results over time. Change points need Apache Otava, which is not among the packages of the tests."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vllm_ci.cli import root
from vllm_ci.domain.errors import UsageError
from vllm_ci.performance import history

OTAVA = importlib.util.find_spec("otava") is not None
needs_otava = pytest.mark.skipif(not OTAVA, reason="Apache Otava is not installed (the extra `history`)")


def result(number: int, tpot: float, **changed: Any) -> dict[str, Any]:
    spread = {"count": 100, "mean": tpot, "percentiles": {"50.0": tpot, "90.0": tpot * 1.2}}
    return {
        "kind": "measurement",
        "ended": f"2026-01-{number // 24 + 1:02}T{number % 24:02}:00:00+00:00",
        "verdict": "passed",
        "hardware": "A, 8 cores",
        "model": "tiny",
        "setting": {"workload": "chat-v1", "loop": "open", "rate_per_s": 4.0},
        "figures": {"tpot_ms": spread, "output_tokens_per_s": 1000 / tpot},
        **changed,
    }


def stored(folder: Path, results: list[dict[str, Any]]) -> Path:
    for number, each in enumerate(results):
        (folder / f"bench-{number:03}.json").write_text(json.dumps(each))
    return folder


def test_results_of_other_hardware_and_loads_are_series_of_their_own(tmp_path: Path) -> None:
    results = [
        result(2, 11),
        result(1, 10),
        result(3, 30, hardware="B"),
        result(4, 40, setting={"workload": "code-v1", "loop": "open", "rate_per_s": 4.0}),
    ]
    found, left_out = history.read(stored(tmp_path, results))
    assert not left_out
    values = {tuple(each.group.values())[:3]: each.values for each in history.series(found) if each.metric == "tpot_ms_p50"}
    assert values == {
        ("A, 8 cores", "tiny", "chat-v1"): (10, 11),
        ("B", "tiny", "chat-v1"): (30,),
        ("A, 8 cores", "tiny", "code-v1"): (40,),
    }


def overload(number: int, back_s: float | None, **changed: Any) -> dict[str, Any]:
    document = result(number, 10)
    del document["figures"]
    setting = {**document["setting"], "overload_factor": 2.0, "objective": {}}
    phase = {"served_per_s": 50.0, "goodput_per_s": None, "ttft_ms": {"percentiles": {"50.0": 900.0}}}
    figures = {"capacity_per_s": 60.0, "latency_back_after_s": back_s, "drained_after_s": 3.0, "overload": phase}
    return {**document, "kind": "overload", "setting": setting, **figures, **changed}


def sweep(number: int, capacity: float, **limits: Any) -> dict[str, Any]:
    document = result(number, 10)
    setting = {"workload": "chat-v1", "objective": {"ttft_ms": 500}, "good_share": 0.9, **limits}
    return {**document, "kind": "sweep", "setting": setting, "capacity_per_s": capacity}


def test_overloads_and_sweeps_have_series_of_their_own(tmp_path: Path) -> None:
    results = [
        result(1, 10),
        overload(2, 4.0),
        overload(3, None),
        overload(4, 5.0, setting={**overload(4, 5.0)["setting"], "overload_factor": 3.0}),
        sweep(5, 20),
        sweep(6, 25),
        sweep(7, 30, objective={"ttft_ms": 900}),
    ]
    found, left_out = history.read(stored(tmp_path, results))
    assert not left_out
    values: dict[str, list[tuple[float, ...]]] = {}
    for each in history.series(found):
        values.setdefault(f"{each.group.get('kind', 'measurement')} {each.metric}", []).append(each.values)
    assert values["overload latency_back_after_s"] == [(4.0,), (5.0,)]
    assert values["overload capacity_per_s"] == [(60.0, 60.0), (60.0,)]
    assert values["overload overload_ttft_ms_p50"] == [(900.0, 900.0), (900.0,)]
    assert "overload overload_goodput_per_s" not in values
    assert values["sweep capacity_per_s"] == [(20, 25), (30,)]
    assert values["measurement tpot_ms_p50"] == [(10,)]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"kind": "comparison"}, "no measurement, overload, sweep"),
        ({**overload(1, 1.0), "overload": None}, "overload without overload"),
        ({**sweep(1, 1.0), "setting": []}, "sweep without setting"),
        ({**sweep(1, 1.0), "ended": 5}, "sweep without its time"),
        ({**result(1, 10), "kind": ["measurement"]}, "no measurement, overload, sweep"),
    ],
)
def test_a_document_without_its_figures_is_left_out_with_the_reason(document: Any, why: str, tmp_path: Path) -> None:
    found, left_out = history.read(stored(tmp_path, [document]))
    assert (found, left_out) == ([], [f"bench-000.json: {why}"])


def test_files_that_are_no_passed_measurement_are_left_out_with_the_reason(tmp_path: Path) -> None:
    stored(tmp_path, [result(1, 10), result(2, 10, verdict="inconclusive"), {"kind": "sweep"}, {"kind": "measurement"}])
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    ended = CliRunner().invoke(root, ["bench", "history", str(tmp_path)])
    assert ended.exit_code == 0, ended.exception
    assert "tpot_ms_p50: 1 results, last 10 (change points from 10 results on)" in ended.stdout
    assert ended.stdout.count("left out: ") == 5
    assert "bench-001.json: verdict inconclusive" in ended.stdout


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        history.read(tmp_path / "none")


@pytest.mark.skipif(OTAVA, reason="Apache Otava is installed")
def test_without_otava_the_message_says_how_to_install_it() -> None:
    with pytest.raises(UsageError, match=r"vllm-ci\[history\]"):
        history.series([result(number, 10) for number in range(12)])


@needs_otava
def test_a_change_is_found_where_it_happened_and_noise_is_none(tmp_path: Path) -> None:
    rng = random.Random(2)
    results = [result(number, (10 if number < 25 else 12) * rng.gauss(1, 0.02)) for number in range(50)]
    found = {each.metric: each for each in history.series(history.read(stored(tmp_path, results))[0])}
    (change,) = found["tpot_ms_p50"].changes
    assert change.at in {results[number]["ended"] for number in (24, 25, 26)}
    assert change.after / change.before == pytest.approx(1.2, abs=0.03)
    quiet = [result(number, 10 * rng.gauss(1, 0.02)) for number in range(50)]
    assert not any(each.changes for each in history.series(quiet))
