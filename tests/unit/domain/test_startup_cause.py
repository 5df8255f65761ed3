"""The cause of a server's failure to start, out of real logs and out of messages as vLLM's source has them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.config.project import ProjectConfig
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.domain.startup_known import KNOWN, Known

LOGS = Path(__file__).parent / "startup_logs"
DOCUMENT = Path(__file__).parents[3] / "docs" / "troubleshooting.md"

# File in startup_logs (written by vLLM 0.32 for CPUs, shortened) -> known reason, what the cause begins with, which process.
REAL = {
    "bad_choice": ("flag with an invalid value", "entry.py: error: argument --kv-cache-dtype: invalid choice: 'fp3'", ""),
    "bad_flag": ("flag unknown to this version", "entry.py: error: unrecognized arguments: --no-such-flag=1", ""),
    "cpu_kv_space": ("not enough memory on a CPU server", "ValueError: Available memory on node 0", "EngineCore"),
    "len_over": (
        "max_model_len beyond what the model supports",
        "ValidationError: ModelConfig: User-specified max_model_len",
        "",
    ),
    "no_model": ("model not found", "HFValidationError: Repo id must be", ""),
    "no_template": ("chat template cannot be used", "VLLMValidationError: The supplied chat template string", ""),
    "unknown_type": ("unknown model type", "ValidationError: ModelConfig: The checkpoint you are trying to load", ""),
    "kv_none": ("no memory left for the KV cache", "ValueError: No available memory for the cache blocks", "EngineCore"),
    "kv_small": ("KV cache too small for max_model_len", "ValueError: To serve at least one request", "EngineCore"),
    "kv_small_mp": ("KV cache too small for max_model_len", "ValueError: To serve at least one request", "EngineCore"),
}

# Known reason -> messages of vLLM, PyTorch, transformers, huggingface_hub and the C library, as they are raised.
MESSAGES: dict[str, list[str]] = json.loads((LOGS / "messages.json").read_text(encoding="utf-8"))


def reason(explanation: str) -> Known:
    return next(known for known in KNOWN if known.explanation == explanation)


@pytest.mark.parametrize("name", REAL)
def test_the_cause_is_found_in_a_real_log(name: str) -> None:
    title, begins, process = REAL[name]
    cause = startup_cause((LOGS / f"{name}.log").read_text(encoding="utf-8"), exit_code=1)
    assert cause.line.startswith(begins)
    assert reason(cause.explanation).title == title
    assert cause.process == process


def test_every_real_log_is_looked_at() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(REAL)


@pytest.mark.parametrize(("title", "message"), [(title, text) for title, texts in MESSAGES.items() for text in texts])
@pytest.mark.parametrize("prefix", ["", "(Worker_TP0 pid=77) ERROR 11-26 13:58:49 [worker.py:12] "])
def test_a_message_is_known_alone_and_in_the_middle_of_other_processes(title: str, message: str, prefix: str) -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "/opt/vllm/worker.py", line 1, in init',
        "    raise it",
        *message.split("\n"),
    ]
    noise = "(APIServer pid=1) INFO 11-26 13:58:49 [api.py:1] starting"
    log = "\n".join(f"{prefix}{line}\n{noise}" if prefix else line for line in lines)
    end = "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    cause = startup_cause(
        f"{noise}\n{log}\n(APIServer pid=1) Traceback (most recent call last):\n(APIServer pid=1)   File\n{end}"
    )
    assert reason(cause.explanation).title == title
    assert "root cause above" not in cause.line


@pytest.mark.parametrize(
    ("exit_code", "title"),
    [
        (137, "ended by SIGKILL"),
        (132, "instruction not supported by this CPU"),
        (139, "crash in compiled code"),
        (135, "shared memory too small"),
    ],
)
def test_a_server_that_a_signal_ended_says_so(exit_code: int, title: str) -> None:
    cause = startup_cause("(APIServer pid=1) INFO 11-26 13:58:49 [api.py:1] loading\n", exit_code=exit_code)
    assert reason(cause.explanation).title == title
    assert f"signal {exit_code - 128}" in cause.line
    assert "loading" in cause.line


def test_an_engine_core_that_was_killed_is_told_from_one_that_failed() -> None:
    log = (
        "(APIServer pid=1) Traceback (most recent call last):\n(APIServer pid=1)   File\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': -9}\n"
    )
    assert reason(startup_cause(log, exit_code=1).explanation).title == "ended by SIGKILL"


def test_the_deepest_process_comes_before_those_that_failed_after_it() -> None:
    log = (
        "(EngineCore pid=2) ERROR 11-26 13:58:49 [core.py:1] Traceback (most recent call last):\n"
        "(EngineCore pid=2) ERROR 11-26 13:58:49 [core.py:1]   File\n"
        "(Worker_TP1 pid=3) ERROR 11-26 13:58:49 [worker.py:1] Traceback (most recent call last):\n"
        "(EngineCore pid=2) ERROR 11-26 13:58:49 [core.py:1] RuntimeError: a worker said no\n"
        "(Worker_TP1 pid=3) ERROR 11-26 13:58:49 [worker.py:1]   File\n"
        "(Worker_TP1 pid=3) ERROR 11-26 13:58:49 [worker.py:1] FrobError: the frob is out\n"
    )
    cause = startup_cause(log, exit_code=1)
    assert (cause.line, cause.process, cause.explanation) == ("FrobError: the frob is out", "Worker_TP1", "")


def test_of_a_chain_of_unknown_exceptions_the_first_is_the_cause() -> None:
    log = (
        "Traceback (most recent call last):\n  File\nFirstError: one\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File\nSecondError: two\n"
    )
    assert startup_cause(log).line == "FirstError: one"


def test_a_traceback_that_was_only_a_warning_is_no_cause() -> None:
    log = (
        "(Worker pid=3) WARNING 11-26 13:58:49 [a.py:1] Traceback (most recent call last):\n"
        "(Worker pid=3) WARNING 11-26 13:58:49 [a.py:1]   File\n"
        "(Worker pid=3) WARNING 11-26 13:58:49 [a.py:1] ModuleNotFoundError: No module named 'deep_gemm'\n"
        "(APIServer pid=1) Traceback (most recent call last):\n(APIServer pid=1)   File\n(APIServer pid=1) FrobError: no\n"
    )
    assert startup_cause(log, exit_code=1).line == "FrobError: no"


def test_colours_and_ray_s_prefixes_do_not_hide_a_cause() -> None:
    log = (
        "\x1b[36m(RayWorkerWrapper pid=9, ip=10.0.0.2)\x1b[0m Traceback (most recent call last):\n"
        "\x1b[36m(RayWorkerWrapper pid=9, ip=10.0.0.2)\x1b[0m   File\n"
        "\x1b[36m(RayWorkerWrapper pid=9, ip=10.0.0.2)\x1b[0m torch.OutOfMemoryError: CUDA out of memory.\n"
    )
    cause = startup_cause(log, exit_code=1)
    assert cause.line == "OutOfMemoryError: CUDA out of memory."
    assert cause.process == "RayWorkerWrapper"


@pytest.mark.parametrize("log", ["", "\n\n", "one line"])
def test_a_log_that_says_nothing_gives_the_exit_code(log: str) -> None:
    assert "exit code 3" in startup_cause(log, exit_code=3).line


@pytest.mark.slow
@given(
    st.lists(
        st.sampled_from([*Path(__file__).read_text(encoding="utf-8").splitlines(), "Process EngineCore:", "\x00"]), max_size=40
    )
)
def test_no_text_breaks_it_and_the_cause_is_one_short_line(lines: list[str]) -> None:
    cause = startup_cause("\n".join(lines), exit_code=1)
    assert cause.line
    assert "\n" not in cause.line
    assert len(cause.line) < 700


def test_changes_name_keys_that_exist() -> None:
    schema = ProjectConfig.model_json_schema()
    for known in KNOWN:
        for section, key in re.findall(r"`(server|model|image|stages)\.(\w+)", known.change):
            properties = schema["$defs"][f"{section.capitalize()}Config"]["properties"]
            assert key in properties, f"{known.title}: {section}.{key}"


def test_changes_name_flags_that_vllm_has() -> None:
    flags = set((LOGS / "flags.txt").read_text(encoding="utf-8").split())
    for known in KNOWN:
        named = set(re.findall(r"`(--[a-z-]+)", known.change))
        assert named <= flags, f"{known.title}: {named - flags}"


def test_the_table_in_the_documentation_is_the_one_in_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    missing = [known.title for known in KNOWN if f"| {known.title} | {known.explanation} | {known.change} |" not in text]
    assert not missing
