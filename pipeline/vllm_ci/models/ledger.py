"""Models in the ledger: the same branch as releases, pushed fast-forward only, so of two writers one goes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vllm_ci import __version__
from vllm_ci.domain.errors import ErroredError
from vllm_ci.models import record
from vllm_ci.models.record import FOLDER, ModelRecord
from vllm_ci.release.ledger import Commit, Ledger, identity
from vllm_ci.release.tree import File, GitTree

Records = tuple[ModelRecord, ...]


class ModelLedger:
    """The records of models on a ledger's branch.

    Args:
        ledger: The branch.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def read(self) -> Records:
        """All records, in order.

        Raises:
            ErroredError: The ledger cannot be read.
        """
        with self._ledger.tree() as tree:
            return _records(tree)

    def append(self, propose: Callable[[Records], ModelRecord | None]) -> ModelRecord | None:
        """Append what ``propose`` gives for the records; it is called again when another writer was faster.

        Raises:
            ErroredError: The ledger cannot be reached, or refuses.
        """
        written: list[ModelRecord] = []

        def prepare(repository: Path, head: str) -> Commit | None:
            written.clear()
            records = _records(GitTree(repository, head))
            proposed = propose(records)
            if proposed is None:
                return None
            made = replace(proposed, number=len(records) + 1, by=proposed.by or identity(), tool=__version__)
            written.append(made)
            message = f"{made.summary}\n\n{made.digest}\n{made.reason}".strip()
            return Commit(by=made.by, at=made.at, message=message, files=(File(path=made.path, text=made.content),))

        self._ledger.advance(prepare)
        return written[0] if written else None


def _records(tree: GitTree) -> Records:
    found = tuple(record.parse(content, name) for name, content in tree.records(FOLDER).items())
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise ErroredError(
            "the ledger's records of models are not numbered from 1 without gaps",
            remedy="look at the branch's log: it was edited by hand",
        )
    return found
