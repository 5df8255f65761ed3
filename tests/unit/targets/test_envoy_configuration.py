"""The configuration of Envoy that follows from a route and settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_ci.config.gateway import GatewayConfig
from vllm_ci.deploy.target import Route
from vllm_ci.domain.gateway import GatewaySettings, Tls
from vllm_ci.targets.envoy.authentication import hashed
from vllm_ci.targets.envoy.listeners import Ports, listeners
from vllm_ci.targets.envoy.routes import route_of, routes
from vllm_ci.targets.local.observing import parsed

names = st.from_regex(r"[a-f0-9]{12}-[a-f0-9]{8}", fullmatch=True)


@st.composite
def any_route(draw: st.DrawFn) -> Route:
    found = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(found) - 1, max_size=len(found) - 1)))
    shares = [after - before for before, after in zip([0, *cuts], [*cuts, 100], strict=True)]
    values = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)
    headers = draw(st.dictionaries(values, st.sampled_from(found)))
    return Route(
        weights=dict(zip(found, shares, strict=True)),
        headers=headers,
        mirror=draw(st.sampled_from(["", *found])),
        mirror_percent=draw(st.integers(0, 100)),
    )


@pytest.mark.slow
@given(any_route())
def test_a_route_is_read_back_from_its_configuration(route: Route) -> None:
    assert route_of(json.loads(json.dumps(routes(route, GatewaySettings())))) == route


@pytest.mark.slow
@given(any_route())
def test_all_shares_are_in_the_configuration_and_only_revisions_of_the_route(route: Route) -> None:
    content = routes(route, GatewaySettings())
    actions = [entry.get("route", {}) for entry in content["virtual_hosts"][0]["routes"]]
    shared = [each["weighted_clusters"]["clusters"] for each in actions if "weighted_clusters" in each]
    copied = bool(route.mirror and route.mirror_percent)
    assert len(shared) == 1 + copied, "one for requests that are copied, and one for the others"
    assert sum("request_mirror_policies" in each for each in actions) == copied
    for clusters in shared:
        assert sum(each["weight"] for each in clusters) == 100
        assert {each["name"].removeprefix("revision/") for each in clusters} == {
            name for name, share in route.weights.items() if share
        }


@given(st.integers(1, 1_000_000))
@example(119)
def test_a_limit_for_each_minute_lets_as_many_through_in_every_minute(limit: int) -> None:
    settings = GatewaySettings(api_keys=True, requests_per_minute=limit, tokens_per_minute=limit)
    buckets = [
        each["typed_config"]["descriptors"][0]["token_bucket"]
        for listener in listeners(settings, Ports(gateway=1, checks=2, metrics=3))
        if listener["name"] == "gateway"
        for each in listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        if each["name"] in ("vllm_ci.rate_limit", "vllm_ci.token_limit")
    ]
    assert len(buckets) == 2
    for bucket in buckets:
        interval = float(bucket["fill_interval"].removesuffix("s"))
        assert bucket["max_tokens"] == limit
        assert bucket["tokens_per_fill"] * 60 / interval == pytest.approx(limit, rel=1e-4)
        assert interval >= 0.05, "Envoy refuses less"


def test_without_a_route_allowed_paths_are_unavailable_and_others_unknown() -> None:
    entries = routes(Route(), GatewaySettings(denied=()))["virtual_hosts"][0]["routes"]
    assert [(entry["match"]["prefix"], entry["direct_response"]["status"]) for entry in entries] == [("/v1/", 503), ("/", 404)]


def test_hashes_are_those_of_htpasswd() -> None:
    assert hashed("password") == "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="  # htpasswd -nbs x password


@pytest.mark.parametrize("path", ["", "v1", "/v1/**", "/v1/*/x", "/v 1", "/v1/../x", "//v1", "/v1/", "/%76", "/v1?x"])
def test_a_path_that_no_request_has_after_normalisation_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        GatewaySettings(routes=(path,))


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({"host": "0.0.0.0"}, "needs `api_keys: true`"),
        ({"host": "localhost"}, "IP address"),
        ({"routes": []}, "no route is allowed"),
        ({"max_header_bytes": 1000}, "multiple of 1024"),
        ({"tls_certificate": "/x.pem"}, "both"),
        ({"tls_certificate": "x.pem", "tls_key": "/y.pem"}, "absolute"),
        ({"tokens_per_minute": 10}, "needs `api_keys: true`"),
        ({"port": 70000}, "65535"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given_settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GatewayConfig.model_validate(given_settings)


def test_settings_of_the_configuration_reach_the_gateway() -> None:
    found = GatewayConfig.model_validate(
        {"host": "0.0.0.0", "api_keys": True, "tls_certificate": "/c.pem", "tls_key": "/k.pem", "routes": ["/v1/*", "/health"]}
    ).domain()
    assert found == GatewaySettings(
        host="0.0.0.0", api_keys=True, tls=Tls(certificate=Path("/c.pem"), key=Path("/k.pem")), routes=("/v1/*", "/health")
    )


def test_metrics_of_vllm_are_summed_over_labels_and_others_left_out() -> None:
    text = (
        "# HELP vllm:num_requests_waiting x\n"
        'vllm:num_requests_waiting{engine="0",model_name="m"} 2.0\n'
        'vllm:num_requests_waiting{engine="1",model_name="m {x} y"} 3.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.25\n'
        "vllm:num_requests_running nonsense\nprocess_open_fds 7\n"
    )
    assert parsed(text) == {"vllm:num_requests_waiting": 5.0, "vllm:kv_cache_usage_perc": 0.5}
