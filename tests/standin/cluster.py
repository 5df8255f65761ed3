"""A real API server without containers: etcd, kube-apiserver and kube-controller-manager on free ports.

Nodes and the Gateway are played here: pods that are made are said to run (or to crash, where their image's digest ends in
``e``), and routes are accepted. All pods have one address, at which a stand-in answers ``/metrics``.
"""

from __future__ import annotations

import atexit
import contextlib
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
_TOKEN = "admin-token"  # of a server that only this machine reaches
_DEADLINE_S = 120.0


def missing() -> list[str]:
    """Programs that are not on PATH."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


def own_address() -> str:
    """An address of this machine that is no loopback: the API server connects to no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        each.connect(("192.0.2.1", 9))  # sends nothing
        address: str = each.getsockname()[0]
        return address


@dataclass(kw_only=True)
class Server:
    """The API server, as its administrator asks it.

    Attributes:
        url: Its base URL.
        kubeconfig: File for clients.
        trust: For its certificate.
        kinds: Those whose definitions were installed.
        failing: Beginnings of names of pods that answer half of their requests with 500.
    """

    url: str
    kubeconfig: Path
    trust: ssl.SSLContext
    kinds: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)

    def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": kind}
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()  # its YAML reader knows no surrogates
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.trust))
        try:
            with opener.open(request, timeout=20) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except urllib.error.HTTPError as error:
            error.msg = f"{error.msg}: {error.read(2000).decode(errors='replace')}"
            raise

    def apply(self, manifest: dict[str, Any], path: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Server-side apply; the server validates strictly: unknown fields are refused."""
        query = f"?fieldManager=test&force=true&fieldValidation=Strict{'&dryRun=All' if dry_run else ''}"
        return self.call("PATCH", path + query, manifest, kind="application/apply-patch+yaml")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Start everything; skips where a program is absent."""
    if absent := missing():
        pytest.skip(f"not on PATH: {', '.join(absent)} (docs/kubernetes.md says how to build them)")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "sa.key").write_bytes(pem)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    mine = authority.issue_cert("127.0.0.1")
    mine.private_key_pem.write_to_path(str(folder / "server.key"))
    mine.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    (folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
    etcd, peer, api = free_port(), free_port(), free_port()
    trust = ssl.create_default_context(cafile=folder / "ca.pem")
    server = Server(url=f"https://127.0.0.1:{api}", kubeconfig=folder / "kubeconfig", trust=trust)
    server.kubeconfig.write_text(_kubeconfig(server.url, folder / "ca.pem"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_program(folder, *_etcd(folder, etcd, peer)))
        stack.enter_context(_program(folder, *_apiserver(folder, etcd, api)))
        _until(lambda: server.call("GET", "/api/v1/namespaces/default"), folder / "kube-apiserver.log")
        stack.enter_context(_program(folder, *_controllers(folder, server)))
        yield server


def _etcd(folder: Path, port: int, peer: int) -> list[str]:
    here, there = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        *("etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={here}", f"--advertise-client-urls={here}"),
        *(f"--listen-peer-urls={there}", f"--initial-advertise-peer-urls={there}", f"--initial-cluster=default={there}"),
        "--unsafe-no-fsync",
    ]


def _apiserver(folder: Path, etcd: int, port: int) -> list[str]:
    return [
        "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--tls-cert-file={folder / 'server.pem'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'sa.key'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--disable-admission-plugins=ServiceAccount",
        "--feature-gates=ImageVolume=true",
    ]


def _controllers(folder: Path, server: Server) -> list[str]:
    return [
        "kube-controller-manager",
        f"--kubeconfig={server.kubeconfig}",
        f"--service-account-private-key-file={folder / 'sa.key'}",
        "--controllers=deployment-controller,replicaset-controller,garbage-collector-controller,disruption-controller",
        "--leader-elect=false",
        f"--secure-port={free_port()}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / 'certs-controllers'}",
    ]


def _kubeconfig(url: str, authority: Path) -> str:
    named = {
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin", "namespace": "default"}}],
    }
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "test", **named})


@contextlib.contextmanager
def _program(folder: Path, *argv: str) -> Iterator[None]:
    log = folder / f"{argv[0]}.log"
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, cwd=folder) as process:
        try:
            yield
        finally:
            process.terminate()


