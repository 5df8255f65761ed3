"""A command of the command line, to be run in the tool's container."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagger
from dagger import dag

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerDirectory
from vllm_ci.module.credentials import Options

PRINTED = "printed"
_TIMEOUT_S = 2 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command with its arguments.

    Attributes:
        name: Name of the command; of a command in a group both words.
        about: Positional arguments: a commit, a channel, an image, a model.
        options: Options by name; empty and false ones are omitted.
        config: Path of the file for ``--config`` in the source; by default the configuration.
        inputs: Further directories by name, for ``{in.NAME}`` in arguments.
        report: Directory with the reports of runs.
        osv: OSV data.
        scan: JSON report of a scanner.
        keys: Public keys.
        channels: Channels that it uses.
        builds: Whether the builder's store must have the image of the source's commit.
        signs: Whether it writes a signed statement.
        extras: Whether it needs the optional packages: Dagger's SDK, the client of model hubs.
        nests: Whether it runs programs and services on the engine itself, as a client of the same session.
        gpus: Devices that its programs need, beside those of the server.
        variables: Further environment variables.
        secrets: Further secret environment variables.
        timeout_s: Longest time that it may take.
    """

    name: str
    about: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)
    config: str = ""
    inputs: Mapping[str, dagger.Directory] = field(default_factory=dict)
    report: dagger.Directory | None = None
    osv: dagger.Directory | None = None
    scan: dagger.File | None = None
    keys: Sequence[dagger.File] = ()
    channels: tuple[str, ...] = ()
    builds: bool = False
    signs: bool = False
    extras: bool = False
    nests: bool = False
    gpus: str = "none"
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, dagger.Secret] = field(default_factory=dict)
    timeout_s: float = _TIMEOUT_S

    async def program(self, source: dagger.Directory | None, *words: str) -> Program:
        """The program for the tool's container; its standard output goes to the file ``printed``.

        Args:
            source: The checkout, for ``{in.source}``.
            words: Further arguments.

        Raises:
            UsageError: The directory of reports has no report.
        """
        argv = [*self.name.split(), *self.about, *words]
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
            "scan": holding({"scan.json": self.scan}) if self.scan is not None else None,
            "keys": holding(dict(zip(names, self.keys, strict=True))),
            **self.inputs,
        }
        return Program(
            name=self.name,
            argv=("sh", "-c", 'exec python -m vllm_ci "$@" > "$0"', f"{{out}}/{PRINTED}", *argv),
            inputs={name: DaggerDirectory(each) for name, each in inputs.items() if each is not None},
            timeout_s=self.timeout_s,
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


def holding(files: Mapping[str, dagger.File]) -> dagger.Directory:
    """A directory with these files, by name."""
    made = dag.directory()
    for name, file in files.items():
        made = made.with_file(name, file)
    return made
