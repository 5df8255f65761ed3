"""Patterns of branches and tags, and where a kustomization may be."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import examples
from vllm_ci.domain import overlay_path, refs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("pattern", "ref", "ok"),
    [
        ("main", "refs/heads/main", True),
        ("main", "refs/tags/main", False),
        ("main", "refs/heads/main2", False),
        ("main", "refs/heads/main\n", False),
        ("main", "refs/remotes/origin/main", False),
        ("refs/heads/main", "refs/heads/main", True),
        ("refs/tags/v*", "refs/tags/v1", True),
        ("refs/tags/v*", "refs/heads/v1", False),
        ("release/*", "refs/heads/release/1", True),
        ("release/*", "refs/heads/release/1/x", False),
        ("release/**", "refs/heads/release/1/x", True),
        ("*", "refs/heads/release/1", False),
        ("**", "refs/heads/release/1", True),
        ("**", "refs/tags/v1", False),
        ("**", "", False),
        ("v?", "refs/heads/v/", False),
        ("v[0-9]", "refs/heads/v1", True),
        ("v[!0-9]", "refs/heads/v1", False),
        ("v[!0-9]x", "refs/heads/v/x", False),
        ("Main", "refs/heads/main", False),
    ],
)
def test_a_pattern_is_of_branches_or_of_tags(pattern: str, ref: str, ok: bool) -> None:
    assert refs.problem(pattern) == ""
    assert refs.matches(ref, pattern) is ok


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        " ",
        "a b",
        "a..b",
        "[",
        "v[]",
        "[z-a]",
        "[a--b]",
        "a/",
        "/a",
        "refs/heads/",
        "refs/pull/*",
        "tag:v*",
        "x.lock",
        "a~1",
    ],
)
def test_a_pattern_that_can_match_nothing_is_named(pattern: str) -> None:
    assert refs.problem(pattern)


@settings(max_examples=examples(2000), deadline=None)
@given(st.text(alphabet="ab/*?[]!-.v0 \\~^:é", max_size=12), st.text(max_size=20))
def test_no_pattern_is_a_fault_and_a_name_matches_itself(pattern: str, ref: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if not refs.problem(pattern):
            refs.matches(ref, pattern)
            if not set(pattern) & set("*?["):
                name = pattern.removeprefix(refs.BRANCHES)
                assert refs.matches(refs.BRANCHES + name, pattern)
                assert not refs.matches(refs.TAGS + name, pattern)


HOSTILE = st.lists(
    st.sampled_from(
        [
            "..",
            ".",
            "",
            "a",
            ".git",
            ".GIT",
            ".git.",
            ".g\u200cit",
            "git~1",
            "records",
            "Records",
            "x.yaml",
            "\\",
            "\0",
            "C:",
            "a ",
            "é",
        ]
    ),
    max_size=6,
).map("/".join)


@settings(max_examples=examples(3000), deadline=None)
@given(st.one_of(HOSTILE, st.text(max_size=30)))
def test_a_path_that_is_taken_stays_in_the_branch_and_out_of_the_records(path: str) -> None:
    try:
        found = overlay_path.normalised(path)
    except ValueError:
        return
    parts = found.split("/")
    assert parts
    assert not {"", ".", ".."} & set(parts)
    assert parts[0].casefold() != "records"
    assert not any(each.casefold().rstrip(". ") == ".git" for each in parts)
    assert not set(found) & set("\0\\:\n")
    assert overlay_path.normalised(found) == found


@pytest.mark.parametrize(
    ("mine", "theirs", "ok"),
    [
        ("a/kustomization.yaml", "b/kustomization.yaml", True),
        ("a/kustomization.yaml", "a/kustomization.yaml", False),
        ("a/kustomization.yaml", "A/Kustomization.yaml", False),
        ("a/kustomization.yaml", "a/Kustomization", False),
        ("a/one.yaml", "a/two.yaml", True),
        ("a", "a/kustomization.yaml", False),
        ("a/b/c", "a/b", False),
        ("caf\u00e9/x", "cafe\u0301/x", False),
    ],
)
def test_two_channels_need_two_places(mine: str, theirs: str, ok: bool) -> None:
    assert (overlay_path.collision("one", {"one": mine, "two": theirs}) is None) is ok
    assert (overlay_path.collision("two", {"one": mine, "two": theirs}) is None) is ok
