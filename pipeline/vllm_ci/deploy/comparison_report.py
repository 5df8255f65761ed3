"""What a comparison of answers found, for people and programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median

from vllm_ci.deploy.comparison import Comparison, Pair

_SHOWN = 10


def to_json(found: Comparison) -> dict[str, object]:
    """Plain data."""
    return {
        "pairs": found.pairs,
        "same_status": found.same_status,
        "compared": found.compared,
        "same_finish": found.same_finish,
        "same_text": found.same_text,
        "tokens": found.tokens,
        "agreed": found.agreed,
        "metrics": dict(found.values(1)),
        "latency_ms": {"old": _quantiles(found.old_ms), "new": _quantiles(found.new_ms)},
        "differing": [asdict(each) for each in found.differing],
    }


def lines(found: Comparison) -> list[str]:
    """For the terminal."""
    rows = [f"{name:<24}{value}" for name, value in _rows(found).items()]
    shown = [f"  {each.request_id}  {each.path}  {_difference(each)}" for each in found.differing[-_SHOWN:]]
    return [*rows, *([f"requests whose answers differ (the newest of {len(found.differing)} kept):", *shown] if shown else [])]


def markdown(found: Comparison, title: str) -> str:
    """For a pull request or a CI summary."""
    rows = [f"| {name} | {value} |" for name, value in _rows(found).items()]
    parts = [f"## {title}", "", "| | |", "|---|---|", *rows]
    if found.differing:
        parts += ["", "| request | path | difference |", "|---|---|---|"]
        shown = found.differing[-_SHOWN:]
        parts += [f"| `{_plain(each.request_id)}` | `{_plain(each.path)}` | {_difference(each)} |" for each in shown]
    return "\n".join(parts) + "\n"


def _rows(found: Comparison) -> dict[str, str]:
    old, new = _quantiles(found.old_ms), _quantiles(found.new_ms)
    rows = {
        "pairs of answers": f"{found.pairs}",
        "same status": _share(found.same_status, found.pairs),
        "greedy, both whole": f"{found.compared}",
        "same finish reason": _share(found.same_finish, found.compared),
        "same text": _share(found.same_text, found.compared),
        "same tokens": f"{_share(found.agreed, found.tokens)}, up to the first difference",
    }
    for name in old:
        rows[f"latency {name}"] = f"{old[name]:.0f} ms, copies {new[name]:.0f} ms"
    return rows


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.3g} %)" if whole else "not known"


def _quantiles(values: tuple[float, ...]) -> Mapping[str, float]:
    ordered = sorted(values)
    return {"p50": median(ordered), "p95": ordered[-(-len(ordered) * 95 // 100) - 1]} if ordered else {}


def _difference(pair: Pair) -> str:
    if pair.old.status != pair.new.status:
        return f"status {pair.old.status or 'none'}, copy {pair.new.status or 'none'}"
    if pair.agreed < pair.tokens:
        return f"token {pair.agreed + 1} of {pair.tokens}"
    return f"finish reason {'/'.join(pair.old.finish) or 'none'}, copy {'/'.join(pair.new.finish) or 'none'}"


def _plain(text: str) -> str:
    return text.replace("`", "").replace("|", "")[:100]
