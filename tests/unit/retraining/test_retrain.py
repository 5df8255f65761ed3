"""The pipeline with a real repository, a real ledger and real signatures; training and server are small."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from registries.models import blob
from unit.retraining import toy
from unit.retraining.conftest import Desk
from vllm_ci.domain.errors import ConfigError, ErroredError, FailedError, UsageError
from vllm_ci.domain.events import Finished
from vllm_ci.domain.program import ServiceSpec
from vllm_ci.evidence.predicates import evaluation
from vllm_ci.evidence.statement import EVALUATION, PROVENANCE
from vllm_ci.models import aliases, history, reading
from vllm_ci.models.files import digest_of_file
from vllm_ci.models.naming import ModelRef, parse
from vllm_ci.models.policy import AliasPolicy
from vllm_ci.models.trained import trained_on
from vllm_ci.registry.layout import Layout
from vllm_ci.retraining import store
from vllm_ci.retraining.store import TamperedStepError
from vllm_ci.retraining.training import Training

pytestmark = pytest.mark.slow

ANSWER = {"role": "assistant", "content": "a"}


def heads(desk: Desk) -> dict[str, int]:
    return history.aliases(desk.setup.ledger.read(), "chat")


def test_a_better_model_is_registered_with_its_evidence_and_becomes_the_challenger(desk: Desk) -> None:
    done = desk.run().require()
    assert done.added is not None
    assert done.added.changed
    assert heads(desk) == {"challenger": 1}
    known = reading.look(desk.setup, parse("chat@challenger"))
    (said,) = [evaluation.read(each.statement) for each in known.findings.of(EVALUATION)]
    base = history.find(desk.setup.ledger.read(), parse("base@v1"))
    assert (said.blessed, said.champion, said.data) == (True, base.digest, done.steps[0].digest)
    assert said.figures["rows"] == 60
    (provenance,) = known.findings.of(PROVENANCE)
    definition = provenance.statement.predicate["buildDefinition"]
    named = {each.get("name"): each["digest"].get("sha256") for each in definition["resolvedDependencies"] if "name" in each}
    assert named["base@v1"] == base.digest.removeprefix("sha256:")
    assert named["training data"] == done.steps[0].digest.removeprefix("sha256:")
    assert named["prepared data"] == "d" * 64
    trained = definition["internalParameters"]["training"]
    assert trained["settings"]["seed"] == 7
    assert trained["hardware"] == {"cpu": "toy"}
    assert trained["image"] == toy.IMAGE
    assert (desk.results("train")[0] / "files" / "loss.svg").read_bytes().startswith(b"<?xml")


def test_a_second_run_changes_nothing(desk: Desk) -> None:
    desk.run(promote=True).require()
    before, ran = desk.setup.ledger.read(), len(desk.engine.ran)
    again = desk.run(promote=True).require()
    assert not again.changed
    assert desk.setup.ledger.read() == before
    assert desk.engine.ran[ran:] == []
    assert again.comparison is None
    third = desk.run(promote=False, champion="challenger")
    assert not third.changed


def test_a_second_run_without_promotion_compares_again_from_what_is_there(desk: Desk) -> None:
    first = desk.run().require()
    ran, records = len(desk.engine.ran), desk.setup.ledger.read()
    again = desk.run().require()
    assert not again.changed
    assert again.comparison == first.comparison
    assert desk.engine.ran[ran:] == ["build"]  # which is quick when nothing changed, and says which server is meant
    assert desk.setup.ledger.read() == records
    known = reading.look(desk.setup, parse("chat@challenger"))
    assert len(known.findings.of(EVALUATION)) == 1


def test_promotion_moves_the_champion_and_it_can_go_back(desk: Desk) -> None:
    desk.run(promote=True).require()
    assert heads(desk) == {"challenger": 1, "champion": 1}
    desk.engine.learnt = 100
    toy.write_rows(desk.data, train=range(50))
    better = desk.run(promote=True).require()
    assert better.compared == "chat@v1"
    assert heads(desk) == {"challenger": 2, "champion": 2}
    assert aliases.rollback(desk.setup, "chat", "champion", reason="rude").require().record.version == 1
    with pytest.raises(FailedError, match=r"chat@champion was rolled back from v2 by .+") as undone:
        desk.run(promote=True)
    assert undone.value.why == "rude"
    assert heads(desk)["champion"] == 1
    aliases.move(desk.setup, parse("chat@v2"), "champion").require()
    aliases.move(desk.setup, parse("chat@v1"), "champion").require()
    assert desk.run(promote=True).require().moves[-1].changed


@pytest.mark.parametrize("learnt", [5, 22])
def test_a_model_that_is_not_provably_better_is_refused_and_not_registered(desk: Desk, learnt: int) -> None:
    desk.engine.learnt = learnt
    done = desk.run(training=Training(seed=8))
    assert done.decision is None or not done.decision.allowed
    assert done.added is None
    assert history.versions(desk.setup.ledger.read(), "chat") == ()
    if done.decision is not None:
        with pytest.raises(FailedError, match="not blessed") as refused:
            done.require()
        assert "accuracy" in refused.value.why


def test_other_data_or_other_settings_are_another_training(desk: Desk) -> None:
    desk.run()
    desk.run(training=Training(seed=8))
    toy.write_rows(desk.data, train=range(50))
    desk.run()
    assert desk.engine.ran.count("train") == 3
    assert len(desk.results("data")) == 2


def test_an_altered_data_file_is_refused(desk: Desk) -> None:
    desk.run()
    place = desk.results("data")[0] / "files" / "train.jsonl"
    place.write_text(place.read_text().replace("a 3", "b 3"))
    with pytest.raises(TamperedStepError, match=r"data was altered: train\.jsonl"):
        desk.run(promote=True)
    assert "champion" not in heads(desk)


def test_an_altered_weight_file_is_refused_before_and_after_it_is_registered(desk: Desk) -> None:
    desk.run()
    place = desk.results("train")[0] / "files" / "model" / toy.PART
    content = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(content[:-1] + b"\1")
    with pytest.raises(TamperedStepError, match="train was altered"):
        desk.run(promote=True)
    place.write_bytes(content)
    known = reading.look(desk.setup, parse("chat@v1"))
    weights = blob(desk.setup, next(each.digest for each in known.model.layers if each.path == toy.PART))
    weights.chmod(0o644)
    weights.write_bytes(content[:-1] + b"\1")
    with pytest.raises(FailedError, match="may not become"):
        desk.run(promote=True)
    assert "champion" not in heads(desk)


def test_a_file_that_is_altered_while_the_models_are_compared_is_noticed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = toy.ToyEngine._build

    def build(engine: toy.ToyEngine, program: object, out: Path) -> int:
        for place in (desk.folder / "home" / "retraining" / "data").glob("*/files/test.jsonl"):
            if "train" in engine.ran:
                place.write_text(place.read_text() + "\n")
        return plain(engine, program, out)  # type: ignore[arg-type]

    monkeypatch.setattr(toy.ToyEngine, "_build", build)
    with pytest.raises(TamperedStepError, match="data was altered"):
        desk.run(promote=True)
    assert heads(desk) == {}


def test_a_file_that_is_altered_together_with_its_record_is_noticed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = toy.ToyEngine.serve

    @asynccontextmanager
    async def serve(engine: toy.ToyEngine, spec: ServiceSpec) -> AsyncIterator[toy.ToyService]:
        async with plain(engine, spec) as service:
            yield service
        if engine.ran.count(spec.name) < 2:
            return
        place = desk.results("train")[0]
        weights = place / "files" / "model" / toy.PART
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        record = json.loads((place / "step.json").read_text())
        record["files"][f"model/{toy.PART}"] = digest_of_file(weights)
        (place / "step.json").write_text(json.dumps(record))

    monkeypatch.setattr(toy.ToyEngine, "serve", serve)
    with pytest.raises(TamperedStepError, match="train was altered"):
        desk.run(promote=True)
    assert heads(desk) == {}


def test_an_altered_evaluation_is_refused_at_the_promotion(desk: Desk) -> None:
    desk.run(promote=True)
    desk.engine.learnt = 100
    toy.write_rows(desk.data, train=range(50))
    desk.run()
    strict = replace(desk.setup, aliases={**desk.setup.aliases, "champion": AliasPolicy(evaluation=True)})
    known = reading.look(strict, parse("chat@v2"))
    (bundle,) = known.findings.of(EVALUATION)
    layout = Layout(Path(desk.setup.repository.removeprefix("oci:")))
    manifest = json.loads(layout.manifest(bundle.digest).content)
    place = blob(desk.setup, manifest["layers"][0]["digest"])
    place.chmod(0o644)
    envelope = json.loads(place.read_bytes())
    envelope["dsseEnvelope"]["payload"] = envelope["dsseEnvelope"]["payload"][::-1]
    place.write_text(json.dumps(envelope))
    moved = aliases.move(strict, parse("chat@v2"), "champion")
    assert not moved.decision.allowed
    assert "evaluation" in "; ".join(moved.decision.reasons) or "altered" in "; ".join(moved.decision.reasons)
    assert heads(desk)["champion"] == 1


def test_a_version_without_an_evaluation_cannot_replace_a_champion_that_requires_one(desk: Desk) -> None:
    strict = replace(desk.setup, aliases={"champion": AliasPolicy(evaluation=True), "challenger": AliasPolicy()})
    assert aliases.move(strict, parse("base@v1"), "champion").decision.allowed  # there is nothing to be better than
    desk.add("base", 60)
    moved = aliases.move(strict, parse("base@v2"), "champion")
    assert [each.rule for each in moved.decision.rules if not each.ok] == ["evaluation"]
    assert aliases.move(strict, parse("base@v1"), "champion").decision.allowed  # it is the champion itself


def test_an_evaluation_against_an_earlier_champion_does_not_count(desk: Desk) -> None:
    strict = replace(desk.setup, aliases={"champion": AliasPolicy(evaluation=True), "challenger": AliasPolicy()})
    desk.run(promote=True)
    desk.engine.learnt = 95
    toy.write_rows(desk.data, train=range(50))
    desk.run(policy=replace(desk.plan.policy, margin=-0.5, confidence=0.5))
    desk.engine.learnt = 100
    toy.write_rows(desk.data, train=range(60))
    desk.run(promote=True)
    moved = aliases.move(strict, parse("chat@v2"), "champion")
    assert "compared with" in "; ".join(moved.decision.reasons)


def test_a_training_that_runs_out_of_memory_gives_advice(desk: Desk) -> None:
    desk.engine.problem = (70, {"kind": "memory", "message": "not enough memory: you tried to allocate 9 GB"})
    with pytest.raises(ErroredError, match="ran out of memory") as error:
        desk.run()
    assert "train.batch_size" in error.value.remedy
    assert "9 GB" in error.value.why


def test_a_training_that_is_killed_says_so_and_the_next_run_trains(desk: Desk) -> None:
    desk.engine.problem = (137, {})
    with pytest.raises(ErroredError, match="killed") as error:
        desk.run()
    assert "memory" in error.value.why
    assert "train.batch_size" in error.value.remedy
    desk.engine.problem = None
    desk.run().require()


def test_a_training_that_diverges_is_failed(desk: Desk) -> None:
    desk.engine.problem = (70, {"kind": "loss", "message": "the loss is nan at step 3"})
    with pytest.raises(FailedError, match="diverged") as error:
        desk.run()
    assert "learning_rate" in error.value.remedy


def test_test_rows_that_are_trained_on_are_named(desk: Desk) -> None:
    toy.write_rows(desk.data, train=range(80, 103))
    with pytest.raises(FailedError, match=r"questions of test\.jsonl that are in train\.jsonl as well: 3"):
        desk.run()
    assert "train" not in desk.engine.ran
    for name, text in (("train", "caf\u00e9"), ("test", "Cafe\u0301")):  # the accent as a character of its own
        (desk.data / f"{name}.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": text}, ANSWER]}) + "\n")
    with pytest.raises(FailedError, match=r"in train\.jsonl as well: 1"):
        desk.run()


def test_broken_rows_are_named_by_their_lines(desk: Desk) -> None:
    place = desk.data / "train.jsonl"
    place.write_text(place.read_text() + '{"messages": []}\nnot json\n{"messages": [{"role": "user", "content": "q"}, 3]}\n')
    with pytest.raises(FailedError, match=r"train\.jsonl that are not conversations: 3") as error:
        desk.run()
    assert all(f"line {number}" in error.value.why for number in (41, 42, 43))


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "messages": []}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\\ud800"}], "id": "1"}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\\u0000"}]}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "time": NaN}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": [1]}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [], "tool_calls": [{}]}]}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}',
        '\ufeff{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
    ],
)
@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl"])
def test_a_row_that_a_later_step_could_not_read_is_refused_before_the_training(desk: Desk, name: str, line: str) -> None:
    place = desk.data / name
    place.write_text(f"{line}\n{place.read_text()}")
    with pytest.raises(FailedError, match=rf"lines of {name} that are not conversations: 1") as error:
        desk.run()
    assert error.value.why.startswith("line 1: ")
    assert desk.engine.ran == []


def test_data_that_changes_while_it_is_copied_is_not_kept_under_the_name_of_what_it_was(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, before = store.result, (desk.data / "train.jsonl").read_text()

    async def late(*args: Any, **options: Any) -> store.Result:
        toy.write_rows(desk.data, train=range(50))
        return await plain(*args, **options)

    monkeypatch.setattr(store, "result", late)
    with pytest.raises(FailedError, match=r"train\.jsonl changed while it was read"):
        desk.run()
    monkeypatch.setattr(store, "result", plain)
    (desk.data / "train.jsonl").write_text(before)
    found = desk.run().require().steps[0]
    assert (found.folder / "train.jsonl").read_text() == before


def test_a_test_row_that_is_there_twice_is_no_more_evidence(desk: Desk) -> None:
    place = desk.data / "test.jsonl"
    place.write_text("".join(place.read_text().splitlines(keepends=True)[:30] * 2))
    with pytest.raises(FailedError, match=r"rows of test\.jsonl that are there before: 30") as error:
        desk.run()
    assert "row 31 is row 1" in error.value.why
    assert desk.engine.ran == []


def test_an_alias_that_does_not_exist_is_refused_before_anything_is_done(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="no alias winner"):
        desk.run(champion="winner")
    with pytest.raises(UsageError, match="no model"):
        desk.run(base=ModelRef(name="nobody", version=1))
    assert desk.engine.ran == []


def test_two_retrainings_at_once_make_each_result_once(desk: Desk) -> None:
    made: list[int] = []
    waits: list[str] = []

    async def make(out: Path, _: Path) -> dict[str, object]:
        made.append(1)
        await anyio.sleep(0.7)
        (out / "file").write_text("text")
        return {}

    async def both() -> list[bool]:
        found = []

        async def one(inputs: dict[str, int]) -> None:
            found.append((await store.result("step", inputs, make, waiting=waits.append)).cached)

        async with anyio.create_task_group() as group:
            group.start_soon(one, {"a": 1})
            group.start_soon(one, {"a": 1})
            group.start_soon(one, {"a": 2})
        return sorted(found)

    assert anyio.run(both) == [False, False, True]
    assert (len(made), len(waits)) == (2, 1)
    assert len(desk.results("step")) == 2


def test_a_step_that_was_interrupted_leaves_no_result_and_keeps_what_it_saved(desk: Desk) -> None:
    async def breaks(out: Path, kept: Path) -> dict[str, object]:
        (out / "half").write_text("half")
        (kept / "checkpoint").write_text("7")
        raise ErroredError("broke")

    async def goes_on(out: Path, kept: Path) -> dict[str, object]:
        assert list(out.iterdir()) == []
        (out / "whole").write_text((kept / "checkpoint").read_text())
        return {}

    with pytest.raises(ErroredError):
        anyio.run(lambda: store.result("step", {}, breaks, waiting=print))
    found = anyio.run(lambda: store.result("step", {}, goes_on, waiting=print))
    assert (found.folder / "whole").read_text() == "7"
    assert [each.name for each in desk.results("step")] == [found.key]


def test_every_step_is_told(desk: Desk) -> None:
    desk.run(promote=True)
    finished = [each.step for each in desk.events if isinstance(each, Finished)]
    assert finished.index("data") < finished.index("train") < finished.index("answers") < finished.index("validate")


def test_models_and_copies_of_removed_data_are_found_by_its_digest(desk: Desk) -> None:
    desk.run().require()
    removed = "sha256:" + "d" * 64
    (found,) = trained_on(desk.setup, [removed, "sha256:" + "e" * 64])
    assert (found.model, found.version, found.aliases) == ("chat", 1, ("challenger",))
    assert found.data["prepared data"] == removed
    assert trained_on(desk.setup, ["sha256:" + "e" * 64]) == []
    assert store.holding(["sha256:" + "e" * 64]) == []
    assert sorted(store.holding([removed])) == sorted([*desk.results("data"), *desk.results("answers")])
    for each in store.holding([removed]):
        store.delete(each)
    assert desk.results("data") == desk.results("answers") == []
    assert desk.run().decision is not None
