"""``vllm-ci build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vllm_ci.cli.options import config_option, option
from vllm_ci.cli.output import json_option, print_json


@click.command()
@click.argument("commit", default="HEAD")
@config_option
@option(
    "--image", metavar="SPEC", help="Shipped image spec (cpu, cuda) or path of one; by default what the configuration says."
)
@option("--platform", metavar="LIST", help="Platforms, separated by commas; by default this machine's.")
@option("--compression", type=click.Choice(["gzip", "zstd"]), help="How layers are compressed.")
@option("--output", metavar="oci:DIR", help="Also export to a folder (oci:DIR) or one file (oci-archive:FILE).")
@option("--dirty/--no-dirty", default=None, help="Build from the work tree, or from the commit even when the tree is dirty.")
@option(
    "--facts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that gets build.json, config.json and manifest.json.",
)
@option("--threads", type=click.IntRange(1), help="Layers written at once; by default one for each processor.")
@json_option
@click.pass_context
def build(context: click.Context, /, *, commit: str, facts: Path | None, as_json: bool, **options: Any) -> None:
    """Build the image of COMMIT (by default HEAD).

    \b
    Examples:
      vllm-ci build
      vllm-ci build v1.4.0 --image cuda --platform linux/amd64,linux/arm64
      vllm-ci build --output oci:./image --json
    """
    from vllm_ci.cli.building import describe, opened, run, write_facts

    work = opened(context, commit, options)
    image = run(work, progress=lambda line: click.echo(line, err=True))
    found = describe(work, image)
    if facts:
        write_facts(facts, image, found)
    if as_json:
        print_json(found)
        return
    for layer in image.layers:
        click.echo(f"{layer.tier:<16} {layer.size_bytes / 1e6:>10,.1f} MB  {layer.digest[:19]}  {layer.reason}")
    click.echo(f"{image.ref.repository}:{image.ref.tags[0]}  {image.ref.digest}  {image.seconds:.2f} s")
