"""Retention: images that no channel can roll back to are deleted, with their evidence; the ledger keeps their records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from vllm_ci.registry.errors import NotFoundError, UnsupportedError
from vllm_ci.registry.repository import Repository
from vllm_ci.release import history
from vllm_ci.release.ledger import State
from vllm_ci.release.setup import Setup

_COMMIT_TAG = re.compile(r"[0-9a-f]{40}(-[a-z0-9._-]+)?")


@dataclass(frozen=True, kw_only=True)
class PrunedImages:
    """What is deleted and what stays.

    Attributes:
        kept: Digests that a channel points to, serves, or could roll back to.
        deleted: Digests of images that are (or would be) deleted.
        tags: Their tags.
        attachments: Number of attachments deleted with them.
        dry_run: Nothing was deleted.
        reclaim: What is left to do where the registry does not free the space itself.
    """

    kept: tuple[str, ...]
    deleted: tuple[str, ...]
    tags: tuple[str, ...]
    attachments: int
    dry_run: bool
    reclaim: str = ""

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return asdict(self)


def prune(setup: Setup, *, keep: int = 10, dry_run: bool = True) -> PrunedImages:
    """Delete images of commits that are in no channel's last ``keep`` releases.

    Only what this tool put there is looked at: tags that are commits, and releases in the ledger.

    Args:
        setup: Where.
        keep: Releases kept for each channel, the current one included.
        dry_run: Say what would be deleted, and delete nothing.

    Raises:
        UnsupportedError: The registry does not allow deleting.
    """
    with setup.open() as repository:
        state = setup.ledger.read()
        kept = _kept(state, max(keep, 1))
        tagged = {
            tag: digest for tag in repository.tags() if _COMMIT_TAG.fullmatch(tag) and (digest := repository.resolve(tag))
        }
        released = {each.release.digest for each in state.records}
        going = sorted(digest for digest in {*tagged.values(), *released} - kept if repository.resolve(digest))
        tags = tuple(sorted(tag for tag, digest in tagged.items() if digest in going))
        attachments = [each.digest for digest in going for each in repository.referrers(digest)]
        if not dry_run:
            _delete(repository, [*attachments, *going])
            for digest in going:
                _delete_index(repository, digest)
    local = setup.repository.startswith("oci:")
    return PrunedImages(
        kept=tuple(sorted(kept)),
        deleted=tuple(going),
        tags=tags,
        attachments=len(attachments),
        dry_run=dry_run,
        reclaim="" if local or not going else "run the registry's own garbage collection to free the space",
    )


def _kept(state: State, keep: int) -> set[str]:
    def of(channel: str) -> Iterator[str]:
        head = history.current(state.records, channel)
        if head:
            yield head.release.digest
        if serving := history.deployed(state.records, channel):
            yield serving.release.digest
        earlier = history.earlier(state.records, channel)
        others = [each for each in history.everything(state.records, channel) if each not in earlier]
        yield from [each.digest for each in (*earlier, *others)][: keep - 1]

    return {digest for channel in history.channels(state.records) for digest in of(channel)}


def _delete(repository: Repository, digests: list[str]) -> None:
    for digest in digests:
        try:
            repository.delete(digest)
        except NotFoundError:
            continue
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{repository.name} does not allow deleting",
                why=error.why,
                remedy="allow it in the registry's configuration, or delete there what vllm-ci prune lists",
            ) from error


def _delete_index(repository: Repository, digest: str) -> None:
    """The list of attachments that clients keep where the registry has no referrers API."""
    index = repository.resolve(digest.replace(":", "-"))
    if index:
        repository.delete(index)
