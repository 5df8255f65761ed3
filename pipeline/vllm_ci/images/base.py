"""The Debian base: a root file system from locked packages, in the manner of distroless."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vllm_ci.domain.spec import Base, ImageSpec, User, selected
from vllm_ci.images.deb import Control, unpack
from vllm_ci.images.entries import Entry, Inline, from_folder
from vllm_ci.images.locks import LockedDeb
from vllm_ci.images.mirrors import sources
from vllm_ci.images.store import Store, canonical, disk
from vllm_ci.images.supply import deb_path, fetch_debs

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
_CERTIFICATES = "usr/share/ca-certificates"


def key(debs: Iterable[LockedDeb], base: Base) -> str:
    """Name of the unpacked tree of these packages."""
    facts = [_RECIPE, sorted(deb.sha256 for deb in debs), base.exclude, dict(base.links)]
    return hashlib.sha256(canonical(facts)).hexdigest()[:32]


def root(store: Store, debs: tuple[LockedDeb, ...], base: Base, *, progress: Callable[[str], None]) -> Path:
    """The unpacked tree of ``debs``, made when it is not there: an interpreter and a compiler that run on this machine.

    Raises:
        BuildError: A package is to be had nowhere.
    """
    name = f"debian-{key(debs, base)}"
    target = store.trees / name
    if target.is_dir():
        return target
    with store.lock(name):
        if target.is_dir():
            return target
        fetch_debs(store, debs, sources=lambda: sources(base.suite), progress=progress)
        progress(f"unpacking {len(debs)} Debian packages")
        store.trees.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=store.trees, prefix=".part-"))
        try:
            with disk(target, needed_bytes=6 * sum(deb.size_bytes for deb in debs)):
                _unpack_all(store, debs, base, part)
            part.chmod(0o755)
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return target


def _unpack_all(store: Store, debs: tuple[LockedDeb, ...], base: Base, part: Path) -> None:
    for folder in (*_MERGED.values(), *_EMPTY):
        (part / folder).mkdir(parents=True, exist_ok=True)
    for link, folder in _MERGED.items():
        (part / link).symlink_to(folder)
    ordered = sorted(debs, key=lambda deb: deb.name)
    with ThreadPoolExecutor(4) as pool:
        controls = list(pool.map(lambda deb: unpack(deb_path(store, deb), part), ordered))
    for deb, control in zip(ordered, controls, strict=True):
        _say_installed(part, deb, control)
    for path in sorted(part.rglob("*"), reverse=True):
        where = f"/{path.relative_to(part)}"
        if path.is_symlink() or path.is_file():
            if selected(where, base.exclude):
                path.unlink()
        elif selected(f"{where}/", base.exclude) and not any(path.iterdir()):
            path.rmdir()
    for link, aim in base.links.items():
        path = part / link.strip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(aim)
    _certificates(part)


def _say_installed(part: Path, deb: LockedDeb, control: Control) -> None:
    """``/var/lib/dpkg/status.d``, where scanners look for packages in images without dpkg."""
    folder = part / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / deb.name).write_text(control.text, encoding="utf-8")
    if control.md5sums:
        (folder / f"{deb.name}.md5sums").write_text(control.md5sums, encoding="utf-8")


def _certificates(part: Path) -> None:
    """What ``update-ca-certificates`` makes: one file with all authorities."""
    found = sorted((part / _CERTIFICATES).rglob("*.crt"))
    if not found:
        return
    target = part / "etc/ssl/certs/ca-certificates.crt"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(path.read_bytes().rstrip(b"\n") + b"\n" for path in found))


def entries(tree: Path) -> Iterator[Entry]:
    """The base's layer, without byte code, from its unpacked tree."""
    yield from from_folder(tree)
    yield Entry(path="tmp", mode=0o1777, folder=True)


def settings(spec: ImageSpec) -> Iterator[Entry]:
    """What the spec adds to a base: its user, its writable folders, and the environment's skeleton."""
    user = spec.user
    if not spec.base.image:
        yield Entry(path="etc/passwd", content=Inline(_passwd(user)))
        yield Entry(path="etc/group", content=Inline(_group(user)))
        yield Entry(path="etc/nsswitch.conf", content=Inline(b"passwd: files\ngroup: files\nhosts: files dns\n"))
    for folder in spec.writable:
        yield Entry(path=folder.strip("/"), mode=0o775, folder=True)
    for link, aim in spec.links.items():
        yield Entry(path=link.strip("/"), mode=0o777, link=aim)
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
