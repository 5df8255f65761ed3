"""A release command, to be run in the tool's container."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagger
from dagger import dag

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerDirectory
from vllm_ci.module.release import Options

PRINTED = "printed"
_TIMEOUT_S = 2 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A release command with its arguments.

    Attributes:
        name: Name of the command.
        about: Positional arguments: a commit, a channel, an image.
        options: Options by name; empty and false ones are omitted.
        report: Directory with the reports of runs.
        osv: OSV data.
        scan: JSON report of a scanner.
        keys: Public keys.
        channels: Channels that it uses.
        builds: Whether the builder's store must have the image of the source's commit.
    """

    name: str
    about: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)
    report: dagger.Directory | None = None
    osv: dagger.Directory | None = None
    scan: dagger.File | None = None
    keys: Sequence[dagger.File] = ()
    channels: tuple[str, ...] = ()
    builds: bool = False

    async def program(self, source: dagger.Directory | None, *words: str) -> Program:
        """The program for the tool's container; its standard output goes to the file ``printed``.

        Args:
            source: The checkout, for ``{in.source}``.
            words: Further arguments.

        Raises:
            UsageError: The directory of reports has no report.
        """
        argv = [self.name, *self.about, *words]
        for name, value in self.options.items():
            flag = f"--{name.replace('_', '-')}"
            argv += [flag] if value is True else [f"{flag}={value}"] if value else []
        if self.report is not None:
            argv += [f"--report={{in.report}}/{path}" for path in await reports(self.report)]
        if self.osv is not None:
            argv += ["--osv={in.osv}"]
        if self.scan is not None:
            argv += ["--scan={in.scan}/scan.json"]
        names = [await key.name() for key in self.keys]
        argv += [f"--key={{in.keys}}/{name}" for name in names]
        inputs = {
            "source": source,
            "report": self.report,
            "osv": self.osv,
            "scan": _holding({"scan.json": self.scan}) if self.scan is not None else None,
            "keys": _holding(dict(zip(names, self.keys, strict=True))),
        }
        return Program(
            name=self.name,
            argv=("sh", "-c", 'exec python -m vllm_ci "$@" > "$0"', f"{{out}}/{PRINTED}", *argv),
            inputs={name: DaggerDirectory(each) for name, each in inputs.items() if each is not None},
            timeout_s=_TIMEOUT_S,
        )


async def reports(report: dagger.Directory) -> list[str]:
    """Paths of the reports in a directory of one or several runs."""
    found = sorted(await report.glob("**/report.json"))
    if not found:
        raise UsageError(
            "no report.json in the directory passed with --report",
            remedy="pass the exported report of a run: --report ../report",
        )
    return found


def _holding(files: Mapping[str, dagger.File]) -> dagger.Directory:
    made = dag.directory()
    for name, file in files.items():
        made = made.with_file(name, file)
    return made
