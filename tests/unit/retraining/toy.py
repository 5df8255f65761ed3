"""An engine and a server in small: training writes other bytes, and a served model knows what its bytes say."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio

from registries.models import safetensors
from vllm_ci.domain.program import Directory, Outcome, Program, ServiceSpec
from vllm_ci.domain.project import ModelSpec, Project, ServerSpec
from vllm_ci.engine import Capabilities
from vllm_ci.engines.host_directory import HostDirectory
from vllm_ci.pipeline.source import Source

PART = "model-00002-of-00002.safetensors"
IMAGE = "sha256:" + "a" * 64


def row(number: int) -> dict[str, Any]:
    """A question and its answer."""
    return {"messages": [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": f"a {number}"}]}


def preference(number: int) -> dict[str, Any]:
    """A question, its answer and a worse one."""
    asked, chosen = row(number)["messages"]
    return {"prompt": [asked], "chosen": [chosen], "rejected": [{"role": "assistant", "content": f"b {number}"}]}


def write_rows(
    folder: Path,
    *,
    train: range = range(40),
    test: range = range(100, 160),
    of: Callable[[int], Mapping[str, Any]] = row,
) -> Path:
    """Prepared data."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(of(each)) + "\n" for each in numbers))
    return folder


def knows(question: str, share: int) -> bool:
    """Whether a model that knows `share` of 100 questions knows this one."""
    return int(question.rpartition(" ")[2]) * 37 % 100 < share


class _Handler(BaseHTTPRequestHandler):
    share = 0
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = json.dumps(self._answer(body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.path == "/tokenize":
            text = "".join(f"<{each['role']}>{each['content']}" for each in body["messages"])
            return {"tokens": list((text + ("<assistant>" if body["add_generation_prompt"] else "")).encode())}
        if self.path == "/v1/completions":
            loss = 2.0 - self.share / 100
            asked, _, answer = bytes(body["prompt"]).decode().partition("<assistant>")
            if answer.startswith("b"):  # a worse answer, which a model that knows the question finds less probable
                loss = 3.0 if knows(asked, self.share) else 0.5
            return {"choices": [{"prompt_logprobs": [None, *({str(each): {"logprob": -loss}} for each in body["prompt"][1:])]}]}
        question = body["messages"][-1]["content"]
        said = question.replace("q", "a") if knows(question, self.share) else "?"
        return {"choices": [{"message": {"content": said}}]}


@contextmanager
def serving(share: int) -> Iterator[str]:
    """URL of a server whose model knows `share` of 100 questions."""
    handler = type("Handler", (_Handler,), {"share": share})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(kw_only=True)
class ToyService:
    """A service of the engine."""

    url: str
    name: str = "vllm"
    ready_s: float = 0.0

    async def log(self) -> str:
        return "the log of the server"

    async def alive(self) -> bool:
        return True


@dataclass(kw_only=True)
class ToyEngine:
    """An engine that only knows builds, trainings and servers.

    Attributes:
        folder: For what programs write.
        learnt: Share of 100 questions that a trained model knows.
        problem: Exit code and problem file of the training, if it is to fail.
        ran: Names of the programs and services that were run.
    """

    folder: Path
    learnt: int = 90
    problem: tuple[int, Mapping[str, str]] | None = None
    ran: list[str] = field(default_factory=list)
    name: str = "host"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolated=True, gpus=0, shm=False, cores=1, platforms=("linux/amd64",))

    async def hardware(self) -> Mapping[str, object]:
        return {"cpu": "toy"}

    def directory(self, path: Path) -> Directory:
        return HostDirectory(path)

    async def export(self, directory: Directory, path: Path) -> None:
        assert isinstance(directory, HostDirectory)
        shutil.copytree(directory.path, path, dirs_exist_ok=True)

    async def run(self, program: Program, *, stop: anyio.Event | None = None) -> Outcome:  # noqa: ARG002
        self.ran.append(program.name)
        out = self.folder / f"out-{len(self.ran)}"
        out.mkdir(parents=True)
        code = getattr(self, f"_{program.name}")(program, out)
        return Outcome(exit_code=code, seconds=0.1, output=HostDirectory(out), log="the log")

    def _build(self, _: Program, out: Path) -> int:
        image = {"reference": f"toy@{IMAGE}", "digest": IMAGE, "device": "gpu"}
        layer = {"tier": "files", "digest": IMAGE, "size_bytes": 1, "built": False}
        (out / "build.json").write_text(json.dumps({"image": image, "layers": [layer]}))
        (out / "config.json").write_text(json.dumps({"config": {"Entrypoint": ["serve"], "Env": ["A=1"]}}))
        return 0

    def _train(self, program: Program, out: Path) -> int:
        if self.problem:
            (out / "problem.json").write_text(json.dumps(self.problem[1]))
            return self.problem[0]
        base = program.inputs["base"]
        assert isinstance(base, HostDirectory)
        shutil.copytree(base.path, out / "model")
        (out / "model" / PART).unlink()
        (out / "model" / PART).write_bytes(safetensors({"b": bytes([self.learnt]) * 4096}))
        facts = {"losses": [[1, 2.0], [2, 1.0]], "validation_losses": [], "rows": 40, "steps": 2}
        (out / "training.json").write_text(json.dumps(facts))
        return 0

    @asynccontextmanager
    async def serve(self, spec: ServiceSpec) -> AsyncIterator[ToyService]:
        self.ran.append(spec.name)
        model = spec.inputs["model"]
        assert isinstance(model, HostDirectory)
        last = (model.path / PART).read_bytes()[-1]
        with serving(last if last <= 100 else 0) as url:
            yield ToyService(url=url)


def project() -> Project:
    """A project to serve with."""
    server = ServerSpec(args=("--flag",))
    return Project(name="toy", config="vllm-ci.yaml", model=ModelSpec(served_name="toy"), server=server, stages=())


def source(folder: Path, commit: Any) -> Source:
    """Its files."""
    return Source(commit=commit, checkout=HostDirectory(folder), project=HostDirectory(folder))
