"""The generated rules and dashboard, judged by Prometheus' own tool."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.monitoring.programs import program
from vllm_ci.monitoring import dashboard, rules
from vllm_ci.monitoring.objectives import TTFT_BUCKETS_S, Targets
from vllm_ci.monitoring.rules import Watched
from vllm_ci.monitoring.signals import SIGNALS
from vllm_ci.system import yaml_text

PLAIN = Watched(channel="c", labels={"channel": "c"})
UP = {'up{channel="c"}': "1x200"}
REQUESTS = 'http_requests_total{channel="c",status="%sxx"}'
FINISHED = 'vllm:request_success_total{channel="c",finished_reason="stop"}'
FIRST = 'vllm:time_to_first_token_seconds_%s{channel="c"%s}'
GATEWAY = 'envoy_http_downstream_rq_xx{channel="c",envoy_response_code_class="%s",envoy_http_conn_manager_prefix="%s"}'
HEALTHY = {
    **UP,
    REQUESTS % 2: "0+600x5000",
    REQUESTS % 4: "0+6x5000",
    REQUESTS % 5: "0+0x5000",
    FINISHED: "0+600x5000",
    FIRST % ("count", ""): "0+600x5000",
    FIRST % ("bucket", ',le="2.5"'): "0+598x5000",
    'vllm:num_requests_waiting{channel="c"}': "1x5000",
    'vllm:kv_cache_usage_perc{channel="c"}': "0.5x5000",
    'vllm:num_preemptions_total{channel="c"}': "0x5000",
    'process_resident_memory_bytes{channel="c"}': "2000000000x5000",
    'DCGM_FI_DEV_FB_USED{channel="c"}': "70000x5000",
    'process_start_time_seconds{channel="c"}': "1000x5000",
    'up{channel="c"}': "1x5000",
}
# What the gateway counts by cluster of a live release, and of one that gets a copy of each request.
CLUSTERS = ("revision/live", "shadow", "revision/new")
# Alert -> series that differ from a healthy server's, and when it fires.
FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "VllmNoData": (dict.fromkeys(HEALTHY, "_x5000"), "10m"),
    "VllmServersDown": ({'up{channel="c"}': "0x5000"}, "10m"),
    "VllmManyRefusals": ({REQUESTS % 4: "0+600x5000"}, "30m"),
    "VllmBrokenStreams": (
        {
            GATEWAY % (2, "gateway"): "0+600x5000",
            'envoy_http_downstream_rq_tx_reset{channel="c",envoy_http_conn_manager_prefix="gateway"}': "0+30x5000",
        },
        "30m",
    ),
    "VllmQueueGrows": ({'vllm:num_requests_waiting{channel="c"}': "0+1x5000"}, "60m"),
    "VllmKvCacheFull": ({'vllm:kv_cache_usage_perc{channel="c"}': "1x5000"}, "30m"),
    "VllmPreemptions": ({'vllm:num_preemptions_total{channel="c"}': "0+300x5000"}, "30m"),
    "VllmMemoryGrows": ({'process_resident_memory_bytes{channel="c"}': "2000000000+5000000x5000"}, "5h"),
    "VllmGpuMemoryGrows": ({'DCGM_FI_DEV_FB_USED{channel="c"}': "70000+60x5000"}, "5h"),
    "VllmRestarts": ({'process_start_time_seconds{channel="c"}': "1000+60x5000"}, "30m"),
    "VllmAvailabilityBudgetBurns": ({REQUESTS % 5: "0+60x5000"}, "2h"),
    "VllmTtftBudgetBurns": ({FIRST % ("bucket", ',le="2.5"'): "0+100x5000"}, "2h"),
}


def alerts(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]


def checked(folder: Path, content: str) -> subprocess.CompletedProcess[str]:
    file = folder / "rules.yml"
    file.write_text(content)
    return subprocess.run([program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False)


@pytest.mark.needs_tool
def test_promtool_accepts_the_rules_of_several_channels(tmp_path: Path) -> None:
    channels = [
        PLAIN,
        Watched(channel="b", labels={"job": "b"}, targets=Targets(availability=0.9, ttft_s=0.04, ttft_share=0.5)),
    ]
    done = checked(tmp_path, yaml_text.dump(rules.document(channels)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.needs_tool
@pytest.mark.parametrize(
    "value", ['"', "\\", '"} or up{a="', "$1 {{ $labels.x }}", "ä\u2028日本", "'", "a<window>b", "#: - [x"]
)
def test_hostile_values_of_labels_stay_values(value: str, tmp_path: Path) -> None:
    content = yaml_text.dump(rules.document([Watched(channel="c", labels={"job": value})]))
    done = checked(tmp_path, content)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<labels>" not in content
    assert len(yaml.safe_load(content)["groups"]) == 3


@pytest.mark.needs_tool
def test_the_rules_of_a_healthy_channel_are_silent_and_each_fault_fires_its_alert(tmp_path: Path) -> None:
    document = rules.document([PLAIN])
    (tmp_path / "rules.yml").write_text(yaml_text.dump(document))
    every = {each["alert"] for each in alerts(document)}
    assert every == set(FAULTS), "each alert needs a fault here that fires it"
    firing = 'group by (alertname) (ALERTS{alertstate="firing"%s})'
    tests = [_case(HEALTHY, {"expr": firing % "", "eval_time": "6h", "exp_samples": []})]
    for name, (series, when) in FAULTS.items():
        fires = {"labels": f'{{alertname="{name}"}}', "value": 1}
        expected = {"expr": firing % f',alertname="{name}"', "eval_time": when, "exp_samples": [fires]}
        tests.append(_case({**HEALTHY, **series}, expected))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}))
    done = subprocess.run(
        [program("promtool"), "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _case(series: dict[str, str], expected: dict[str, Any]) -> dict[str, Any]:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": [expected]}


@pytest.mark.needs_tool
def test_only_requests_of_users_are_counted_where_there_is_a_gateway(tmp_path: Path) -> None:
    """A gateway exports no counter of a class that it has not seen; servers count the copies that a shadow gets."""
    (tmp_path / "rules.yml").write_text(yaml_text.dump(rules.document([PLAIN])))
    broken = "envoy_cluster_upstream_cx_destroy_remote_with_active_rq"
    series = {
        GATEWAY % (2, "gateway"): "0+600x60",
        GATEWAY % (2, "metrics"): "0+600x60",
        GATEWAY % (5, "checks"): "0+600x60",
        GATEWAY % (2, "shadow"): "0+600x60",
        'envoy_http_downstream_rq_tx_reset{channel="c",envoy_http_conn_manager_prefix="gateway"}': "0+6x60",
        'envoy_http_downstream_rq_tx_reset{channel="c",envoy_http_conn_manager_prefix="shadow"}': "0+300x60",
        **{f'envoy_cluster_upstream_rq_total{{channel="c",envoy_cluster_name="{each}"}}': "0+600x60" for each in CLUSTERS},
        **{f'{broken}{{channel="c",envoy_cluster_name="{each}"}}': "0+300x60" for each in CLUSTERS[1:]},
        REQUESTS % 2: "0+1200x60",
        REQUESTS % 5: "0+60x60",
    }
    expected = [("vllm_ci:errors", 0), ("vllm_ci:requests", 10), ("vllm_ci:broken", 0.01)]
    case = _case(series, {})
    case["promql_expr_test"] = [
        {"expr": name, "eval_time": "30m", "exp_samples": [{"labels": f'{name}{{channel="c"}}', "value": value}]}
        for name, value in expected
    ]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    done = subprocess.run(
        [program("promtool"), "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs_tool
def test_every_expression_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    document = dashboard.document(Targets().objectives())
    panels = [target["expr"].replace("$channel", "c") for panel in document["panels"] for target in panel["targets"]]
    assert len(panels) >= len(SIGNALS)
    content = {"groups": [{"name": "g", "rules": [{"record": f"x{i}", "expr": expr} for i, expr in enumerate(panels)]}]}
    done = checked(tmp_path, yaml_text.dump(content))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_only_series_that_the_rules_record() -> None:
    recorded = {rule["record"] for group in rules.document([PLAIN])["groups"] for rule in group["rules"] if "record" in rule}
    document = dashboard.document(Targets().objectives())
    shown = {target["expr"].partition("{")[0] for panel in document["panels"] for target in panel["targets"]}
    assert shown <= recorded
    assert {f"vllm_ci:{each.name}" for each in SIGNALS} <= shown


def test_panels_of_the_dashboard_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads(json.dumps(dashboard.document(Targets().objectives())))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_operators_form_has_the_same_rules() -> None:
    made = rules.operator([PLAIN], name="n")
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == rules.document([PLAIN])


@pytest.mark.parametrize("bound", TTFT_BUCKETS_S)
def test_the_bound_of_the_objective_matches_both_ways_of_writing_it(bound: float) -> None:
    _, ttft = Targets(ttft_s=bound).objectives()
    pattern = ttft.bad.partition('le=~"')[2].partition('"')[0].replace("\\\\", "\\")
    assert re.fullmatch(pattern, str(bound))
    assert re.fullmatch(pattern, f"{bound:g}")
    assert not re.fullmatch(pattern, f"1{bound:g}")
