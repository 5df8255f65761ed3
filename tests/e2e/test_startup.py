"""The real vLLM with settings it cannot start with: the cause, the change to make, and a report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from e2e.conftest import git, vllm_ci

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

CASES = {
    "a flag that this version does not have": (
        ("--max-num-seqs=16", "--max-num-sequences-of-old=16"),
        "unrecognized arguments: --max-num-sequences-of-old=16",
        "`server.args`",
    ),
    "a KV cache too small for the context length": (
        ("--kv-cache-memory-bytes=67108864", "--kv-cache-memory-bytes=1048576"),
        "To serve at least one request",
        "`--max-model-len` in `server.args` to at most",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_server_that_cannot_start_is_explained_and_reported(project: Path, case: str) -> None:
    (old, new), cause, change = CASES[case]
    config = project / "vllm-ci.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    git(project, "commit", "--quiet", "--all", "--message", case)
    ended = vllm_ci(project, "run", "--stage", "unit", "--stage", "integration", "--json")
    assert ended.code == 3, ended.stderr[-4000:]
    result = ended.json
    assert result["verdict"] == "errored"
    assert cause in result["problem"]["cause"]
    assert change in result["problem"]["change"]
    unit, integration = result["stages"]
    assert unit["verdict"] == "passed", unit
    assert integration["failures"][0]["message"].startswith("not run: the server did not start: ")
    folder = Path(result["report_dir"])
    assert cause in (folder / "logs" / "server.log").read_text()
    assert (folder / "report.html").read_text().count(cause) == 1
    assert json.loads((folder / "report.json").read_text())["hardware"]["cores"] >= 1
    assert ET.parse(folder / "junit.xml").getroot().findall("testsuite")[0].get("name") == "run"
    assert "See root cause above" not in result["problem"]["cause"]