def _until(condition: Any, log: Path) -> None:
    end = time.monotonic() + _DEADLINE_S
    while True:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass
        if time.monotonic() > end:
            pytest.fail(f"not ready in {_DEADLINE_S:.0f} s\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        time.sleep(0.2)


@contextlib.contextmanager
def played(server: Server) -> Iterator[None]:
    """Play kubelets and a Gateway until the context ends."""
    ended = threading.Event()
    with _metrics(server):
        threads = [
            threading.Thread(target=_repeat, args=(ended, each), daemon=True)
            for each in (
                lambda: _play_pods(server),
                lambda: _play_gateway(server),
            )
        ]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            ended.set()
            for each in threads:
                each.join()


def _repeat(ended: threading.Event, step: Any) -> None:
    while not ended.wait(0.1):
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            step()


def _play_pods(server: Server) -> None:
    for pod in server.call("GET", "/api/v1/namespaces/default/pods")["items"]:
        if (pod.get("status") or {}).get("podIP") or pod["metadata"].get("deletionTimestamp"):
            continue
        name = pod["metadata"]["name"]
        broken = pod["spec"]["containers"][0]["image"].endswith("e")
        state: dict[str, Any] = (
            {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}} if broken else {"running": {}}
        )
        container = {"name": "vllm", "image": "x", "imageID": "x", "ready": not broken, "restartCount": 0, "state": state}
        ready = {"type": "Ready", "status": "False" if broken else "True"}
        status = {"phase": "Running", "podIP": own_address(), "conditions": [ready], "containerStatuses": [container]}
        path = f"/api/v1/namespaces/default/pods/{name}/status"
        server.call("PATCH", path, {"status": status}, kind="application/merge-patch+json")


def _play_gateway(server: Server) -> None:
    group = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"
    for route in server.call("GET", group)["items"]:
        generation = route["metadata"]["generation"]
        parents = (route.get("status") or {}).get("parents") or []
        if parents and parents[0]["conditions"][0]["observedGeneration"] == generation:
            continue
        condition = {
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        taken = {
            "parentRef": route["spec"]["parentRefs"][0],
            "controllerName": "example.com/test",
            "conditions": [{**condition, "type": kind} for kind in ("Accepted", "ResolvedRefs")],
        }
        path = f"{group}/{route['metadata']['name']}/status"
        server.call("PATCH", path, {"status": {"parents": [taken]}}, kind="application/merge-patch+json")


@contextlib.contextmanager
def _metrics(cluster: Server) -> Iterator[None]:
    """What a server with 100 requests a second exports, on port 8000 of this machine's own address."""
    begun = time.monotonic()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # The API server says which pod it means.
            pod = self.headers.get("X-Forwarded-Uri", "").partition("/pods/")[2]
            count = int(100 * (time.monotonic() - begun))
            bad = count // 2 if any(pod.startswith(name) for name in cluster.failing) else 0
            first = "vllm:time_to_first_token_seconds_bucket"
            body = (
                f'http_requests_total{{status="2xx"}} {count - bad}\nhttp_requests_total{{status="5xx"}} {bad}\n'
                f'{first}{{le="0.1"}} {count}\n{first}{{le="+Inf"}} {count}\n'
                "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = http.server.ThreadingHTTPServer((own_address(), 8000), Handler)
    except OSError as error:
        pytest.skip(f"port 8000 of {own_address()} is taken: {error}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_SHARED: list[Server] = []


def shared() -> Server:
    """One for the whole process, with nodes and a Gateway that are played: a start takes many seconds."""
    if not _SHARED:
        if absent := missing():
            pytest.skip(f"not on PATH: {', '.join(absent)} (docs/kubernetes.md says how to build them)")
        stack = contextlib.ExitStack()
        atexit.register(stack.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
        server = stack.enter_context(running(folder))
        server.kinds |= install(server)
        stack.enter_context(played(server))
        _SHARED.append(server)
    return _SHARED[0]


def install(server: Server) -> set[str]:
    """Install the definitions that this machine has, and wait until they are served; returns their kinds."""
    kinds = set()
    for file in definitions():
        for each in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if not each or each.get("kind") != "CustomResourceDefinition":
                continue
            name = each["metadata"]["name"]
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            server.call("PATCH", f"{path}?fieldManager=test&force=true", each, kind="application/apply-patch+yaml")
            group = each["spec"]["group"]
            [version] = [found["name"] for found in each["spec"]["versions"] if found.get("storage")]
            plural = each["spec"]["names"]["plural"]
            _until(lambda where=f"/apis/{group}/{version}/{plural}": server.call("GET", where), Path("/dev/null"))
            kinds.add(each["spec"]["names"]["kind"])
    return kinds


def definitions() -> list[Path]:
    """Files with definitions of kinds (CRDs) that this machine has: ``VLLM_CI_TEST_CRDS``, folders separated by colons."""
    folders = os.environ.get("VLLM_CI_TEST_CRDS", "")
    return [file for folder in folders.split(":") if folder for file in sorted(Path(folder).glob("*.yaml"))]
