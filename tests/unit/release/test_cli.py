"""The commands, as users and programs call them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registries import project
from vllm_ci.cli import root
from vllm_ci.domain.errors import BuildError, ConfigError, FailedError, UsageError, VllmCiError
from vllm_ci.domain.report import Verdict
from vllm_ci.evidence.attachment import attached
from vllm_ci.evidence.bundle import Bundle
from vllm_ci.evidence.statement import SBOM, Statement
from vllm_ci.registry.layout import Layout
from vllm_ci.system.vcs import git

pytestmark = pytest.mark.slow


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one commit, built and tested."""
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path / "home"))
    for name in ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "chat"
    project.make_project(folder)
    project.build_and_test(folder)
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    value: dict[str, Any] = json.loads(text(*arguments, "--json"))
    return value


def text(*arguments: str, code: int = 0, stdin: str | None = None) -> str:
    result = CliRunner().invoke(root, arguments, input=stdin, standalone_mode=False)
    if isinstance(result.exception, VllmCiError):
        raise result.exception
    assert (result.return_value or result.exit_code) == code, result.output
    return result.stdout


def refused(*arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text(*arguments, "--json", code=1))
    return value


def release(folder: Path, greeting: str, **verdicts: Verdict) -> None:
    project.commit(folder, greeting)
    project.build_and_test(folder, verdicts)


def test_json_of_a_move_is_what_other_programs_rely_on(folder: Path) -> None:
    sha = git("rev-parse", "HEAD", cwd=folder).decode().strip()
    would = call("publish", "--dry-run")
    assert (would["changed"], would["dry_run"]) == (True, True)
    first = call("publish", "--channel", "staging")
    assert set(first) >= {"channel", "release", "decision", "changed"}
    assert first["channel"] == "staging"
    assert first["release"]["commit"] == sha
    assert first["release"]["digest"].startswith("sha256:")
    assert first["release"]["previous"] is None
    assert first["decision"] == {"allowed": True, "reasons": []}
    assert first["changed"] is True
    assert call("publish")["changed"] is False
    release(folder, "again")
    second = call("publish")
    assert second["release"]["previous"] == first["release"]["digest"]
    promoted = call("promote", "--from", "staging", "--channel", "production")
    assert promoted["release"]["digest"] == second["release"]["digest"]
    back = call("rollback", "staging")
    assert (back["release"]["digest"], back["changed"]) == (first["release"]["digest"], True)
    past = call("history")
    assert past["channels"] == {"staging": first["release"]["digest"], "production": second["release"]["digest"]}
    assert [each["action"] for each in past["records"]] == ["rollback", "promote", "publish", "publish"]
    assert [each["channel"] for each in call("history", "production")["records"]] == ["production"]


def test_a_refused_move_exits_with_1_and_still_prints_its_object(folder: Path) -> None:
    release(folder, "careless", security=Verdict.FAILED)
    value = refused("publish")
    assert value["changed"] is False
    assert value["decision"]["allowed"] is False
    assert value["decision"]["reasons"][0].startswith("tests.security: expected passed, got failed")
    with pytest.raises(FailedError, match="may not go to staging"):
        text("publish")
    assert not (folder / ".vllm-ci/ledger.git").exists()


def test_reports_of_doubles_and_dirty_trees_do_not_count(folder: Path) -> None:
    project.commit(folder, "untested")
    project.build_and_test(folder, double=True)
    (folder / "serving/template.jinja").write_text("dirty\n")
    project.build_and_test(folder)
    git("checkout", "--quiet", "--", ".", cwd=folder)
    with pytest.raises(UsageError, match="no report of commit"):
        text("publish")
    newest = max((folder / ".vllm-ci/runs").glob("*/report.json")).parent
    with pytest.raises(FailedError):
        text("publish", "--report", str(newest))


def test_a_dirty_tree_is_never_published(folder: Path) -> None:
    (folder / "serving/template.jinja").write_text("dirty\n")
    with pytest.raises(FailedError, match="its image cannot be published"):
        text("publish")


