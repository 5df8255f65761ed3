"""Made-up records for tests of the ledger."""

from __future__ import annotations

from collections.abc import Callable

from vllm_ci.release.ledger import KustomizeOverlay, LedgerEntry, State
from vllm_ci.release.record import Record, Release

OVERLAY = "deploy/staging/kustomization.yaml"


def propose(path: str = OVERLAY) -> Callable[[State], LedgerEntry]:
    """The next record of staging, with a kustomization at `path`."""

    def entry(state: State) -> LedgerEntry:
        number = len(state.records) + 1
        release = Release(
            commit=f"{number:040x}", digest=f"sha256:{number:064x}", repository="r.example.com/n", tag=f"t{number}"
        )
        made = Record(number=0, at="2026-11-20T12:00:00Z", action="publish", channel="staging", release=release)
        return LedgerEntry(record=made, overlay=KustomizeOverlay(path=path, name="vllm", fields={"newTag": f"t{number}"}))

    return entry
