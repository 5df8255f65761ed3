"""The model of ``models.named`` that ``model.use`` or ``--model NAME`` chooses, in the place of ``model``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from vllm_ci.config.project import ProjectConfig
from vllm_ci.config.server import ModelConfig

_MERGED = ("args", "env")


def applied(config: ProjectConfig, origins: Mapping[str, str]) -> tuple[ProjectConfig, Mapping[str, str]]:
    """The configuration as if the chosen model was the one that it describes, and where its values come from.

    Args:
        config: Checked: a model that it uses is there.
        origins: Of its values, by dotted key.
    """
    name = config.model.use
    if not name:
        return config, origins
    named = config.models.named[name]
    values = {key: getattr(named, key) for key in ModelConfig.model_fields}
    values |= {"use": name, "served_name": named.served_name or name}
    server = config.server.model_copy(
        update={
            "args": [*_without(config.server.args, named.leave_out), *named.args],
            "env": {**config.server.env, **named.env},
        }
    )
    known = {key: origin for key, origin in origins.items() if key == "model.use" or not key.startswith("model.")}
    above = f"models.named.{name}."
    for key, origin in origins.items():
        if key.startswith(above):
            of = key.removeprefix(above)
            if of.startswith("leave_out"):
                continue
            known[f"server.{of}" if of.partition(".")[0] in _MERGED else f"model.{of}"] = origin
    return config.model_copy(update={"model": ModelConfig.model_construct(**values), "server": server}), known


def _without(args: Sequence[str], names: Collection[str]) -> Iterator[str]:
    """Flags except those with these names; the value of a flag may be a word of its own."""
    leaving = False
    for each in args:
        if each.startswith("-"):
            leaving = each.partition("=")[0] in names
        if not leaving:
            yield each
