"""A model's own chat template and tokenizer, from its folder; without torch and transformers.

The template runs in jinja2's sandbox with what transformers gives it (`transformers.utils.chat_template_utils`): its special
tokens, ``raise_exception``, ``strftime_now``, ``tojson`` that keeps letters, `generation` blocks. The date is that of the row:
the same row is the same text tomorrow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from vllm_ci.datasets.lines import Unusable, digest_of
from vllm_ci.datasets.messages import Conversation, Message
from vllm_ci.domain.errors import UsageError

# Date of rows that have none.
_DATE = datetime(2025, 1, 1, tzinfo=UTC)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LARGEST_FILE = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Text:
    """A conversation as the model reads it.

    Attributes:
        prompt: All up to the answer.
        completion: The answer and what ends it.
        prompt_tokens: Number of tokens of the prompt.
        tokens: Number of tokens of both in one.
    """

    prompt: str
    completion: str
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """Template and tokenizer of a model.

    Attributes:
        digest: Digest of the files that decide how a conversation is written and counted.
        template: The template, or one with and one without tools.
        special: Special tokens by their names in templates.
        control: Special tokens, which must not be in a message.
        count: Number of tokens of a text.
    """

    digest: str
    template: Mapping[str, jinja2.Template]
    special: Mapping[str, str]
    control: tuple[str, ...]
    count: Callable[[str], int]

    def text(self, conversation: Conversation, at: datetime | None) -> Text:
        """Write a conversation, and count its tokens.

        Raises:
            Unusable: The template refuses it, or it holds control tokens of the model.
        """
        self._check(conversation)
        *before, answer = conversation.messages
        whole = self._written([*before, answer], conversation, at)
        prompt = self._written(before, conversation, at, add_generation_prompt=True)
        if not whole.startswith(prompt):  # some begin an answer otherwise than they write it: what both have in common
            prompt = _common(prompt, whole)
            if not prompt.startswith(self._written(before, conversation, at)):
                raise Unusable(reason="template", detail="the template writes the messages otherwise without the answer")
        return Text(
            prompt=prompt,
            completion=whole[len(prompt) :],
            prompt_tokens=self.count(prompt),
            tokens=self.count(whole),
        )

    def _check(self, conversation: Conversation) -> None:
        texts = json.dumps(conversation.to_json(), ensure_ascii=False)
        if found := next((each for each in self.control if each in texts), None):
            raise Unusable(reason="control-token", detail=f"a message contains {found}, a control token of the model")

    def _written(
        self, messages: list[Message], conversation: Conversation, at: datetime | None, *, add_generation_prompt: bool = False
    ) -> str:
        tools = list(conversation.tools) or None
        template = self.template.get("tool_use" if tools else "default") or self.template["default"]
        try:
            return template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                strftime_now=(at or _DATE).strftime,
                **self.special,
            )
        except Unusable:
            raise
        except Exception as error:
            raise Unusable(
                reason="template", detail=f"the template refuses it: {type(error).__name__}: {error}"[:300]
            ) from error


def load(model: Path) -> ChatFormat:
    """Template and tokenizer of the model in a folder.

    Raises:
        UsageError: The folder has no ``tokenizer.json`` or no chat template, or they are not valid.
    """
    config = _config(model / "tokenizer_config.json")
    special = _special(model, config)
    sources = _templates(model, config)
    environment = _environment()
    try:
        template = {name: environment.from_string(text) for name, text in sources.items()}
    except jinja2.TemplateError as error:
        raise UsageError(f"the chat template of {model} is not valid: {error}", remedy="check the model's folder") from error
    count, control = _tokenizer(model / "tokenizer.json")
    decides = [digest_of(model / "tokenizer.json"), sources, special]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return ChatFormat(digest=f"sha256:{digest}", template=template, special=special, control=control, count=count)


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path} is too large", remedy="check the model's folder")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="save or download the tokenizer again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not a JSON object", remedy="save or download the tokenizer again")
    return found


def _special(model: Path, config: Mapping[str, Any]) -> dict[str, str]:
    found = {**_config(model / "special_tokens_map.json"), **config}
    values = {name: found.get(name) for name in _SPECIAL}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _templates(model: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name, in the order in which transformers looks for them."""
    if (path := model / "chat_template.jinja").is_file():
        return {"default": path.read_text(encoding="utf-8")}
    found = _config(model / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list):
        named = {str(each.get("name")): str(each.get("template")) for each in found if isinstance(each, dict)}
        if "default" in named:
            return named
    raise UsageError(
        f"{model} has no chat template",
        why="neither chat_template.jinja nor chat_template in tokenizer_config.json is there: it may be a base model",
        remedy="name a model that was trained to chat, or add the template that it shall learn",
    )


def _tokenizer(path: Path) -> tuple[Callable[[str], int], tuple[str, ...]]:
    if not path.is_file():
        raise UsageError(f"{path.parent} has no tokenizer.json", remedy="name the folder of a model with a fast tokenizer")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            "tokenizers is not installed", why="it counts the tokens of rows", remedy='pip install "vllm-ci[retrain]"'
        ) from error
    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UsageError(f"{path} is not a tokenizer: {error}", remedy="save or download the tokenizer again") from error
    made.no_truncation()
    made.no_padding()
    added = made.get_added_tokens_decoder().values()
    control = tuple(sorted(each.content for each in added if each.special and len(each.content) > 2))
    return lambda text: len(made.encode(text, add_special_tokens=False).ids), control


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    return made


def _to_json(value: Any, **options: Any) -> str:
    kept = {name: options[name] for name in ("indent", "separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=options.get("ensure_ascii", False), **kept)


def _refuse(message: str) -> None:
    raise Unusable(reason="template", detail=f"the template refuses it: {message}"[:300])


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks answers for trainers that ask for it; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        body: list[jinja2.nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _common(one: str, other: str) -> str:
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:at]
