"""``vllm-ci deploy`` and ``vllm-ci rollback``, as users and programs call them, at the target that serves nobody."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio
import pytest
from click.testing import CliRunner

from registries import project
from standin.released import made
from vllm_ci.cli import root
from vllm_ci.cli.agent import unit_file
from vllm_ci.deploy.journal import Journal
from vllm_ci.domain.errors import (
    ConfigError,
    ErroredError,
    FailedError,
    InconclusiveError,
    UsageError,
    VllmCiError,
)
from vllm_ci.engines import detached
from vllm_ci.release.rollback import rollback
from vllm_ci.system import vcs
from vllm_ci.targets import TARGETS
from vllm_ci.targets.memory import Behaviour, MemoryTarget

pytestmark = pytest.mark.slow

SETTINGS = """
server: {args: [--max-model-len=512], secrets: [HF_TOKEN]}
deploy:
  target: memory
  replicas: 2
  keep_s: 0
  analysis: {min_requests: 5}
  channels:
    production:
      strategy: canary
      canary: {steps: [{weight: 10, hold_s: 20}, {weight: 50, hold_s: 20, person: true}]}
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = made(tmp_path, monkeypatch, SETTINGS)
    released(folder, "first")
    return folder


def released(folder: Path, text: str) -> str:
    """A commit that is built, tested and published to staging; its id."""
    project.commit(folder, text)
    project.build_and_test(folder)
    call("publish", "--channel", "staging")
    return vcs.discover(folder).sha


