"""A deletion request carried out wherever a project keeps rows on this machine, and the models that have seen them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_ci.config import models, releases, request_logs
from vllm_ci.config.load import Loaded
from vllm_ci.datasets import removing
from vllm_ci.datasets.removing import Removal
from vllm_ci.datasets.store import Store
from vllm_ci.models.trained import Trained, trained_on
from vllm_ci.retraining import store as results
from vllm_ci.system import scratch


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was deleted, or would be.

    Attributes:
        removal: Versions of data sets.
        requests: Rows of request logs, by channel.
        results: Folders of retrainings with copies of the rows.
        models: That were trained on the rows.
    """

    removal: Removal
    requests: Mapping[str, int] = field(default_factory=dict)
    results: tuple[Path, ...] = ()
    models: tuple[Trained, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            **self.removal.to_json(),
            "requests": dict(self.requests),
            "results": [str(each) for each in self.results],
            "models": [each.to_json() for each in self.models],
        }


def remove(users: Sequence[str], *, store: Path, dry_run: bool, loaded: Loaded | None) -> Removed:
    """Delete the rows of ``users``.

    Args:
        users: Users or keys, as the rows name them.
        store: Folder of data sets.
        dry_run: Only say what there is.
        loaded: The project, for request logs and models; ``None``: only the data sets are looked at.

    Raises:
        UsageError: There is no such folder, or no user is named.
        ErroredError: Something cannot be deleted.
        RegistryError: The registry broke or refused; the rows are deleted by then.
    """
    wanted = frozenset(removing.owners(users))
    requests = {} if loaded is None else _requests(loaded, wanted, dry_run=True)
    if not store.is_dir() and any(requests.values()):
        if dry_run:
            nothing = Removal(owners=tuple(sorted(wanted)), versions=(), earlier=(), dry_run=True)
            return Removed(removal=nothing, requests=requests)
        Store(folder=store).create()  # so that what is collected later leaves the rows out
    removal = removing.remove(users, store=store, dry_run=dry_run)
    if loaded is not None and not dry_run:
        requests = _requests(loaded, wanted, dry_run=False)
    seen = {each.digest for each in (*removal.versions, *removal.earlier)}
    copies = results.holding(seen)
    if not dry_run:
        for each in copies:
            results.delete(each)
        results.delete_parts()
        with scratch.folder():  # which deletes copies of request logs that killed commands left
            pass
    found = tuple(trained_on(models.of(releases.of(loaded)), seen)) if seen and loaded is not None else ()
    return Removed(removal=removal, requests=requests, results=tuple(copies), models=found)


def _requests(loaded: Loaded, wanted: frozenset[str], *, dry_run: bool) -> dict[str, int]:
    found = {name: each.remove(wanted, dry_run=dry_run) for name, each in request_logs.logs(loaded).items()}
    return {name: count for name, count in found.items() if count}
