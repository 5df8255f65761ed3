"""Models and retraining as functions on a real Dagger engine, with registry and ledger that want passwords."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import yaml

from e2e.conftest import Dagger, git
from e2e.means import Means, aliases, done, servers
from e2e.test_retraining import SETTINGS, planned, tiny, write_data
from registries import docker
from registries.models import checkpoint
from standin.project import Ended
from vllm_ci.engines.host import HostEngine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine_dagger,
    pytest.mark.needs_registry,
    pytest.mark.skipif(not docker.is_installed(), reason="docker-registry is not on PATH (apt-get install docker-registry)"),
]


class Caller:
    """Calls functions of an object that holds credentials."""

    def __init__(self, dagger: Dagger, means: Means, secrets: dict[str, str]) -> None:
        self._dagger, self._secrets = dagger, secrets
        self._means = [each for some in means for each in some]

    def __call__(self, holder: str, name: str, *words: str, options: tuple[str, ...] = ()) -> Ended:
        return self._dagger("call", "--source=.", holder, *self._means, *options, name, *words, **self._secrets)

    def json(self, holder: str, name: str, *words: str) -> dict[str, object]:
        return done(self(holder, name, *words, options=("--as-json",)))


@pytest.mark.timeout(2400)
def test_models_are_added_pulled_verified_and_moved_as_functions(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path / "one", 1), checkpoint(tmp_path / "two", 2)
    with servers(checkout, tmp_path) as (means, _, secrets):
        aliases(checkout, {"challenger": {}, "champion": {"after": "challenger", "licenses": ["Apache-2.0"]}})
        call = Caller(dagger, means, secrets)
        first = call.json("model", "add", "--name=chat", f"--path={one}", "--license=Apache-2.0", "--reason=- the first")
        assert (first["version"], first["changed"]) == ("v1", True)
        again = call.json("model", "add", "--name=chat", f"--path={one}", "--license=Apache-2.0")
        assert (again["changed"], again["digest"]) == (False, first["digest"])
        second = call.json("model", "add", "--name=chat", f"--path={two}", "--base=chat@v1", "--license=Apache-2.0")
        assert second["version"] == "v2"
        assert "files unaltered, signed by ci" in call("model", "verify", "--model=chat@v2").stdout
        assert "are shared" in call("model", "diff", "--model=chat@v1", "--other=chat@v2").stdout

        refused = call("model", "alias", "--name=chat", "--assignment=champion=v2")
        assert refused.code == 1
        assert "challenger" in refused.stderr
        assert call.json("model", "alias", "--name=chat", "--assignment=challenger=v2")["changed"] is True
        moved = call.json("model", "alias", "--name=chat", "--assignment=champion=challenger", "--reason=better")
        assert (moved["version"], moved["changed"]) == ("v2", True)
        assert "champion" in call("model", "show", "--model=chat@champion").stdout

        pulled = call("model", "pull", "--model=chat@champion", "export", f"--path={tmp_path / 'pulled'}")
        assert pulled.code == 0, pulled.stderr[-4000:]
        for each in two.iterdir():
            assert (tmp_path / "pulled" / each.name).read_bytes() == each.read_bytes()
        signed = call("model", "signature", "--model=chat@v2", "export", f"--path={tmp_path / 'chat.sig'}")
        assert "dsseEnvelope" in json.loads((tmp_path / "chat.sig").read_text()), signed.stderr[-4000:]

        pickled = checkpoint(tmp_path / "pickled", 3)
        (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
        refused = call("model", "add", "--name=chat", f"--path={pickled}")
        assert refused.code == 1
        assert "pytorch_model.bin" in refused.stderr
        listed = call.json("model", "list")
        assert isinstance(listed["models"], list)
        assert [each["version"] for each in listed["models"]] == ["v2", "v1"], "what was refused is no version"
        past = call("model", "history", "--name=chat").stdout
        assert "Anna" in past
        shown = past + refused.stderr + pulled.stderr
        assert not [name for name, value in secrets.items() if name != "REGISTRY_USER" and value in shown]


@pytest.mark.training
@pytest.mark.timeout(5400)
def test_a_model_is_retrained_by_the_engine_of_the_session(dagger: Dagger, checkout: Path, tmp_path: Path) -> None:
    async def made() -> None:
        async with HostEngine() as engine:
            await tiny(checkout, engine, tmp_path / "tiny")

    anyio.run(made)
    with servers(checkout, tmp_path) as (means, _, secrets):
        config = checkout / "vllm-ci.yaml"
        content = yaml.safe_load(config.read_text())
        content["server"]["args"] = [
            each for each in content["server"]["args"] if "chat-template" not in each and "tool" not in each
        ]
        config.write_text(yaml.safe_dump(content))
        aliases(checkout, {"challenger": {}, "champion": {"evaluation": True}})
        plan = {
            "model": "tickets",
            "base": "tiny@v1",
            "data": {"folder": "../data"},
            "train": planned(replace(SETTINGS, seed=random.SystemRandom().randrange(10**6), epochs=40)),
            "validate": {"max_tokens": 16},
        }
        (checkout / "retrain.yaml").write_text(yaml.safe_dump(plan))
        write_data(tmp_path / "data")
        git(checkout, "add", ".")
        git(checkout, "commit", "--quiet", "--message", "a model to retrain")
        call = Caller(dagger, means, secrets)
        done(call("model", "add", "--name=tiny", f"--path={tmp_path / 'tiny'}", options=("--as-json",)))

        outside = call("retrain", "check")
        assert outside.code == 2
        assert "--data path/to/data" in outside.stderr
        data = (f"--data={tmp_path / 'data'}",)
        checked = call("retrain", "check", options=data)
        assert "retrain.yaml is valid: tickets would be trained from tiny@v1" in checked.stdout, checked.stderr[-4000:]

        made_now = done(call("retrain", "run", "--promote", options=(*data, "--as-json")))
        assert (made_now["blessed"], made_now["version"]["version"]) == (True, "v1")
        assert [(each["alias"], each["version"]) for each in made_now["aliases"]] == [("challenger", "v1"), ("champion", "v1")]
        again = done(call("retrain", "run", options=(*data, "--as-json")))
        assert again["changed"] is False
        assert "files unaltered, signed by ci" in call("model", "verify", "--model=tickets@champion").stdout
