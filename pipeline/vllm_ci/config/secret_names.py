"""Names of secrets, as several sections of ``vllm-ci.yaml`` take them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from vllm_ci.domain.program import refusal_of_secret


def _check(names: list[str]) -> list[str]:
    for name in names:
        if reason := refusal_of_secret(name):
            raise ValueError(reason)
    return names


SecretNames = Annotated[list[str], AfterValidator(_check)]
"""Names of environment variables; those that programs need are refused."""
