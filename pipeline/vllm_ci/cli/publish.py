"""``vllm-ci publish``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllm_ci.cli.options import option
from vllm_ci.cli.releasing import Opened, narrate, opened, release_options, show_move, with_local_key
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import BuildError, ConfigError, UsageError
from vllm_ci.domain.image import ImageRef

if TYPE_CHECKING:
    from vllm_ci.domain.image_spec import ImageSpec
    from vllm_ci.evidence.materials import Materials
    from vllm_ci.images.lockfile import LockedWheel
    from vllm_ci.release.publish import Candidate, ReportFile


@click.command()
@click.argument("commit", default="HEAD")
@option("--channel", metavar="NAME", help="Which channel; by default the first of the configuration.")
@option(
    "--report",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Folder of a run (repeatable); by default all runs of the commit in the report directory.",
)
@option("--scan", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON of Trivy or Grype for the image.")
@release_options
@click.pass_context
def publish(
    context: click.Context,
    /,
    *,
    commit: str,
    channel: str | None,
    report: tuple[Path, ...],
    scan: Path | None,
    osv: Path | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Publish the tested image of COMMIT (by default HEAD) to a channel: gate on evidence, push, sign, tag, record.

    \b
    Examples:
      vllm-ci publish --channel staging
      vllm-ci publish 0123abcd --channel staging --dry-run
      vllm-ci publish --channel staging --osv ./osv-data --json
    """
    from vllm_ci.ci import current
    from vllm_ci.cli import commits
    from vllm_ci.release.publish import publish as run
    from vllm_ci.system import scratch, vcs

    with scratch.folder("publish-") as folder:
        found = opened(context)
        made = commits.discover(vcs.root(found.loaded.folder), commit)
        candidate = _candidate(context, found, made, report, osv=osv, scan=scan, run=current.run_url())
        found = with_local_key(found, folder=folder / "keys" if dry_run else None)
        if candidate.tested:
            found.setup.key()  # a key that cannot be read is said before anybody is asked over a network
        name = channel or next(iter(found.setup.channels))
        on_step = narrate(as_json=as_json, dry_run=dry_run)
        moved = run(found.setup, candidate, name, reason=reason, dry_run=dry_run, on_step=on_step)
    show_move(moved, as_json=as_json)


def _candidate(
    context: click.Context,
    found: Opened,
    commit: Commit,
    named: tuple[Path, ...],
    *,
    osv: Path | None,
    scan: Path | None,
    run: str,
) -> Candidate:
    """What is to be published, by the reports of the commit; without any, by what the repository has under its tag."""
    from vllm_ci.images.store import Store
    from vllm_ci.registry.layout import Layout
    from vllm_ci.release.publish import Candidate

    folder = found.loaded.folder / found.loaded.config.report.directory
    reports = [_read(path) for path in named] or [each for each in _reports(folder) if _is_of(each, commit)]
    if not reports:
        return _published(found, commit)
    newest = reports[-1].report
    if newest.image is None:
        raise UsageError("the report names no image", remedy="publish needs a report of vllm-ci run")
    # Runs that only looked at parts count as well, as long as they looked at the same image.
    same = tuple(each for each in reports if each.report.image and each.report.image.digest == newest.image.digest)
    return Candidate(
        commit=_as_tested(commit, newest.commit) if newest.commit else commit,
        image=newest.image,
        layout=Layout(Store().layout),
        tested=same,
        materials=_materials(context, found, commit, newest.image),
        osv=osv,
        scanner=scan,
        run=run,
    )


def _as_tested(commit: Commit, tested: Commit) -> Commit:
    """The commit with the ref and the pull request of the run that tested it; where that had none, of the one that publishes.

    A short ref is one of an older report: it does not say whether it was a branch or a tag, nor whether anything confirmed it.
    """
    ref = tested.ref if tested.ref.startswith("refs/") else ""
    number = tested.pull_request or commit.pull_request
    return replace(commit, ref="" if number else ref or commit.ref, pull_request=number)


def _reports(folder: Path) -> Iterator[ReportFile]:
    """All reports in a folder of runs, oldest first."""
    runs = [path for path in folder.glob("*/report.json") if not path.parent.is_symlink()]
    yield from sorted((_read(path) for path in runs), key=lambda each: each.report.started_at)


def _read(path: Path) -> ReportFile:
    from vllm_ci.release.publish import ReportFile
    from vllm_ci.report import ctrf, document

    file = path / "report.json" if path.is_dir() else path
    try:
        report = document.from_json(json.loads(file.read_bytes()), name=str(file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is no report: {error}", remedy="run vllm-ci run again") from error
    view = file.parent / "ctrf.json"
    content = view.read_bytes() if view.is_file() else json.dumps(ctrf.from_report(report), sort_keys=True).encode()
    return ReportFile(report=report, ctrf=content)


def _is_of(tested: ReportFile, commit: Commit) -> bool:
    """Of this commit as it was committed; a double's report is nobody's."""
    report = tested.report
    return report.commit is not None and report.commit.sha == commit.sha and not report.commit.dirty and not report.double


def _published(found: Opened, commit: Commit) -> Candidate:
    """A commit that was published before, maybe from another machine, by its tag in the repository."""
    from vllm_ci.release.publish import Candidate

    with found.setup.open() as repository:
        tag = next((each for each in repository.tags() if each.startswith(commit.sha)), "")
        digest = repository.resolve(tag) if tag else None
    if digest is None:
        raise UsageError(
            f"there is no report of commit {commit.short}",
            why="what was not tested is not published; reports of a dirty tree or of a test double do not count",
            remedy="vllm-ci run, at that commit with a clean work tree",
        )
    return Candidate(commit=commit, image=ImageRef(repository=found.setup.subject, digest=digest, tags=(tag,)))


def _materials(context: click.Context, found: Opened, commit: Commit, image: ImageRef) -> Materials:
    """What the image was made of, by the locks of the checkout and the builder's account of its files."""
    from vllm_ci.cli.building import spec_of
    from vllm_ci.evidence.materials import materials
    from vllm_ci.images import integrity

    spec = spec_of(context, None)
    owners: dict[str, dict[str, str]] = {}
    for platform in spec.targets:
        for owner, files in integrity.manifest(image.digest, platform=platform).items():
            owners.setdefault(owner, {}).update(files)
    return materials(spec, owners, replaced=_wheels(found.loaded.folder, commit, spec) if spec.vllm else ())


def _wheels(source: Path, commit: Commit, spec: ImageSpec) -> list[LockedWheel]:
    """The wheels of a commit of vLLM itself, as the builder chose them."""
    from vllm_ci.images.contents import Contents
    from vllm_ci.images.interpreter import Compilers
    from vllm_ci.images.store import Store

    def compilers() -> Compilers:
        raise BuildError("the image is to be compiled", remedy="build it again: vllm-ci build")

    return [
        wheel
        for platform in spec.targets
        for wheel in Contents(
            source=source,
            commit=commit,
            spec=spec,
            platform=platform,
            store=Store(),
            threads=1,
            compilers=compilers,
            progress=lambda _: None,
        ).wheels
    ]
