"""What the service says of itself is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from doubles.grpc_defects.catalogue import defect
from doubles.grpc_double import CODES, GrpcDouble
from doubles.grpc_messages import ENGINE, message


@defect("grpc-model-breaks", "test_facts.py::test_the_model_is_described")
class ModelBreaks(GrpcDouble):
    """GetModelInfo ends with an error of the server."""

    def get_model_info(self, _request: Any, context: Any) -> Any:
        context.abort(CODES.INTERNAL, "'NoneType' object has no attribute 'get_vocab_size'")


@defect("grpc-model-without-context", "test_facts.py::test_the_model_is_described")
class ModelWithoutContext(GrpcDouble):
    """GetModelInfo has no length of the context."""

    def get_model_info(self, request: Any, context: Any) -> Any:
        found = super().get_model_info(request, context)
        found.max_context_length = 0
        return found


@defect("grpc-model-without-name", "test_facts.py::test_the_model_is_described")
class ModelWithoutName(GrpcDouble):
    """GetModelInfo names no model."""

    def get_model_info(self, request: Any, context: Any) -> Any:
        found = super().get_model_info(request, context)
        found.served_model_name = found.model_path = ""
        return found


@defect("grpc-paused", "test_facts.py::test_the_server_is_described")
class Paused(GrpcDouble):
    """GetServerInfo says that the server is paused while it serves."""

    def get_server_info(self, _request: Any, _context: Any) -> Any:
        return message("GetServerInfoResponse")(is_paused=True)


@defect("grpc-load-above-one", "test_facts.py::test_the_load_is_plausible")
class LoadAboveOne(GrpcDouble):
    """GetLoads says that more than the whole KV cache is in use."""

    def get_loads(self, request: Any, context: Any) -> Any:
        found = super().get_loads(request, context)
        found.loads[0].token_usage = 37.0
        return found


@defect("grpc-no-load", "test_facts.py::test_the_load_is_plausible")
class NoLoad(GrpcDouble):
    """GetLoads is answered without an entry."""

    def get_loads(self, _request: Any, _context: Any) -> Any:
        return message("GetLoadsResponse")(version=self.version)


@defect("grpc-reflection-lacks-health", "test_facts.py::test_reflection_lists_what_is_served")
class ReflectionLacksHealth(GrpcDouble):
    """Reflection does not list the health service, which is served."""

    services = (ENGINE,)


@defect("grpc-tokenizer-cut", "test_facts.py::test_the_tokenizer_can_be_fetched_whole")
class TokenizerCut(GrpcDouble):
    """The archive of the tokenizer lacks its beginning."""

    def get_tokenizer(self, request: Any, context: Any) -> Iterator[Any]:
        yield list(super().get_tokenizer(request, context))[-1]


@defect("grpc-tokenizer-empty", "test_facts.py::test_the_tokenizer_can_be_fetched_whole")
class TokenizerEmpty(GrpcDouble):
    """GetTokenizer is answered with nothing."""

    def get_tokenizer(self, _request: Any, _context: Any) -> Iterator[Any]:
        yield from ()
