"""A budget of tokens for each key, charged by the usage that servers report.

Usage stands at the end of an answer, and Envoy's local limits are charged when a request arrives. So some Lua adds up what the
answers to a key's requests used, and the next request of that key pays for it, from a bucket that all workers share. A key can
overdraw by what it has open; afterwards it waits until the bucket has filled up again. Answers are passed on chunk by chunk.

A stream has its usage only where the client or the server asks for it (``--enable-force-include-usage``); else its events are
counted, which are tokens of the answer, and those of the prompt are not.
"""

from __future__ import annotations

from vllm_ci.targets.envoy.authentication import KEY_HEADER
from vllm_ci.targets.envoy.bucket import per_minute
from vllm_ci.targets.envoy.files import Json, typed

_NAMESPACE = "vllm_ci.tokens"
# Each chunk is charged when it comes, for a client may go away before the end. The end of a chunk is looked at again with the
# next one: a number may be split between them.
_LUA = """
local debts = {}
local most = @MOST@

function envoy_on_request(handle)
  local key = handle:headers():get("@KEY@")
  if not key then return end
  local owed = math.min(debts[key] or 0, most - 1)
  debts[key] = (debts[key] or 0) - owed
  local meta = handle:streamInfo():dynamicMetadata()
  meta:set("@NAMESPACE@", "key", key)
  meta:set("@NAMESPACE@", "owed", owed)
  meta:set("@NAMESPACE@", "hits", owed + 1)
end

function envoy_on_response(handle)
  local meta = handle:streamInfo():dynamicMetadata():get("@NAMESPACE@")
  if not meta then return end
  local key = meta["key"]
  if handle:headers():get(":status") == "429" and handle:headers():get("@REFUSED@") then
    debts[key] = (debts[key] or 0) + meta["owed"]
    local wait = math.ceil((math.min(debts[key], most - 1) + 1) * 60 / most)
    handle:headers():replace("retry-after", tostring(math.max(1, wait)))
    handle:headers():remove("@REFUSED@")
    return
  end
  local charged, rest = 0, ""
  local function charge(tokens)
    debts[key] = math.max(0, (debts[key] or 0) + tokens - charged)
    charged = tokens
  end
  local used = nil
  for chunk in handle:bodyChunks() do
    local part = chunk:getBytes(0, chunk:length())
    local text, events = rest .. part, 0
    for found in text:gmatch('"total_tokens"%s*:%s*(%d+)%s*[,}]') do used = tonumber(found) end
    for _ in part:gmatch("data: {") do events = events + 1 end
    rest = text:sub(-64)
    charge(used or charged + events)
  end
end
"""
_REFUSED = "x-vllm-ci-refused"


def filters(tokens_per_minute: int) -> list[Json]:
    """The filters that charge keys; none where there is no limit."""
    if not tokens_per_minute:
        return []
    names = {"@MOST@": str(tokens_per_minute), "@KEY@": KEY_HEADER, "@NAMESPACE@": _NAMESPACE, "@REFUSED@": _REFUSED}
    script = _LUA
    for name, value in names.items():
        script = script.replace(name, value)
    lua = typed("extensions.filters.http.lua.v3.Lua", {"default_source_code": {"inline_string": script}})
    limit = typed("extensions.filters.http.local_ratelimit.v3.LocalRateLimit", _limit(tokens_per_minute))
    return [
        {"name": "vllm_ci.tokens", "typed_config": lua},
        {"name": "vllm_ci.token_limit", "typed_config": limit},
    ]


def _limit(tokens_per_minute: int) -> Json:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    by_key = {"request_headers": {"header_name": KEY_HEADER, "descriptor_key": "client"}}
    return {
        "stat_prefix": "token_limit",
        "token_bucket": {"max_tokens": 2**31, "tokens_per_fill": 2**31, "fill_interval": "1s"},
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limits": [{"actions": [by_key], "hits_addend": {"format": f"%DYNAMIC_METADATA({_NAMESPACE}:hits)%"}}],
        "descriptors": [{"entries": [{"key": "client"}], "token_bucket": per_minute(tokens_per_minute)}],
        "max_dynamic_descriptors": 4096,
        "response_headers_to_add": [{"header": {"key": _REFUSED, "value": "tokens"}}],
    }
