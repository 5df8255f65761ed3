"""Registry and ledger of a user's repository as servers that want passwords, for functions of the module."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from registries import docker, git_server
from standin.project import Ended
from vllm_ci.evidence import keys

SECRETS = {
    "REGISTRY_USER": docker.USERNAME,
    "REGISTRY_PASSWORD": docker.PASSWORD,
    "LEDGER_TOKEN": git_server.PASSWORD,
    "KEY_PASSPHRASE": "open sesame",
}

Means = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


@contextlib.contextmanager
def servers(checkout: Path, folder: Path) -> Iterator[tuple[Means, int, dict[str, str]]]:
    """Registry and ledger of a configured checkout: options for ledger, registry and signing, the registry's port, secrets."""
    (folder / "registry").mkdir()
    with (
        docker.docker_registry(folder / "registry", password=True) as registry,
        git_server.git_server(folder / "repositories") as server,
    ):
        port = int(registry.host.rpartition(":")[2])
        key = configure(
            checkout, repository=f"registry:{port}/team/quickstart", ledger=f"http://git:{server.port}/releases.git"
        )
        ledger = ("--ledger-password=env://LEDGER_TOKEN", f"--ledger-service=tcp://127.0.0.1:{server.port}")
        login = ("--username=env://REGISTRY_USER", "--password=env://REGISTRY_PASSWORD")
        sign = ("--key=env://SIGNING_KEY", "--passphrase=env://KEY_PASSPHRASE", "--by=Anna <anna@example.com>")
        reach = (*login, f"--registry-service=tcp://127.0.0.1:{port}")
        yield (ledger, reach, sign), port, {**SECRETS, "SIGNING_KEY": key}


def configure(checkout: Path, *, repository: str, ledger: str) -> str:
    """Say where releases go and whom to trust, and return the private key, which is outside of the checkout."""
    keys.generate(checkout.parent / "keys", passphrase=SECRETS["KEY_PASSPHRASE"], name="ci")
    shutil.copy(checkout.parent / "keys" / "ci.pub", checkout / "ci.pub")
    release = {
        "repository": repository,
        "ledger": {"repository": ledger},
        "signers": {"ci": "ci.pub"},
        "channels": {
            name: {"tests": {"unit": "passed"}, **({"after": "staging"} if name == "production" else {})}
            for name in ("staging", "production")
        },
    }
    config = checkout / "vllm-ci.yaml"
    config.write_text(f"{config.read_text()}\nrelease: {json.dumps(release)}\n")
    return (checkout.parent / "keys" / "ci.key").read_text()


def aliases(checkout: Path, policies: dict[str, dict[str, object]]) -> None:
    """Say what the aliases of models are, beside what the configuration says of models."""
    config = checkout / "vllm-ci.yaml"
    content = yaml.safe_load(config.read_text())
    content["models"]["aliases"] = policies
    config.write_text(yaml.safe_dump(content))


def done(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.stdout + ended.stderr[-6000:]
    return ended.json
