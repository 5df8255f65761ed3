"""The pipeline itself, tested in milliseconds: nothing is built, nothing is served."""

from functools import partial
from pathlib import Path

import anyio

from vllm_ci import Ends, MemoryEngine, Verdict, fails, passes, run_pipeline

PROJECT = Path(__file__).parents[1]
ANSWERS = {"/v1/completions": {"choices": [{"text": "blue"}]}}


def run(engine):
    return anyio.run(partial(run_pipeline, PROJECT, engine=engine))


def verdicts(report):
    return {stage.name: stage.verdict.value for stage in report.stages}


def test_it_passes_when_all_goes_well():
    engine = MemoryEngine(answers=ANSWERS).on("smoke", passes("models", "completion"))
    report = run(engine)
    assert verdicts(report) == {"versions": "passed", "smoke": "passed", "latency": "passed"}
    assert engine.stopped == ["vllm"]


def test_it_fails_when_a_smoke_test_fails():
    report = run(MemoryEngine(answers=ANSWERS).on("smoke", fails("completion", "no text", passing=["models"])))
    assert report.verdict is Verdict.FAILED
    assert verdicts(report)["latency"] == "passed"


def test_it_still_looks_into_the_image_when_the_server_does_not_start():
    report = run(MemoryEngine().on("vllm", Ends(exit_code=1, log="ValueError: no memory left")))
    assert report.verdict is Verdict.ERRORED
    assert report.problem.step == "server"
    assert verdicts(report) == {"versions": "passed"}
