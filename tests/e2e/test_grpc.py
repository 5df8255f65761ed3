"""The suite of gRPC against the real vLLM, with the tiny model."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from e2e.conftest import vllm_ci
from servers import engines, material
from servers.environments import beside, environment
from servers.programs import free_port, program
from vllm_ci.suites import manifest
from vllm_ci.suites.grpc.contract import HEALTH

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


def serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(
            f"/{HEALTH}/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            status = int(ask(health_pb2.HealthCheckRequest(), timeout=5).status)
        except grpc.RpcError:
            return False
    return status == int(health_pb2.HealthCheckResponse.SERVING)


def test_every_case_passes_with_the_real_vllm(tmp_path: Path) -> None:
    programs = environment(f"vllm-{engines.BACKEND}")
    python, address = programs / "python", f"127.0.0.1:{free_port()}"
    env = engines.cpu() | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(beside("vllm-grpc", python)),
    }
    argv: list[str | Path] = [
        *(python, "-m", "vllm.entrypoints.launchers.grpc_server", "--model", material.tiny(python)),
        *("--served-model-name=tiny", "--host=127.0.0.1", f"--port={address.rpartition(':')[2]}", *engines.FLAGS),
    ]
    with program(argv, tmp_path / "vllm.log", lambda: serves(address), env=env):
        done = vllm_ci(tmp_path, "test", "--engine", "host", "--grpc", address, "--json", "--report-dir", "reports")
    (stage,) = done.json["stages"]
    assert (done.code, stage["name"], stage["verdict"]) == (0, "grpc", "passed"), stage["failures"]
    assert stage["cases"]["passed"] == sum(manifest.promised("grpc").values()), stage["cases"]  # none was skipped
