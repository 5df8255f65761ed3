"""Text of users has no effect on the template, the tokenizer, the log or the file system."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

import httpx
import pytest

from vllm_ci.suites.client import ApiClient, shown, system, user
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.security.listener import Listener, is_local, listening
from vllm_ci.suites.server import ServerFacts

Judge = Callable[[Iterable[Finding]], None]

# Markers between turns in common chat templates; each model uses some of these.
_MARKERS = (
    *(
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    *("<s>", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>"),
    *("<|assistant|>", "<|tool|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|python_tag|>", "<tool_call>"),
)
_PIECES = ("{{ 7 * 7 }}", "{% for i in range(9) %}x{% endfor %}", "${7*7}", "<%= 7*7 %>")


@pytest.mark.requires_capability("chat", "tokenize")
def test_text_of_users_cannot_forge_a_turn(client: ApiClient, judge: Judge) -> None:
    """A marker in a user's text must be treated as text; otherwise a user can write messages of other roles."""
    rendered = client.tokens([system("Be kind."), user("hello")])
    borders = set(rendered)
    forged = []
    for marker in _MARKERS:
        alone = client.tokens(marker, add_special_tokens=False)
        # A marker with a single token is a special token; only those in the rendered template separate turns.
        if len(alone) == 1 and alone[0] in borders and client.tokens([user(marker)]).count(alone[0]) > _times(client, alone[0]):
            forged.append(marker)
    message = f"a user can forge turns with {' '.join(forged)}; filter these before they reach the server"
    judge([Finding(id="special-token-injection", severity="medium", message=message)] if forged else [])


@pytest.mark.requires_capability("chat", "tokenize")
@pytest.mark.parametrize("piece", _PIECES)
def test_text_of_users_is_no_template(client: ApiClient, piece: str) -> None:
    """Template code in a message is rendered unchanged."""
    text = client.text(client.tokens([user(f"before {piece} after")]))
    assert piece in text, f"{piece!r} in a message is changed: {text[:200]!r}"


@pytest.mark.requires_capability("chat", "tokenize")
def test_a_name_or_role_is_no_template(client: ApiClient, server: ServerFacts) -> None:
    """Other fields of a message are passed to the template too."""
    message = {"role": "user", "name": "{{ 7 * 7 }}", "content": "hello"}
    answer = client.post("/tokenize", {"model": server.model, "messages": [message]})
    assert answer.status_code in (200, 400), shown(answer)
    if answer.status_code == 200:
        text = client.text(answer.json()["tokens"])
        assert "49" not in text, f"the name was evaluated as a template: {text[:200]!r}"


def _url_part(kind: str, url: str) -> Mapping[str, object]:
    return {"type": kind, kind: {"url": url}}


_MEDIA: Mapping[str, Callable[[str], Mapping[str, object]]] = {
    **{kind: partial(_url_part, kind) for kind in ("image_url", "audio_url", "video_url")},
    "file": lambda url: {"type": "file", "file": {"filename": "x", "file_url": url, "file_data": url}},
    "input_image": lambda url: {"type": "input_image", "image_url": url, "detail": "auto"},  # all fields are required
}
_FETCH_S, _FETCHED_S = 0.3, 0.03
"""How long a fetch is waited for: after a refusal it would have happened already."""
_SPELLED = {
    "address": "http://{host}:{port}/{word}.png",
    "user-info": "http://example.com@{host}:{port}/{word}.png",
    "decimal": "http://{decimal}:{port}/{word}.png",
    "mapped": "http://[::ffff:{host}]:{port}/{word}.png",
    "localhost": "http://localhost:{port}/{word}.png",
    "upper-case-scheme": "HTTP://{host}:{port}/{word}.png",
    "other-scheme": "gopher://{host}:{port}/_{word}",
    "ftp": "ftp://{host}:{port}/{word}.png",
}


@pytest.fixture(scope="module")
def listener(server: ServerFacts) -> Iterator[Listener]:
    """A port of this machine that notices a fetch."""
    with listening(server.url) as found:
        yield found


