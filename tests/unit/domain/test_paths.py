from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_ci.domain import paths
from vllm_ci.domain.paths import InvalidPath

TEXT = st.text(alphabet="ab./\\ ~:*é\x00\n\udcff", max_size=12)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("files", "files"),
        ("./files", "files"),
        ("files/", "files"),
        ("files/.", "files"),
        (".//a///b/./c/", "a/b/c"),
        ("..files", "..files"),
        ("a/...", "a/..."),
        ("with space", "with space"),
        ("caf\u00e9", "caf\u00e9"),
    ],
)
def test_paths_of_the_repository_have_one_form(text: str, form: str) -> None:
    assert paths.in_repository(text) == form


@pytest.mark.parametrize("text", [".", "./", "./."])
def test_the_whole_repository_is_a_dot_where_it_is_meant(text: str) -> None:
    assert paths.in_repository(text, whole=True) == "."
    with pytest.raises(InvalidPath, match="is the whole directory"):
        paths.in_repository(text)


@pytest.mark.parametrize(
    ("text", "form"), [("/opt/x", "/opt/x"), ("/opt/x/", "/opt/x"), ("//opt/./x//", "/opt/x"), ("/opt/x/.", "/opt/x")]
)
def test_paths_of_the_image_have_one_form(text: str, form: str) -> None:
    assert paths.in_image(text) == form


def test_a_slash_at_the_end_is_kept_where_it_says_something() -> None:
    assert paths.in_image("/opt//x/", directory=True) == "/opt/x/"
    assert paths.in_image("/opt/x/.", directory=True) == "/opt/x/"
    assert paths.in_image("/opt/x", directory=True) == "/opt/x"


@pytest.mark.parametrize(
    ("convert", "text", "why", "remedy"),
    [
        (paths.in_repository, "/serving/x", "is absolute", "relative to the configuration file, e.g. serving/x"),
        (paths.in_repository, "../shared", "contains ..", "without .."),
        (paths.in_repository, "a/../b", "contains ..", "without .."),
        (paths.in_repository, "a\\b", "contains a backslash", "a/b"),
        (paths.in_repository, "a\0b", "control character", "serving/templates"),
        (paths.in_repository, "a\nb", "control character", "serving/templates"),
        (paths.in_repository, "a\udcffb", "is not UTF-8", "serving/templates"),
        (paths.in_repository, "", "is empty", "serving/templates"),
        (paths.in_repository, "  ", "is empty", "serving/templates"),
        (paths.in_image, "opt/x", "is relative", "/opt/opt/x"),
        (paths.in_image, "/opt/../etc", "contains ..", "without .."),
        (paths.in_image, "/", "root directory", "/opt/serving"),
        (paths.in_image, "/opt/.wh.x", "deletes files of lower layers", "another name"),
        (paths.of_machine, "~/models", "only a shell expands", "the full path"),
        (paths.program, "bin/python", "is relative", "absolute path"),
        (paths.program, "..", "contains ..", "absolute path"),
        (paths.program, ".", "is a directory", "absolute path"),
        (paths.pattern, "/tests/*", "is absolute", "relative"),
        (paths.test_path, "../tests::test_a", "contains ..", "without .."),
    ],
)
def test_a_refused_path_says_why_and_the_correct_form(convert: Callable[[str], str], text: str, why: str, remedy: str) -> None:
    with pytest.raises(InvalidPath) as caught:
        convert(text)
    assert why in caught.value.why
    assert remedy in caught.value.remedy
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("convert", "text", "form"),
    [
        (paths.of_machine, "../models//tiny/", "../models/tiny"),
        (paths.of_machine, "/srv/./models/", "/srv/models"),
        (paths.of_machine, "./", "."),
        (paths.program, "python", "python"),
        (paths.program, "/opt//v/bin/python", "/opt/v/bin/python"),
        (paths.pattern, "!./tests/", "!tests/*"),
        (paths.pattern, "*.md", "*.md"),
        (paths.test_path, "./tests/test_a.py::test_x[a/../b]", "tests/test_a.py::test_x[a/../b]"),
        (paths.test_path, ".", "."),
        (paths.root_or_in_image, "//", "/"),
        (paths.link_target, "../gcc", "../gcc"),
    ],
)
def test_other_kinds_of_paths_have_one_form_too(convert: Callable[[str], str], text: str, form: str) -> None:
    assert convert(text) == form


@pytest.mark.parametrize(
    "convert",
    [
        paths.in_repository,
        partial(paths.in_repository, whole=True),
        paths.in_image,
        partial(paths.in_image, directory=True),
        paths.root_or_in_image,
        paths.of_machine,
        paths.program,
        paths.test_path,
    ],
)
@given(text=TEXT)
def test_a_form_is_its_own_form_and_holds_nothing_odd(convert: Callable[[str], str], text: str) -> None:
    form, words = _form(convert, text)
    assert words.isprintable()
    if words:
        return
    assert convert(form) == form
    path = form.partition("::")[0] if convert is paths.test_path else form
    assert "//" not in path
    assert "/./" not in f"/{path}/" or path == "."
    assert convert is paths.of_machine or ".." not in path.split("/")


def _form(convert: Callable[[str], str], text: str) -> tuple[str, str]:
    try:
        return convert(text), ""
    except InvalidPath as error:
        return "", str(error)


def test_whiteouts_are_found_in_any_component() -> None:
    assert paths.whiteout("a/.wh.b/c") == ".wh.b"
    assert not paths.whiteout("a/b.wh.c")
