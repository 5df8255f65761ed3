"""Who may send requests: keys whose hashes Envoy compares.

Envoy's filter for API keys wants the keys themselves. Its filter for basic authentication takes hashes (htpasswd, ``{SHA}``),
and tells the name that belongs to a hash. So a few lines of Lua split a key (``vci_NAME_SECRET``) into name and secret and hand
both on as basic credentials, in a header that clients cannot set. SHA-1 is enough here: a secret has 256 random bits.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from vllm_ci.targets.envoy.files import AUTHENTICATION, Json, typed, watched

FILTER = "vllm_ci.keys"
CREDENTIAL_HEADER = "x-vllm-ci-credential"
KEY_HEADER = "x-vllm-ci-key"

_TYPE = "extensions.filters.http.basic_auth.v3.BasicAuth"
# No secret has this hash, as far as anybody knows: a list without users is not valid.
_NOBODY = "nobody:{SHA}" + base64.b64encode(bytes(20)).decode()

_LUA = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local key = headers:get("authorization")
  key = key and key:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$") or headers:get("x-api-key") or ""
  for _, name in ipairs({{"authorization", "x-api-key", "{CREDENTIAL_HEADER}", "{KEY_HEADER}"}}) do
    headers:remove(name)
  end
  local name, secret = key:match("^vci_([a-z0-9%-]+)_(%w+)$")
  if name then
    headers:add("{CREDENTIAL_HEADER}", "Basic " .. handle:base64Escape(name .. ":" .. secret))
  end
end
"""


def hashed(secret: str) -> str:
    """The hash of a secret, as htpasswd writes it."""
    return "{SHA}" + base64.b64encode(hashlib.sha1(secret.encode(), usedforsecurity=False).digest()).decode()


def filters() -> list[Json]:
    """The filters that ask for a key; the accepted hashes are in a file."""
    lua = typed("extensions.filters.http.lua.v3.Lua", {"default_source_code": {"inline_string": _LUA}})
    source = {"config_source": watched(AUTHENTICATION), "type_urls": [f"type.googleapis.com/envoy.{_TYPE}"]}
    return [{"name": "vllm_ci.split_key", "typed_config": lua}, {"name": FILTER, "config_discovery": source}]


def accepted(hashes: Mapping[str, str]) -> Json:
    """Content of that file: the hash of each key by its name."""
    users = "\n".join([_NOBODY, *(f"{name}:{value}" for name, value in sorted(hashes.items()))])
    config = {
        "users": {"inline_string": users},
        "authentication_header": CREDENTIAL_HEADER,
        "forward_username_header": KEY_HEADER,
    }
    return typed("config.core.v3.TypedExtensionConfig", {"name": FILTER, "typed_config": typed(_TYPE, config)})
