"""The source of a call: whether it is a checkout, whose it is, and what a container sees of it."""

import json

import dagger
from dagger import dag

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerDirectory, DaggerEngine
from vllm_ci.engines.dagger_look import Seen, seen
from vllm_ci.module.arguments import Settings
from vllm_ci.stages import reading

# What only the repository of the module has.
_OURS = "pipeline/vllm_ci/module/main.py"


async def check(settings: Settings) -> None:
    """Refuse what is no checkout, and the module's own where the call is made in another one.

    Without ``--source``, a module that is named by ``-m`` gets its own repository: the default path is one of its context.

    Raises:
        UsageError: It is one of these.
    """
    source = settings.source
    if await source.exists(_OURS) and not await _called_in_the_modules_own():
        raise UsageError(
            "the source is the repository of the module itself",
            why="without --source, a module that is named with -m takes its own repository",
            remedy="pass --source . before the function: dagger -m ... call --source . test",
        )
    if not await source.exists(".git", expected_type=dagger.ExistsType.DIRECTORY_TYPE):
        raise UsageError(
            "the source has no folder .git",
            why="it is a part of a checkout, or a git worktree, whose repository lies in another folder",
            remedy="name the root of a checkout or a clone: --source .",
        )


async def _called_in_the_modules_own() -> bool:
    try:
        return await dag.current_workspace().find_up(_OURS) is not None
    except dagger.QueryError:
        return False


async def look(engine: DaggerEngine, checkout: DaggerDirectory, folder: str) -> Seen:
    """What git says, which a container has and a function has not; with a folder also what differs from the base branch.

    Raises:
        UsageError: The source has no commit.
    """
    argv = ("python", "-m", "vllm_ci.engines.dagger_look", "{in.source}", "{out}/seen.json", *([folder] if folder else ()))
    outcome = await engine.run(Program(name="look", argv=argv, inputs={"source": checkout}))
    if not outcome:
        raise UsageError("the source has no commit", why=reading.tail(outcome.log), remedy="git status, in the checkout")
    return seen(json.loads(await outcome.output.read("seen.json")))
