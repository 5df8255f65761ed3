"""Writes one folder per run: ``report.json``, its views, and the logs. The folder is created atomically."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from vllm_ci.domain.errors import ErroredError
from vllm_ci.domain.plain_json import dumps
from vllm_ci.domain.report import Report
from vllm_ci.report import ctrf, document, html, junit, redaction, summary


def write(parent: Path, report: Report, logs: Mapping[str, str], *, secrets: Iterable[str] = ()) -> Path:
    """Write the folder, and point the link ``latest`` next to it to it.

    Args:
        parent: Folder of all runs; created if it does not exist.
        report: The report to write.
        logs: Additional logs by name; those of the stages are in the report.
        secrets: Values that must not appear in the folder; they are replaced by ``***`` in all output of programs.

    Returns:
        The new folder, ``<time>-<commit>``.

    Raises:
        ErroredError: It cannot be written (no space, no permission).
    """
    hidden = tuple(secrets)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _stay_out_of_git(parent)
        made = Path(tempfile.mkdtemp(prefix=".part-", dir=parent))
    except OSError as error:
        raise _cannot(parent, error) from error
    try:
        # Before they are rendered: a page has a secret in other characters, or a part of it.
        # One like `test` is in names of fields as well.
        shown = {name: redaction.of_text(text, hidden) for name, text in logs.items()}
        for name, text in _files(redaction.redacted(report, hidden), shown).items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        made.chmod(0o755)
        return _appear(made, parent, _name(report))
    except OSError as error:
        raise _cannot(parent, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _stay_out_of_git(parent: Path) -> None:
    """Add a ``.gitignore``, so that a report does not make the work tree dirty for the next run."""
    ours = next((folder for folder in (parent, *parent.parents) if folder.name == ".vllm-ci"), None)
    if ours is not None and not (ours / ".gitignore").exists():
        (ours / ".gitignore").write_text("*\n", encoding="utf-8")


def _files(report: Report, logs: Mapping[str, str]) -> dict[str, str]:
    files = {
        "report.json": dumps(document.to_json(report), default=str) + "\n",
        "junit.xml": junit.from_report(report),
        "ctrf.json": dumps(ctrf.from_report(report), default=str) + "\n",
        "summary.md": summary.markdown(report),
        "report.html": html.from_report(report, logs),
    }
    files |= {f"logs/{stage.name}.log": stage.log for stage in report.stages}
    return files | {f"logs/{name}.log": text for name, text in logs.items()}


def _name(report: Report) -> str:
    when = "".join(digit for digit in report.started_at[:19] if digit.isdigit())
    what = report.commit.short if report.commit else "url"
    return f"{when[:8]}-{when[8:]}-{what}"


def _appear(made: Path, parent: Path, name: str) -> Path:
    for number in range(1, 1000):
        place = parent / (name if number == 1 else f"{name}-{number}")
        try:
            place.mkdir()  # fails if another run in the same second has the name
        except FileExistsError:
            continue
        made.rename(place)
        break
    link = parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(parent / "latest")
    return place


def _cannot(parent: Path, error: OSError) -> ErroredError:
    return ErroredError(
        f"cannot write the report to {parent}",
        why=str(error),
        remedy="free some space, or name another folder with --report-dir",
    )
