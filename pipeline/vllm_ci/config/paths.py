"""Types of paths in ``vllm-ci.yaml``; they are normalised when read, and an empty path means the default."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from vllm_ci.domain import paths


def _given(convert: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: convert(text) if text else ""


InRepository = Annotated[str, AfterValidator(paths.in_repository)]
InRepositoryIfAny = Annotated[str, AfterValidator(_given(paths.in_repository))]
InRepositoryOrWhole = Annotated[str, AfterValidator(partial(paths.in_repository, whole=True))]
InImage = Annotated[str, AfterValidator(paths.in_image)]
OverlayTarget = Annotated[str, AfterValidator(partial(paths.in_image, directory=True))]
OfMachine = Annotated[str, AfterValidator(_given(paths.of_machine))]
Pattern = Annotated[str, AfterValidator(paths.pattern)]
TestPath = Annotated[str, AfterValidator(paths.test_path)]
