"""The Debian base: a root file system from locked packages, in the manner of distroless."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image_spec import Base, ImageSpec, User, selected
from vllm_ci.images import conflicts
from vllm_ci.images.debian.deb import DebPackage, unpack
from vllm_ci.images.debian.mirrors import sources
from vllm_ci.images.entries import Entry, Inline, from_folder
from vllm_ci.images.lockfile import LockedDeb
from vllm_ci.images.members import Kind, Member, plain
from vllm_ci.images.shape import Folder, Shape
from vllm_ci.images.store import Store, canonical, disk
from vllm_ci.images.supply import deb_path, fetch_debs
from vllm_ci.images.tree import write

_RECIPE = 1
_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_EMPTY = (
    "dev",
    "etc",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "usr/local/bin",
    "var/cache",
    "var/lib",
    "var/log",
    "var/tmp",
)
_CERTIFICATES = "usr/share/ca-certificates/"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
# Part of a tree's name: bumped when it is unpacked in another way.
_TREE = 2


def key(debs: Iterable[LockedDeb], base: Base) -> str:
    """Name of the unpacked tree of these packages."""
    facts = [_RECIPE, sorted(deb.sha256 for deb in debs), base.exclude, dict(base.links)]
    return hashlib.sha256(canonical(facts)).hexdigest()[:32]


def root(store: Store, debs: tuple[LockedDeb, ...], base: Base, *, emit: Emit) -> Path:
    """The unpacked tree of ``debs``, made when it is not there: an interpreter and a compiler that run on this machine.

    Raises:
        BuildError: A package is not available, or two packages conflict.
    """
    name = f"debian-{key(debs, base)}-{_TREE}"
    target = store.trees / name
    if target.is_dir():
        return target
    with store.lock(name):
        if target.is_dir():
            return target
        fetch_debs(store, debs, sources=lambda: sources(base.suite), emit=emit)
        store.trees.mkdir(parents=True, exist_ok=True)
        unpacking = step(emit, "unpack", f"{len(debs)} Debian packages")
        with unpacking, tempfile.TemporaryDirectory(dir=store.trees, prefix=".part-") as part:
            with disk(target, needed_bytes=6 * sum(deb.size_bytes for deb in debs)):
                _unpack_all(store, debs, base, Path(part))
            (Path(part) / "root").rename(target)
    return target


def _unpack_all(store: Store, debs: tuple[LockedDeb, ...], base: Base, part: Path) -> None:
    """Make ``root`` in the directory ``part``; what is where is worked out before anything is written there."""
    ordered = sorted(debs, key=lambda deb: deb.name)
    # The skeleton, each package, what is installed, the spec's links, certificates.
    folders = [part / str(number) for number in range(len(ordered) + 4)]
    for folder in (part / "root", *folders):
        folder.mkdir()
    with ThreadPoolExecutor(4) as pool:
        packages = list(pool.map(lambda deb, folder: unpack(deb_path(store, deb), folder), ordered, folders[1:]))
    tree = _Tree()
    for deb, package in zip(ordered, packages, strict=True):
        tree.add(deb.name, package)
    tree.put(_installed(ordered, packages), folders[-3])
    tree.exclude(base.exclude)
    tree.link(base.links)
    tree.put(_certificates(tree.shape, folders), folders[-1])
    write(tree.shape, part / "root", folders, inward=False)
    (part / "root").chmod(0o755)


class _Tree:
    """The base's file system, put together as dpkg would do it."""

    def __init__(self) -> None:
        self.shape = Shape()
        self._names = ["the base's own skeleton"]
        folders = (*_MERGED.values(), *_EMPTY)
        links = (Member(Kind.LINK, link, aim) for link, aim in _MERGED.items())
        self.shape.apply([*(Member(Kind.FOLDER, path) for path in folders), *links], name=self._names[0])

    def add(self, name: str, package: DebPackage) -> None:
        """Put a package over those before it; links that are there already lead to where its files go."""
        self._names.append(f"package {name}")
        for member in package.members:
            self._check(member)
        self.shape.apply(package.members, name=self._names[-1], keep_links=True)

    def _check(self, member: Member) -> None:
        node = self.shape.find(member.path)
        kind = Kind.FOLDER if isinstance(node, Folder) else node.member.kind if node else member.kind
        if node is None or (member.kind is Kind.FOLDER) == (kind is Kind.FOLDER):
            return
        if member.kind is Kind.FOLDER and kind is Kind.LINK and self.shape.folder(member.path) is not None:
            return
        own, other = (member.kind, self._names[-1]), (kind, self._names[node.layer])
        conflicts.refuse_kinds(member.path, own, other, error=BuildError)

    def exclude(self, patterns: tuple[str, ...]) -> None:
        """Take out what the spec leaves out: files and links, then directories that are empty."""
        self._exclude(self.shape.root, "", patterns)

    def _exclude(self, folder: Folder, above: str, patterns: tuple[str, ...]) -> None:
        for name, node in list(folder.entries.items()):
            where = f"{above}/{name}"
            if isinstance(node, Folder):
                self._exclude(node, where, patterns)
                if not node.entries and selected(f"{where}/", patterns):
                    del folder.entries[name]
            elif selected(where, patterns):
                del folder.entries[name]

    def link(self, links: Mapping[str, str]) -> None:
        """Make the links of the spec, over files and links of packages."""
        wanted = [(path, Member(Kind.LINK, _plain("base.links", path), aim)) for path, aim in links.items()]
        for path, member in wanted:
            if isinstance(self.shape.find(member.path), Folder):
                raise ConfigError(f"base.links: {path} is a directory of the packages", remedy="name another path")
        self.shape.apply([member for _, member in wanted], name="base.links")

    def put(self, files: Mapping[str, bytes], folder: Path) -> None:
        """Write files of ours, their content into ``folder``."""
        for number, content in enumerate(files.values()):
            (folder / str(number)).write_bytes(content)
        self.shape.apply([Member(Kind.FILE, path) for path in files], name="what is installed")


