from __future__ import annotations

import pytest

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.members import Kind, Member
from vllm_ci.images.shape import Folder, Leaf, Shape

D, F, L, H, W, Q = Kind.FOLDER, Kind.FILE, Kind.LINK, Kind.HARD_LINK, Kind.WHITEOUT, Kind.OPAQUE


def shape(*layers: list[Member]) -> Shape:
    made = Shape()
    for number, members in enumerate(layers):
        made.apply(members, name=str(number))
    return made


def told(made: Shape) -> dict[str, str]:
    """Path to kind, and where it comes from."""
    found: dict[str, str] = {}
    pending: list[tuple[str, Folder | Leaf]] = [("", made.root)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, Folder):
            found[path] = "directory"
            pending += [(f"{path}/{name}".lstrip("/"), inner) for name, inner in node.entries.items()]
        else:
            found[path] = f"{node.source}.{node.number}" if node.member.kind is F else node.member.kind.name.lower()
    del found[""]
    return found


USR = [Member(D, "usr"), Member(D, "usr/lib"), Member(F, "usr/lib/libc"), Member(L, "lib", "usr/lib")]


def test_a_directory_of_a_layer_replaces_a_link_of_a_lower_one() -> None:
    made = shape(USR, [Member(D, "lib"), Member(D, "lib/mine"), Member(F, "lib/mine/x")])
    assert told(made) == {
        "usr": "directory",
        "usr/lib": "directory",
        "usr/lib/libc": "0.2",
        "lib": "directory",
        "lib/mine": "directory",
        "lib/mine/x": "1.2",
    }


def test_a_directory_that_no_member_names_is_found_through_links() -> None:
    made = shape(USR, [Member(F, "lib/mine/x")])
    assert told(made)["usr/lib/mine/x"] == "1.0"
    assert told(made)["lib"] == "link"


def test_an_absolute_link_and_one_that_climbs_too_high_end_at_the_images_own_root() -> None:
    made = shape(
        [Member(L, "a", "/etc"), Member(F, "a/x"), Member(D, "b"), Member(L, "b/up", "../../../../var"), Member(F, "b/up/y")]
    )
    assert told(made) == {
        "a": "link",
        "etc": "directory",
        "etc/x": "0.1",
        "b": "directory",
        "b/up": "link",
        "var": "directory",
        "var/y": "0.4",
    }


def test_a_file_replaces_a_directory_with_all_that_is_below_it_and_a_directory_replaces_a_file() -> None:
    assert told(shape(USR, [Member(F, "usr")])) == {"usr": "1.0", "lib": "link"}
    assert told(shape([Member(F, "a")], [Member(D, "a"), Member(F, "a/b")])) == {"a": "directory", "a/b": "1.1"}


def test_the_same_path_twice_in_one_layer_is_what_came_last() -> None:
    assert told(shape([Member(F, "a"), Member(F, "a")])) == {"a": "0.1"}
    assert told(shape([Member(F, "a"), Member(L, "a", "b"), Member(D, "a"), Member(F, "a/x")])) == {
        "a": "directory",
        "a/x": "0.3",
    }


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_takes_away_what_lower_layers_brought_and_not_what_its_own_brings(order: int) -> None:
    lower = [Member(D, "a"), Member(F, "a/old"), Member(F, "b")]
    upper = [Member(W, "a"), Member(D, "a"), Member(F, "a/new"), Member(W, "b"), Member(W, "never/was")]
    found = told(shape(lower, upper[::order]))
    assert set(found) == {"a", "a/new"}


@pytest.mark.parametrize("order", [1, -1])
def test_an_opaque_mark_empties_a_directory_of_what_lower_layers_brought(order: int) -> None:
    lower = [Member(D, "a"), Member(D, "a/b"), Member(F, "a/b/old"), Member(F, "a/old")]
    upper = [Member(D, "a"), Member(Q, "a"), Member(D, "a/b"), Member(F, "a/b/new")]
    assert set(told(shape(lower, upper[::order]))) == {"a", "a/b", "a/b/new"}


def test_an_opaque_mark_at_the_root_empties_everything() -> None:
    assert told(shape(USR, [Member(F, "x"), Member(Q, "")])) == {"x": "1.0"}


def test_hard_links_share_content_with_files_of_their_own_and_of_lower_layers() -> None:
    made = shape([Member(F, "a"), Member(H, "b", "a")], [Member(H, "c", "b"), Member(F, "a")])
    assert told(made) == {"a": "1.1", "b": "0.0", "c": "0.0"}


@pytest.mark.parametrize(
    "members",
    [
        [Member(H, "a", "missing")],
        [Member(H, "a", "../x")],
        [Member(D, "d"), Member(H, "a", "d")],
        [Member(F, "a"), Member(H, "a", "a")],
        [Member(D, "a"), Member(F, "a/b"), Member(H, "a", "a/b")],
        [Member(L, "a", "b"), Member(L, "b", "a"), Member(W, "a/x")],
        [Member(F, "a"), Member(F, "a/b")],
        [Member(L, "a", "b"), Member(L, "b", "a"), Member(F, "a/x")],
        [Member(L, "a", "a"), Member(D, "a/x")],
    ],
)
def test_what_no_engine_can_unpack_is_refused(members: list[Member]) -> None:
    with pytest.raises(BuildError, match="cannot be unpacked"):
        shape(members)


def test_devices_and_pipes_replace_what_was_there() -> None:
    assert told(shape([Member(F, "a")], [Member(Kind.OTHER, "a")])) == {"a": "other"}


@pytest.mark.parametrize(
    ("folder", "link", "written"),
    [
        ("a/b", "c", "c"),
        ("a/b", "/etc/x", "../../etc/x"),
        ("", "/etc/x", "etc/x"),
        ("a/b", "../../../../etc", "../../etc"),
        ("a/b", "/a/b/c", "c"),
        ("a/b", "/", "../.."),
        ("", "/", "."),
        ("", "..", "."),
        ("a/b", "/up/../../../etc", "../../etc"),
        ("a/b", "../b/../../up/../../x", "../../x"),
        ("a/b", "/loop/../x", "../../x"),
        ("a/b", "//etc//x", "../../etc/x"),
    ],
)
def test_links_are_written_so_that_they_stay_below_the_tree(folder: str, link: str, written: str) -> None:
    made = shape([Member(D, "a"), Member(D, "a/b"), Member(L, "up", "a/b/../.."), Member(L, "loop", "loop")])
    assert made.inward(folder, link) == written


def test_a_path_is_looked_up_without_following_links_and_found_with_them() -> None:
    made = shape(USR)
    assert made.at("lib/libc") is None
    assert isinstance(made.find("lib/libc"), Leaf)
    assert isinstance(made.at("usr/lib"), Folder)
