"""End a failed call with only its message and the exit code of the command line."""

import json
import re
from typing import NoReturn

import dagger
from dagger import dag

# Directories of the caller in the tool's containers (engines/dagger.py).
_GIVEN = re.compile(r"/vllm-ci/in/[a-z]+/")


async def end(text: str, exit_code: int) -> NoReturn:
    """End the call with this message and exit code.

    ``dagger call`` exits with 1 for every error except that of a command, whose exit code it uses; calling modules get a
    ``dagger.ExecError``. An exception would give neither: the SDK prints its traceback and drops the exit code.
    """
    text = for_the_user(text).strip()
    error = dag.error(text)
    values = {"_type": "EXEC_ERROR", "cmd": ["vllm-ci"], "exitCode": exit_code, "stdout": "", "stderr": ""}
    for name, value in values.items():
        error = error.with_value(name, dagger.JSON(json.dumps(value)))
    await dag.current_function_call().return_error(error)
    raise SystemExit(exit_code)


def for_the_user(text: str) -> str:
    """Replace container paths in a message with paths in the caller's directories."""
    return _GIVEN.sub("", text)
