"""Bodies of answers and events, in the shapes of vLLM 0.32; each method is a place where a defect can sit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from doubles import tokenizer, toymodel
from doubles.asked import Asked
from doubles.generation import Generation, Piece
from doubles.wire import Response, as_json

Json = dict[str, Any]


class Bodies:
    """What is said about generations."""

    fingerprint = "double-0.32.0"

    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:  # noqa: ARG002 - defects look at it
        """The count of an answer."""
        total = prompt_tokens + completion_tokens
        return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}

    def head(self, asked: Asked, name: str, created: int, kind: str) -> Json:
        """What every body and every chunk begins with."""
        return {"id": name, "object": kind, "created": created, "model": self.model_said(asked)}

    def model_said(self, asked: Asked) -> str:
        """The model's name in the answer."""
        return asked.model or "double"

    def finish_said(self, generation: Generation) -> str:
        """Why it ended."""
        return generation.finish_reason

    def whole(self, asked: Asked, name: str, created: int, answers: Sequence[tuple[Generation, list[Piece]]]) -> Json:
        """An answer in one piece."""
        kind = "chat.completion" if asked.chat else "text_completion"
        prompt_tokens = sum(map(len, asked.prompts))
        completion_tokens = sum(len(generation.tokens) for generation, _ in answers)
        body = self.head(asked, name, created, kind)
        body["choices"] = [self.choice(asked, generation, pieces) for generation, pieces in answers]
        body["usage"] = self.usage(asked, prompt_tokens, completion_tokens)
        body["system_fingerprint"] = self.fingerprint
        if asked.chat:
            body["prompt_token_ids"] = list(answers[0][0].prompt) if asked.token_ids else None
            body["prompt_logprobs"] = self.scores(asked, answers[0][0])
        return body

    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        """One choice of an answer in one piece."""
        choice: Json = {"index": generation.index}
        text = generation.text
        if asked.chat:
            choice["message"] = self.message(asked, text)
            choice["logprobs"] = None if asked.logprobs is None else {"content": [self.entry(piece) for piece in pieces]}
        else:
            choice["text"] = self.echoed(asked, generation) + text
            choice["logprobs"] = self.columns(asked, generation, pieces) if asked.logprobs is not None else None
            choice["prompt_token_ids"] = list(generation.prompt) if asked.token_ids else None
            choice["prompt_logprobs"] = self.scores(asked, generation)
        choice["finish_reason"] = self.finish_said(generation)
        choice["stop_reason"] = generation.stop_reason
        choice["token_ids"] = list(generation.tokens) if asked.token_ids else None
        return choice

    def message(self, asked: Asked, text: str) -> Json:
        """What the assistant says, or which function it calls."""
        if not asked.call:
            return {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
        return {"role": "assistant", "content": "", "tool_calls": [self.call(asked, text)]}

    def call(self, asked: Asked, arguments: str) -> Json:
        """The call of a function."""
        return {"id": "call-1", "type": "function", "function": {"name": asked.call, "arguments": arguments}}

    def echoed(self, asked: Asked, generation: Generation) -> str:
        """The prompt, where it is asked for."""
        return asked.texts[generation.index // asked.n] if asked.echo else ""

    def entry(self, piece: Piece) -> Json:
        """Log probabilities of one token of a chat."""
        return {
            **self.candidate(piece.token, piece.logprob),
            "top_logprobs": [self.candidate(token, value) for token, value in piece.candidates],
        }

    def candidate(self, token: int, logprob: float) -> Json:
        """A token and its log probability."""
        raw = tokenizer.raw(token)
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

    def columns(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        """Log probabilities in the older form: lists side by side."""
        rows: list[tuple[int, float | None, Json | None]] = []
        if asked.echo:
            scores = toymodel.scored(generation.prompt)
            rows += [(token, score, None) for token, score in zip(generation.prompt, scores, strict=True)]
        for piece in pieces:
            top = {tokenizer.decode([token]): value for token, value in piece.candidates}
            rows.append((piece.token, piece.logprob, top))
        texts = [tokenizer.decode([token]) for token, _, _ in rows]
        offsets = [sum(map(len, texts[:at])) for at in range(len(texts))]
        values = [score for _, score, _ in rows]
        return {"text_offset": offsets, "token_logprobs": values, "tokens": texts, "top_logprobs": [top for _, _, top in rows]}

    def next_columns(self, asked: Asked, generation: Generation, pieces: Sequence[Piece], *, first: bool) -> Json:
        """The columns of a chunk: the prompt is in the first one only, and offsets go on where the last chunk ended."""
        found = self.columns(asked if first else replace(asked, echo=False), generation, list(pieces))
        before = 0 if first else len(self.echoed(asked, generation) + generation.text) - sum(len(each.text) for each in pieces)
        return {**found, "text_offset": [before + offset for offset in found["text_offset"]]}

    def scores(self, asked: Asked, generation: Generation) -> list[Json | None] | None:
        """Log probability of each token of the prompt, where they are asked for; the first has none."""
        if asked.prompt_logprobs is None:
            return None
        values = toymodel.scored(generation.prompt)
        return [
            None
            if value is None
            else {str(token): {"logprob": value, "rank": 1, "decoded_token": tokenizer.raw(token).decode(errors="replace")}}
            for token, value in zip(generation.prompt, values, strict=True)
        ]

    def opening(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        """Chunks before the first token: for a chat the role of every choice."""
        if not asked.chat:
            return
        for generation in generations:
            delta = {"role": "assistant", "content": ""}
            chunk = {**head, "choices": [{"index": generation.index, "delta": delta, "logprobs": None, "finish_reason": None}]}
            chunk["prompt_token_ids"] = list(generation.prompt) if asked.token_ids else None
            yield self.counted(asked, chunk, generation, 0)

    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        """Chunks for one or several tokens; the last one of a choice says why it ended."""
        text = "".join(piece.text for piece in pieces)
        choice: Json = {"index": generation.index}
        first = len(generation.tokens) == len(pieces)
        if asked.chat:
            choice["delta"] = self.delta(asked, generation, text, first=first)
            choice["logprobs"] = None if asked.logprobs is None else {"content": [self.entry(piece) for piece in pieces]}
        else:
            choice["text"] = (self.echoed(asked, generation) if first else "") + text
            choice["logprobs"] = None if asked.logprobs is None else self.next_columns(asked, generation, pieces, first=first)
            choice["prompt_token_ids"] = list(generation.prompt) if asked.token_ids and first else None
        choice["finish_reason"] = self.finish_said(generation) or None
        choice["stop_reason"] = generation.stop_reason
        choice["token_ids"] = [piece.token for piece in pieces] if asked.token_ids else None
        yield self.counted(asked, {**head, "choices": [choice]}, generation, len(generation.tokens))

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:  # noqa: ARG002
        """What a chunk of a chat adds; the first piece of a call says which call it is, the others only add arguments."""
        if not asked.call:
            return {"content": text}
        call = self.call(asked, text) if first else {"function": {"arguments": text}}
        return {"tool_calls": [{"index": 0, **call}]}

    def counted(self, asked: Asked, chunk: Json, generation: Generation, tokens: int) -> Json:
        """The chunk with the count so far, where every chunk is to carry it."""
        if asked.continuous_usage:
            chunk["usage"] = self.usage(asked, len(generation.prompt), tokens)
        return chunk

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        """Chunks after the last token: the usage, where it is asked for."""
        if asked.include_usage:
            tokens = sum(len(generation.tokens) for generation in generations)
            yield {**head, "choices": [], "usage": self.usage(asked, sum(map(len, asked.prompts)), tokens)}

    def event(self, chunk: Json | str) -> bytes:
        """A chunk as a server-sent event."""
        data = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
        return f"data: {data}\n\n".encode(errors="replace")

    def end(self) -> bytes:
        """What comes after the last chunk."""
        return self.event("[DONE]")

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        """A refusal in the API's shape."""
        return as_json({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)
