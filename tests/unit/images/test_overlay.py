"""What overlays take of a commit, with real git: in clean and in dirty work trees, whatever the user's git is told to do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from imagery.world import git
from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.image_spec import Overlay
from vllm_ci.images import overlay
from vllm_ci.images.entries import Entry, read
from vllm_ci.system.vcs import discover

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of a test."""

    root: Path

    def commit(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--allow-empty", "--message", "change")

    def taken(
        self, source: str = "files", target: str = "/opt/x", *, dirty: bool = False, exclude: tuple[str, ...] = ()
    ) -> dict[str, Entry]:
        """Entries of one overlay, by path in the image."""
        commit = replace(discover(self.root), dirty=dirty)
        found = overlay.blobs(self.root, commit, Overlay(source=source, target=target, exclude=exclude))
        return {entry.path: entry for entry in overlay.entries(self.root, commit, found)}

    def contents(self, *, dirty: bool = False, source: str = "files", target: str = "/opt/x") -> dict[str, tuple[int, bytes]]:
        """Modes and contents of one overlay."""
        return {path: (entry.mode, _bytes(entry)) for path, entry in self.taken(source, target, dirty=dirty).items()}

    def both(self, *, source: str = "files", target: str = "/opt/x") -> dict[str, tuple[int, bytes]]:
        """Contents, the same in a clean and in a dirty build."""
        clean = self.contents(source=source, target=target)
        assert self.contents(dirty=True, source=source, target=target) == clean
        return clean


def _bytes(entry: Entry) -> bytes:
    return entry.link.encode() if entry.content is None else read(entry.content)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    found = Repository(root=root)
    found.commit({"files/hello.txt": b"hello\n", "files/sub/deep.txt": b"deep\n", "other/x": b"x"})
    return found


@pytest.mark.parametrize("source", ["files", "./files", "files/", "files/.", ".//files//"])
def test_however_a_directory_is_written_its_content_goes_into_the_target(repository: Repository, source: str) -> None:
    assert set(repository.both(source=source)) == {"opt/x/hello.txt", "opt/x/sub/deep.txt"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "place"), [("/opt/x", "opt/x"), ("/opt/x/", "opt/x/hello.txt"), ("/opt/x.txt", "opt/x.txt"), ("/x", "x")]
)
@pytest.mark.parametrize("source", ["files/hello.txt", "./files/hello.txt", "files//hello.txt"])
def test_one_file_goes_to_a_name_or_into_a_directory(repository: Repository, source: str, target: str, place: str) -> None:
    assert set(repository.both(source=source, target=target)) == {place}


def test_a_dot_is_the_whole_repository(repository: Repository) -> None:
    assert set(repository.both(source=".")) == {"opt/x/files/hello.txt", "opt/x/files/sub/deep.txt", "opt/x/other/x"}


def test_a_directory_with_one_file_is_still_a_directory(repository: Repository) -> None:
    assert set(repository.both(source="other")) == {"opt/x/x"}


@pytest.mark.slow
def test_patterns_signs_in_names_are_just_signs(repository: Repository) -> None:
    repository.commit({"f*/a": b"1", "fx/b": b"2", ":(top)c/d": b"3", "[f]/e": b"4"})
    assert set(repository.both(source="f*")) == {"opt/x/a"}
    assert set(repository.both(source=":(top)c")) == {"opt/x/d"}
    assert set(repository.both(source="[f]")) == {"opt/x/e"}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "near"), [("fils", "files"), ("files/helo.txt", "files/hello.txt"), ("Files/sub", "files")])
@pytest.mark.parametrize("dirty", [False, True])
def test_a_missing_path_names_the_nearest(repository: Repository, source: str, near: str, dirty: bool) -> None:
    with pytest.raises(ConfigError, match=f"overlay {source} is not in") as caught:
        repository.taken(source, dirty=dirty)
    assert near in caught.value.remedy