def _installed(ordered: Iterable[LockedDeb], packages: Iterable[DebPackage]) -> dict[str, bytes]:
    """``/var/lib/dpkg/status.d``, where scanners look for packages in images without dpkg."""
    found = {}
    for deb, package in zip(ordered, packages, strict=True):
        found[f"var/lib/dpkg/status.d/{deb.name}"] = package.control.text.encode()
        if package.control.md5sums:
            found[f"var/lib/dpkg/status.d/{deb.name}.md5sums"] = package.control.md5sums.encode()
    return found


def _certificates(shape: Shape, folders: list[Path]) -> dict[str, bytes]:
    """What ``update-ca-certificates`` makes: one file with all authorities."""
    found = sorted((path, leaf) for path, leaf in shape.files() if path.startswith(_CERTIFICATES) and path.endswith(".crt"))
    contents = [(folders[leaf.source] / str(leaf.number)).read_bytes() for _, leaf in found]
    return {_BUNDLE: b"".join(content.rstrip(b"\n") + b"\n" for content in contents)} if found else {}


def entries(tree: Path) -> Iterator[Entry]:
    """The base's layer, without byte code, from its unpacked tree."""
    yield from from_folder(tree)
    yield Entry(path="tmp", mode=0o1777, folder=True)


def settings(spec: ImageSpec) -> list[Entry]:
    """What the spec adds to a base: its user, its writable folders, and the environment's skeleton.

    Raises:
        ConfigError: Two of them claim one path.
    """
    asked = list(_asked(spec))
    taken = {entry.path: "vllm-ci itself" for entry in (*_accounts(spec), *_skeleton(spec))}
    for key, path, entry in asked:
        if (before := taken.setdefault(entry.path, key)) != key:
            raise ConfigError(f"{key}: {path} is also a path of {before}", remedy=f"remove {path} from {key}")
    found = [*_accounts(spec), *(entry for _, _, entry in asked), *_skeleton(spec)]
    whose = conflicts.owners(names(spec))
    conflicts.check_one([(entry, whose(entry.path)) for entry in found], error=ConfigError)
    return found


def names(spec: ImageSpec) -> list[tuple[str, str]]:
    """Paths of the spec's layer, each with the key of the spec that it comes from."""
    return [
        ("", "the environment"),
        (spec.prefix, f"prefix {spec.prefix}"),
        *((path, f"{key}: {path}") for key, path, _ in _asked(spec)),
    ]


def _asked(spec: ImageSpec) -> Iterator[tuple[str, str, Entry]]:
    for folder in spec.writable:
        yield "writable", folder, Entry(path=_plain("writable", folder), mode=0o775, folder=True)
    for link, aim in spec.links.items():
        yield "links", link, Entry(path=_plain("links", link), mode=0o777, link=aim)


def _plain(key: str, path: str) -> str:
    try:
        found = plain(path)
    except ValueError as error:
        raise ConfigError(f"{key}: {path} {error}", remedy="name an absolute path in the image") from error
    if not found or not path.startswith("/"):
        raise ConfigError(f"{key}: {path} is not an absolute path in the image", remedy="start it with a slash")
    return found


def _accounts(spec: ImageSpec) -> Iterator[Entry]:
    if not spec.base.image:
        user = spec.user
        yield Entry(path="etc/passwd", content=Inline(_passwd(user)))
        yield Entry(path="etc/group", content=Inline(_group(user)))
        yield Entry(path="etc/nsswitch.conf", content=Inline(b"passwd: files\ngroup: files\nhosts: files dns\n"))


def _skeleton(spec: ImageSpec) -> Iterator[Entry]:
    prefix = spec.prefix.strip("/")
    up = "/".join([".."] * (len(prefix.split("/")) + 1))
    configuration = (
        f"home = {spec.interpreter.rpartition('/')[0]}",
        "include-system-site-packages = false",
        f"version = {spec.python}",
        f"executable = {spec.interpreter}",
        "",
    )
    yield Entry(path=f"{prefix}/pyvenv.cfg", content=Inline("\n".join(configuration).encode()))
    yield Entry(path=f"{prefix}/bin/python{spec.python}", mode=0o777, link=f"{up}{spec.interpreter}")
    yield Entry(path=f"{prefix}/bin/python", mode=0o777, link=f"python{spec.python}")
    yield Entry(path=f"{prefix}/bin/python3", mode=0o777, link=f"python{spec.python}")


def _passwd(user: User) -> bytes:
    rows = ["root:x:0:0:root:/root:/usr/sbin/nologin", "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"]
    rows.append(f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:{user.home}:/usr/sbin/nologin")
    return ("\n".join(rows) + "\n").encode()


def _group(user: User) -> bytes:
    rows = {"root": 0, "nogroup": 65534}
    if user.gid not in rows.values():
        rows[user.name] = user.gid
    return "".join(f"{name}:x:{gid}:\n" for name, gid in rows.items()).encode()
