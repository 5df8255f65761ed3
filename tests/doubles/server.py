"""A small, correct server of the OpenAI wire format as vLLM 0.32 speaks it, which can never pass for the real one.

Every answer carries the header ``x-vllm-ci-double``. A defect is a subclass that overrides one method.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from doubles import asked as asking
from doubles import tokenizer
from doubles.asked import Asked
from doubles.bodies import Bodies, Json
from doubles.generation import Generation, Piece
from doubles.refusal import RefusedError
from doubles.toymodel import Sampling
from doubles.wire import Connection, Request, Response, as_json

_SLOTS = 16
_EMBEDDING_SIZE = 16
_TOKENS_BEFORE_A_BREAK = 32
IN_COMPANY_S = 0.004
"""Seconds that a token takes at servers that are wrong in company: so long that requests meet on a busy machine, too."""


class Double(Bodies):
    """The server, without its socket.

    Attributes:
        key: The API key it asks for; empty asks for none.
        file: Where its log goes; without one it is not kept.
        incomplete: Connections whose request has not come to its end.
    """

    model = "double"
    # Beside its GET routes, which anybody may ask.
    open_routes: ClassVar[tuple[str, ...]] = ("/health", "/ping", "/metrics")
    largest_head = 65_536
    # Seconds a token takes: quick, but slow enough to be seen coming.
    token_s = 0.0005
    generation: ClassVar[type[Generation]] = Generation

    def __init__(self, *, key: str = "", file: Path | None = None) -> None:
        self.key = key
        self.file = file
        self.counts = {"requests": 0, "prompt": 0, "generated": 0, "hits": 0, "running": 0, "waiting": 0}
        self.incomplete: set[int] = set()
        self._slots = asyncio.Semaphore(_SLOTS)
        self._numbers = itertools.count(1)
        self._prefixes: set[tuple[str, int]] = set()

    def connection(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self.answer, largest_head=self.largest_head, open_bodies=self.incomplete)

    async def answer(self, request: Request, connection: Connection) -> None:
        """Answer one request on its connection."""
        self.log(f"{request.method} {request.path!r}")
        try:
            response = await self.routed(request, connection)
        except RefusedError as error:
            self.log(f"refused: {error.kind}")
            response = self.error(error.status, error.message, error.kind, error.param)
        except Exception as error:  # noqa: BLE001 - a server answers whatever happens to it
            self.log(f"internal error {error!r}")
            response = self.error(500, "internal error", "InternalServerError")
        if response is not None:
            connection.respond(response)

    def log(self, line: str) -> None:
        """One line; what users wrote is quoted before it comes here."""
        if self.file is not None:
            with self.file.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"INFO {line}\n")

    def admitted(self, request: Request) -> bool:
        """Whether this client may pass the door."""
        if not self.key or (request.path in self.open_routes and request.method == "GET"):
            return True
        return self.key_fits(request.headers.get("authorization", ""))

    def key_fits(self, header: str) -> bool:
        """Whether an Authorization header holds the key."""
        scheme, _, given = header.partition(" ")
        return scheme.lower() == "bearer" and given == self.key

    def routes(self) -> dict[str, str]:
        """Method by path."""
        gets = ("/health", "/ping", "/metrics", "/version", "/v1/models", "/openapi.json")
        posts = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")
        return {**dict.fromkeys(gets, "GET"), **dict.fromkeys(posts, "POST")}

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        """The answer of a route; nothing where it was streamed."""
        if not self.admitted(request):
            return self.stranger(request)
        method = self.routes().get(self.place(request))
        if method is None:
            return as_json({"detail": "Not Found"}, 404)
        if method != request.method:
            return as_json({"detail": "Method Not Allowed"}, 405, {"allow": method})
        if method == "GET":
            return self.got(self.place(request))
        return await self.posted(self.place(request), self.body(request), connection)

    def stranger(self, request: Request) -> Response:  # noqa: ARG002 - defects look at it
        """What somebody without the key hears."""
        return as_json({"error": "Unauthorized"}, 401)

    def place(self, request: Request) -> str:
        """Which route a request means."""
        return request.path

    def body(self, request: Request) -> Json:
        """The JSON object of a POST."""
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise RefusedError("Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request")
        return asking.parse(request.body)

    def got(self, path: str) -> Response:
        """Answer of a GET."""
        if path == "/metrics":
            return Response(body=self.metrics().encode(), headers={"content-type": "text/plain; version=0.0.4"})
        bodies: dict[str, Any] = {
            "/version": {"version": "0.32.0"},
            "/v1/models": {"object": "list", "data": [self.card()]},
            "/openapi.json": {
                "openapi": "3.1.0",
                "paths": {path: {method.lower(): {}} for path, method in self.routes().items()},
            },
        }
        return as_json(bodies[path]) if path in bodies else Response()

    def card(self) -> Json:
        """The model in the list of models."""
        return {
            "id": self.model,
            "object": "model",
            "created": int(time.time()),
            "max_model_len": asking.MAX_LENGTH,
            "parent": None,
        }

    def metrics(self) -> str:
        """Counters and gauges in the text format of Prometheus."""
        names = {
            "vllm:request_success_total": "requests",
            "vllm:prompt_tokens_total": "prompt",
            "vllm:generation_tokens_total": "generated",
            "vllm:prefix_cache_queries_total": "prompt",
            "vllm:prefix_cache_hits_total": "hits",
            "vllm:num_requests_running": "running",
            "vllm:num_requests_waiting": "waiting",
        }
        return "".join(f'{name}{{model_name="{self.model}"}} {self.counts[key]}\n' for name, key in names.items())

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        """Answer of a POST."""
        self.known(body)
        if path == "/tokenize":
            return self.tokenized(body)
        if path == "/detokenize":
            ids = body.get("tokens")
            if not isinstance(ids, list):
                raise RefusedError("Field required: tokens", kind="Bad Request")
            return as_json({"prompt": tokenizer.decode(ids)})
        if path == "/v1/embeddings":
            return self.embedded(body)
        chat = path == "/v1/chat/completions"
        return await self.completed(self.asked(body, chat=chat), body, connection)

    def known(self, body: Json) -> None:
        """Refuse a model that is not served."""
        name = body.get("model")
        if name is not None and not isinstance(name, str):
            raise RefusedError("model should be a string", kind="Bad Request", param="model")
        if name not in (None, self.model):
            asking.readable(name, "model")
            raise RefusedError(f"The model `{name}` does not exist.", status=404, kind="NotFoundError", param="model")

    def rendered(self, body: Json) -> list[int]:
        """The prompt that the chat template makes of the messages and tools."""
        tools = body.get("tools")
        return tokenizer.render(self.conversation(asking.messages(body)), preface=f"tools: {tools}" if tools else "")

    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """The messages that the template gets."""
        return messages

    def tokenized(self, body: Json) -> Response:
        """Answer of ``/tokenize``."""
        if "messages" in body:
            ids = tokenizer.render(asking.messages(body), preface=f"tools: {body['tools']}" if body.get("tools") else "")
        else:
            ids = asking.readable(str(body.get("prompt", "")), "prompt")
        return as_json({"count": len(ids), "max_model_len": asking.MAX_LENGTH, "tokens": ids, "token_strs": None})

    def embedded(self, body: Json) -> Response:
        """Answer of ``/v1/embeddings``."""
        given = body.get("input")
        texts = given if isinstance(given, list) else [given]
        ids = [asking.readable(str(text), "input") for text in texts]
        if max(map(len, ids)) > asking.MAX_LENGTH:
            raise RefusedError(f"This model's maximum context length is {asking.MAX_LENGTH} tokens.", param="input")
        vectors = [self.vector(each) for each in ids]
        coded = [self.base64(vector) for vector in vectors] if body.get("encoding_format") == "base64" else vectors
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(coded)]
        tokens = sum(map(len, ids))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        return as_json({"object": "list", "model": self.model, "data": data, "usage": usage})

    def vector(self, ids: Sequence[int]) -> list[float]:
        """Embedding of a text."""
        return [(hash((at, *ids)) % 2001 - 1000) / 1000 for at in range(_EMBEDDING_SIZE)]

    def base64(self, vector: Sequence[float]) -> str:
        """A vector as 32-bit floats, little-endian."""
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

    def asked(self, body: Json, *, chat: bool) -> Asked:
        """The request, checked."""
        if chat:
            return asking.request({**body, "model": self.model}, chat=True, prompts=[self.rendered(body)], texts=[""])
        prompts, texts = asking.prompts(body)
        return asking.request({**body, "model": self.model}, chat=False, prompts=prompts, texts=texts)

    def sampling(self, asked: Asked) -> Sampling:
        """How the answer is drawn."""
        return asked.sampling

    def generations(self, asked: Asked) -> list[Generation]:
        """All choices of all prompts."""
        sampling = self.sampling(asked)
        return [
            self.generation(asked=asked, prompt=prompt, choice=choice, index=at * asked.n + choice, sampling=sampling)
            for at, prompt in enumerate(asked.prompts)
            for choice in range(asked.n)
        ]

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        """Generate and answer, in one piece or as a stream."""
        self.cached(asked, str(body.get("cache_salt") or ""))
        name = f"{'chatcmpl' if asked.chat else 'cmpl'}-{self.number():016x}"
        created = int(time.time())
        async with self.slot():
            generations = self.generations(asked)
            if asked.stream:
                await self.streamed(asked, name, created, generations, connection)
                return None
            answers = [(generation, await self.pieces(generation)) for generation in generations]
            self.count(asked, generations)
        return as_json(self.whole(asked, name, created, answers))

    def number(self) -> int:
        """Number of a request, which makes its id."""
        return next(self._numbers)

    def cached(self, asked: Asked, salt: str) -> None:
        """Count prompt tokens that are in the prefix cache already, under the same salt."""
        for prompt in asked.prompts:
            prefix = (salt, hash(prompt))
            self.counts["hits"] += len(prompt) if prefix in self._prefixes else 0
            self._prefixes.add(prefix)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place in the batch; it is given back whatever happens, also when the client goes."""
        self.counts["waiting"] += 1
        try:
            await self._slots.acquire()
        finally:
            self.counts["waiting"] -= 1
        self.counts["running"] += 1
        try:
            yield
        finally:
            self.counts["running"] -= 1
            self._slots.release()

    def count(self, asked: Asked, generations: Sequence[Generation]) -> None:
        """Count a request that came to its end."""
        self.counts["requests"] += len(asked.prompts)
        self.counts["prompt"] += sum(map(len, asked.prompts))
        self.counts["generated"] += sum(len(generation.tokens) for generation in generations)

    async def pieces(self, generation: Generation) -> list[Piece]:
        """All tokens of a choice, in the time they take."""
        begun = time.monotonic()
        made: list[Piece] = []
        while (piece := generation.step()) is not None:
            made.append(piece)
            if len(made) % _TOKENS_BEFORE_A_BREAK == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(max(begun + len(made) * self.token_s - time.monotonic(), 0))
        return made

    async def streamed(
        self, asked: Asked, name: str, created: int, generations: Sequence[Generation], connection: Connection
    ) -> None:
        """Send the answer while it is made; tokens that are late share a chunk."""
        head = self.head(asked, name, created, "chat.completion.chunk" if asked.chat else "text_completion")
        connection.begin({"content-type": "text/event-stream; charset=utf-8"})
        for chunk in self.opening(asked, head, generations):
            await connection.send(self.event(chunk))
        begun, made = time.monotonic(), 0
        while any(not generation.finish_reason for generation in generations):
            due = max(int((time.monotonic() - begun) / self.token_s) - made, 1)
            made += due
            for generation in generations:
                pieces = [piece for _ in range(min(due, _TOKENS_BEFORE_A_BREAK)) if (piece := generation.step()) is not None]
                if pieces:
                    for chunk in self.piece(asked, head, generation, pieces):
                        await connection.send(self.event(chunk))
            await asyncio.sleep(max(begun + made * self.token_s - time.monotonic(), 0))
        for chunk in self.closing(asked, head, generations):
            await connection.send(self.event(chunk))
        await connection.send(self.end())
        self.count(asked, generations)
        connection.finish()
