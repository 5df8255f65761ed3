"""A deletion request in a project: rows in every place, also what killed commands left, and models that saw them."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from registries.models import blob, unsigned
from standin.rows import chat
from unit.retraining.conftest import Desk
from vllm_ci.cli import root
from vllm_ci.config import data_removal, deployments, load
from vllm_ci.datasets import removing
from vllm_ci.datasets.collecting import collect
from vllm_ci.datasets.record import Source
from vllm_ci.datasets.request_log import Bounds, RequestLog
from vllm_ci.domain.errors import ErroredError
from vllm_ci.models import trained
from vllm_ci.retraining import store as results
from vllm_ci.system import filelock
from vllm_ci.targets.local.recording import LOG_FOLDER

REMOVED = "sha256:" + "d" * 64


class Killed(BaseException):
    """The command ends here."""


def rows_of(user: str, folder: Path) -> Path:
    path = folder / f"{user}.jsonl"
    path.write_text(json.dumps({**chat(f"asked by {user}"), "user": user}) + "\n")
    return path


@pytest.fixture
def log(project: Desk) -> RequestLog:
    """A request log of a channel that holds a row of Alice; nothing was ever collected."""
    subprocess.run(["git", "init", "-q"], cwd=project.folder, check=True)
    channel = deployments.place(load.load(project.folder / "vllm-ci.yaml"), "production")
    found = RequestLog(folder=channel.folder / "target" / LOG_FOLDER)
    row = {"key": "team-a", "request": {"user": "alice"}}
    found.append(row, Bounds(), consents=lambda: True, now=datetime.now(UTC))
    return found


def test_a_removed_user_stays_out_although_nothing_was_collected_before(log: RequestLog, project: Desk) -> None:
    told = CliRunner().invoke(root, ["data", "remove", "alice", "--dry-run"], catch_exceptions=False)
    assert "would delete 1 of their rows in the request log of production" in told.stdout
    assert not Path(".vllm-ci/data").exists()
    told = CliRunner().invoke(root, ["data", "remove", "alice"], catch_exceptions=False)
    assert "deleted 1 of their rows in the request log of production" in told.stdout
    assert list(log.rows(keys=["team-a"])) == []
    sources = [Source(path=rows_of(user, project.folder)) for user in ("alice", "bob")]
    made = collect(sources, into=Path(".vllm-ci/data"))
    assert (made.rows, made.dropped) == (1, {"removed": 1})


def test_killed_while_it_removes_rows_a_second_call_leaves_none_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "data"
    made = collect([Source(path=rows_of("alice", tmp_path))], into=store)

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            removing.remove(["alice"], store=store)
    assert [each for each in store.rglob("rows.jsonl") if "alice" in each.read_text()]
    again = removing.remove(["alice"], store=store)
    assert ([each.digest for each in again.earlier], again.versions) == ([made.digest], ())
    assert not list(store.rglob("rows.jsonl"))


@pytest.mark.slow
def test_killed_while_it_deletes_a_copy_a_second_call_finds_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run().require()
    (data,) = desk.results("data")
    plain = shutil.rmtree

    def halfway(place: Path, *, ignore_errors: bool = False) -> None:
        for each in [each for each in sorted(Path(place).rglob("*")) if each.is_file()][:1]:
            each.unlink()
            raise Killed
        plain(place, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", halfway)
        with pytest.raises(Killed):
            results.delete(data)
    assert data in results.holding([REMOVED])
    assert (desk.run().steps[0].folder / "train.jsonl").is_file(), "half of a result is made again"
    results.delete(data)
    assert data not in results.holding([REMOVED])
    assert not data.exists()


def test_a_file_that_a_step_reads_and_is_gone_is_named_and_not_the_folder_of_results(desk: Desk) -> None:
    async def reads(out: Path, _: Path) -> dict[str, object]:
        shutil.copyfile(desk.data / "gone.jsonl", out / "gone.jsonl")
        return {}

    async def writes(out: Path, _: Path) -> dict[str, object]:
        (out / "no" / "folder").write_text("x")
        return {}

    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        anyio.run(lambda: results.result("step", {}, reads, waiting=print))
    with pytest.raises(ErroredError, match="the result of step cannot be kept"):
        anyio.run(lambda: results.result("step", {}, writes, waiting=print))


def test_a_copy_that_was_never_finished_is_deleted_unless_somebody_makes_it(project: Desk) -> None:
    place = project.folder / "home" / "retraining" / "data"
    for key in ("a" * 64, "b" * 64):
        (place / f".{key}.part" / "files").mkdir(parents=True)
        (place / f".{key}.part" / "files" / "train.jsonl").write_text("alice")
    copied = project.folder / "home" / "tmp" / "requests-1" / "requests-production.jsonl"
    copied.parent.mkdir(parents=True)
    copied.write_text("alice")
    collect([Source(path=rows_of("alice", project.folder))], into=Path("data-sets"))
    with filelock.hold(place / f".{'b' * 64}.lock"):
        data_removal.remove(["alice"], store=Path("data-sets"), dry_run=False, loaded=None)
    assert [each.name for each in place.glob(".*.part")] == [f".{'b' * 64}.part"]
    assert not copied.exists()


@pytest.mark.slow
def test_a_version_that_is_gone_or_not_verified_is_named_and_hides_no_other(desk: Desk) -> None:
    desk.run(promote=True).require()
    base = next(each for each in desk.setup.ledger.read() if each.model == "base")
    blob(desk.setup, base.digest).unlink()
    gone, seen = trained.trained_on(desk.setup, [REMOVED])
    assert (gone.model, gone.data, bool(gone.problem)) == ("base", {}, True)
    assert (seen.model, seen.aliases, seen.problem) == ("chat", ("challenger", "champion"), "")
    strangers = trained.trained_on(unsigned(desk.setup), [REMOVED])
    assert [each.model for each in strangers] == ["base", "chat"]
    assert "no provenance of it is verified: signed by another key" in strangers[1].problem
    assert strangers[1].to_json()["problem"] == strangers[1].problem
