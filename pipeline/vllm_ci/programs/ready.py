"""Exits 0 when an OpenAI-compatible server answers a request: ``/health`` returns 200 even while the engine cannot serve.

Usage: ``ready.py URL MODEL [NAME_OF_THE_VARIABLE_WITH_THE_API_KEY]``. Requests one completion of one token; if the server has
no completions, a chat completion; if it has neither, an embedding.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request

_ASK = (
    ("/v1/completions", {"prompt": "ready?", "max_tokens": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}),
    ("/v1/embeddings", {"input": "ready?"}),
)


def why_not(url: str, model: str, key: str = "", *, timeout_s: float = 60) -> str:
    """Empty when ready, otherwise the reason why not."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
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
        except (OSError, ValueError) as error:
            return f"{path}: {error}"
        else:
            return "" if answer.get("choices") or answer.get("data") else f"{path}: no choices or data in {str(answer)[:300]}"
    return reason


if __name__ == "__main__":
    sys.exit(why_not(sys.argv[1], sys.argv[2], os.environ.get(sys.argv[3], "") if len(sys.argv) > 3 else "") or 0)
