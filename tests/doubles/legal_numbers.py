"""Servers that calculate in half precision: several tokens are the likeliest, and which of them comes is open."""

from __future__ import annotations

from collections.abc import Mapping

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.server import Double


class _Rounded(Generation):
    """Logits are rounded as coarsely as bfloat16 rounds large ones."""

    step_size = 0.25

    def likely(self) -> dict[int, float]:
        return _rounded(super().likely(), self.step_size)


class _Finer(_Rounded):
    step_size = 1 / 32


def _rounded(values: Mapping[int, float], step: float) -> dict[int, float]:
    return {token: round(value / step) * step for token, value in values.items()}


class HalfPrecision(Double):
    """Logits are rounded, so that with one candidate left any of several equally likely tokens comes."""

    generation = _Rounded


class HalfPrecisionWithoutLogprobs(Double):
    """The same with fewer ties, at a server without log probabilities."""

    generation = _Finer

    def asked(self, body: Json, *, chat: bool) -> Asked:
        if body.get("logprobs"):
            raise RefusedError("logprobs is not supported here", param="logprobs")
        return super().asked(body, chat=chat)


OF_NUMBERS = (HalfPrecision, HalfPrecisionWithoutLogprobs)
