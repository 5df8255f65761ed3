"""gRPC: vLLM's gRPC service serves whole and right answers, refuses mistakes, and keeps deadlines."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vllm_ci.domain.errors import UsageError
from vllm_ci.domain.program import Program
from vllm_ci.stages import suite
from vllm_ci.stages.stage import StageContext


@dataclass(frozen=True, kw_only=True)
class GrpcStage(suite.ServerStage):
    """A stage whose cases need the address of a gRPC service, which is another one than the URL of a server."""

    name: str = "grpc"

    def programs(self, context: StageContext) -> tuple[Program, ...]:
        """The built-in cases, and the user's own tests if the stage names any; a server with a URL is not theirs."""
        return super().programs(replace(context, service=None, url=""))

    def require_server(self, context: StageContext) -> None:
        """Check that there is an address.

        Raises:
            UsageError: There is none.
        """
        if not context.grpc:
            raise without_address(self.name)

    def options(self, context: StageContext) -> tuple[str, ...]:
        """Options of the vllm-ci plugin for pytest."""
        return suite.given({"--vllm-grpc": context.grpc, **suite.common(context)})


def without_address(name: str) -> UsageError:
    """The error for a stage without the address of a gRPC service."""
    return UsageError(
        f"the stage {name} needs the address of a gRPC service",
        why="vLLM serves either HTTP or gRPC, and the pipeline serves HTTP",
        remedy="start vLLM with --grpc, and run: vllm-ci test --grpc HOST:PORT",
    )


STAGE = GrpcStage()
