"""Engines by name. Only the unnamed choice (``auto``) may choose; a named engine never falls back to another."""

from __future__ import annotations

ENGINES = {
    "host": "vllm_ci.engines.host:HostEngine",
    "dagger": "vllm_ci.engines.dagger:DaggerEngine",
}
