"""The real vLLM's gRPC service behind the real Envoy: the suite with a key, and streams through a change of the release."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio
import grpc
import pytest
from packaging.version import Version

from servers import engines, material
from servers.environments import beside, environment
from standin.deployment import needs_envoy
from vllm_ci.config.deploy import DeploySettings
from vllm_ci.config.gateway import GatewayConfig
from vllm_ci.deploy.target import Revision, Route
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.project import ModelSpec, Project, ServerSpec
from vllm_ci.images.vllm import entry_point
from vllm_ci.suites import manifest
from vllm_ci.suites.grpc.answer import Answer
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.contract import OPTIONS, contract
from vllm_ci.targets.local.key_changes import Keys
from vllm_ci.targets.local.launcher import Launch
from vllm_ci.targets.local.target import LocalTarget
from vllm_ci.targets.revision import serving_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), pytest.mark.anyio]

STREAMS, TOKENS = 8, 400
_KEY = "GATEWAY_TEST_KEY"
# What the gateway refuses by default.
_REFUSED = ("reflection", "Abort of a stream", "Abort of what is not known", "the engine ends what was aborted")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Starts vLLM from an environment of the machine, in the place of an image's files."""

    programs: Path
    packages: Path

    async def prepare(self, revision: Revision) -> None:
        """There is nothing to unpack."""

    async def launch(self, revision: Revision, place: Path, *, port: int, devices: tuple[int, ...]) -> Launch:  # noqa: ARG002
        """The command line as it is in an image."""
        values = {"{host}": "127.0.0.1", "{port}": str(port), "{model}": revision.serving.checkpoint}
        words = [values.get(word, word) for word in revision.serving.argv]
        env = engines.cpu() | {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.packages),
            "HOME": str(place),
        }
        return Launch(argv=(str(self.programs / words[0]), *words[1:]), env=env)


def revisions(model: Path) -> tuple[Revision, Revision]:
    """Two revisions that differ in their commit only, served as an image with vLLM's entry point is."""
    config = {"config": {"Entrypoint": ["python", "-m", entry_point.of(Version(engines.BACKEND))]}}
    server = ServerSpec(args=engines.FLAGS, ready_timeout_s=900)
    project = Project(name="p", config="", model=ModelSpec(served_name="tiny", path=str(model)), server=server, stages=())
    served = serving_of(project, DeploySettings(protocol="grpc", drain_s=120), config, str(model))
    image = ImageRef(repository="r", digest="sha256:" + "a" * 64)
    return Revision(commit="a" * 40, image=image, serving=served), Revision(commit="b" * 40, image=image, serving=served)


def opened(gateway: str, server: str, stack: ExitStack) -> Engine:
    """A client of the gateway, with the messages that a server describes."""
    channel = stack.enter_context(grpc.insecure_channel(gateway.removeprefix("grpc://"), options=OPTIONS))
    with grpc.insecure_channel(server.removeprefix("grpc://"), options=OPTIONS) as describing:
        described = contract(describing, (), 30)
    engine = Engine(channel=channel, open=lambda: channel, contract=described)
    engine.model = engine.call("GetModelInfo")  # prompts have tokens of its vocabulary
    return engine


def suite(address: str, key: str, packages: Path, folder: Path) -> dict[str, Any]:
    """Counts of the suite through the gateway, with the messages of the installed package, and what pytest said."""
    report = folder / "suite.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "vllm_ci.suites.plugin", "--pyargs", "vllm_ci.suites.grpc"]
    command += ["--vllm-grpc", address, "--vllm-api-key-env", _KEY, f"--junitxml={report}", "-p", "no:cacheprovider"]
    paths = os.pathsep.join([*sys.path, str(packages)])
    env = {**os.environ, "PYTHONPATH": paths, _KEY: key}
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert report.exists(), ended.stdout + ended.stderr
    found = ET.parse(report).getroot().find("testsuite")
    assert found is not None
    return {
        **{name: int(found.get(name, "")) for name in ("tests", "failures", "errors", "skipped")},
        "log": ended.stdout[-3000:],
    }


@pytest.fixture(name="installed")
def _installed() -> Installed:
    needs_envoy()
    programs = environment(f"vllm-{engines.BACKEND}")
    return Installed(programs=programs, packages=beside("vllm-grpc", programs / "python"))


async def test_the_suite_passes_with_a_key_and_releases_change_without_a_broken_stream(
    installed: Installed, tmp_path: Path
) -> None:
    a, b = revisions(material.tiny(installed.programs / "python"))
    settings = GatewayConfig(api_keys=True).domain("grpc")
    target = LocalTarget(folder=tmp_path / "target", launcher=installed, settings=settings)
    try:
        await target.start(a, 1)
        await target.route(Route(weights={a.name: 100}))
        current, key = await target.current(), await Keys(folder=target.folder).add("suite")
        counts = await anyio.to_thread.run_sync(suite, current.address, key, installed.packages, tmp_path)
        assert (counts["failures"], counts["errors"], counts["skipped"]) == (0, 0, len(_REFUSED)), counts["log"]
        assert counts["tests"] == sum(manifest.promised("grpc").values())
        await target.start(b, 1)
        found: list[Answer] = []
        with ExitStack() as stack:
            engine = opened(current.checks, current.replicas[0].url, stack)

            def one(number: int) -> None:
                found.append(engine.generate(ids=engine.prompt(number), stream=True, sampling={"max_tokens": TOKENS}))

            threads = [threading.Thread(target=one, args=(number,)) for number in range(STREAMS)]
            for each in threads:
                each.start()
            with anyio.fail_after(60):
                while await target._configuration.admin.open_requests(a.name) < STREAMS:
                    await anyio.sleep(0.02)
            for share in range(0, 101, 5):
                await target.route(Route(weights={a.name: 100 - share, b.name: share}))
            assert (await target.drain(a.name, deadline_s=300)).open == 0
            await target.stop(a.name)
            for each in threads:
                await anyio.to_thread.run_sync(each.join)
            assert [len(each.served().tokens()) for each in found] == [TOKENS] * STREAMS
            assert len(engine.generate(ids=engine.prompt(), sampling={"max_tokens": 8}).served().tokens()) == 8
        assert {each.revision for each in (await target.current()).replicas} == {b.name}
    finally:
        await target.close()
