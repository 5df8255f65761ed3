"""``vllm-ci build``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli import ci_log, watching
from vllm_ci.cli.options import config_option, loaded, option
from vllm_ci.cli.output import json_option, print_json

if TYPE_CHECKING:
    from vllm_ci.config.load import Loaded
    from vllm_ci.domain.image_spec import ImageSpec
    from vllm_ci.images.request import BuildRequest


@click.command()
@click.argument("commit", default="HEAD")
@config_option
@option(
    "--image",
    metavar="SPEC",
    help="Shipped image spec (cpu, cuda, train) or path of one; by default what the configuration says.",
)
@option("--platform", metavar="LIST", help="Platforms, separated by commas; by default this machine's.")
@option("--compression", type=click.Choice(["gzip", "zstd"]), help="Compression of layers.")
@option("--push", metavar="NAME", help="Push to registry/name, under the commit's tag.")
@option("--output", metavar="WHERE", help="Also export to a folder (oci:DIR) or one file (oci-archive:FILE).")
@option("--dirty/--no-dirty", default=None, help="Build from the work tree, or from the commit even when the tree is dirty.")
@option(
    "--facts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write build.json, materials.json, config.json and manifest.json to.",
)
@option("--threads", type=click.IntRange(1), help="Layers written at the same time; by default one per processor.")
@click.option("--unpack", is_flag=True, help="Also unpack new layers meanwhile, so that the image can be run here sooner.")
@click.option(
    "--plain", is_flag=True, help="Build what the spec says, without the overlays and variables of the configuration."
)
@click.option("--check", is_flag=True, help="Build a second time without the layer cache, and compare digests.")
@json_option
@click.pass_context
def build(
    context: click.Context,
    /,
    *,
    commit: str,
    push: str | None,
    check: bool,
    facts: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the image of COMMIT (by default HEAD).

    \b
    Examples:
      vllm-ci build
      vllm-ci build v1.4.0 --image cuda --platform linux/amd64,linux/arm64
      vllm-ci build --output oci:./image --json
      vllm-ci build --push registry.example.com/team/vllm
    """
    from vllm_ci.images import facts as known
    from vllm_ci.images import request

    asked = _request(context, commit, options)
    with watching.watch() as emit:
        image = request.build(asked, emit=emit)
        if check:
            request.check(asked, image, emit=emit)
        pushed = request.push(asked, image, push, emit=emit) if push else 0
    found = known.summary(asked, image, repository=push or "", pushed_bytes=pushed)
    if facts:
        known.write(facts, image, found)
    ci_log.tell_outputs({"commit": asked.commit.sha, "digest": image.ref.digest, "image": image.ref.reference})
    if as_json:
        print_json(found)
        return
    for line in image.explain[: len(image.explain) - len(image.layers)]:
        click.echo(line)
    for layer in image.layers:
        click.echo(f"{layer.tier:<16} {layer.size_bytes / 1e6:>10,.1f} MB  {layer.digest[:19]}  {layer.reason}")
    click.echo(f"{image.ref.repository}:{image.ref.tags[0]}  {image.ref.digest}  {image.seconds:.2f} s")


def _spec(project: Loaded, options: dict[str, Any], targets: tuple[str, ...]) -> ImageSpec:
    section = project.config.image
    if not options.get("plain"):
        return section.image_spec(project.folder, options.get("image"), targets=targets)
    from vllm_ci.images import spec_file

    return spec_file.load(options.get("image") or section.place(project.folder), targets=targets)


def _request(context: click.Context, revision: str, options: dict[str, Any]) -> BuildRequest:
    from vllm_ci.domain.image_spec import Compression
    from vllm_ci.images.export import Output
    from vllm_ci.images.request import BuildRequest
    from vllm_ci.system import vcs

    project = loaded(context)
    commit = vcs.discover(vcs.root(project.folder), revision)
    if options.get("dirty") is not None:
        commit = replace(commit, dirty=bool(options["dirty"]))
    targets = tuple(part.strip() for part in (options.get("platform") or "").split(",") if part.strip())
    spec = _spec(project, options, targets)
    if options.get("compression"):
        spec = spec.changed(compression=Compression(options["compression"]))
    output = Output.parse(options.get("output") or "")
    return BuildRequest(
        source=project.folder,
        commit=commit,
        spec=spec,
        output=output,
        threads=options.get("threads") or 0,
        unpack=bool(options.get("unpack")),
    )
