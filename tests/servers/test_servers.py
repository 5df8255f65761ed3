"""Every server of the matrix gives exactly the findings that are facts about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import expected, observed, results
from servers.rows import ROWS, Row

pytestmark = [pytest.mark.servers, pytest.mark.timeout(7200)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_findings_are_those_that_are_true(row: Row, tmp_path: Path) -> None:
    known = expected.load(row.name)
    with row.start(tmp_path) as server:
        found = observed.run(server, tmp_path)
    differences = expected.differences(known, found)
    results.keep(row, found, version=server.version)
    assert not differences, "\n".join([f"{row.name} differs from {expected.FOLDER.name}/{row.name}.yaml:", *differences])
