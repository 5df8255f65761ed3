"""``vllm-ci image``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from vllm_ci.cli import watching
from vllm_ci.cli.options import config_option, loaded, option
from vllm_ci.cli.output import json_option, print_json, say

_PLATFORM = {"metavar": "PLATFORM", "default": "", "help": "Platform of a multi-platform image; by default this machine's."}


@click.group()
def image() -> None:
    """Inspect images on this machine, and bring other ones here."""


@image.command()
@click.argument("name")
@config_option
@option(
    "--facts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write image.json and config.json to.",
)
@json_option
@click.pass_context
def pull(context: click.Context, /, *, name: str, facts: Path | None, as_json: bool, **_: object) -> None:
    """Bring the image NAME to this machine: of a release channel, by digest or reference, or of a commit, which is built.

    \b
    Examples:
      vllm-ci image pull production
      vllm-ci image pull registry.example.com/team/vllm:1.4.0
      vllm-ci image pull HEAD~1 --json
    """
    from vllm_ci.config.obtain import obtain

    project = loaded(context)
    with watching.watch() as emit:
        found = obtain(project, name, emit=emit)
    if facts:
        found.write(facts)
    if as_json:
        print_json(vars(found))
    else:
        say(f"{found.repository}@{found.digest}  {found.source}" if found.digest else found.source)


@image.command()
@click.argument("name")
@option("--platform", **_PLATFORM)
@json_option
def show(*, name: str, platform: str, as_json: bool) -> None:
    """Show layers, labels and sizes of the image NAME (digest, name, tag or commit, or the beginning of one).

    \b
    Examples:
      vllm-ci image show 4f1c2e
      vllm-ci image show vllm-cpu:4f1c2e --json
    """
    from vllm_ci.images import compare
    from vllm_ci.images.store import Store, image_config

    store = Store()
    digest = compare.find(store, name)
    layers = compare.layers(store, digest, platform=platform)
    config = image_config(digest, platform=platform or _own(), store=store)
    if as_json:
        print_json({"digest": digest, "layers": [asdict(layer) for layer in layers], "config": config["config"]})
        return
    for layer in layers:
        say(f"{layer.tier:<16} {layer.size_bytes / 1e6:>10,.1f} MB  {layer.digest[:19]}  {layer.comment}")
    say(f"{digest}  {sum(layer.size_bytes for layer in layers) / 1e6:,.1f} MB in {len(layers)} layers")
    for key, value in sorted(config["config"].get("Labels", {}).items()):
        say(f"  {key}={value}")


def _own() -> str:
    from vllm_ci.images.spec_file import host_platform

    return host_platform()


@image.command()
@click.argument("before")
@click.argument("after")
@option("--platform", **_PLATFORM)
@json_option
def diff(*, before: str, after: str, platform: str, as_json: bool) -> None:
    """Show which layers a node that has image BEFORE pulls for image AFTER.

    \b
    Examples:
      vllm-ci image diff 4f1c2e 9ab01d
    """
    from vllm_ci.images import compare
    from vllm_ci.images.store import Store

    store = Store()
    found = compare.difference(store, compare.find(store, before), compare.find(store, after), platform=platform)
    if as_json:
        print_json(asdict(found))
        return
    for layer in found.pulled:
        say(f"{layer.tier:<16} {layer.size_bytes / 1e3:>12,.1f} kB  {layer.digest[:19]}  {layer.comment}")
    say(f"{found.pulled_bytes / 1e3:,.1f} kB have to be pulled, {found.shared_bytes / 1e6:,.1f} MB are shared")


@image.command()
@click.argument("name")
@option("--platform", **_PLATFORM)
@json_option
def explain(*, name: str, platform: str, as_json: bool) -> None:
    """Show what each layer of image NAME was made from: all that decides its bytes.

    \b
    Examples:
      vllm-ci image explain 4f1c2e
    """
    from vllm_ci.images import compare
    from vllm_ci.images.store import Store

    store = Store()
    found = compare.explained(store, compare.find(store, name), platform=platform)
    if as_json:
        print_json({"layers": found})
        return
    for layer in found:
        say(f"{layer['tier']} ({layer['digest'][:19]})")
        for key, value in layer["inputs"].items():
            shown = ", ".join(f"{name} {str(item)[:24]}" for name, item in value.items()) if isinstance(value, dict) else value
            say(f"  {key}: {shown}")
