"""The source of a call: check that it is the right checkout, and read its state in a container."""

import json

import dagger
from dagger import dag

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_look import Seen, seen
from vllm_ci.module.arguments import Settings
from vllm_ci.stages import reading

# A file that exists only in the module's own repository.
_OURS = "pipeline/vllm_ci/module/main.py"


async def check(settings: Settings) -> None:
    """Check that the source is a checkout, and not the module's own repository unless the call is made there.

    Without ``--source``, a module called with ``-m`` gets its own repository, because the default path is resolved there.

    Raises:
        UsageError: The source is invalid.
    """
    source = settings.source
    if await source.exists(_OURS) and not await _called_in_the_modules_own():
        raise UsageError(
            "the source is the repository of the module itself",
            why="without --source, a module called with -m uses its own repository",
            remedy="pass --source . before the function: dagger -m ... call --source . test",
        )
    if not await source.exists(".git", expected_type=dagger.ExistsType.DIRECTORY_TYPE):
        raise UsageError(
            "the source has no directory .git",
            why="it is a subdirectory of a checkout, or a git worktree, whose repository is in another directory",
            remedy="pass the root of a checkout or a clone: --source .",
        )


async def _called_in_the_modules_own() -> bool:
    try:
        return await dag.current_workspace().find_up(_OURS) is not None
    except dagger.QueryError:
        return False


async def look(engine: DaggerEngine, checkout: DaggerDirectory, folder: str, base: str = "") -> Seen:
    """Read the commit with git, which only a container has; with a directory, also the differences from the base branch.

    Args:
        engine: Where git runs.
        checkout: The repository.
        folder: Directory in it that differences are wanted of; empty for none.
        base: The base branch or commit; by default as git knows it.

    Raises:
        UsageError: The source has no commit.
    """
    argv = (
        "python",
        "-m",
        "vllm_ci.engines.dagger_look",
        "{in.source}",
        "{out}/seen.json",
        *((folder, base) if folder else ()),
    )
    outcome = await engine.run(Program(name="look", argv=argv, inputs={"source": checkout}))
    if not outcome:
        raise UsageError("the source has no commit", why=reading.tail(outcome.log), remedy="git status, in the checkout")
    return seen(json.loads(await outcome.output.read("seen.json")))
