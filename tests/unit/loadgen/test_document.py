"""What docs/measuring.md shows works as it is shown."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unit.loadgen.conftest import ScriptedServer
from unit.loadgen.test_recorder import good_stream
from vllm_ci.loadgen.exchange import FailureKind
from vllm_ci.loadgen.metrics import Metrics

PAGE = (Path(__file__).parents[3] / "docs" / "measuring.md").read_text()


def test_the_example_runs(serve: Callable[..., ScriptedServer], capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    exec(found[1].replace("http://localhost:8000", serve(good_stream).url), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "True ()"
    assert printed[1].startswith("ab stop {")


def test_the_figures_and_failures_named_are_those_that_exist() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert described == set(Metrics.__dataclass_fields__) - {"output_tokens", "prompt_tokens"}
    assert all(f"`{kind}`" in PAGE for kind in FailureKind)
