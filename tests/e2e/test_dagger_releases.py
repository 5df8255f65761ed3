"""The release verbs as functions on a real Dagger engine, with a real registry and a real git server that want passwords."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import ROOT, Dagger, dagger_cli, git, until
from e2e.means import configure, done, servers
from registries import docker
from standin.project import Ended
from vllm_ci.evidence import keys

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine_dagger,
    pytest.mark.timeout(2400),
]

# It wants to be called by its whole path.
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.mark.needs_registry
@pytest.mark.skipif(not docker.is_installed(), reason="docker-registry is not on PATH (apt-get install docker-registry)")
def test_publish_promote_and_roll_back_as_functions(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    with servers(checkout, tmp_path) as (means, port, secrets):
        ledger, reach, sign = means

        def call(name: str, *arguments: str) -> Ended:
            options = [each for each in arguments if each in ("--as-json", "--dry-run")]
            words = [each for each in arguments if each not in options]
            given = [*ledger, *([] if name == "history" else reach)]
            given += sign if name in ("publish", "promote", "rollback") else []
            return dagger("call", "--source=.", "release", *given, *options, name, *words, **secrets)

        without = dagger(
            "call", "--source=.", "release", "--key=env://OTHER_KEY", "publish", "--run", OTHER_KEY=another_key(tmp_path)
        )
        assert without.code == 2, "refused before anything is built"
        assert "the key passed with --key belongs to no configured signer" in without.stderr

        first = run_of(dagger, checkout, tmp_path / "first", "one")
        published = done(call("publish", "--report", str(tmp_path / "first"), "--channel=staging", "--as-json"))
        assert published["release"]["digest"] == first
        again = done(call("publish", "--report", str(tmp_path / "first"), "--channel=staging", "--as-json"))
        assert again["changed"] is False
        promoted = done(call("promote", "--from=staging", "--channel=production", "--as-json"))
        assert (promoted["release"]["digest"], promoted["changed"]) == (first, True)

        second = run_of(dagger, checkout, tmp_path / "second", "two")
        would = call("publish", "--report", str(tmp_path / "second"), "--dry-run")
        assert f"would push {second}" in would.stdout
        assert done(call("publish", "--report", str(tmp_path / "second"), "--as-json"))["changed"] is True
        assert done(call("promote", "--from=staging", "--channel=production", "--as-json"))["release"]["digest"] == second
        back = done(call("rollback", "--channel=production", "--reason=latency doubled", "--as-json"))
        assert (back["release"]["digest"], back["release"]["previous"]) == (first, second)

        assert done(call("policy", "--channel=production", "--as-json"))["channel"] == "production"
        assert "would delete" in call("prune", "--keep=1").stdout or "0 images" in call("prune", "--keep=1").stdout

        past = done(call("history", "--as-json"))
        assert past["channels"] == {"staging": second, "production": first}
        assert [each["action"] for each in past["records"]] == ["rollback", "promote", "publish", "promote", "publish"]
        assert {each["by"] for each in past["records"]} == {"Anna <anna@example.com>"}
        assert done(call("verify", "--image=production", "--as-json"))["verified"] is True
        # Without a checkout, by the public key alone.
        image = f"registry:{port}/team/quickstart@{first}"
        keys_of = ("--keys", str(checkout / "ci.pub"))
        alone = dagger("call", "release", *reach, "verify", f"--image={image}", *keys_of, **secrets)
        assert "verified  test result of unit        ci " in alone.stdout, alone.stderr[-4000:]

        to = f"--registry=registry:{port}/team/by-hand"
        pushed = dagger("call", "--source=.", "build", "push", to, *reach, **secrets)
        assert pushed.stdout.strip() == f"registry:{port}/team/by-hand@{second}", pushed.stderr[-4000:]

        wrong = call("publish", "--report", str(tmp_path / "first"), "--channel=production")
        assert wrong.code == 1
        assert "the report is for" in wrong.stderr
        refused = dagger("call", "--source=.", "release", *ledger[1:], "history", **secrets)
        assert refused.code == 3
        assert "the ledger cannot be reached" in refused.stderr
        said = json.dumps([published, past]) + would.stderr + refused.stderr
        assert not [name for name, value in secrets.items() if name != "REGISTRY_USER" and value in said]


@pytest.mark.needs_registry
@pytest.mark.skipif(not docker.is_installed(), reason="docker-registry is not on PATH (apt-get install docker-registry)")
def test_one_call_runs_the_stages_and_publishes(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    with servers(checkout, tmp_path) as (means, _, secrets):
        git(checkout, "add", ".")
        git(checkout, "commit", "--quiet", "--message", "one")
        given = [each for some in means for each in some]
        ended = dagger("call", "--source=.", "release", *given, "--dry-run", "publish", "--run", **secrets)
        assert "would push sha256:" in ended.stdout, ended.stderr[-4000:]


@pytest.mark.needs_registry
@pytest.mark.skipif(not docker.is_installed(), reason="docker-registry is not on PATH (apt-get install docker-registry)")
def test_the_example_module_tries_runs_and_releases(
    dagger_engine: None,  # noqa: ARG001
    checkout: Path,
    tmp_path: Path,
) -> None:
    with servers(checkout, tmp_path) as (means, _, secrets):
        git(checkout, "add", ".")
        git(checkout, "commit", "--quiet", "--message", "one")
        given = [each for some in means for each in some]
        module = ("-m", str(ROOT / "examples" / "dagger-module"))
        ended = dagger_cli(checkout, *module, "call", "--source=.", "release", *given, "--dry-run", **secrets)
        assert "answers" in ended.stdout, ended.stderr[-4000:]
        assert "would push sha256:" in ended.stdout, ended.stderr[-4000:]


@pytest.mark.needs_tool
@pytest.mark.skipif(SSHD is None, reason="sshd is not on PATH (apt-get install openssh-server)")
def test_a_ledger_may_be_behind_ssh(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    releases = tmp_path / "releases.git"
    git(tmp_path, "init", "--quiet", "--bare", str(releases))
    with ssh_server(tmp_path) as (port, agent):
        user = getpass.getuser()
        configure(checkout, repository="registry.example.com/name", ledger=f"ssh://{user}@git:{port}{releases}")
        host_key = (tmp_path / "host.pub").read_text()
        (tmp_path / "known_hosts").write_text(f"[git]:{port} {host_key}")
        means = (f"--ledger-service=tcp://127.0.0.1:{port}", f"--ssh-agent={agent}", "--known-hosts")
        ended = dagger("call", "--source=.", "release", *means, str(tmp_path / "known_hosts"), "history")
        assert ended.code == 0, ended.stderr[-4000:]
        assert ended.stdout.strip() == "no releases yet"
        (tmp_path / "known_hosts").write_text(f"[elsewhere]:{port} {host_key}")
        ended = dagger("call", "--source=.", "release", *means, str(tmp_path / "known_hosts"), "history")
        assert ended.code == 3
        assert "Host key verification failed" in ended.stderr


def test_what_would_be_lost_with_its_container_is_refused(dagger: Dagger) -> None:
    ended = dagger("call", "--source=.", "release", "rollback", "--channel=staging")
    assert ended.code == 2
    assert "release.ledger.repository is not a server" in ended.stderr


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """A server that lets one key in, and the socket of an agent that holds it."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "ListenAddress": f"127.0.0.1:{port}",
    }
    command = [str(SSHD), "-D", "-e", "-f", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]
    Path("/run/sshd").mkdir(exist_ok=True)
    socket_path = folder / "agent"
    with (folder / "sshd.log").open("w") as log:
        server = subprocess.Popen(command, stderr=log)
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL)
    try:
        until(socket_path.exists, "the agent", 30)
        add = ["ssh-add", "-q", str(folder / "user")]
        subprocess.run(add, check=True, env={**os.environ, "SSH_AUTH_SOCK": str(socket_path)})
        until(lambda: "listening" in (folder / "sshd.log").read_text(), "the server", 30)
        yield port, socket_path
    finally:
        for process in (server, agent):
            process.terminate()
            process.wait(20)


def another_key(folder: Path) -> str:
    """A private key whose public half the configuration does not have."""
    keys.generate(folder / "other")
    return (folder / "other" / "release.key").read_text()


def run_of(dagger: Dagger, checkout: Path, report: Path, word: str) -> str:
    """A new commit, its stage run, its report on this machine; gives the digest."""
    (checkout / "README.md").write_text(f"{word}\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", word)
    ended = dagger("-c", f"{ROOT} --source . | run --stages unit | report | export {report}")
    assert ended.code == 0, ended.stderr[-6000:]
    digest: str = json.loads((report / "report.json").read_text())["image"]["digest"]
    return digest
