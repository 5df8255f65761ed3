"""The commands say which registry the push login is for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ci.config import releases
from vllm_ci.config.load import load
from vllm_ci.domain.events import ignore
from vllm_ci.images import request
from vllm_ci.registry import transfer


def test_build_gives_the_login_to_the_registry_that_it_pushes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def push(*_: object, access: Any, **__: object) -> SimpleNamespace:
        seen.append(access)
        return SimpleNamespace(reference="", pushed_bytes=0, seconds=0.0)

    monkeypatch.setattr(transfer, "push", push)
    work: Any = SimpleNamespace(commit=SimpleNamespace(dirty=True))
    image: Any = SimpleNamespace(ref=SimpleNamespace(tags=(), digest="sha256:0"))
    request.push(work, image, "registry.example.com:5000/team/name", emit=ignore)
    assert [each.pushes_to for each in seen] == ["registry.example.com:5000"]


@pytest.mark.parametrize(("text", "host"), [('release: {repository: "r.example.com/team/name"}', "r.example.com"), ("", "")])
def test_releases_give_the_login_to_the_registry_of_the_configuration(tmp_path: Path, text: str, host: str) -> None:
    file = tmp_path / "vllm-ci.yaml"
    file.write_text(f"version: 1\nname: small\n{text}\n")
    assert releases.of(load(file)).setup.access.pushes_to == host
