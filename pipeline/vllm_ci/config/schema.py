"""The JSON Schema of ``vllm-ci.yaml``, for editors; stored in the repository as ``schema/vllm-ci.schema.json``.

Written by ``python -m vllm_ci.config.schema``; a test checks that it is up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_ci.config.project import ProjectConfig

FILE = Path(__file__).parent.parent / "schema" / "vllm-ci.schema.json"


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ProjectConfig.model_json_schema()}


def text() -> str:
    """The content of the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
