"""Hypothesis strategies for layers: ordinary ones that tools agree on, and hostile ones that try to leave the tree."""

from __future__ import annotations

import tarfile

from hypothesis import strategies as st

from imagery.layers import Item, file, folder, hard, link, tar

# Few names, so that layers meet: the same path as a file here and a directory there is the point.
NAMES = ("a", "b", "c", "d-e", "é")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
contents = st.binary(max_size=6)
targets = st.one_of(
    paths,
    paths.map(lambda path: f"/{path}"),
    paths.map(lambda path: f"../{path}"),
    st.sampled_from(["..", ".", "/", "../../../a"]),
)


def _whiteout(path: str) -> Item:
    above, _, name = path.rpartition("/")
    return file(f"{above}/.wh.{name}".lstrip("/"), b"")


files = st.builds(file, paths, contents, st.sampled_from([0o644, 0o755, 0o4755]))
folders = st.builds(folder, paths)
links = st.builds(link, paths, targets)
hards = st.builds(hard, paths, paths)
whiteouts = paths.map(_whiteout)
opaques = paths.map(lambda path: file(f"{path}/.wh..wh..opq", b""))
items = st.one_of(files, files, folders, folders, links, hards, whiteouts, opaques)
formats = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])


def _sorted(found: list[Item]) -> list[Item]:
    """Whiteouts first, as tools write them: what comes after them in one layer is not theirs to take away."""
    return sorted(found, key=lambda item: ".wh." not in item.name)


@st.composite
def _layer(draw: st.DrawFn, known: dict[str, str]) -> list[Item]:
    """A layer whose members mostly lie in directories that are there; ``known`` is path to kind, and is kept up to date."""
    found: list[Item] = []
    for kind in draw(st.lists(st.sampled_from(KINDS), max_size=16)):
        above = draw(st.sampled_from(["", *sorted(path for path, what in known.items() if what != "file")]))
        path = f"{above}/{draw(st.sampled_from(NAMES))}".lstrip("/") if above.count("/") < 4 else above
        if draw(st.integers(0, 29)) == 0:
            path = draw(paths)
        regular = sorted(name for name, what in known.items() if what == "file")
        if kind == "hard" and regular:
            found.append(hard(path, draw(st.sampled_from(regular))))
        elif kind == "link":
            found.append(link(path, draw(targets)))
        elif kind == "folder":
            found.append(folder(path))
        elif kind in {"whiteout", "opaque"}:
            found.append(_whiteout(path) if kind == "whiteout" else file(f"{path}/.wh..wh..opq", b""))
        else:
            found.append(file(path, draw(contents), draw(st.sampled_from([0o644, 0o755, 0o4755]))))
        for gone in [name for name in known if name == path or (name.startswith(f"{path}/") and kind != "folder")]:
            del known[gone]
        if kind not in {"whiteout", "opaque"}:
            known[path] = kind if kind in {"folder", "link"} else "file"
    return _sorted(found)


KINDS = ("file", "file", "file", "folder", "folder", "link", "hard", "whiteout", "opaque")


def written(found: list[Item], form: int) -> bytes:
    """A layer's tar; PAX where old formats cannot say it."""
    try:
        return tar(found, form=form)
    except ValueError:
        return tar(found)


@st.composite
def changesets(draw: st.DrawFn) -> list[tuple[list[Item], int]]:
    """Several layers, each with the format of its tar; see :func:`written`."""
    known: dict[str, str] = {}
    return [(draw(_layer(known)), draw(formats)) for _ in range(draw(st.integers(1, 5)))]


MALFORMED = (*("..", "../x", "a/../../x", "/../x", ".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.a/b", "a" * 256, "a/" * 2100),)
ODD = (
    *("/etc/x", "//a", "./a", "a//b", "a/./b", ".", "./", "/", ".wh..wh..opq", ".wh..wh.plnk", ".wh..wh.plnk/1", "a" * 255),
    *("a\nb", "a\\b", "\udcff", "a\udcfe/b", "-", " "),
)
SNEAKY = ("esc", "esc/evil", "esc/d/evil", "esc/d", "up", "up/evil", "esc/esc/evil", "a/esc", "a/esc/evil", "esc/.wh.secret")
hostile_names = st.one_of(
    paths, *[st.sampled_from(SNEAKY)] * 4, st.sampled_from(ODD), st.integers(0, 9).flatmap(
        lambda dice: st.sampled_from(MALFORMED if dice == 0 else SNEAKY)
    )
)  # fmt: skip


def hostile(outside: str) -> st.SearchStrategy[list[list[Item]]]:
    """Layers that try to reach the directory ``outside`` of this machine."""
    away = st.sampled_from(
        [outside, f"{outside}/d", "../" * 12 + outside.lstrip("/"), "/", "..", "/proc/self/root", "a", "b", "esc"]
    )
    links = st.builds(link, hostile_names, st.one_of(away, targets))
    hards = st.builds(hard, hostile_names, st.one_of(hostile_names, away, away.map(lambda path: f"{path}/secret")))
    others = st.builds(lambda name, kind: Item(name=name, kind=kind), hostile_names, st.sampled_from(["device", "pipe"]))
    names = st.one_of(hostile_names, st.sampled_from([f"{outside}/evil", "../" * 12 + f"{outside.lstrip('/')}/evil"]))
    one = st.one_of(st.builds(file, names, contents), st.builds(folder, names), links, links, hards, others, items)
    return st.lists(st.lists(one, max_size=12), min_size=1, max_size=4)
