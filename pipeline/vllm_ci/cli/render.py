"""``vllm-ci render``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import options
from vllm_ci.cli.options import config_option
from vllm_ci.domain.errors import UsageError

if TYPE_CHECKING:
    from vllm_ci.config.load import Loaded
    from vllm_ci.release.record import Release


@click.group()
def render() -> None:
    """Print what other systems need to run a channel."""


@render.command()
@click.argument("channel")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a kustomize base into this folder instead; its image is set by the channel's overlay in the ledger.",
)
@config_option
@click.pass_context
def kubernetes(context: click.Context, /, *, channel: str, output: Path | None, **_: Any) -> None:
    """Print Kubernetes manifests of the release that CHANNEL points to, by digest; see deploy.kubernetes in vllm-ci.yaml.

    \b
    Examples:
      vllm-ci render kubernetes production > manifests.yaml
      vllm-ci render kubernetes production --output deploy/base
    """
    from vllm_ci.config import clusters, releases
    from vllm_ci.manifests import bundle
    from vllm_ci.manifests.app import UNPINNED
    from vllm_ci.pipeline import serving
    from vllm_ci.release import deployed

    loaded = options.loaded(context)
    setup = releases.of(loaded).setup
    image_name = setup.channel(channel).image
    if output is not None:
        made = clusters.app(loaded, channel, image=f"{image_name}@{UNPINNED}", commit="")
        _write(output, bundle.base(made, image_name))
        return
    release = _current(loaded, channel)
    if not loaded.config.release.repository:
        click.echo(
            "note: the registry is a folder of this machine, which no cluster can pull from: set release.repository", err=True
        )
    made = clusters.app(
        loaded,
        channel,
        image=f"{setup.subject}@{release.digest}",
        commit=release.commit,
        entry_point=lambda: serving.entry_point(deployed.config_of(setup, release)),
    )
    click.echo(bundle.text(made), nl=False)


def _current(loaded: Loaded, channel: str) -> Release:
    from vllm_ci.config import releases
    from vllm_ci.release import history

    head = history.current(releases.of(loaded).setup.ledger.read().records, channel)
    if head is None:
        raise UsageError(
            f"nothing was released to {channel}",
            why="manifests name the release's image by digest",
            remedy=f"vllm-ci publish --channel {channel}; or --output FOLDER for a base that later releases use",
        )
    return head.release


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write the base; other files in the folder are left alone, those that an earlier configuration wrote among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    click.echo(f"wrote {len(files)} files to {folder}", err=True)
