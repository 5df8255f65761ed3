"""What a run with ``--matrix`` does: which servers there are, and which stages run against each."""

from __future__ import annotations

from vllm_ci.domain.project import Project
from vllm_ci.domain.variant import Matrix, Variant
from vllm_ci.stages import is_exclusive, needs_server

REFERENCE = Variant(label="reference")
"""The project as it is configured: the first row of the table of figures, with which the others are compared."""


def measures(project: Project, matrix: Matrix | None) -> bool:
    """Whether the stage ``performance`` measures the servers of the matrix.

    It does if it is selected for this run by its name, or if it is enabled and ``matrix.stages`` names it. It then compares no
    images.
    """
    if matrix is None:
        return False
    chosen = {*matrix.stages, *project.selected}
    return any(is_exclusive(spec) and spec.name in chosen for spec in project.stages)


def servers(project: Project, matrix: Matrix | None) -> tuple[Variant, ...]:
    """The servers of the matrix, with the reference first where they are measured."""
    if matrix is None:
        return ()
    named = {variant.name for variant in matrix.variants}
    first = (REFERENCE,) if measures(project, matrix) and REFERENCE.name not in named else ()
    return (*first, *matrix.variants)


def stages(project: Project, matrix: Matrix | None, variant: Variant | None = None) -> tuple[str, ...]:
    """Names of the stages that run against a server of the matrix, those that measure time first.

    Args:
        project: The project.
        matrix: Its matrix.
        variant: Which server; by default any of the configured ones. The reference is only measured, because the run tests a
            server like it anyway.
    """
    if matrix is None:
        return ()
    measured = [spec.name for spec in project.stages if is_exclusive(spec)] if measures(project, matrix) else []
    tested = [spec.name for spec in project.stages if spec.name in matrix.stages and needs_server(spec)]
    return (*measured, *(tested if variant is not REFERENCE else ()))
