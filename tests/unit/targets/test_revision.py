"""How a revision is kept for the next command."""

from __future__ import annotations

from pathlib import Path

import pytest

from standin.deploying import revision
from vllm_ci.targets.revision import _read, _write


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"commit": "a"}', b"\xff"])
def test_a_revision_that_was_kept_and_cannot_be_read_is_made_again(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "revisions" / "key.json"
    assert _read(file) is None
    _write(file, revision("a"))
    assert _read(file) == revision("a")
    file.write_bytes(content)
    assert _read(file) is None