def test_runs_of_parts_count_together(folder: Path) -> None:
    runs = folder / ".vllm-ci/runs"
    [report] = [path for path in runs.glob("*/report.json") if not path.parent.is_symlink()]
    whole = json.loads(report.read_text())
    streaming = [stage for stage in whole["stages"] if stage["name"] == "streaming"]
    report.write_text(json.dumps({**whole, "stages": [stage for stage in whole["stages"] if stage not in streaming]}))
    assert refused("publish")["decision"]["reasons"][0].startswith("tests.streaming: expected passed, got no test result")
    (runs / "later").mkdir()
    (runs / "later/report.json").write_text(json.dumps({**whole, "stages": streaming}))
    assert call("publish")["changed"] is True


@pytest.mark.usefixtures("folder")
def test_show_goes_from_commit_to_digest_and_back() -> None:
    moved = call("publish")["release"]
    by_commit, by_digest = call("show", moved["commit"]), call("show", moved["digest"])
    assert by_commit == by_digest
    assert by_commit["tests"] == dict.fromkeys(["integration", "security", "streaming", "unit"], "passed")
    assert by_commit["channels"] == ["staging"]
    assert moved["digest"] in text("show", moved["commit"][:10])


def test_verify_by_channel_by_name_and_by_key(folder: Path, tmp_path: Path) -> None:
    moved = call("publish")["release"]
    assert call("verify", "staging")["verified"] is True
    public = folder / ".vllm-ci/keys/release.pub"
    place = f"oci:{folder}/.vllm-ci/registry@{moved['digest']}"
    value = call("verify", place, "--key", f"ci={public}", "--any-repository", "--layers", "--commit", moved["commit"])
    assert {each["signer"] for each in value["evidence"]} == {"ci"}
    assert call("verify", "staging", "--channel", "production")["decision"] == {"allowed": True, "reasons": []}
    text("keys", "generate", "--plain", "--out", str(tmp_path / "other"))
    other = refused("verify", "staging", "--key", str(tmp_path / "other/release.pub"))
    assert {each["refusal"] for each in other["evidence"]} == {"OtherKey"}
    with pytest.raises(FailedError, match="does not verify"):
        text("verify", "staging", "--key", str(tmp_path / "other/release.pub"))
    with pytest.raises(FailedError, match="does not verify"):
        text("verify", place, "--key", f"ci={public}")  # made for the name localhost/chat, not for this folder
    with pytest.raises(UsageError, match="there is no nothing"):
        text("verify", f"oci:{folder}/.vllm-ci/registry:nothing", "--key", str(public))


def test_keys_are_encrypted_unless_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no passphrase"):
        text("keys", "generate")
    monkeypatch.setenv("VLLM_CI_KEY_PASSPHRASE", "open sesame")
    made = call("keys", "generate")
    assert b"ENCRYPTED" in Path(made["private_key"]).read_bytes()
    assert "open sesame" not in json.dumps(made)
    assert git("status", "--porcelain", cwd=folder) == b"", "a private key is nothing for git"
    assert call("publish")["changed"] is True
    monkeypatch.delenv("VLLM_CI_KEY_PASSPHRASE")
    release(folder, "again")
    with pytest.raises(ConfigError, match="no passphrase"):
        text("publish")


@pytest.mark.usefixtures("folder")
def test_policy_explain_shows_expected_and_got() -> None:
    sha = call("publish")["release"]["commit"]
    rules = call("policy", "explain", "production")["rules"]
    assert {"rule": "soak", "expected": "been in staging"} in rules
    value = call("policy", "explain", "production", sha[:12])
    assert value["allowed"] is True
    assert {each["rule"] for each in value["rules"]} == {each["rule"] for each in rules}
    assert "may go to production" in text("policy", "explain", "production", sha)


def test_doctor_compares_and_repairs(folder: Path) -> None:
    first = call("publish")["release"]
    release(folder, "again")
    call("publish")
    index = folder / ".vllm-ci/registry/index.json"
    value = json.loads(index.read_text())
    for entry in value["manifests"]:
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == "staging":
            entry["digest"] = first["digest"]
    index.write_text(json.dumps(value))
    assert refused("doctor", "--ledger")["disagreements"][0]["what"] == "channel tag"
    assert "repaired" in text("doctor", "--ledger", "--repair")
    assert call("doctor", "--ledger") == {"agree": True, "disagreements": []}


