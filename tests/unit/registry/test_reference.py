from __future__ import annotations

import pytest

from vllm_ci.registry.errors import ImageNameError
from vllm_ci.registry.reference import Reference, parse, split_name

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost/name", Reference(host="localhost", path="name")),
        ("localhost:5000/a/b_c:v1", Reference(host="localhost:5000", path="a/b_c", tag="v1")),
        (f"r.example.com/a__b-c@{DIGEST}", Reference(host="r.example.com", path="a__b-c", digest=DIGEST)),
        (f"[::1]:5000/name:t@{DIGEST}", Reference(host="[::1]:5000", path="name", tag="t", digest=DIGEST)),
    ],
)
def test_names_are_taken_apart_and_put_together_again(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "team/name",
        "r.example.com/",
        "r.example.com/Upper",
        "r.example.com/a..b",
        "r.example.com/a@sha256:12",
        "r.example.com/a:-t",
    ],
)
def test_what_is_no_full_name_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ImageNameError) as caught:
        parse(text)
    assert caught.value.remedy


def test_a_port_is_no_tag() -> None:
    assert split_name("r.example.com:5000/name") == ("r.example.com:5000/name", "", "")
    assert split_name("oci:/some/folder:tag") == ("oci:/some/folder", "tag", "")
