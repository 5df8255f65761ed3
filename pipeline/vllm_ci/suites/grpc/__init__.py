"""The suite of vLLM's gRPC service (``vllm serve --grpc``)."""

from __future__ import annotations

import os

# gRPC's library writes what it notices of connections to standard error; what matters comes as errors, which are reported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