def test_an_overlay_of_which_nothing_is_left_is_refused(repository: Repository) -> None:
    with pytest.raises(ConfigError, match="leaves nothing"):
        repository.taken("files", exclude=("*",))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("files/.wh.hello.txt", "holds .wh.hello.txt in its name"),
        ("files/.wh..wh..opq", "in its name"),
        ("files/.wh.dir/x", "in its name"),
        ("files/line\nbreak", "control character"),
        ("files/caf\udce9.txt", r"'files/caf\\xe9.txt' is not UTF-8"),
    ],
)
@pytest.mark.parametrize("dirty", [False, True])
def test_names_that_an_image_cannot_hold_are_refused_unless_excluded(
    repository: Repository, name: str, message: str, dirty: bool
) -> None:
    repository.commit({name: b"x"})
    with pytest.raises(ConfigError, match=message):
        repository.taken(dirty=dirty)
    assert "opt/x/hello.txt" in repository.taken(dirty=dirty, exclude=(".wh.*", "line*", "caf*"))


@pytest.mark.slow
def test_names_in_other_scripts_are_taken(repository: Repository) -> None:
    repository.commit({"files/caf\u00e9 \u65e5\u672c.txt": b"x"})
    assert "opt/x/caf\u00e9 \u65e5\u672c.txt" in repository.both()


class TestLfs:
    """Git LFS pointers."""

    DATA = b"weights" * 100

    def pointer(self, repository: Repository, *, attributes: bytes = b"*.bin filter=lfs\n") -> str:
        oid = hashlib.sha256(self.DATA).hexdigest()
        repository.commit({"files/model.bin": POINTER.format(oid, len(self.DATA)).encode()})
        (repository.root / ".gitattributes").write_bytes(attributes)
        git(repository.root, "add", ".gitattributes")
        git(repository.root, "commit", "--quiet", "--message", "attributes")
        return oid

    def store(self, repository: Repository, oid: str, data: bytes) -> Path:
        place = repository.root / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
        place.parent.mkdir(parents=True)
        place.write_bytes(data)
        return place

    @pytest.mark.parametrize("dirty", [False, True])
    @pytest.mark.parametrize("attributes", [b"*.bin filter=lfs\n", b""])
    def test_a_pointer_without_its_file_is_refused_with_the_remedy(
        self, repository: Repository, dirty: bool, attributes: bytes
    ) -> None:
        self.pointer(repository, attributes=attributes)
        with pytest.raises(ConfigError, match=r"files/model\.bin is a Git LFS pointer") as caught:
            repository.taken(dirty=dirty)
        assert "git lfs pull" in caught.value.remedy

    @pytest.mark.parametrize("dirty", [False, True])
    def test_the_file_goes_in_when_it_is_in_the_clone(self, repository: Repository, dirty: bool) -> None:
        self.store(repository, self.pointer(repository), self.DATA)
        assert repository.contents(dirty=dirty)["opt/x/model.bin"] == (0o644, self.DATA)

    def test_a_file_that_is_not_what_the_pointer_says_is_refused(self, repository: Repository) -> None:
        self.store(repository, self.pointer(repository), self.DATA[::-1])
        with pytest.raises(ConfigError, match="is damaged"):
            repository.taken()

    def test_a_secret_in_the_file_is_found(self, repository: Repository) -> None:
        data = b"x" * 2_000_000 + b" AKIA" + b"A" * 16 + b" "
        oid = hashlib.sha256(data).hexdigest()
        repository.commit({"files/model.bin": POINTER.format(oid, len(data)).encode()})
        self.store(repository, oid, data)
        with pytest.raises(UsageError, match="access token"):
            repository.taken()

    @pytest.mark.parametrize(
        "content",
        [
            b"version https://git-lfs.github.com/spec/v1\n",
            b"# version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            b"version https://git-lfs.github.com/spec/v1\r\noid sha256:" + b"0" * 64 + b"\r\nsize 1\r\n",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\nand more text\n",
        ],
    )
    def test_a_file_that_only_looks_like_a_pointer_is_taken_unless_attributes_say_otherwise(
        self, repository: Repository, content: bytes
    ) -> None:
        repository.commit({"files/notes.txt": content})
        assert repository.both()["opt/x/notes.txt"] == (0o644, content)
        (repository.root / ".gitattributes").write_text("*.txt filter=lfs\n")
        if content.startswith(b"version"):
            with pytest.raises(ConfigError, match="is no valid pointer"):
                repository.taken()