def invoke(*arguments: str) -> Any:
    result = CliRunner().invoke(root, arguments, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    if result.exception is not None:
        raise result.exception
    return result


def call(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    result = invoke(*arguments, "--json")
    assert (result.return_value or 0) == code, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def state(tmp_path: Path, channel: str = "staging") -> Path:
    return tmp_path / "home" / "deploy" / f"chat-{channel}"


def target(tmp_path: Path, channel: str = "staging") -> MemoryTarget:
    return MemoryTarget(state(tmp_path, channel) / "target")


def fault(tmp_path: Path, commit: str, behaviour: Behaviour, channel: str = "staging") -> None:
    target(tmp_path, channel).change(faults={commit[:12]: behaviour})


def serves(channel: str = "staging") -> dict[str, int]:
    """Share of the requests by commit."""
    found = call("deploy", "status", channel)
    return {found["revisions"][name]["commit"]: share for name, share in found["weights"].items()}


def test_a_channel_s_release_serves_with_the_configured_servers(folder: Path, tmp_path: Path) -> None:
    sha = vcs.discover(folder).sha
    done = call("deploy", "staging")
    assert done["changed"] is True
    assert done["deployment"]["phase"] == "live"
    assert done["release"]["commit"] == sha
    assert serves() == {sha: 100}
    (revision,) = target(tmp_path).state.revisions.values()
    assert revision.image.digest == done["release"]["digest"]
    assert "--max-model-len=512" in revision.serving.argv
    assert revision.serving.secrets == ("HF_TOKEN",)
    assert len(done["current"]["replicas"]) == 2
    assert call("deploy", "staging")["changed"] is False


def test_a_plan_is_shown_without_doing_anything(folder: Path) -> None:
    call("deploy", "staging")
    second = released(folder, "second")
    shown = invoke("deploy", "staging", "--strategy", "canary", "--dry-run").stdout
    assert "strategy canary:" in shown
    assert "5 % to " + second[:12] in shown
    assert call("deploy", "staging", "--dry-run")["plan"][0] == "strategy blue-green:"
    assert second not in serves()


def test_a_bad_release_goes_back_with_exit_code_1_and_who_saw_it(folder: Path, tmp_path: Path) -> None:
    first = vcs.discover(folder).sha
    call("deploy", "staging")
    second = released(folder, "second")
    fault(tmp_path, second, Behaviour(errors=0.3))
    with pytest.raises(FailedError) as caught:
        invoke("deploy", "--strategy", "canary", "staging")
    assert "observed requests (5 %) went to it" in caught.value.message
    assert "errors 40 %, limit <= 1 %" in caught.value.why
    assert serves() == {first: 100}
    assert call("deploy", "staging", "--strategy", "canary", code=1)["deployment"]["phase"] == "returned"
    fault(tmp_path, second, Behaviour(never_ready=True))
    with pytest.raises(FailedError, match="no request of a user reached it"):
        invoke("deploy", "staging")


def test_a_person_decides_in_production(folder: Path, tmp_path: Path) -> None:
    first = vcs.discover(folder).sha
    call("promote", "--from", "staging", "--channel", "production")
    call("deploy", "production")
    second = released(folder, "second")
    call("promote", "--from", "staging", "--channel", "production")
    with pytest.raises(InconclusiveError, match="waits for a person at step `50 %`"):
        invoke("deploy", "production")
    assert call("deploy", "production", code=4)["deployment"]["phase"] == "held"
    assert serves("production") == {first: 50, second: 50}
    assert "held, step `50 %`" in invoke("deploy", "status", "production").stdout
    assert call("deploy", "promote", "production")["deployment"]["phase"] == "live"
    assert serves("production") == {second: 100}
    assert state(tmp_path, "production") != state(tmp_path)


def test_an_aborted_deployment_serves_what_served_before(folder: Path) -> None:
    first = vcs.discover(folder).sha
    call("promote", "--from", "staging", "--channel", "production")
    call("deploy", "production")
    released(folder, "second")
    call("promote", "--from", "staging", "--channel", "production")
    call("deploy", "production", code=4)
    assert "serves what served before" in invoke("deploy", "abort", "production").stdout
    assert serves("production") == {first: 100}
    with pytest.raises(UsageError, match="no deployment of production is going on"):
        invoke("deploy", "abort", "production")


def test_a_rollback_moves_ledger_and_requests(folder: Path) -> None:
    first = vcs.discover(folder).sha
    call("deploy", "staging")
    second = released(folder, "second")
    call("deploy", "staging")
    assert serves() == {second: 100}
    would = invoke("rollback", "staging", "--dry-run").stdout
    assert "would send all requests for staging there" in would
    assert serves() == {second: 100}
    done = call("rollback", "staging")
    assert done["release"]["commit"] == first
    assert done["traffic"]["changed"] is True
    assert done["traffic"]["seconds"] < 1
    assert serves() == {first: 100}
    assert call("deploy", "staging")["changed"] is False, "a deployment agrees with the ledger"


def test_a_rollback_while_a_person_should_decide_gives_the_deployment_up(folder: Path) -> None:
    first = vcs.discover(folder).sha
    call("promote", "--from", "staging", "--channel", "production")
    call("deploy", "production")
    released(folder, "second")
    call("promote", "--from", "staging", "--channel", "production")
    call("deploy", "production", code=4)
    assert call("rollback", "production")["release"]["commit"] == first
    assert serves("production") == {first: 100}


def test_a_rollback_of_a_channel_that_is_not_deployed_moves_only_the_ledger(folder: Path) -> None:
    released(folder, "second")
    assert call("rollback", "staging")["traffic"] is None


def test_a_rollback_from_another_machine_moves_requests_at_a_target_that_it_can_reach(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CI job does at a cluster: whoever deployed is gone, with its journal."""
    monkeypatch.setitem(TARGETS, "memory", "standin.deploying:open_serving")
    monkeypatch.setattr("vllm_ci.config.deployments._SHARED", ("memory",))
    first = vcs.discover(folder).sha
    call("deploy", "staging")
    second = released(folder, "second")
    call("deploy", "staging")
    for left in ("deployment.json", "lock"):
        (state(tmp_path) / left).unlink()
    assert serves() == {second: 100}
    assert call("rollback", "staging")["traffic"]["changed"] is True
    assert serves() == {first: 100}


def test_a_rollback_whose_requests_cannot_move_says_how_to_complete_it(folder: Path, tmp_path: Path) -> None:
    first = vcs.discover(folder).sha
    call("deploy", "staging")
    second = released(folder, "second")
    call("deploy", "staging")
    target(tmp_path).change(silent=True)
    with pytest.raises(ErroredError, match="requests do not go there yet") as caught:
        invoke("rollback", "staging")
    assert "another rollback would go back one release more" in caught.value.remedy
    target(tmp_path).change(silent=False)
    assert serves() == {second: 100}
    call("deploy", "staging")
    assert serves() == {first: 100}


@pytest.mark.usefixtures("folder")
def test_servers_are_scaled_their_logs_shown_and_everything_ended(tmp_path: Path) -> None:
    call("deploy", "staging")
    assert len(call("deploy", "scale", "staging", "3")["replicas"]) == 3
    found = call("deploy", "logs", "staging")["logs"]
    assert len(found) == 3
    assert "==> " in invoke("deploy", "logs", "staging", "--replica", next(iter(found))).stdout
    assert call("deploy", "stop", "staging") == {"channel": "staging", "replicas": 3, "stopped": False}
    assert len(target(tmp_path).state.replicas) == 3
    assert call("deploy", "stop", "staging", "--yes")["stopped"] is True
    assert target(tmp_path).state.replicas == {}
    with pytest.raises(UsageError, match="staging is not deployed from this machine"):
        invoke("deploy", "status", "staging")
    assert call("deploy", "staging")["changed"] is True


def test_checks_are_commands_of_the_project(folder: Path, tmp_path: Path) -> None:
    call("deploy", "staging")
    second = released(folder, "second")
    path = folder / "vllm-ci.yaml"
    path.write_text(path.read_text().replace("  replicas: 2", "  replicas: 2\n  checks: {before: [[sh, ./check.sh]]}"))
    (folder / "check.sh").write_text(f'echo "$VLLM_CI_URL" > {tmp_path}/url; echo too slow >&2; exit 1\n')
    with pytest.raises(FailedError) as caught:
        invoke("deploy", "staging")
    assert "check `sh ./check.sh` ended with exit code 1: too slow" in caught.value.why
    assert second not in serves()
    assert (tmp_path / "url").read_text().startswith(f"http://{second[:12]}")
    (folder / "check.sh").write_text("exit 4\n")
    with pytest.raises(InconclusiveError):
        invoke("deploy", "staging")
    (folder / "check.sh").write_text("exit 0\n")
    assert call("deploy", "promote", "staging")["deployment"]["phase"] == "live"


@pytest.mark.usefixtures("folder")
def test_a_double_is_not_recorded_as_deployed() -> None:
    call("deploy", "staging")
    assert [each["action"] for each in call("history", "staging")["records"]] == ["publish"]


def test_the_ledger_records_what_serves(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "memory", "standin.deploying:open_serving")
    first = vcs.discover(folder).sha
    call("deploy", "staging")
    second = released(folder, "second")
    fault(tmp_path, second, Behaviour(errors=0.3))
    call("deploy", "staging", "--strategy", "canary", code=1)
    fault(tmp_path, second, Behaviour())
    call("deploy", "staging", "--strategy", "canary")
    call("rollback", "staging", "--reason", "slow")
    records = call("history", "staging")["records"]
    found = [(each["action"], each["release"]["commit"]) for each in records if each["action"] != "publish"]
    assert found == [("deploy", first), ("rollback", first), ("deploy", second), ("deploy", first), ("deploy", first)]
    reasons = [each["reason"] for each in records if each["action"] == "deploy"]
    assert reasons[0].startswith("rollback")
    assert reasons[1].startswith("canary; ")
    assert f"canary of {second[:12]} went back: 5 %: errors" in reasons[2]
    assert call("history", "staging")["channels"]["staging"] == records[0]["release"]["digest"]


def test_a_release_whose_evidence_does_not_hold_is_refused(folder: Path) -> None:
    path = folder / "vllm-ci.yaml"
    path.write_text(
        path.read_text() + "release:\n  channels:\n    staging: {tests: {performance: passed}}\n    production: {}\n"
    )
    with pytest.raises(FailedError, match="may not serve for staging") as caught:
        invoke("deploy", "staging")
    assert "performance" in caught.value.why


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_deployed_is_said() -> None:
    with pytest.raises(ConfigError, match="there is no channel stagging"):
        invoke("deploy", "stagging")
    with pytest.raises(UsageError, match="nothing was ever released to production"):
        invoke("deploy", "production")
    with pytest.raises(UsageError, match="is not deployed from this machine"):
        invoke("deploy", "status", "production")


@pytest.mark.usefixtures("folder")
def test_a_channel_is_not_moved_to_another_target_while_it_serves() -> None:
    call("deploy", "staging")
    with pytest.raises(UsageError, match="staging is deployed to memory, not to local"):
        invoke("deploy", "staging", "--target", "local")


@pytest.mark.usefixtures("folder")
def test_a_project_does_not_take_over_what_another_one_has_deployed_under_the_same_name(tmp_path: Path) -> None:
    call("deploy", "staging")
    journal = Journal(state(tmp_path))
    last = journal.read()
    assert last is not None
    other = replace(last, channel="t-staging")  # of a project `cha`, had it such a channel
    journal.write(other)
    said = "holds the deployment of channel t-staging of another project"
    for command in (("deploy", "staging"), ("deploy", "stop", "staging", "--yes")):
        with pytest.raises(UsageError, match=said):
            invoke(*command)
    assert said in agent(code=2)
    assert journal.read() == other
    assert target(tmp_path).state.route.weights


def test_a_channel_may_have_the_name_of_a_command(folder: Path) -> None:
    path = folder / "vllm-ci.yaml"
    path.write_text(path.read_text().replace("    production:\n", "    status:\n") + "release:\n  channels: {status: {}}\n")
    with pytest.raises(UsageError, match="nothing was ever released to status"):
        invoke("deploy", "run", "status")


def test_a_killed_command_is_completed_by_the_next(folder: Path, tmp_path: Path) -> None:
    call("promote", "--from", "staging", "--channel", "production")
    call("deploy", "production")
    released(folder, "second")
    call("promote", "--from", "staging", "--channel", "production")
    held = call("deploy", "production", code=4)["deployment"]
    journal = Journal(state(tmp_path, "production"))
    with (
        journal.changing("production"),
        pytest.raises(ErroredError, match="another command is changing production"),
    ):
        invoke("deploy", "production")
    again = call("deploy", "promote", "production")["deployment"]
    assert (again["id"], again["phase"]) == (held["id"], "live")


def running(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    program = [sys.executable, "-m", "vllm_ci", *arguments]
    return subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_kept(tmp_path: Path) -> None:
    journal = Journal(state(tmp_path))
    end = time.monotonic() + 30
    while (found := journal.read()) is None or not found.kept or not found.recorded:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(name="kept")
def _kept(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """Two releases, the second not deployed yet; the old one is to be kept ready."""
    path = folder / "vllm-ci.yaml"
    path.write_text(path.read_text().replace("keep_s: 0", "keep_s: 300"))
    call("deploy", "staging")
    released(folder, "second")
    yield folder
    detached.end_marked(f"{state(tmp_path)}/keeper")


def test_a_rollback_does_not_wait_for_the_command_that_keeps_the_old_release_ready(kept: Path, tmp_path: Path) -> None:
    first = call("deploy", "status", "staging")["deployment"]["release"]["commit"]
    with running(kept, "deploy", "staging", "--wait") as process:
        until_kept(tmp_path)
        made = target(tmp_path).state.made
        done = call("rollback", "staging")
        assert done["traffic"]["seconds"] < 1
        assert target(tmp_path).state.made == made, "nothing was started"
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "another command has changed staging since" in output
    assert serves() == {first: 100}


def test_an_interrupted_command_leaves_the_old_release_ready(kept: Path, tmp_path: Path) -> None:
    with running(kept, "deploy", "staging", "--wait") as process:
        until_kept(tmp_path)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "what serves goes on" in errors
    assert len(target(tmp_path).state.replicas) == 4
    assert call("deploy", "status", "staging")["deployment"]["live"] is True


def test_answers_to_copies_are_compared_and_a_release_that_says_something_else_goes_back(folder: Path, tmp_path: Path) -> None:
    path = folder / "vllm-ci.yaml"
    settings = "  shadow: {compare: true, percent: 50, hold_s: 20}\n  analysis: {conditions: ['shadow.tokens >= 98%'], "
    path.write_text(path.read_text().replace("  analysis: {", settings))
    first = call("deploy", "staging")["release"]["commit"]
    with pytest.raises(UsageError, match="no answers were compared"):
        invoke("deploy", "compare", "staging")
    second = released(folder, "second")
    fault(tmp_path, second, Behaviour(agreement=0.5))
    with pytest.raises(FailedError, match="none of") as caught:
        invoke("deploy", "staging", "--strategy", "shadow")
    assert "shadow.tokens 0.5, limit >= 0.98" in caught.value.why
    assert serves() == {first: 100}
    found = call("deploy", "compare", "staging")
    assert (found["release"], found["previous"], found["metrics"]["shadow.tokens"]) == (second, first, 0.5)
    assert "same text               0 of 50" in invoke("deploy", "compare", "staging").stdout
    assert f"## Answers of {second[:12]}" in invoke("deploy", "compare", "staging", "--markdown").stdout
    fault(tmp_path, second, Behaviour())
    assert call("deploy", "staging", "--strategy", "shadow")["deployment"]["phase"] == "live"
    assert call("deploy", "compare", "staging")["metrics"]["shadow.tokens"] == 1


def keepers(tmp_path: Path) -> list[int]:
    """Processes that are to end the old release later."""
    return detached.marked(f"{state(tmp_path)}/keeper")


def until(met: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_command_ends_while_the_old_release_is_kept_ready_and_a_rollback_is_at_once(kept: Path, tmp_path: Path) -> None:
    first = call("deploy", "status", "staging")["deployment"]["release"]["commit"]
    told = invoke("deploy", "staging").stdout
    assert "the old release is kept ready until" in told
    assert len(target(tmp_path).state.replicas) == 4
    until(lambda: keepers(tmp_path))
    made = target(tmp_path).state.made
    assert call("rollback", "staging")["traffic"]
    assert target(tmp_path).state.made == made, "nothing was started"
    assert serves() == {first: 100}
    until(lambda: not keepers(tmp_path))
    assert kept.is_dir()


def test_the_old_release_is_ended_when_its_time_is_over_also_where_the_process_for_that_was_killed(
    kept: Path, tmp_path: Path
) -> None:
    path = kept / "vllm-ci.yaml"
    path.write_text(path.read_text().replace("keep_s: 300", "keep_s: 4"))
    invoke("deploy", "staging")
    until(lambda: call("deploy", "status", "staging")["deployment"]["phase"] == "live")
    assert len(target(tmp_path).state.replicas) == 2
    path.write_text(path.read_text().replace("keep_s: 4", "keep_s: 2"))
    released(kept, "third")
    invoke("deploy", "staging")
    detached.end_marked(f"{state(tmp_path)}/keeper")
    assert len(target(tmp_path).state.replicas) == 4
    assert call("deploy", "finish", "staging")["changed"] is True
    assert len(target(tmp_path).state.replicas) == 2
    assert call("deploy", "finish", "staging")["changed"] is False


def test_a_rollback_that_begins_while_the_old_release_is_ready_ends_with_it_ready(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept / "vllm-ci.yaml"
    path.write_text(path.read_text().replace("keep_s: 300", "keep_s: 3"))
    first = call("deploy", "status", "staging")["deployment"]["release"]["commit"]
    invoke("deploy", "staging")
    until(lambda: keepers(tmp_path))
    made = target(tmp_path).state.made

    def slow(*args: Any, **more: Any) -> Any:
        """The evidence takes longer to verify than the old release is kept."""
        found = Journal(state(tmp_path)).read()
        assert found is not None
        assert found.kept
        time.sleep(max(found.since + found.step.hold_s - time.time(), 0) + 2.5)
        return rollback(*args, **more)

    monkeypatch.setattr("vllm_ci.release.rollback.rollback", slow)
    assert call("rollback", "staging")["traffic"]
    assert target(tmp_path).state.made == made, "nothing was started"
    assert serves() == {first: 100}
    until(lambda: not keepers(tmp_path))


def test_the_old_release_is_ended_after_a_rollback_that_was_refused(kept: Path, tmp_path: Path) -> None:
    path = kept / "vllm-ci.yaml"
    path.write_text(path.read_text().replace("keep_s: 300", "keep_s: 2"))
    invoke("deploy", "staging")
    with Journal(state(tmp_path)).keeping():
        time.sleep(3.5)
        assert len(target(tmp_path).state.replicas) == 4
        assert call("deploy", "status", "staging")["deployment"]["live"] is True
    until(lambda: len(target(tmp_path).state.replicas) == 2)


def agent(channel: str = "staging", code: int = 0) -> str:
    """What one pass says."""
    result = invoke("agent", channel, "--once")
    assert (result.return_value or 0) == code, result.output
    text: str = result.stderr
    return text


def test_an_agent_keeps_a_channel_at_what_the_ledger_says(folder: Path, tmp_path: Path) -> None:
    first = vcs.discover(folder).sha
    assert f"{first[:12]} serves" in agent()
    assert serves() == {first: 100}
    assert agent().startswith(f"staging: {first[:12]} serves")
    second = released(folder, "second")
    agent()
    assert serves() == {second: 100}
    invoke("rollback", "staging")
    assert serves() == {first: 100}
    assert agent().startswith(f"staging: {first[:12]} serves")
    third = released(folder, "third")
    fault(tmp_path, third, Behaviour(never_ready=True))
    assert "went back" in agent()
    assert "went back before" in agent(), "it is not tried again"
    assert serves() == {first: 100}


def test_an_agent_follows_a_rollback_that_was_made_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = vcs.discover(folder).sha
    agent()
    second = released(folder, "second")
    agent()
    assert serves() == {second: 100}
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "another machine"))
    assert call("rollback", "staging")["traffic"] is None
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    agent()
    assert serves() == {first: 100}


def test_an_agent_starts_servers_that_died(folder: Path, tmp_path: Path) -> None:
    call("deploy", "staging")
    fault(tmp_path, vcs.discover(folder).sha, Behaviour(dies_after=1))
    anyio.run(partial(target(tmp_path).observe, seconds=10))
    fault(tmp_path, vcs.discover(folder).sha, Behaviour())
    assert "0 of 2 servers are ready: started again" in agent()
    assert {each["state"] for each in call("deploy", "status", "staging")["replicas"]} == {"ready"}


@pytest.mark.usefixtures("folder")
def test_an_agent_and_a_deployment_start_a_gateway_that_died(tmp_path: Path) -> None:
    call("deploy", "staging")
    target(tmp_path).change(down=True)
    shown = invoke("deploy", "status", "staging").stdout
    assert "gateway   it does not run, so no request is answered" in shown
    assert "the gateway does not run: started again" in agent()
    assert call("deploy", "status", "staging")["gateway_down"] is False
    target(tmp_path).change(down=True)
    call("deploy", "staging")
    assert call("deploy", "status", "staging")["gateway_down"] is False


def test_an_agent_starts_the_old_release_again_that_serves_after_a_bad_one_went_back(folder: Path, tmp_path: Path) -> None:
    first = vcs.discover(folder).sha
    agent()
    second = released(folder, "second")
    fault(tmp_path, second, Behaviour(never_ready=True))
    assert "went back" in agent()
    replicas = target(tmp_path).state.replicas
    target(tmp_path).change(replicas={name: replace(each, state="failed") for name, each in replicas.items()})
    assert "0 of 2 servers are ready, and" in agent()
    assert serves() == {first: 100}
    assert {each["state"] for each in call("deploy", "status", "staging")["replicas"]} == {"ready"}


def test_an_agent_leaves_to_a_person_what_a_person_decides(folder: Path) -> None:
    call("promote", "--from", "staging", "--channel", "production")
    agent("production")
    released(folder, "second")
    call("promote", "--from", "staging", "--channel", "production")
    assert "a person decides" in agent("production")
    assert "a person decides" in agent("production")
    assert call("deploy", "status", "production")["deployment"]["phase"] == "held"


def test_an_agent_completes_a_deployment_whose_command_was_killed(kept: Path, tmp_path: Path) -> None:
    with running(kept, "deploy", "staging") as process:
        until_kept(tmp_path)
        process.kill()
        process.communicate(timeout=30)
    journal = Journal(state(tmp_path))
    last = journal.read()
    assert last is not None
    agent()
    assert len(target(tmp_path).state.replicas) == 4, "the old release is kept ready for its time"
    journal.write(replace(last, since=0.001))
    agent()
    assert len(target(tmp_path).state.replicas) == 2


def test_an_agent_says_what_it_could_not_do_and_goes_on_with_the_other_channels(folder: Path, tmp_path: Path) -> None:
    agent()
    target(tmp_path).change(silent=True)
    released(folder, "second")
    call("promote", "--from", "staging", "--channel", "production")
    result = invoke("agent", "staging", "production", "--once")
    assert result.return_value == 3
    assert "staging: error: the gateway cannot be reached" in result.stderr
    assert call("deploy", "status", "production")["deployment"]["live"] is True


def test_a_running_agent_follows_the_ledger_and_leaves_servers_running(folder: Path, tmp_path: Path) -> None:
    with running(folder, "agent", "staging", "--interval", "1") as process:
        second = released(folder, "second")
        end = time.monotonic() + 60
        while second not in {each.commit for each in target(tmp_path).state.revisions.values()} or second not in serves():
            assert time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors or "stopped by SIGTERM" in errors
    assert serves() == {second: 100}


def test_the_unit_runs_the_same_command_and_spares_the_servers(folder: Path) -> None:
    text = invoke("agent", "staging", "--interval", "60", "--unit").stdout
    assert f"ExecStart={sys.executable} -P -m vllm_ci agent staging --interval 60" in text
    assert f"WorkingDirectory={folder}" in text
    assert "KillMode=process" in text
    assert "@" not in text


@pytest.mark.parametrize("name", ["100%", "a$HOME", "it's", 'a"b', "a\\b", "a\nb"])
def test_a_unit_is_not_written_for_a_path_that_systemd_would_read_otherwise(name: str) -> None:
    with pytest.raises(ErroredError, match="cannot be written in a systemd unit"):
        unit_file(("staging",), 30, Path("/srv") / name / "vllm-ci.yaml")


def test_the_course_of_a_canary_is_measured_and_drawn(folder: Path, tmp_path: Path) -> None:
    call("deploy", "staging")
    picture = tmp_path / "canary.svg"
    with pytest.raises(UsageError, match="nothing was measured in the last deployment of staging"):
        invoke("deploy", "status", "staging", "--picture", str(picture))
    second = released(folder, "second")
    fault(tmp_path, second, Behaviour(ttft_ms=70))
    call("deploy", "staging", "--strategy", "canary")
    course = call("deploy", "status", "staging", "--picture", str(picture))["course"]
    names = [name for each in course for name in each["weights"] if name.startswith(second[:12])]
    assert {each["step"] for each in course} == {"5 %", "25 %", "50 %", "100 %"}
    assert {each["ttft_ms"][names[0]] for each in course} == {70}
    drawn = ET.fromstring(picture.read_text())
    texts = {each.text for each in drawn.iter() if each.text}
    assert {"Share of the requests, %", "Failed requests, %", f"new ({second[:12]})", "staging: canary, live"} <= texts
    with pytest.raises(UsageError, match="cannot be written"):
        invoke("deploy", "status", "staging", "--picture", str(tmp_path / "none" / "x.svg"))


def test_an_agent_runs_as_many_servers_as_the_load_needs(folder: Path, tmp_path: Path) -> None:
    path = folder / "vllm-ci.yaml"
    path.write_text(
        path.read_text().replace("  replicas: 2", "  replicas: 2\n  scale: {min: 1, max: 4, requests: 2, down_s: 0}")
    )
    first = vcs.discover(folder).sha
    agent()
    assert "with 3 servers instead of 2: 5 requests run or wait, 2 are fine for one server" in agent()
    assert len(target(tmp_path).state.replicas) == 3
    assert f"{first[:12]} serves, with 3 servers" in agent()
    assert call("deploy", "staging")["changed"] is False, "a deployment keeps the number that the load needs"
    fault(tmp_path, first, Behaviour(latency_ms=100))
    assert "with 2 servers instead of 3" in agent()
    second = released(folder, "second")
    agent()
    assert serves() == {second: 100}
    assert len(target(tmp_path).state.replicas) == 2
    fault(tmp_path, second, Behaviour(latency_ms=5000))
    agent()
    agent()
    assert len(target(tmp_path).state.replicas) == 4, "not more than max"


def test_bounds_of_the_number_of_servers_that_cannot_be_meant_are_refused(folder: Path) -> None:
    path = folder / "vllm-ci.yaml"
    text = path.read_text()
    cases = {
        "{min: 3, max: 2}": "is above",
        "{min: 2}": "is above",
        "{min: -1, max: 2}": "min",
        "{min: 0, idle: ten}": "is not a time such as",
        "{min: 0, idle: 0s}": "idle",
        "{min: 0, queue: 0}": "queue",
        "{min: 1, max: 2, sleep: true}": "needs .min: 0.",
    }
    for wrong, said in cases.items():
        path.write_text(text.replace("  replicas: 2", f"  replicas: 2\n  scale: {wrong}"))
        with pytest.raises(ConfigError, match=said):
            invoke("deploy", "staging")
