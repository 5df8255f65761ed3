"""Each prompt gets an answer of its own, whatever was asked before."""

from __future__ import annotations

import pytest

from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.mixing import Mixing

pytestmark = [pytest.mark.requires_capability("text"), pytest.mark.compares_answers]


@pytest.mark.requires_capability("temperature")
def test_an_earlier_answer_is_not_repeated_for_another_prompt(client: ApiClient) -> None:
    """Of two new prompts with the same length, beginning or end, the second does not get the answer of the first.

    A model may answer both the same; then it does so, too, when the second one is asked in another way.
    """
    Mixing(client=client).repeated()
