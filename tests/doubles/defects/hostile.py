"""Defects that hostile requests find: what hurts a server, what its users can forge, and what leaks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import jinja2

from doubles import asked as asking
from doubles import tokenizer
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.defects.crowds import SlotsLeak
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.server import IN_COMPANY_S, Double
from doubles.wire import Connection, Request, Response, as_json

DENIAL = "security/test_denial.py::test_"
INJECTION = "security/test_injection.py::test_"
LEAKS = "security/test_leaks.py::test_"
LOGS = "security/test_logs.py::test_"
HOSTILE = f"{DENIAL}a_hostile_request_does_no_harm"


@defect("huge-n-is-served", "A million choices are begun.", f"{HOSTILE}[huge-n]", alone=True)
class HugeNIsServed(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        wanted = body.get("n")
        if isinstance(wanted, int) and wanted > 128:
            time.sleep(5)  # the memory for them is taken, and nobody else is answered meanwhile
            body = {**body, "n": 1}
        return super().asked(body, chat=chat)


@defect("hostile-json-crashes", "What the parser cannot read is answered 500.", f"{HOSTILE}[deep-json]", alone=True)
class HostileJsonCrashes(Double):
    def body(self, request: Request) -> Json:
        try:
            return super().body(request)
        except RefusedError as error:
            raise RefusedError("internal error", status=500) from error


@defect("templates-of-users-run", "A chat template in a request is executed.", f"{HOSTILE}[request-template]", alone=True)
class TemplatesOfUsersRun(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if body.get("chat_template"):
            time.sleep(5)  # it takes this long, and nobody else is answered meanwhile
        return super().asked({**body, "chat_template": None}, chat=chat)


@defect(
    "patterns-block-everybody", "A catastrophic pattern holds the whole server.", f"{HOSTILE}[catastrophic-pattern]", alone=True
)
class PatternsBlockEverybody(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if (body.get("structured_outputs") or {}).get("regex", "").startswith("(a+)+"):
            time.sleep(5)
        return super().asked(body, chat=chat)


@defect(
    "dies-of-a-surrogate", "Half a surrogate pair stops the server for good.", f"{HOSTILE}[lone-surrogate-model]", alone=True
)
class DiesOfASurrogate(Double):
    dead = False

    def body(self, request: Request) -> Json:
        self.dead = self.dead or b"ud800" in request.body
        if self.dead:
            raise RefusedError("the engine is dead", status=500)
        return super().body(request)


@defect("giant-headers-are-taken", "Headers of any size are read.", f"{DENIAL}giant_headers_are_refused", alone=True)
class GiantHeadersAreTaken(Double):
    largest_head = 10**9


@defect(
    "slow-clients-hold-everybody",
    "While a request is incomplete, nobody else is answered.",
    f"{DENIAL}slow_clients_do_not_hold_the_server",
    alone=True,
)
class SlowClientsHoldEverybody(Double):
    async def answer(self, request: Request, connection: Connection) -> None:
        begun = time.monotonic()
        while len(self.incomplete) > 20 and time.monotonic() - begun < 5:
            await asyncio.sleep(0.05)
        await super().answer(request, connection)


@defect(
    "nobody-reads",
    "A stream that nobody reads holds everybody up.",
    f"{DENIAL}a_client_that_does_not_read_holds_nobody_up",
    alone=True,
)
class NobodyReads(Double):
    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        if not asked.stream and self.counts["running"] >= 4:
            await asyncio.sleep(5)
        return await super().completed(asked, body, connection)


@defect(
    "hanging-up-leaves-work",
    "The work of clients that hung up goes on.",
    f"{DENIAL}clients_that_hang_up_leave_nothing_running",
    alone=True,
)
class HangingUpLeavesWork(SlotsLeak):
    """Seen by another suite."""


@defect(
    "users-write-markers",
    "Markers in users' text are read as borders of turns.",
    f"{INJECTION}text_of_users_cannot_forge_a_turn",
)
class UsersWriteMarkers(Double):
    def tokenized(self, body: Json) -> Response:
        if "messages" in body:
            ids = [tokenizer.BEGIN]
            for message in asking.messages(body):
                ids += tokenizer.encode(f"<|{message['role']}|>{message['content']}\n", markers=True)
            ids.append(tokenizer.MARKERS.index("<|assistant|>"))
        else:
            ids = tokenizer.encode(str(body.get("prompt", "")), markers=True)
        return as_json({"count": len(ids), "max_model_len": asking.MAX_LENGTH, "tokens": ids})


@defect("messages-are-templates", "Template code in a message is executed.", f"{INJECTION}text_of_users_is_no_template")
class MessagesAreTemplates(Double):
    def tokenized(self, body: Json) -> Response:
        messages = [
            {**message, "content": jinja2.Template(str(message.get("content"))).render()}
            for message in body.get("messages") or []
        ]
        return super().tokenized({**body, "messages": messages} if messages else body)


@defect("names-are-templates", "Template code in a name is executed.", f"{INJECTION}a_name_or_role_is_no_template")
class NamesAreTemplates(Double):
    def tokenized(self, body: Json) -> Response:
        messages = [
            {**message, "content": f"{jinja2.Template(str(message.get('name', ''))).render()} {message.get('content')}"}
            for message in body.get("messages") or []
        ]
        return super().tokenized({**body, "messages": messages} if messages else body)


@defect("files-are-shown", "A picture may be a file of the server.", f"{INJECTION}media_urls_read_no_files[file]")
class FilesAreShown(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        for message in body.get("messages") or []:
            content = message.get("content") if isinstance(message, dict) else None
            for part in content if isinstance(content, list) else ():
                url = str((part.get("image_url") or {}).get("url", "")) if part.get("type") == "image_url" else ""
                if url.startswith("file://") and not Path(url.removeprefix("file://")).is_file():
                    raise RefusedError("no such file")
                body = {**body, "messages": [{"role": "user", "content": "a picture"}]}
        return super().asked(body, chat=chat)


@defect("names-are-paths", "A model's name is looked up on the disk.", f"{INJECTION}a_model_name_is_no_path")
class NamesArePaths(Double):
    def known(self, body: Json) -> None:
        if "passwd" in str(body.get("model")):
            raise RefusedError("cannot load root:x:0:0:root:/root:/bin/sh", status=400)
        super().known(body)


@defect(
    "streams-overhear", "Streams that run together show each other's prompt.", f"{LEAKS}concurrent_streams_hear_only_themselves"
)
class StreamsOverhear(Double):
    token_s = IN_COMPANY_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.heard = ""

    def echoed(self, asked: Asked, generation: Generation) -> str:
        before, self.heard = self.heard, super().echoed(asked, generation)
        return self.heard + (before if self.counts["running"] > 1 else "")


@defect("salt-ignored", "The prefix cache is shared whatever the salt.", f"{LEAKS}a_salt_keeps_the_prefix_cache_apart")
class SaltIgnored(Double):
    def cached(self, asked: Asked, salt: str) -> None:  # noqa: ARG002
        super().cached(asked, "")


@defect("users-in-metrics", "The metrics carry the `user` field as a label.", f"{LEAKS}metrics_hold_no_prompt")
class UsersInMetrics(Double):
    seen = "nobody"

    def asked(self, body: Json, *, chat: bool) -> Asked:
        self.seen = str(body.get("user") or self.seen)
        return super().asked(body, chat=chat)

    def metrics(self) -> str:
        return super().metrics() + f'requests_by_user{{user="{self.seen}"}} 1\n'


@defect("prompts-in-errors", "A refusal shows the request of somebody else.", f"{LEAKS}errors_hold_no_prompt")
class PromptsInErrors(Double):
    last = ""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        before, self.last = self.last, str(body)[:2000]
        try:
            return super().asked(body, chat=chat)
        except RefusedError as error:
            raise RefusedError(f"{error.message} in {before}", status=error.status, kind=error.kind) from error


@defect("key-in-answers", "Every answer repeats the key in a header.", f"{LEAKS}answers_carry_no_key", key=True)
class KeyInAnswers(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        found = await super().routed(request, connection)
        if found is None:
            return None
        return Response(status=found.status, body=found.body, headers={**found.headers, "x-authorized-by": self.key})


@defect("key-in-the-log", "The key is written to the log.", f"{LOGS}the_log_holds_no_secret_and_no_prompt", key=True)
class KeyInTheLog(Double):
    def admitted(self, request: Request) -> bool:
        self.log(f"authorization {request.headers.get('authorization')}")
        return super().admitted(request)


@defect("prompts-in-the-log", "Prompts are written to the log.", f"{LOGS}the_log_holds_no_secret_and_no_prompt")
class PromptsInTheLog(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        self.log(f"prompt {tokenizer.decode(asked.prompts[0])!r}")
        return super().generations(asked)


@defect("users-write-the-log", "Line breaks of users reach the log.", f"{LOGS}nobody_writes_lines_into_the_log")
class UsersWriteTheLog(Double):
    def known(self, body: Json) -> None:
        self.log(f"model {body.get('model')}")
        super().known(body)
