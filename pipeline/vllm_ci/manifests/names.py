"""Names that Kubernetes takes (Object Names and IDs; Labels and Selectors), and text that it would expand."""

from __future__ import annotations

import re

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_QUALIFIED = re.compile(rf"({_SUBDOMAIN.pattern}/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}")
LONGEST, LONGEST_DEPLOYMENT = 63, 50


def dns_label(value: str) -> str:
    """A name that may stand in a host name.

    Raises:
        ValueError: It may not.
    """
    if len(value) > LONGEST or not LABEL.fullmatch(value):
        raise ValueError(f"{value!r} is no DNS label: at most {LONGEST} of a-z, 0-9 and -, with a letter or digit at both ends")
    return value


def deployment(value: str) -> str:
    """The name of a deployment, which is that of its Service (RFC 1035), and to which controllers and this tool add some.

    Raises:
        ValueError: It cannot be.
    """
    if len(value) > LONGEST_DEPLOYMENT:
        raise ValueError(f"{value} is too long: controllers add to it, and {LONGEST} characters are the limit")
    if not value[:1].isalpha():
        raise ValueError(f"{value} cannot be the name of a Service: it must begin with a letter")
    return dns_label(value)


def subdomain(value: str) -> str:
    """A name of most kinds of objects.

    Raises:
        ValueError: It is none.
    """
    if len(value) > 253 or not _SUBDOMAIN.fullmatch(value):
        raise ValueError(f"{value!r} is no DNS name: labels of a-z, 0-9 and -, separated by dots")
    return value


def hostname(value: str) -> str:
    """A host of a route, whose first label may be ``*``.

    Raises:
        ValueError: It is none.
    """
    subdomain(value.removeprefix("*."))
    return value


def label_value(value: str) -> str:
    """The value of a label.

    Raises:
        ValueError: It is none.
    """
    if len(value) > LONGEST or not _LABEL_VALUE.fullmatch(value):
        raise ValueError(
            f"{value!r} is no value of a label: at most {LONGEST} letters, digits and -_., a letter or digit at both ends"
        )
    return value


def label_name(value: str) -> str:
    """The name of a label or resource, e.g. ``nvidia.com/gpu``.

    Raises:
        ValueError: It is none.
    """
    if len(value.rpartition("/")[2]) > LONGEST or len(value) > 253 or not _QUALIFIED.fullmatch(value):
        raise ValueError(f"{value!r} is no name of a label or resource, e.g. example.com/name")
    return value


def quantity(value: str) -> str:
    """An amount of a resource, e.g. ``500m`` or ``16Gi``.

    Raises:
        ValueError: It is none.
    """
    if not _QUANTITY.fullmatch(value):
        raise ValueError(f"{value!r} is no amount, e.g. 500m, 4 or 16Gi")
    return value


def pinned(value: str) -> str:
    """A reference of an image by digest.

    Raises:
        ValueError: It names none, or is malformed.
    """
    if not _PINNED.fullmatch(value):
        raise ValueError(f"{value!r} is no image by digest: REPOSITORY@sha256:...")
    return value


def literal(value: str) -> str:
    """Text as it is: in arguments and variables Kubernetes replaces ``$(NAME)``, and reads ``$$`` as ``$``."""
    return value.replace("$", "$$")
