"""Recent requests of a channel, and the data that its model was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vllm_ci.config import models, releases, request_logs
from vllm_ci.config.load import Loaded
from vllm_ci.datasets import drift, exchanges, loading, masking
from vllm_ci.datasets.drift import Look, Settings
from vllm_ci.datasets.request_log import RequestLog
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.models import history, naming, trained
from vllm_ci.models.trained import Trained
from vllm_ci.retraining import rows, store
from vllm_ci.targets.local.configuration import Configuration
from vllm_ci.targets.local.keys import KEY_FILE, KeyFile
from vllm_ci.targets.local.recording import LOG_FOLDER
from vllm_ci.targets.local.state import Store


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is compared.

    Attributes:
        channel: Whose requests.
        model: Reference of the model; empty: the one that serves.
        data: Folder with ``train.jsonl`` in place of the model's own data.
        datasets: Folder of data sets, where the data is not in the results of a retraining.
        days: Age of the oldest requests.
        regions: Countries whose telephone numbers are masked.
        settings: What counts as drift.
    """

    channel: str
    model: str = ""
    data: Path | None = None
    datasets: Path
    days: float = 7.0
    regions: tuple[str, ...] = ("US",)
    settings: Settings


def look(loaded: Loaded, asked: Asked, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> tuple[str, Look]:
    """The model that was looked at, and what came of it.

    Raises:
        UsageError: There is no such model, or there is no record of what it was trained on.
        FailedError: The data was altered.
        ErroredError: The request log cannot be read.
    """
    masking.versions()
    masking.check_regions(asked.regions)
    folder = request_logs.folder(loaded, asked.channel)
    named, path = _training(loaded, asked, folder)
    since = now() - timedelta(days=asked.days)
    log, consenting = RequestLog(folder=folder / LOG_FOLDER), KeyFile(path=folder / KEY_FILE).consents()
    try:
        recent = log.rows(keys=consenting) if log.folder.is_dir() else iter(())
        requests = exchanges.of_requests(recent, since=since, regions=asked.regions)
    except OSError as error:
        raise ErroredError(
            f"the request log of {asked.channel} cannot be read: {error.strerror}",
            remedy=f"make {log.folder} readable, then run it again",
        ) from error
    return named, drift.look(exchanges.of_training(path, asked.regions), requests, asked.settings)


def _training(loaded: Loaded, asked: Asked, folder: Path) -> tuple[str, Path]:
    """Name of the model, and the file with its training rows."""
    if asked.data is not None:
        path = asked.data / rows.TRAIN
        if not path.is_file():
            raise UsageError(f"there is no file {path}", remedy=f"name a folder with {rows.TRAIN} in it")
        return asked.model or str(asked.data), path
    setup = models.of(releases.of(loaded))
    ref = naming.parse(asked.model or _serving(folder, asked.channel))
    found = trained.of(setup, history.find(setup.ledger.read(), ref))
    return f"{found.model}@v{found.version}", _rows(found, asked)


def _serving(folder: Path, channel: str) -> str:
    """The model that gets the most requests."""
    state, weights = Store(folder=folder).load(), Configuration(folder=folder / "gateway").route().weights
    main = max(weights, key=lambda name: weights[name], default="")
    if main in state.revisions and state.revisions[main].serving.weights:
        return state.revisions[main].serving.weights
    raise UsageError(
        f"there is no record of which model serves for {channel}",
        why="it is not deployed on this machine, or serves no version of the models' repository",
        remedy="name the model (--model chat@champion), or a folder with its training rows (--data FOLDER)",
    )


def _rows(found: Trained, asked: Asked) -> Path:
    for digest in found.data.values():
        if (result := store.with_digest(store.DATA_STEP, digest)) is not None:
            return result.folder / rows.TRAIN
        prepared = asked.datasets / "prepared" / digest.removeprefix("sha256:")
        if prepared.is_dir():
            return loading.prepared(prepared).file("train")
    raise UsageError(
        f"the data that {found.model}@v{found.version} was trained on is not on this machine",
        why=f"its provenance names {', '.join(found.data.values()) or 'none'}",
        remedy="name a folder with its train.jsonl: --data FOLDER",
    )
