"""The one list of signals, from which rules, dashboard and comparisons are made.

Names of vLLM's metrics are those of its ``v1/metrics/loggers.py`` (0.22 to 0.32); ``http_requests_total`` is of its web
framework. Envoy's are those of ``/stats/prometheus`` (1.40). Where a gateway is scraped, requests are counted there: it sees
those that no server answered, and not the copies that a shadow gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllm_ci.monitoring.promql import share

Kind = Literal["share", "level", "growth", "events"]
Good = Literal["low", "high", "steady", "neither"]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """When a signal calls a person.

    Attributes:
        name: Of the alert.
        when: Condition on the signal, e.g. ``> 0.95``.
        lasts: For how long, as Prometheus writes it.
        severity: ``page`` or ``ticket``.
        summary: What is wrong, in one line.
    """

    name: str
    when: str
    lasts: str
    severity: Literal["page", "ticket"]
    summary: str


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Something that is watched.

    Attributes:
        name: Its name in rules, results and configuration.
        title: What it is.
        unit: As Grafana names it.
        good: Which direction is better; ``steady``: either change is worse; ``neither``: it is shown and not judged.
        kind: ``share`` of one counter in another; ``level`` of a gauge, a rate or a quantile; ``growth`` of a level over time;
            ``events``, of which few are expected.
        expr: PromQL with ``<labels>`` and ``<window>``; one number. Of a share, the counter of all.
        part: Of a share: the counter of those that count.
        margin: Change for the worse that is tolerated, in the signal's unit (growth: share of the level in an hour).
        ratio: The same as a share of the value before; the larger of the two counts.
        action: What to do about it.
        window: Over how long it is taken in rules; a comparison chooses its own.
        needed: A comparison without it is no comparison.
        alert: When it calls a person.
    """

    name: str
    title: str
    unit: str
    good: Good
    kind: Kind
    expr: str
    part: str = ""
    margin: float = 0.0
    ratio: float = 0.0
    action: str
    window: str = "5m"
    needed: bool = False
    alert: Alert | None = None

    @property
    def value(self) -> str:
        """PromQL of its value now."""
        if self.kind == "share":
            return share(self.part, self.expr)
        return GROWTH.replace("<level>", self.expr) if self.kind == "growth" else self.expr


GROWTH = "deriv((<level>)[1h:1m]) * 3600 / (avg_over_time((<level>)[1h:1m]) > 0)"
"""Change of a level in an hour, as a share of it."""

# Envoy's own requests, those that scrape it, and those of checks on the machine are not users'.
_USERS = '{<labels>,envoy_http_conn_manager_prefix!~"admin|metrics|checks|shadow"'
_GATEWAY = f"envoy_http_downstream_rq_xx{_USERS}"
_REQUESTS = f"(sum(increase({_GATEWAY}}}[<window>])) or sum(increase(http_requests_total{{<labels>}}[<window>])))"


def _answered(digit: str) -> str:
    """Requests with a status of one class."""
    gateway = f'sum(increase({_GATEWAY},envoy_response_code_class="{digit}"}}[<window>]))'
    # A class that a gateway has not seen yet has no counter: that is none, and not what servers counted, copies among it.
    none = f"0 * sum(increase({_GATEWAY}}}[<window>]))"
    return f'({gateway} or {none} or sum(increase(http_requests_total{{<labels>,status="{digit}xx"}}[<window>])))'


# The gateway resets an answer that it cannot complete. Counters of clusters would count copies twice: on their way to the
# listener for copies, and at the release that answers them.
_RESETS = f"sum(increase(envoy_http_downstream_rq_tx_reset{_USERS}}}[<window>]))"


def _quantile(metric: str) -> str:
    return f"histogram_quantile(0.95, sum by (le) (rate({metric}_bucket{{<labels>}}[<window>])))"


_FINISHED = "sum(increase(vllm:request_success_total{<labels>}[<window>]))"

SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="up",
        title="Targets that answer Prometheus",
        unit="percentunit",
        good="high",
        kind="level",
        expr="avg(avg_over_time(up{<labels>}[<window>]))",
        margin=0.05,
        action="See which server is gone (vllm-ci deploy status, kubectl get pods) and the end of its log.",
        needed=True,
        alert=Alert(
            name="VllmServersDown",
            when="< 0.9",
            lasts="2m",
            severity="page",
            summary="Some targets do not answer Prometheus",
        ),
    ),
    Signal(
        name="requests",
        title="Requests per second",
        unit="reqps",
        good="neither",
        kind="level",
        expr="(sum(rate(" + _GATEWAY + "}[<window>])) or sum(rate(http_requests_total{<labels>}[<window>])))",
        action="Compare with the traffic that is expected at this hour.",
    ),
    Signal(
        name="errors",
        title="Requests that the server failed (5xx)",
        unit="percentunit",
        good="low",
        kind="share",
        expr=_REQUESTS,
        part=_answered("5"),
        margin=0.01,
        action="Look into the logs of the servers; roll back if it began with a release: vllm-ci rollback CHANNEL.",
        needed=True,
    ),
    Signal(
        name="refusals",
        title="Requests that were refused (4xx)",
        unit="percentunit",
        good="low",
        kind="share",
        expr=_REQUESTS,
        part=_answered("4"),
        margin=0.02,
        action="Send a request that was refused by hand; limits, API keys, model names and validation are the usual causes.",
        alert=Alert(
            name="VllmManyRefusals",
            when="> 0.25",
            lasts="15m",
            severity="ticket",
            summary="More than a quarter of the requests are refused",
        ),
    ),
    Signal(
        name="broken",
        title="Answers that broke off before their end",
        unit="percentunit",
        good="low",
        kind="share",
        expr=f"sum(increase({_GATEWAY}}}[<window>]))",
        part=_RESETS,
        margin=0.005,
        action="A server died or closed streams before their end: see its restarts and the end of its log.",
        alert=Alert(
            name="VllmBrokenStreams",
            when="> 0.01",
            lasts="5m",
            severity="page",
            summary="Answers break off before their end",
        ),
    ),
    Signal(
        name="aborted",
        title="Requests whose client went away",
        unit="percentunit",
        good="low",
        kind="share",
        expr=_FINISHED,
        part='sum(increase(vllm:request_success_total{<labels>,finished_reason="abort"}[<window>]))',
        margin=0.05,
        action="Clients give up, usually because answers take too long, or a proxy has a shorter timeout: see ttft and queue.",
    ),
    Signal(
        name="ttft",
        title="Time to first token (95th percentile)",
        unit="s",
        good="low",
        kind="level",
        expr=_quantile("vllm:time_to_first_token_seconds"),
        margin=0.05,
        ratio=0.3,
        action="See queue and kv_use: more replicas, or fewer requests a replica (--max-num-seqs).",
        needed=True,
    ),
    Signal(
        name="tpot",
        title="Time per output token (95th percentile)",
        unit="s",
        good="low",
        kind="level",
        expr=_quantile("vllm:request_time_per_output_token_seconds"),
        margin=0.005,
        ratio=0.2,
        action="See running and preemptions; compare with the stage performance of the release.",
    ),
    Signal(
        name="queue",
        title="Waiting requests per server",
        unit="short",
        good="low",
        kind="level",
        expr="avg(avg_over_time(vllm:num_requests_waiting{<labels>}[<window>]))",
        margin=2.0,
        ratio=0.5,
        action="Add replicas (vllm-ci deploy scale, the HPA's maximum), or shed load at the gateway.",
        alert=Alert(
            name="VllmQueueGrows",
            when="> 16",
            lasts="10m",
            severity="page",
            summary="Requests wait for a place in the batch",
        ),
    ),
    Signal(
        name="running",
        title="Running requests per server",
        unit="short",
        good="neither",
        kind="level",
        expr="avg(avg_over_time(vllm:num_requests_running{<labels>}[<window>]))",
        action="Compare with --max-num-seqs.",
    ),
    Signal(
        name="tokens",
        title="Generated tokens per second",
        unit="short",
        good="neither",
        kind="level",
        expr="sum(rate(vllm:generation_tokens_total{<labels>}[<window>]))",
        action="It follows the traffic: see requests and answer_length.",
    ),
    Signal(
        name="answer_length",
        title="Generated tokens per request",
        unit="short",
        good="steady",
        kind="level",
        expr=f"sum(increase(vllm:generation_tokens_total{{<labels>}}[<window>])) / ({_FINISHED} > 0)",
        margin=4.0,
        ratio=0.3,
        action="Compare chat template, stop tokens and sampling defaults of the two releases.",
    ),
    Signal(
        name="kv_use",
        title="KV cache in use (fullest server)",
        unit="percentunit",
        good="low",
        kind="level",
        expr="max(avg_over_time(vllm:kv_cache_usage_perc{<labels>}[<window>]))",
        margin=0.2,
        action="Add replicas, or give the cache more memory (--gpu-memory-utilization), or shorten --max-model-len.",
        alert=Alert(
            name="VllmKvCacheFull",
            when="> 0.95",
            lasts="15m",
            severity="ticket",
            summary="The KV cache is full",
        ),
    ),
    Signal(
        name="preemptions",
        title="Preemptions per finished request",
        unit="short",
        good="low",
        kind="level",
        expr=f"sum(increase(vllm:num_preemptions_total{{<labels>}}[<window>])) / ({_FINISHED} > 0)",
        margin=0.05,
        action="The KV cache is too small for the batch: see kv_use, or lower --max-num-seqs.",
        alert=Alert(
            name="VllmPreemptions",
            when="> 0.2",
            lasts="15m",
            severity="ticket",
            summary="Requests are preempted and computed again",
        ),
    ),
    Signal(
        name="prefix_hits",
        title="Prompt tokens found in the prefix cache",
        unit="percentunit",
        good="high",
        kind="share",
        expr="sum(increase(vllm:prefix_cache_queries_total{<labels>}[<window>]))",
        part="sum(increase(vllm:prefix_cache_hits_total{<labels>}[<window>]))",
        margin=0.15,
        action="See the chat template, and how requests are balanced over servers.",
    ),
    Signal(
        name="memory",
        title="Growth of the API server's memory in an hour",
        unit="percentunit",
        good="low",
        kind="growth",
        expr="sum(process_resident_memory_bytes{<labels>})",
        margin=0.05,
        action="Restart the server and roll back if it began with a release; send the release's lock with the report.",
        alert=Alert(
            name="VllmMemoryGrows",
            when="> 0.05",
            lasts="2h",
            severity="ticket",
            summary="The memory of the API servers grows",
        ),
    ),
    Signal(
        name="gpu_memory",
        title="Growth of the GPUs' memory in an hour",
        unit="percentunit",
        good="low",
        kind="growth",
        expr="sum(DCGM_FI_DEV_FB_USED{<labels>})",
        margin=0.02,
        action="vLLM takes its memory at the start: something else grows on these GPUs, or a release leaks.",
        alert=Alert(
            name="VllmGpuMemoryGrows",
            when="> 0.02",
            lasts="2h",
            severity="ticket",
            summary="The memory in use on the GPUs grows",
        ),
    ),
    Signal(
        name="restarts",
        title="Restarts of servers",
        unit="short",
        good="low",
        kind="events",
        window="1h",
        expr="sum(changes(process_start_time_seconds{<labels>}[<window>]))",
        action="See the end of the log of the server that restarted; out of memory is the usual cause.",
        alert=Alert(
            name="VllmRestarts",
            when="> 2",
            lasts="0s",
            severity="page",
            summary="Servers restart again and again",
        ),
    ),
)
BY_NAME = {each.name: each for each in SIGNALS}
