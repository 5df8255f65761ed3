"""Reports for tests of the page: of any size, and with texts that try to act."""

from __future__ import annotations

from dataclasses import replace

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageLayer, ImageRef
from vllm_ci.domain.report import Case, CaseStatus, Report, StageResult, Verdict, verdict_of

DIGEST = "sha256:" + "b" * 64
# Each would act in a page that took one text for HTML, CSS, an attribute or a URL.
HOSTILE = (
    "<script>document.title='acted'</script>",
    "<img src=x onerror=\"document.title='acted'\">",
    "\"><svg onload=document.title='acted'>",
    "'-document.title='acted'-'",
    "</style></script></textarea><b id=acted>",
    "javascript:document.title='acted'",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b]0;acted\x07\u202e\x00\ud800",
)


def report(count: int) -> Report:
    """A run with ``count`` cases, of which some failed for one reason, and with everything that the page can show."""
    cases = tuple(_case(number) for number in range(count))
    verdict, message = verdict_of(cases)
    figures = {
        f"{name}_{which}": 10.0 for name in ("ttft_ms", "tpot_ms", "e2e_ms") for which in ("min", "p50", "p90", "p99", "max")
    }
    layers = (("base", 48_000_000), ("wheels", 500_000_000), ("commit", 84_000))
    return Report(
        commit=Commit(sha="a" * 40, ref="refs/heads/main", source="https://github.com/example/serving.git", pull_request="7"),
        image=ImageRef(repository="example/serving", digest=DIGEST, tags=("a" * 40,)),
        engine="host",
        server={"version": "0.32.0", "model": "tiny"},
        hardware={"cores": 2},
        stages=(
            StageResult(name="unit", verdict=Verdict.PASSED, seconds=4, cases=(Case(name="t", status=CaseStatus.PASSED),)),
            StageResult(name="streaming", verdict=verdict, seconds=20, cases=cases, message=message, metrics=figures),
        ),
        started_at="2026-11-21T00:00:00+00:00",
        seconds=60,
        timings={"build": 30.0, "unit": 4.0, "server": 9.0, "streaming": 20.0},
        begun={"build": 0.1, "unit": 30.2, "server": 30.2, "streaming": 39.5},
        layers=tuple(ImageLayer(tier=tier, digest=f"sha256:{tier}", size_bytes=size) for tier, size in layers),
    )


def _case(number: int) -> Case:
    properties = {
        "ttft_ms": 5.0 + number % 17,
        "tpot_ms": 1.0 + number % 5,
        "e2e_ms": 90.0 + number,
        "whole_ms": 100.0,
        **({"chunks_at_ms": [5.0 + each for each in range(64)]} if number == 0 else {}),
        "findings": [{"id": "CVE-2025-12345", "severity": "high", "message": "is open"}] if number == 1 else [],
    }
    status = CaseStatus.FAILED if number % 40 == 2 else CaseStatus.SKIPPED if number % 40 == 3 else CaseStatus.PASSED
    message = "the stream ended without [DONE]" if status is CaseStatus.FAILED else ""
    name = f"streaming/test_many.py::test_stream_number_{number}_comes_whole[chat-{number}]"
    return Case(name=name, status=status, seconds=0.01, message=message, properties=properties)


def hostile() -> Report:
    """A run in which every text that comes from outside tries to act."""
    cases = tuple(
        Case(
            name=f"streaming/test_a.py::test_x[{text}]" if number % 2 else text,
            status=list(CaseStatus)[number % 5],
            message=text,
            details=text,
            properties={
                text: text,
                "cause": {
                    "id": f"{number}-{text}",
                    "title": text,
                    "rule": f"{text} https://example.com/{text}",
                    "severity": text,
                },
                "exchange": {"request": f"POST /v1 {text}", "response": text},
                "findings": [{"id": text, "severity": text, "message": text}],
                "chunks_at_ms": [1, 2, 3, 4, text],
                "ttft_ms": text,
            },
        )
        for number, text in enumerate(HOSTILE)
    )
    stages = tuple(StageResult(name=text, verdict=Verdict.FAILED, seconds=1, message=text, log=text) for text in HOSTILE)
    tested = StageResult(
        name="streaming", verdict=Verdict.FAILED, seconds=1, cases=cases, metrics={text: text for text in HOSTILE}
    )
    made = report(10)
    commit = Commit(sha="a" * 40, ref=HOSTILE[0], source=HOSTILE[5], pull_request=HOSTILE[1])
    facts = {"version": HOSTILE[0], "model": HOSTILE[1], HOSTILE[2]: HOSTILE[3]}
    layers = (ImageLayer(tier=HOSTILE[0], digest=HOSTILE[1], size_bytes=1, platform=HOSTILE[2]),)
    return replace(made, commit=commit, stages=(tested, *stages), server=facts, hardware=facts, layers=layers, skipped=facts)
