"""What commands print for people."""

from __future__ import annotations

import pytest

from vllm_ci.cli import deploy_output
from vllm_ci.cli.output import print_json, say
from vllm_ci.deploy.target import Current, Replica
from vllm_ci.targets.local.starts import Starts


def test_a_line_stays_one_line_and_is_not_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("  reason\n  7  forged\x1b]0;title\x07")
    assert capsys.readouterr().out == "  reason   7  forged\\x1b]0;title\\x07\n"


def test_json_with_half_of_a_surrogate_pair_can_be_printed(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({"said": "\ud800"})
    assert capsysbinary.readouterr().out == b'{\n  "said": "\\ud800"\n}\n'


def test_what_a_server_s_log_says_is_not_obeyed_by_the_terminal_that_shows_its_state(
    capsys: pytest.CaptureFixture[str],
) -> None:
    replica = Replica(name="a-0", revision="a", state="failed", message="died: \x1b[2J##[error]x\nmore of the log")
    deploy_output.show(Current(replicas=(replica,)), None, "staging", Starts())
    assert "replica   a-0  failed    died: \\x1b[2J## [error]x\n" in capsys.readouterr().out