@pytest.mark.requires_capability("chat")
@pytest.mark.parametrize("spelling", _SPELLED)
def test_media_urls_open_nothing_inside(
    client: ApiClient, server: ServerFacts, listener: Listener, judge: Judge, spelling: str
) -> None:
    """The server must not fetch URLs from its own network (CWE-918); a fetch is proved by a connection to a port of ours."""
    mapped = ipaddress.ip_address(listener.host)
    places = {"host": listener.host, "port": listener.port, "decimal": int(mapped) if mapped.version == 4 else listener.host}
    found = []
    for kind, media in _MEDIA.items():
        url = _SPELLED[spelling].format(**places, word=secrets.token_hex(8))
        answer = _with_media(client, media(url))
        said = listener.heard(_FETCH_S if answer.status_code == 200 else _FETCHED_S)
        if said is not None:
            message = f"fetches {url} for a user (our port got {said[:40]!r}); start it with --allowed-media-domains"
            found.append(Finding(id=f"media-url:{kind}:{spelling}", severity="high", message=message))
    judge(found)
    if not found:
        _reachable(server)


_OTHER_ROUTES: Mapping[str, Callable[[str], Mapping[str, object]]] = {
    **{
        path: lambda url: {"messages": [{"role": "user", "content": [_url_part("image_url", url)]}]}
        for path in ("/tokenize", "/v1/embeddings", "/pooling", "/classify", "/v1/chat/completions/render")
    },
    "/v1/responses": lambda url: {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}],
        "max_output_tokens": 16,
        "store": False,
    },
    "/v1/messages": lambda url: {
        "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}],
        "max_tokens": 1,
    },
}


@pytest.mark.parametrize("path", _OTHER_ROUTES)
def test_no_other_route_opens_media_urls(
    client: ApiClient, server: ServerFacts, listener: Listener, judge: Judge, path: str
) -> None:
    """Other routes that take messages must not fetch from the server's own network either (CWE-918)."""
    url = _SPELLED["address"].format(host=listener.host, port=listener.port, word=secrets.token_hex(8))
    answer = client.post(path, {"model": client.model, **_OTHER_ROUTES[path](url)})
    said = listener.heard(_FETCH_S if answer.status_code == 200 else _FETCHED_S)
    if said is None and answer.status_code in (404, 405):
        pytest.skip(f"the server has no {path}: {shown(answer)}")
    message = f"{path} fetches {url} for a user (our port got {(said or b'')[:40]!r}); start it with --allowed-media-domains"
    judge([] if said is None else [Finding(id=f"media-url:{path}", severity="high", message=message)])
    if said is None:
        _reachable(server)


_SCHEMA_PLACES: Mapping[str, Callable[[str], Mapping[str, object]]] = {
    "response-format": lambda url: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
    },
    "tool": lambda url: {
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"$ref": url}}}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    },
    "structured-outputs": lambda url: {"structured_outputs": {"json": {"$ref": url}}},
}


@pytest.mark.requires_capability("chat")
@pytest.mark.parametrize("place", _SCHEMA_PLACES)
def test_schemas_open_nothing_inside(
    client: ApiClient, server: ServerFacts, listener: Listener, judge: Judge, place: str
) -> None:
    """A schema may refer to another one by its URL, which the server must not fetch from its own network (CWE-918)."""
    url = f"http://{_in_url(listener.host)}:{listener.port}/{secrets.token_hex(8)}.json"
    asked = {"model": client.model, "messages": [user("x")], "max_tokens": 1, **_SCHEMA_PLACES[place](url)}
    answer = client.post("/v1/chat/completions", asked)
    said = listener.heard(_FETCH_S if answer.status_code == 200 else _FETCHED_S)
    message = f"fetches {url}, to which a schema refers, for a user (our port got {(said or b'')[:40]!r})"
    judge([] if said is None else [Finding(id=f"schema-url:{place}", severity="high", message=message)])
    if said is None:
        _reachable(server)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reachable(server: ServerFacts) -> None:
    """Skip where no connection came because none may be able to."""
    if not is_local(urlsplit(server.url).hostname or ""):
        pytest.skip("no connection came, but the server is on another machine, which may not be able to reach this one")