@pytest.mark.slow
def test_files_outside_a_sparse_checkout_come_from_the_commit(repository: Repository) -> None:
    git(repository.root, "sparse-checkout", "set", "--no-cone", "/*", "!/files/hello.txt")
    assert not (repository.root / "files/hello.txt").exists()
    (repository.root / "other/x").write_bytes(b"changed")
    assert repository.both() == {"opt/x/hello.txt": (0o644, b"hello\n"), "opt/x/sub/deep.txt": (0o644, b"deep\n")}
    assert repository.contents(dirty=True, source="other")["opt/x/x"] == (0o644, b"changed")


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_files_that_git_takes_as_unchanged_come_from_the_commit(repository: Repository, flag: str) -> None:
    git(repository.root, "update-index", flag, "files/hello.txt")
    (repository.root / "files/hello.txt").write_bytes(b"mine alone\n")
    assert repository.both()["opt/x/hello.txt"] == (0o644, b"hello\n")


@pytest.mark.slow
def test_a_dirty_build_takes_what_is_changed_new_and_gone(repository: Repository) -> None:
    files = repository.root / "files"
    (files / "hello.txt").write_bytes(b"changed\n")
    (files / "new.sh").write_bytes(b"#!/bin/sh\n")
    (files / "new.sh").chmod(0o755)
    (files / "sub/deep.txt").unlink()
    (files / "link").symlink_to("hello.txt")
    assert repository.contents(dirty=True) == {
        "opt/x/hello.txt": (0o644, b"changed\n"),
        "opt/x/new.sh": (0o755, b"#!/bin/sh\n"),
        "opt/x/link": (0o777, b"hello.txt"),
    }
    dirty = repository.contents(dirty=True)
    repository.commit({})
    assert repository.both() == dirty


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attributes", "committed", "name"),
    [
        ("*.txt text eol=crlf\n", b"a\nb\n", "a.txt"),
        ("*.txt ident\n", b"$Id$\n", "a.txt"),
        ("*.txt export-ignore\n", b"x\n", "a.txt"),
        ("*.txt export-subst\n", b"$Format:%H$\n", "a.txt"),
        ("a.txt working-tree-encoding=UTF-16\n", "caf\u00e9\n".encode("utf-16"), "a.txt"),
        ("*.bin -text\n", b"a\r\nb\n", "a.bin"),
        ("*.txt filter=upper\n", b"shout\n", "a.txt"),
    ],
)
@pytest.mark.parametrize("setting", [(), ("core.autocrlf", "true"), ("core.autocrlf", "input"), ("core.eol", "crlf")])
def test_what_git_does_to_files_of_a_checkout_changes_no_image(
    repository: Repository, tmp_path: Path, attributes: str, committed: bytes, name: str, setting: tuple[str, ...]
) -> None:
    upper = ("-c", "filter.upper.clean=tr a-z A-Z", "-c", "filter.upper.smudge=tr A-Z a-z")
    (repository.root / ".gitattributes").write_text(attributes)
    (repository.root / "files" / name).write_bytes(committed)
    git(repository.root, *upper, "add", "--all")
    # `add` converts only the files that look changed by size and time: the others are still as they were committed.
    git(repository.root, *upper, "add", "--renormalize", ".")
    git(repository.root, "commit", "--quiet", "--message", "attributes")
    wanted = repository.contents()
    clone = tmp_path / "clone"
    configured = ("-c", "=".join(setting)) if setting else ()
    git(tmp_path, *configured, *upper, "clone", "--quiet", str(repository.root), str(clone))
    for key, value in (
        *((setting,) if setting else ()),
        ("filter.upper.clean", "tr a-z A-Z"),
        ("filter.upper.smudge", "tr A-Z a-z"),
    ):
        git(clone, "config", key, value)
    assert Repository(root=clone).both() == wanted
    for path in (clone / "files").rglob("*"):
        os.utime(path, (1, 1))  # git can no longer tell by the time that nothing changed
    assert Repository(root=clone).both() == wanted


@pytest.mark.slow
def test_a_changed_file_is_converted_as_git_add_would(repository: Repository) -> None:
    repository.commit({".gitattributes": b"*.txt text eol=crlf\n"})
    (repository.root / "files/hello.txt").write_bytes(b"one\r\ntwo\r\n")
    dirty = repository.contents(dirty=True)
    assert dirty["opt/x/hello.txt"] == (0o644, b"one\ntwo\n")
    repository.commit({})
    assert repository.both() == dirty


