"""How a call ends that did not succeed: with the message alone, and with the exit code of the command line."""

import json
from typing import NoReturn

import dagger
from dagger import dag

# Where the containers of the tool have the checkout (engines/dagger.py); the user has it where the call was made.
_SOURCE = "/vllm-ci/in/source/"


async def end(text: str, exit_code: int) -> NoReturn:
    """End the call with this text and this exit code.

    ``dagger call`` exits with 1 for every error but that of a command, whose exit code it takes on; callers that are modules
    get a ``dagger.ExecError``. An exception would do neither: the SDK prints its traceback and forgets its exit code.
    """
    text = for_the_user(text).strip()
    error = dag.error(text)
    values = {"_type": "EXEC_ERROR", "cmd": ["vllm-ci"], "exitCode": exit_code, "stdout": "", "stderr": ""}
    for name, value in values.items():
        error = error.with_value(name, dagger.JSON(json.dumps(value)))
    await dag.current_function_call().return_error(error)
    raise SystemExit(exit_code)


def for_the_user(text: str) -> str:
    """A message with paths as they are in the checkout, not as the container has them."""
    return text.replace(_SOURCE, "")
