"""Checks across sections of ``vllm-ci.yaml``: channels refer to channels, stages and signers, and share a branch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from vllm_ci.config import over_cluster, over_grpc, over_kserve
from vllm_ci.domain import overlay_path

if TYPE_CHECKING:
    from vllm_ci.config.channels import ChannelConfig, ReleaseConfig
    from vllm_ci.config.project import ProjectConfig
    from vllm_ci.system.yaml_file import Place

OWN_SIGNER = "release"
"""Name of the key in ``.vllm-ci/keys``, which is trusted if ``release.signers`` is empty."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A value that conflicts with others.

    Attributes:
        place: Where it is in the document.
        why: Why it is not valid.
        remedy: What to do.
    """

    place: Place
    why: str
    remedy: str


def problems(config: ProjectConfig, *, stages: Iterable[str] = ()) -> Iterator[Conflict]:
    """All problems, grouped by channel.

    Args:
        config: The configuration to check.
        stages: Names of the stages that the user's pipeline defines in Python.
    """
    release = config.release
    known = (*config.stages.specs(), *stages)
    for index, stage in enumerate(config.matrix.stages):
        yield from _unknown(("matrix", "stages", index), stage, "stage", known)
    for name in config.deploy.channels:
        yield from _unknown(("deploy", "channels", name), name, "channel (release.channels)", release.channels)
    for name, channel in release.channels.items():
        yield from _names(name, channel, release, stages=known)
        yield from _after(name, channel, release.channels)
        yield from _kustomization(name, release.channels)
    for name in config.monitoring.channels:
        yield from _unknown(("monitoring", "channels", name), name, "channel", release.channels)
    for name in release.channels:
        yield from _deployed(name, config)
    yield from _model(config)


def _model(config: ProjectConfig) -> Iterator[Conflict]:
    name = config.model.use
    for conflict in _unknown(("model", "use"), name, "model", ("tiny", *config.models.named)) if name else ():
        hub = "write ORG/NAME for a model of the hub, NAME@VERSION for one of `vllm-ci model`"
        yield replace(conflict, remedy=f"{conflict.remedy} ({hub})")


def _names(name: str, channel: ChannelConfig, release: ReleaseConfig, *, stages: Iterable[str]) -> Iterator[Conflict]:
    place: Place = ("release", "channels", name)
    signers = tuple(release.signers) or (OWN_SIGNER,)
    for stage in channel.tests or ():
        yield from _unknown((*place, "tests", stage), stage, "stage", stages)
    if channel.compared_with and channel.compared_with not in release.channels:
        yield from _unknown((*place, "compared_with"), channel.compared_with, "channel", release.channels)
    for key, named in (("signers", channel.signers), ("approvals", channel.approvals)):
        for index, signer in enumerate(named):
            yield from _unknown((*place, key, index), signer, "signer (release.signers)", signers)


def _after(name: str, channel: ChannelConfig, channels: Mapping[str, ChannelConfig]) -> Iterator[Conflict]:
    place: Place = ("release", "channels", name)
    if not channel.after:
        if channel.soak_hours:
            yield Conflict(
                place=(*place, "soak_hours"),
                why="soak_hours needs a channel to soak in",
                remedy="set `after` to that channel, or remove soak_hours",
            )
        return
    if channel.after == name:
        why = "a channel cannot come after itself"
        yield Conflict(place=(*place, "after"), why=why, remedy="name another channel, or remove it")
    elif channel.after not in channels:
        yield from _unknown((*place, "after"), channel.after, "channel", channels)
    elif circle := _circle(name, channels):
        why = f"{' after '.join(circle)}: a cycle, so none of them could ever get a release"
        yield Conflict(place=(*place, "after"), why=why, remedy="remove one `after` of these channels")


def _circle(name: str, channels: Mapping[str, ChannelConfig]) -> tuple[str, ...]:
    """The cycle of ``after`` that contains channel ``name``; empty when there is none."""
    way = [name]
    while (following := channels[way[-1]].after) in channels:
        way.append(following)
        if following == name:
            return tuple(way)
        if following in way[:-1]:
            break
    return ()


def _deployed(name: str, config: ProjectConfig) -> Iterator[Conflict]:
    """What does not go together in the settings of a channel's deployment: its own, and the common ones for the rest."""
    own: Place = ("deploy", "channels", name)
    try:
        settings = config.deploy.of(name)
    except ValidationError as error:
        found = error.errors()[0]
        why = found["msg"].removeprefix("Value error, ")
        yield Conflict(place=(*own, *found["loc"]), why=why, remedy="its own settings and the common ones must go together")
        return
    refused = [("protocol: grpc", each) for each in over_grpc.refused(settings, config.server)]
    refused += [("target: kubernetes", each) for each in over_cluster.refused(settings)]
    refused += [("kubernetes.kserve", each) for each in over_kserve.refused(settings)]
    for cause, each in refused:
        place = each.key
        if place[0] == "deploy" and _is_set(config.deploy.channels.get(name), place[1:]):
            place = (*own, *place[1:])
        yield Conflict(place=place, why=f"channel {name} has `{cause}`: {each.why}", remedy=each.remedy)
    if settings.protocol == "grpc" and name in config.monitoring.channels:
        why = f"channel {name} has `protocol: grpc`, whose servers have no metrics for Prometheus"
        yield Conflict(place=("monitoring", "channels", name), why=why, remedy="remove it, or serve HTTP")


def _is_set(section: object, key: Place) -> bool:
    """Whether a section has a value of its own for a key."""
    for step in key:
        if not isinstance(section, BaseModel) or str(step) not in section.model_fields_set:
            return False
        section = getattr(section, str(step))
        if isinstance(section, list):
            return True
    return True


def _kustomization(name: str, channels: Mapping[str, ChannelConfig]) -> Iterator[Conflict]:
    paths = {each: channel.overlay(each) for each, channel in channels.items()}
    place: Place = ("release", "channels", name, "kustomization")
    remedy = "write another path, such as deploy/NAME/kustomization.yaml"
    try:
        overlay_path.normalised(paths[name])
    except ValueError as error:
        yield Conflict(place=place, why=f"{paths[name]}: {error}", remedy=remedy)
        return
    found = overlay_path.collision(name, paths)
    if found:
        other, why = found
        yield Conflict(place=place, why=f"{paths[name]} and {paths[other]} of channel {other} collide: {why}", remedy=remedy)


def _unknown(place: Place, name: str, what: str, known: Iterable[str]) -> Iterator[Conflict]:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
    yield Conflict(place=place, why=f"there is no {what} named {name}", remedy=remedy)