@pytest.mark.slow
def test_a_file_mode_that_the_file_system_cannot_keep_is_the_commits(repository: Repository) -> None:
    (repository.root / "files/hello.txt").chmod(0o755)
    repository.commit({})
    git(repository.root, "config", "core.fileMode", "false")
    (repository.root / "files/hello.txt").chmod(0o644)
    (repository.root / "other/x").write_bytes(b"dirty")
    assert repository.both()["opt/x/hello.txt"][0] == 0o755


@pytest.mark.slow
@pytest.mark.parametrize("dirty", [False, True])
def test_a_submodule_is_refused_with_what_to_do(repository: Repository, tmp_path: Path, dirty: bool) -> None:
    other = tmp_path / "library"
    other.mkdir()
    git(other, "init", "--quiet")
    (other / "code.py").write_bytes(b"x = 1\n")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message", "library")
    git(repository.root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "files/library")
    repository.commit({})
    for source in ("files", "files/library", "files/library/code.py"):
        with pytest.raises(ConfigError, match="files/library") as caught:
            repository.taken(source, dirty=dirty)
        assert "copy what you need into this repository" in caught.value.remedy
    assert "opt/x/hello.txt" in repository.taken(dirty=dirty, exclude=("library",))


def test_a_repository_inside_the_work_tree_is_refused(repository: Repository) -> None:
    inner = repository.root / "files/inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    (inner / "x").write_bytes(b"x")
    git(inner, "add", "--all")
    git(inner, "commit", "--quiet", "--message", "x")
    with pytest.raises(ConfigError, match="files/inner is a submodule, or a repository"):
        repository.taken(dirty=True)


@pytest.mark.parametrize("link", ["../other/x", "../../../etc/passwd", "../missing", "sub/../../other"])
@pytest.mark.parametrize("dirty", [False, True])
def test_a_link_that_leaves_its_overlay_for_nothing_is_refused(repository: Repository, link: str, dirty: bool) -> None:
    (repository.root / "files/link").symlink_to(link)
    repository.commit({})
    with pytest.raises(ConfigError, match="leads out of its overlay"):
        repository.taken(dirty=dirty)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["hello.txt", "sub", "sub/../hello.txt", "missing", "/usr/bin/env", "./"])
def test_other_links_are_kept_as_they_are(repository: Repository, link: str) -> None:
    (repository.root / "files/link").symlink_to(link)
    repository.commit({})
    assert repository.both()["opt/x/link"] == (0o777, link.encode())


def test_a_link_to_another_overlay_is_kept(repository: Repository) -> None:
    (repository.root / "files/link").symlink_to("../other/x")
    repository.commit({})
    commit = discover(repository.root)
    found = [
        blob
        for name in ("files", "other")
        for blob in overlay.blobs(repository.root, commit, Overlay(source=name, target=f"/opt/{name}"))
    ]
    assert "opt/files/link" in {entry.path for entry in overlay.entries(repository.root, commit, found)}


def test_a_file_that_changes_meanwhile_is_said(repository: Repository) -> None:
    (repository.root / "files/hello.txt").write_bytes(b"one\n")
    commit = replace(discover(repository.root), dirty=True)
    found = overlay.blobs(repository.root, commit, Overlay(source="files", target="/opt/x"))
    (repository.root / "files/hello.txt").write_bytes(b"two\n")
    with pytest.raises(UsageError, match="was changed while the image was built"):
        overlay.entries(repository.root, commit, found)


@pytest.mark.needs_tool
@pytest.mark.skipif(not shutil.which("git-lfs"), reason="git-lfs is not here")
def test_a_real_clone_with_git_lfs_gives_the_same_image_before_and_after_a_change_elsewhere(
    repository: Repository, tmp_path: Path
) -> None:
    git(repository.root, "lfs", "install", "--local")
    git(repository.root, "lfs", "track", "*.bin")
    repository.commit({"files/model.bin": bytes(range(256)) * 50})
    assert repository.both()["opt/x/model.bin"][1] == bytes(range(256)) * 50
    bare = tmp_path / "clone"
    environment = {**os.environ, "GIT_LFS_SKIP_SMUDGE": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", "clone", "--quiet", str(repository.root), str(bare)], check=True, env=environment)
    with pytest.raises(ConfigError, match="is a Git LFS pointer"):
        Repository(root=bare).taken()