def test_prune_says_before_it_deletes(folder: Path) -> None:
    first = call("publish")["release"]
    release(folder, "again")
    call("publish")
    would = call("prune", "--keep", "1")
    assert (would["deleted"], would["dry_run"]) == ([first["digest"]], True)
    assert "nothing was deleted" in text("prune", "--keep", "1")
    assert call("prune", "--keep", "1", "--yes")["deleted"] == [first["digest"]]
    assert call("prune", "--keep", "1")["deleted"] == []


def test_the_ledger_may_be_a_branch_of_a_remote(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "remote.git")], check=True)
    git("remote", "add", "origin", str(tmp_path / "remote.git"), cwd=folder)
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "release:\n  ledger: {repository: origin, branch: deploy}\n")
    project.commit(folder, "with a ledger")
    project.build_and_test(folder)
    call("publish")
    listed = git("ls-tree", "-r", "--name-only", "deploy", cwd=tmp_path / "remote.git").decode().split()
    assert listed == ["deploy/staging/kustomization.yaml", "records/000001.json"]
    config.write_text(config.read_text().replace("repository: origin", "repository: nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        text("history")


def test_a_remote_that_is_not_there_is_out_of_reach_and_not_made(folder: Path, tmp_path: Path) -> None:
    git("remote", "add", "origin", str(tmp_path / "unmounted.git"), cwd=folder)
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "release:\n  ledger: {repository: origin}\n")
    project.commit(folder, "with a ledger")
    project.build_and_test(folder)
    for command in (("publish",), ("history",)):
        with pytest.raises(VllmCiError, match=r"unmounted\.git"):
            text(*command)
    assert not (tmp_path / "unmounted.git").exists()


def test_the_key_may_be_named_on_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text("keys", "generate", "--plain", "--out", str(folder / "keys"), "--name", "ci")
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "release:\n  signers: {ci: keys/ci.pub}\n")
    (folder / ".gitignore").write_text("*.key\n")
    project.commit(folder, "with a signer")
    project.build_and_test(folder)
    with pytest.raises(ConfigError, match=r"release\.key cannot be read"):
        text("publish")
    monkeypatch.setenv("SIGNING_KEY", (folder / "keys/ci.key").read_text())
    assert call("publish", "--key", "env:SIGNING_KEY")["changed"] is True
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert call("promote", "--from", "staging", "--channel", "production", "--key", "../keys/ci.key")["changed"] is True
    assert {each["signer"] for each in call("verify", "production")["evidence"]} == {"ci"}


def with_rule(folder: Path, rule: str) -> None:
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + f"release:\n  channels: {{staging: {{{rule}}}}}\n")
    project.commit(folder, "with a rule")
    git("checkout", "--quiet", "--detach", cwd=folder)


