"""Reports that runs left behind, read back for a release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vllm_ci.domain.errors import ConfigError
from vllm_ci.release.candidate import ReportFile
from vllm_ci.report import ctrf, document


def read(path: Path) -> ReportFile:
    """A report, from the folder of its run or from its ``report.json``.

    Raises:
        ConfigError: It cannot be read.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = document.from_json(json.loads(file.read_bytes()), name=str(file))
        view = file.parent / "ctrf.json"
        content = view.read_bytes() if view.is_file() else json.dumps(ctrf.from_report(report), sort_keys=True).encode()
    except (OSError, ValueError, OverflowError, RecursionError) as error:  # times that are none are found by the view
        raise ConfigError(f"{file} is not a report: {error}", remedy="name the folder of a run, or its report.json") from error
    return ReportFile(report=report, ctrf=content)


def read_all(folder: Path) -> Iterator[ReportFile]:
    """All reports in a folder of runs, oldest first.

    Raises:
        ConfigError: One of them cannot be read.
    """
    runs = [path for path in folder.glob("*/report.json") if not path.parent.is_symlink()]
    yield from sorted((read(path) for path in runs), key=lambda each: each.report.started_at)