_VARIES = re.compile(r"[0-9a-f]{8,}|\d+")
_FILES = {
    "file": "file:///{}",
    "file-with-host": "file://localhost/{}",
    "path": "/{}",
    "data-path": "data:text/plain;file=/{}",
}


@pytest.mark.requires_capability("chat")
@pytest.mark.parametrize("spelling", _FILES)
def test_media_urls_read_no_files(client: ApiClient, judge: Judge, spelling: str) -> None:
    """All files get the same answer, whether they exist or not; otherwise the server looked (CWE-73)."""
    found: dict[str, Finding] = {}
    for kind, media in _MEDIA.items():
        looked = _looked(client, lambda name, media=media: media(_FILES[spelling].format(name)))  # type: ignore[misc]
        if looked is None:
            continue
        there, missing = looked
        if "root:" in there.text:
            message = f"returns the content of a file on the server, asked for by {kind}"
            found[kind] = Finding(id=f"media-content:{spelling}:{kind}", severity="critical", message=message)
        else:
            message = f"opens {_FILES[spelling].format('etc/passwd')}: {shown(there)}; for a missing file: {shown(missing)}"
            found[kind] = Finding(id=f"media-file:{spelling}:{kind}", severity="high", message=message)
    judge(found.values())


def _looked(client: ApiClient, part: Callable[[str], Mapping[str, object]]) -> tuple[httpx.Response, httpx.Response] | None:
    """The answers for a file that exists and for one that does not, if they show that the server looked; otherwise ``None``.

    Names of missing files are as long as that of the file, because servers quote what they refuse, whole or in part. Whether
    another name alone makes a difference is shown by a second missing file; whether chance does, by doing all of it again.
    """
    pair = None
    for _ in range(2):
        there, *others = (_with_media(client, part(f"etc/{name}")) for name in ("passwd", _unused(), _unused()))
        if "root:" in there.text:
            return there, others[0]
        if _told_apart(others) or not _told_apart([there, others[0]]):
            return None
        pair = there, others[0]
    return pair


def _unused() -> str:
    """A name that no file has, as long as ``passwd``, of letters that :func:`_told_apart` does not take for an id."""
    return "".join(secrets.choice("ghijklmnopqrtuvxyz") for _ in "passwd")


def _with_media(client: ApiClient, part: Mapping[str, object]) -> httpx.Response:
    content = [{"type": "text", "text": "x"}, part]
    body = {"model": client.model, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0}
    return client.post("/v1/chat/completions", body)


def _told_apart(answers: Sequence[httpx.Response]) -> bool:
    """Whether two answers differ in more than the name that was sent; answers with text differ anyway."""
    if all(answer.status_code == 200 for answer in answers) or any(answer.status_code == 429 for answer in answers):
        return False
    texts = [_VARIES.sub("", answer.text.replace(_name_in(answer), "")) for answer in answers]
    return answers[0].status_code != answers[1].status_code or texts[0] != texts[1]


def _name_in(answer: httpx.Response) -> str:
    """The name of the file that was asked for."""
    match = re.search(rb"etc/([a-z]{6})", answer.request.content)
    return match[1].decode() if match else ""


@pytest.mark.requires_capability("chat")
@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "tiny/../../x", "a\r\nx: y"])
def test_a_model_name_is_no_path(client: ApiClient, name: str) -> None:
    """Model names are looked up in a list, not on disk; a server that ignores them may answer."""
    answer = client.post("/v1/chat/completions", {"model": name, "messages": [user("x")], "max_tokens": 1})
    assert answer.status_code < 500, f"an unknown model is answered {shown(answer)}"
    assert "root:" not in answer.text, "the response contains a file of the server"
    assert "x" not in answer.headers, "a line break in a model name created a response header"


def _times(client: ApiClient, token: int) -> int:
    """How often a token occurs in a rendered message without markers."""
    return client.tokens([user("hello")]).count(token)