def test_what_git_cannot_tell_the_environment_can(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_rule(folder, 'refs: ["refs/tags/v*"]')
    project.build_and_test(folder)
    assert refused("publish")["decision"]["reasons"][0].startswith("ref: ")
    monkeypatch.setenv("VLLM_CI_REF", "v1.0")
    assert refused("publish")["decision"]["reasons"][0].startswith("ref: "), "no such tag is here"
    git("tag", "v1.0", cwd=folder)
    assert call("publish")["changed"] is True


def test_a_run_for_a_pull_request_publishes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_rule(folder, "sbom: true")
    project.build_and_test(folder)
    for name, value in {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_REF": "refs/pull/7/merge",
    }.items():
        monkeypatch.setenv(name, value)
    [reason] = refused("publish")["decision"]["reasons"]
    assert "`pull_requests: true`" in reason
    assert reason.endswith("got pull request 7")


def test_what_a_run_for_a_pull_request_tested_is_not_published_elsewhere(folder: Path) -> None:
    with_rule(folder, "refs: [main]")
    project.build_and_test(folder)
    git("checkout", "--quiet", "-B", "main", cwd=folder)
    for report in (folder / ".vllm-ci/runs").glob("*/report.json"):
        value = json.loads(report.read_text())
        value["commit"]["pull_request"] = "7"
        report.write_text(json.dumps(value))
    reasons = [reason.partition(":")[0] for reason in refused("publish")["decision"]["reasons"]]
    assert reasons == ["pull_request", "ref"]


def test_the_short_ref_of_an_older_report_is_not_believed(folder: Path) -> None:
    with_rule(folder, "refs: [main]")
    project.build_and_test(folder)
    for report in (folder / ".vllm-ci/runs").glob("*/report.json"):
        value = json.loads(report.read_text())
        value["commit"]["ref"] = "main"
        report.write_text(json.dumps(value))
    assert [reason.partition(":")[0] for reason in refused("publish")["decision"]["reasons"]] == ["ref"]


def test_a_policy_that_can_never_pass_or_refuses_little_is_said(folder: Path) -> None:
    config = folder / "vllm-ci.yaml"
    rules = "staging: {tests: {}}, production: {after: staging, pull_requests: true, refs: [main]}"
    config.write_text(config.read_text() + f"release:\n  channels: {{{rules}}}\n")
    assert [each.partition(":")[0] for each in call("policy", "explain", "staging")["remarks"]] == ["refuses little"]
    assert "note: refuses little: no stage has to pass" in text("policy", "explain", "staging")
    assert any("`refs` refuses every one" in each for each in call("policy", "explain", "production")["remarks"])


def test_a_registry_without_a_key_is_refused_before_anything_is_sent(folder: Path) -> None:
    config = folder / "vllm-ci.yaml"
    config.write_text(config.read_text() + "release:\n  repository: localhost:9/team/chat\n")
    project.commit(folder, "with a registry")
    project.build_and_test(folder)
    with pytest.raises(VllmCiError):
        text("publish")
    assert not (folder / ".vllm-ci/keys").exists()


def bill_of(folder: Path, digest: str) -> dict[str, str]:
    """Name to version, of the bill of materials that is attached to an image."""
    repository = Layout(folder / ".vllm-ci/registry")
    statements = [Statement.parse(Bundle.parse(each.bundle).payload) for each in attached(repository, digest)]
    [bill] = [each for each in statements if each.predicate_type == SBOM]
    return {each["name"]: each.get("version", "") for each in bill.predicate["components"]}


def test_locks_that_changed_since_the_build_change_nothing_about_the_bill_of_materials(folder: Path) -> None:
    lock = folder / "image.lock"
    lock.write_text(lock.read_text().replace("0.32.0", "0.33.0"))
    (folder / "image.debs.lock").unlink()
    git("-c", "user.name=p", "-c", "user.email=p@example.com", "commit", "--quiet", "--all", "-m", "lock", cwd=folder)
    moved = call("publish", "HEAD~1")
    bill = bill_of(folder, moved["release"]["digest"])
    assert bill == {"vllm": "0.32.0", "libssl3": "3.0.15-1~deb12u1", "/opt/serving/template.jinja": ""}


def test_an_image_without_a_record_of_its_materials_is_not_published(folder: Path, tmp_path: Path) -> None:
    [record] = (tmp_path / "home/materials").iterdir()
    record.unlink()
    with pytest.raises(BuildError, match="no record of what sha256:") as caught:
        text("publish")
    assert "build it again" in caught.value.remedy
    assert not (folder / ".vllm-ci/ledger.git").exists()


@pytest.mark.usefixtures("folder")
def test_a_move_shows_its_steps_on_standard_error() -> None:
    result = CliRunner().invoke(root, ["publish", "--json"], standalone_mode=False)
    assert result.exception is None
    lines = result.stderr.splitlines()
    for step in ("verify", "push", "ledger", "tag"):
        assert any(f"{step}: started" in line for line in lines), lines
        assert any(f"✓ {step}" in line for line in lines), lines
    assert json.loads(result.stdout)["changed"] is True
