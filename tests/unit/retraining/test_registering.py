"""Which files of a trained model are registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registries.evidence import NOW
from registries.models import checkpoint
from unit.retraining import toy
from unit.retraining.conftest import Desk
from vllm_ci.domain.program import Program
from vllm_ci.models import adding, files, history, reading
from vllm_ci.models.evidence import Origin
from vllm_ci.models.naming import ModelRef, parse
from vllm_ci.models.refusals import UnsafeModelError

pytestmark = pytest.mark.slow


@pytest.fixture(name="coded")
def _coded(desk: Desk) -> Desk:
    """The desk, whose base model has a Python file that somebody took with --code."""
    place = checkpoint(desk.folder / "coded")
    (place / toy.PART).write_bytes((desk.folder / "base-20" / toy.PART).read_bytes())
    (place / "modeling_x.py").write_text("x = 1\n")
    adding.add(desk.setup, "base", files.check(place, code=True), Origin(source="file:coded"), now=NOW)
    desk.plan = replace(desk.plan, base=ModelRef(name="base", version=2))
    return desk


def test_code_of_the_base_model_is_registered_with_the_trained_one(coded: Desk) -> None:
    coded.run().require()
    layers = reading.look(coded.setup, parse("chat@v1")).model.layers
    assert [each.path for each in layers if each.kind == "code"] == ["modeling_x.py"]


def test_code_that_the_base_model_does_not_have_is_refused(coded: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = toy.ToyEngine._train

    def train(engine: toy.ToyEngine, program: Program, out: Path) -> int:
        code = plain(engine, program, out)
        (out / "model" / "modeling_x.py").unlink()
        (out / "model" / "modeling_x.py").write_text("x = 2\n")
        return code

    monkeypatch.setattr(toy.ToyEngine, "_train", train)
    with pytest.raises(UnsafeModelError, match=r"modeling_x\.py is code that the base model does not have"):
        coded.run()
    assert history.versions(coded.setup.ledger.read(), "chat") == ()
