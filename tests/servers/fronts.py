"""Starts proxies in front of vLLM: LiteLLM, nginx, Envoy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme
import yaml

from servers.engines import backend
from servers.environments import environment
from servers.programs import KEY, Running, answers, free_port, program

_LITELLM = {"LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "False"}
_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  client_max_body_size 16m;
  server {{
    listen 127.0.0.1:{port}{listen};
    {lines}
    location / {{ proxy_pass {backend}; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 300s; }}
  }}
}}
"""
_NGINX_LINES = {
    "unbuffered": "proxy_buffering off;",
    "buffered": "proxy_buffering on; gzip on; gzip_types application/json text/event-stream; gzip_min_length 0;",
    "http2-tls": "proxy_buffering off; ssl_certificate {work}/server.pem; ssl_certificate_key {work}/server.key;",
}


@contextmanager
def litellm(work: Path) -> Iterator[Running]:
    """LiteLLM's proxy with one model, without a database."""
    programs = environment("litellm")
    port, log = free_port(), work / "litellm.log"
    with backend(work) as behind:
        served = {"model": "openai/tiny", "api_base": f"{behind.url}/v1", "api_key": KEY}
        settings = {
            "model_list": [{"model_name": "tiny", "litellm_params": served}],
            "general_settings": {"master_key": f"sk-{KEY}"},
            "litellm_settings": {"telemetry": False, "drop_params": False},
        }
        config = work / "litellm.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        argv: list[str | Path] = [programs / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        env = {**_LITELLM, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        with program(argv, log, answers(f"{url}/v1/models", key=f"sk-{KEY}"), env=env):
            yield Running(url=url, log=log, key=f"sk-{KEY}")


def _user() -> str:
    """As root, nginx would work as another user, who may not write into our directories."""
    return "" if os.getuid() else "user root root;"


def _version(nginx: str) -> str:
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    return said.rpartition("/")[2].strip()


def nginx(kind: str) -> Callable[[Path], AbstractContextManager[Running]]:
    """A start of nginx of one kind (``_NGINX_LINES``)."""

    @contextmanager
    def start(work: Path) -> Iterator[Running]:
        found = _nginx()
        if not found:
            pytest.skip("no program nginx (apt-get install nginx)")
        port, tls = free_port(), kind == "http2-tls"
        authority = _certificates(work) if tls else None
        with backend(work) as behind:
            lines = _NGINX_LINES[kind].format(work=work)
            listen = " ssl http2" if tls else ""
            config = work / "nginx.conf"
            config.write_text(
                _NGINX.format(user=_user(), work=work, port=port, listen=listen, lines=lines, backend=behind.url),
                encoding="utf-8",
            )
            url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
            trusted = {"SSL_CERT_FILE": str(authority)} if authority else None
            ready = answers(f"{url}/v1/models", ca_file=authority)
            command: list[str | Path] = [found, "-e", work / "start.log", "-c", config]
            with program(command, work / "nginx.log", ready):
                yield Running(url=url, log=work / "vllm.log", env=trusted, version=_version(found))

    return start


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


def _certificates(work: Path) -> Path:
    """A certificate for 127.0.0.1 (``server.pem``, ``server.key``); returns the file of its authority."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(work / "server.key")
    (work / "server.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    file = work / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return file


@contextmanager
def envoy(work: Path) -> Iterator[Running]:
    """Envoy with its defaults for HTTP, one route and one cluster."""
    programs = environment("envoy")
    port, log = free_port(), work / "envoy.log"
    with backend(work) as behind:
        config = work / "envoy.yaml"
        config.write_text(yaml.safe_dump(_envoy(port, int(behind.url.rpartition(":")[2]))), encoding="utf-8")
        argv: list[str | Path] = [
            programs / "envoy",
            "-c",
            config,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]
        url = f"http://127.0.0.1:{port}"
        with program(argv, log, answers(f"{url}/v1/models")):
            yield Running(url=url, log=behind.log)


def _envoy(port: int, behind: int) -> dict[str, object]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    to = {"cluster": "vllm", "timeout": "0s"}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": to}]}]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}},
        ],
    }
    place = {"endpoint": {"address": _address(behind)}}
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": _address(port),
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "vllm",
                    "connect_timeout": "5s",
                    "load_assignment": {"cluster_name": "vllm", "endpoints": [{"lb_endpoints": [place]}]},
                }
            ],
        }
    }


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
