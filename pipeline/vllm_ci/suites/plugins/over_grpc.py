"""Plugin with the option of the suite ``grpc``, which is left out without it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_ci.suites.grpc.address import EXTRA, missing, parse

_SUITE = Path(__file__).parents[1] / "grpc"
_NAMED = re.compile(r"\bsuites[./]grpc\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("vllm-ci").addoption(
        "--vllm-grpc",
        metavar="ADDRESS",
        default="",
        help="gRPC service to test with the suite grpc: HOST:PORT, or grpcs://HOST:PORT for TLS",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an invalid address, and a suite that cannot run."""
    address = config.option.vllm_grpc
    if not address:
        if any(_NAMED.search(str(argument)) for argument in config.args):
            raise pytest.UsageError("no gRPC service was given: use --vllm-grpc HOST:PORT")
        return
    try:
        parse(address)
    except ValueError as error:
        raise pytest.UsageError(f"--vllm-grpc: {error}") from error
    if reason := missing():
        raise pytest.UsageError(f"--vllm-grpc: {reason}; pip install '{EXTRA}'")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the suite without an address, so that ``--pyargs vllm_ci.suites`` runs the suites of a URL."""
    return True if collection_path == _SUITE and not config.option.vllm_grpc else None
