"""Secrets and personal data in texts, replaced by what they are: ``[EMAIL]``, ``[SECRET]``.

Libraries decide: detect-secrets (the form of secrets), phonenumbers, python-stdnum (check digits of cards and accounts). None
asks a service: of detect-secrets only the patterns are used, never its verification.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from vllm_ci.datasets.lines import Unusable
from vllm_ci.datasets.messages import Conversation
from vllm_ci.domain.errors import UsageError

Span = tuple[int, int, str]
_EMAIL = re.compile(r"[\w.!#$%&'*+=?^`{|}~-]{1,64}(?:@|[(\[]at[)\]])[\w-]{1,63}(?:\.[\w-]{1,63})*\.[^\W\d_]{2,24}(?![\w-])")
# phonenumbers decides, and is slow: it is asked where there are seven digits.
_PHONE = re.compile(r"\d(?:[\s().\-/\u2010-\u2015]{0,3}\d){6}")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}\b")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?!\w|\.\d|:[0-9A-Fa-f]*:)")
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|\Z)", re.DOTALL
)
# `password: x`, `API_KEY=x`: the value after the name of a secret, quoted or not; `password is x1` if it has a digit.
_NAMED = re.compile(
    r"(?i)(?<![a-z])(?:password|passwd|passphrase|passwort|kennwort|mot de passe|contraseña|pwd|secret|token|bearer"
    r"|(?:api|access|auth|private)[_-]?key)[\"'`]?"
    r"(?:\s{0,3}(?:=>|[:=])\s{0,3}|(?:\s{1,3}(?:is|ist|est|es):?)?\s{1,3}(?=[\"'`]?[^\s\d]{0,64}\d))"
    r"[\"'`]?(?P<value>[^\s\"'`,;]{6,256})"
)
# The password of an address, with or without a user.
_IN_ADDRESS = re.compile(r"://[^\s/@:]{0,64}:(?P<value>[^\s/@]{3,256})@")
# Tokens of services that detect-secrets 1.5 does not know.
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AIza[\w-]{35}|glpat-[\w-]{20,}|github_pat_\w{22,}|xox[a-z]-[\w-]{10,}"
    r"|npm_[A-Za-z0-9]{36}|dop_v1_[a-f0-9]{64}|ya29\.[\w-]{20,})"
)
# The patterns take time that grows with the square of what they can match.
_LONGEST_WORD = 2048
_SHORT = 64
_UNBROKEN = re.compile(rf"[!-~]{{{_LONGEST_WORD + 1}}}")
_WORD = re.compile(r"[A-Za-z0-9+/_=-]{32,}")


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A text without secrets and personal data, and how many of each kind there were."""

    text: str
    found: Counter[str]


def mask(text: str, regions: tuple[str, ...] = ("US",), name: str = "") -> Masked:
    """Replace secrets and personal data in ``text``.

    Args:
        text: Any text.
        regions: Countries (ISO 3166) whose national telephone numbers are found; those with +, everywhere.
        name: What the text is the value of, as in an object: a password is known by it.
    """
    spans = _without_overlaps([*_secrets(text), *_named(name, text), *_personal(text, regions)])
    pieces, at = [], 0
    for start, end, kind in spans:
        pieces += [text[at:start], f"[{kind}]"]
        at = end
    return Masked(text="".join([*pieces, text[at:]]), found=Counter(kind for _, _, kind in spans))


