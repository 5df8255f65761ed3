"""Text of users has no effect on the template, the tokenizer, the log or the file system."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from vllm_ci.suites.client import ApiClient, shown, system, user
from vllm_ci.suites.findings import Finding
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


_PLACES = {
    "file": "file:///etc/passwd",
    "path": "/etc/passwd",
    "loopback": "http://127.0.0.1:9/x.png",
    "link-local": "http://169.254.169.254/latest/meta-data/",
    "other-scheme": "gopher://127.0.0.1:9/_x",
}


@pytest.mark.requires_capability("chat")
@pytest.mark.parametrize("place", _PLACES)
def test_media_urls_open_nothing_inside(client: ApiClient, server: ServerFacts, judge: Judge, place: str) -> None:
    """The server must not fetch URLs from its own disk or network; a server without image support refuses."""
    picture = {"type": "image_url", "image_url": {"url": _PLACES[place]}}
    body = {"model": server.model, "messages": [{"role": "user", "content": [picture]}], "max_tokens": 1}
    answer = client.post("/v1/chat/completions", body)
    found = []
    if answer.status_code == 200:
        message = f"fetches {_PLACES[place]} for a user; start it with --allowed-media-domains"
        found.append(Finding(id=f"media-url:{place}", severity="high", message=message))
    if "root:" in answer.text:
        message = "returns the content of a file on the server"
        found.append(Finding(id=f"media-content:{place}", severity="critical", message=message))
    judge(found)


@pytest.mark.requires_capability("chat")
@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "tiny/../../x", "a\r\nx: y"])
def test_a_model_name_is_no_path(client: ApiClient, name: str) -> None:
    """Model names are looked up in a list, not on disk."""
    answer = client.post("/v1/chat/completions", {"model": name, "messages": [user("x")], "max_tokens": 1})
    assert answer.status_code in (400, 404), shown(answer)
    assert "root:" not in answer.text, "the response contains a file of the server"
    assert "x" not in answer.headers, "a line break in a model name created a response header"


def _times(client: ApiClient, token: int) -> int:
    """How often a token occurs in a rendered message without markers."""
    return client.tokens([user("hello")]).count(token)
