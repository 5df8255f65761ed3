"""The command ``retrain`` in the tool's container: it uses the engine as a client of the same session.

Ledger and registry are reached from there, and results of steps are kept in the cache volume; the image for training, the
training and the servers are containers of the engine, as those of every pipeline.
"""

import posixpath
from dataclasses import replace
from pathlib import Path

from vllm_ci.config.load import FILE_NAME as CONFIG_NAME
from vllm_ci.config.retraining import FILE_NAME, RetrainConfig, read
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.module import session, verbs
from vllm_ci.module.endings import for_the_user
from vllm_ci.module.enums import Variant
from vllm_ci.module.retraining import Retraining
from vllm_ci.module.session import ending_well, written
from vllm_ci.module.verb import Verb

# Builds, pulls and answers have timeouts of their own, and none for their sum.
_BESIDE_TRAINING_S = 24 * 3600.0


async def checked(asked: Retraining) -> str:
    """Check everything that can be known before anything is done, and say so."""
    verb = await _verb(asked)
    outcome = await verbs.ran(asked, replace(verb, options={**verb.options, "dry_run": True}))
    return for_the_user(outcome.log).strip()


async def ran(asked: Retraining, promote: bool | None, reason: str) -> str:
    """Retrain, and return what the command prints."""
    verb = await _verb(asked)
    flags = {} if promote is None else {"promote" if promote else "no_promote": True}
    return await verbs.done(asked, replace(verb, options={**verb.options, "reason": reason, **flags}))


async def _verb(asked: Retraining) -> Verb:
    """The command, after its files were checked.

    Raises:
        ConfigError: The file is missing, is not valid, belongs to another project, or names data that is not there.
        UsageError: A setting has no effect on a retraining.
    """
    async with ending_well():
        key = (await session.configuration(asked)).config.server.api_key_env
        _refuse_unused(asked, key)
        plan = posixpath.normpath(asked.plan or posixpath.join(posixpath.dirname(asked.config), FILE_NAME))
        config = await _config(asked, plan)
        if asked.data is None:
            await _check_data(asked, config, plan)
    return Verb(
        name="retrain",
        config=plan,
        options={
            "engine": "dagger",
            "show_log": True,
            "gpus": asked.gpus,
            **({"data": "{in.data}"} if asked.data is not None else {}),
        },
        inputs={"data": asked.data} if asked.data is not None else {},
        signs=True,
        extras=True,
        nests=True,
        gpus=config.train.gpus,
        variables={"VLLM_CI_PYTHON_IMAGE": asked.python_image, "VLLM_CI_CACHE": asked.cache},
        secrets={key: asked.api_key} if asked.api_key is not None else {},
        timeout_s=config.train.timeout_s + _BESIDE_TRAINING_S,
    )


def _refuse_unused(asked: Retraining, key: str) -> None:
    """Refuse settings that have no effect.

    Args:
        asked: The retraining.
        key: Name of the variable with the server's API key; empty for none.
    """
    given = {
        "--variant": asked.variant is not Variant.CONFIGURED,
        "--spec": bool(asked.spec),
        "--checkpoint": asked.checkpoint is not None,
        "--api-key": asked.api_key is not None and not key,
    }
    for option, used in given.items():
        if used:
            raise UsageError(
                f"{option} has no effect on a retraining",
                why="image and API key are those that the configuration names, and the base is a version of `model`",
                remedy=f"leave out {option}",
            )


async def _config(asked: Retraining, plan: str) -> RetrainConfig:
    if plan.startswith(("/", "..")) or not await asked.source.exists(plan):
        raise ConfigError(f"the source has no {plan}", remedy="pass the file that says how: --plan path/to/retrain.yaml")
    belongs = await _project_of(asked, plan)
    if belongs != posixpath.normpath(asked.config):
        raise ConfigError(
            f"{plan} does not belong to {asked.config}",
            why=f"the {CONFIG_NAME} in its folder or the nearest folder above it is {belongs or 'missing'}",
            remedy=f"pass --config {belongs} before the function" if belongs else f"move {plan} into the project's folder",
        )
    with written({plan: await asked.source.file(plan).contents()}):
        return read(Path(plan))


async def _project_of(asked: Retraining, plan: str) -> str:
    """Path of the configuration that a file belongs to; empty if there is none."""
    folder = plan
    while folder:
        folder = posixpath.dirname(folder)
        path = posixpath.join(folder, CONFIG_NAME)
        if await asked.source.exists(path):
            return path
    return ""


async def _check_data(asked: Retraining, config: RetrainConfig, plan: str) -> None:
    """Check that the data of the file is a folder in the source."""
    if not config.data.folder:
        raise UsageError(
            f"{plan}: data.{'requests' if config.data.requests else 'files'} cannot be collected in a container",
            why="request logs are on the machine of their gateway, and the data store there knows whose rows were removed",
            remedy="run vllm-ci data collect and vllm-ci data prepare on that machine, and pass the prepared folder: --data",
        )
    path = posixpath.normpath(posixpath.join(posixpath.dirname(plan), config.data.folder))
    if path.startswith(("/", "..")) or not await asked.source.exists(path):
        raise ConfigError(
            f"{plan}: data.folder: {path} is not in the source",
            why="a function can read only the directories that are passed to it",
            remedy="pass the directory: --data path/to/data",
        )
