"""Exits 0 when an OpenAI-compatible server answers a request: ``/health`` returns 200 even while the engine cannot serve.

Usage: ``ready.py URL MODEL [NAME_OF_THE_VARIABLE_WITH_THE_API_KEY]``. Requests one completion of one token; if the server has
no completions, a chat completion; if it has neither, an embedding.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

_ASK = (
    ("/v1/completions", {"prompt": "ready?", "max_tokens": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}),
    ("/v1/embeddings", {"input": "ready?"}),
)


def why_not(url: str, model: str, key: str = "", *, timeout_s: float = 60, more: Mapping[str, str] | None = None) -> str:
    """Empty when ready, otherwise the reason why not; ``more``: further headers."""
    headers = {"content-type": "application/json", **(more or {})} | ({"authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reason = "no completion route"
    for path, body in _ASK:
        request = urllib.request.Request(url + path, json.dumps({"model": model, **body}).encode(), headers)  # noqa: S310 - our own URL
        try:
            with opener.open(request, timeout=timeout_s) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            reason = f"{path}: {error.code} {error.read(300).decode(errors='replace')}"
            if error.code not in (404, 405):
                return reason
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            return f"{path}: {error or type(error).__name__}"
        else:
            known = isinstance(answer, dict) and (answer.get("choices") or answer.get("data"))
            return "" if known else f"{path}: no choices or data in {str(answer)[:300]}"
    return reason


if __name__ == "__main__":
    sys.exit(why_not(sys.argv[1], sys.argv[2], os.environ.get(sys.argv[3], "") if len(sys.argv) > 3 else "") or 0)