def mask_conversation(conversation: Conversation, regions: tuple[str, ...]) -> tuple[Conversation, Counter[str]]:
    """Mask all texts of a conversation: messages, arguments of calls and their names, descriptions of tools, a rejected answer.

    Raises:
        Unusable: A text is too long to be searched, or two names in an object are the same once they are masked.
    """
    found: Counter[str] = Counter()

    def masked(value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            if _UNBROKEN.search(value):
                raise Unusable(reason="unbroken", detail=f"more than {_LONGEST_WORD} characters without a space")
            made = (_short if len(value) <= _SHORT else mask)(value, regions, name)
            found.update(made.found)
            return made.text
        if isinstance(value, dict):
            whole = {masked(key): masked(each, key) for key, each in value.items()}
            if len(whole) != len(value):
                raise Unusable(reason="repeated-key", detail="an object has one key twice when secrets in keys are masked")
            return whole
        return [masked(each) for each in value] if isinstance(value, list) else value

    rejected = None if conversation.rejected is None else masked(conversation.rejected)
    made = replace(
        conversation,
        messages=tuple(masked(each) for each in conversation.messages),
        tools=tuple(masked(each) for each in conversation.tools),
        rejected=rejected,
    )
    return made, found


@lru_cache(maxsize=4096)
def _short(text: str, regions: tuple[str, ...], name: str) -> Masked:
    """As :func:`mask`, for texts that are in every row: roles, types, names of arguments."""
    return mask(text, regions, name)


def versions() -> dict[str, str]:
    """Versions of the libraries: other versions may find other things.

    Raises:
        UsageError: They are not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {name: version(name) for name in ("detect-secrets", "phonenumberslite", "python-stdnum")}
    except PackageNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed", why="it finds what must be masked", remedy='pip install "vllm-ci[retrain]"'
        ) from error


def check_regions(regions: tuple[str, ...]) -> None:
    """Refuse what is not a country with telephone numbers.

    Raises:
        UsageError: A code is not known.
    """
    import phonenumbers

    for region in regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise UsageError(f"not a country: {region!r}", remedy="write its two letters as in ISO 3166, for example US or DE")


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """Overlapping places become one, of the kind that starts first and is longest."""
    kept: list[Span] = []
    for start, end, kind in sorted(spans, key=lambda each: (each[0], -each[1])):
        if kept and start < kept[-1][1]:
            kept[-1] = (kept[-1][0], max(end, kept[-1][1]), kept[-1][2])
        elif end > start:
            kept.append((start, end, kind))
    return kept


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """The patterns of detect-secrets, but for addresses and the first lines of keys, which are found whole here."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    found: dict[str, Any] = get_mapping_from_secret_type_to_class()
    detectors = sorted(
        (each for each in found.values() if issubclass(each, RegexBasedDetector)), key=lambda each: each.__name__
    )
    ours = ("IPPublicDetector", "PrivateKeyDetector")
    return tuple(pattern for each in sorted(detectors, key=str) if each.__name__ not in ours for pattern in each.denylist)


def _secrets(text: str) -> Iterator[Span]:
    for match in _KEY_BLOCK.finditer(text):
        yield *match.span(), "SECRET"
    for pattern in (_NAMED, _IN_ADDRESS):
        yield from ((*match.span("value"), "SECRET") for match in pattern.finditer(text))
    for pattern in (_TOKENS, *_patterns()):
        for match in pattern.finditer(text):
            # A group is the secret itself: the password of an address, the value of a name. A prefix is no secret.
            group = max(range(pattern.groups + 1), key=lambda each: (each > 0 and len(match[each] or "") > 5, each))
            yield *match.span(group), "SECRET"
    for match in _WORD.finditer(text):
        if _random(match[0]):
            yield *match.span(), "SECRET"


def _named(name: str, text: str) -> Iterator[Span]:
    """The value of a name such as ``password``, found as it would be in ``password: value``."""
    before = f"{name}: "
    for match in _NAMED.finditer(before + text) if name else ():
        start, end = match.span("value")
        if start >= len(before):
            yield start - len(before), end - len(before), "SECRET"


def _random(word: str) -> bool:
    """Whether it looks like a generated key: upper and lower case and digits, much mixed; neither a path nor a hash in hex."""
    kinds = [bool(re.search(kind, word)) for kind in ("[a-z]", "[A-Z]", "[0-9]")]
    changes = len(re.findall(r"[a-z](?=[A-Z0-9])|[A-Z](?=[0-9])|[0-9](?=[A-Za-z])", word))
    return all(kinds) and len(set(word)) >= 16 and changes >= len(word) // 5


def _personal(text: str, regions: tuple[str, ...]) -> Iterator[Span]:
    from stdnum import iban, luhn

    checks: tuple[tuple[re.Pattern[str], str, Callable[[str], bool]], ...] = (
        (_EMAIL, "EMAIL", lambda _: True),
        (_CARD, "CARD", lambda found: luhn.is_valid(re.sub(r"\D", "", found)) and len(set(found)) > 3),
        (_SSN, "ID", lambda _: True),
        (_IP, "IP", _address),
    )
    for pattern, kind, check in checks:
        for match in pattern.finditer(text):
            if check(match[0]):
                yield *match.span(), kind
    for match in _IBAN.finditer(text):
        # Words in capitals after it are not part of it.
        ends = (end for end in range(len(match[0]), 14, -1) if iban.is_valid(match[0][:end].strip()))
        if end := next(ends, 0):
            yield match.start(), match.start() + end, "IBAN"
    yield from _phones(text, regions)


def _address(found: str) -> bool:
    """A public address; those of the machine itself and of private networks say nothing about a person."""
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _phones(text: str, regions: tuple[str, ...]) -> Iterator[Span]:
    if not _PHONE.search(text):
        return
    import phonenumbers

    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            before = len(match.raw_string) - len(match.raw_string.lstrip("["))
            yield match.start + before, match.end, "PHONE"
