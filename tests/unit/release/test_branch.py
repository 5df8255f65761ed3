"""The ledger's branch has other files, too: they are not read, and survive; what is in the way is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from registries.ledgers import OVERLAY, propose
from vllm_ci.domain.errors import ConfigError, ErroredError
from vllm_ci.release.ledger import Ledger
from vllm_ci.system.vcs import git

pytestmark = pytest.mark.slow

PERSON = ("-c", "user.name=p", "-c", "user.email=p@example.com")


@pytest.fixture(name="ledger")
def _ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(str(tmp_path / "ledger.git"), sleep=lambda _: None)
    assert ledger.append(propose())[1]
    return ledger


def commit(ledger: Ledger, change: Callable[[Path], object]) -> None:
    """A commit of somebody else on the branch."""
    checkout = Path(ledger.remote).parent / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    git("clone", "--quiet", "--branch", "releases", ledger.remote, str(checkout), cwd=checkout.parent)
    change(checkout)
    git("add", "--all", cwd=checkout)
    git(*PERSON, "commit", "--quiet", "--message", "by hand", cwd=checkout)
    git("push", "--quiet", cwd=checkout)


def tree(ledger: Ledger) -> dict[bytes, bytes]:
    """Mode, kind and id of every file of the branch, by name."""
    rows = git("ls-tree", "-r", "-z", "releases", cwd=Path(ledger.remote)).split(b"\0")
    return {name: facts for facts, _, name in (row.partition(b"\t") for row in rows if row)}


def content(ledger: Ledger, path: str) -> bytes:
    return git("show", f"releases:{path}", cwd=Path(ledger.remote))


def write(path: str | bytes, data: bytes) -> Callable[[Path], None]:
    def change(checkout: Path) -> None:
        name = path if isinstance(path, bytes) else path.encode()
        file = os.fsencode(checkout) + b"/" + name
        os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120 - names that are no text
        with open(file, "wb") as stream:  # noqa: PTH123
            stream.write(data)

    return change


def submodule(checkout: Path) -> None:
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor/module", cwd=checkout)
    (checkout / ".gitmodules").write_text('[submodule "m"]\n path = vendor/module\n url = https://x.example.com/m\n')


def executable(checkout: Path) -> None:
    (checkout / "run.sh").write_text("#!/bin/sh\n")
    (checkout / "run.sh").chmod(0o755)


OTHERS: dict[str, Callable[[Path], object]] = {
    "UTF-16": write("x.json", "{}".encode("utf-16")),
    "Latin-1": write("values.yaml", b"a: caf\xe9\n"),
    "a new line in a name": write("a\nb.yaml", b"a: 1\n"),
    "a tab and quotes in a name": write('a\t"b".json', b"{}"),
    "a name that is not UTF-8": write(b"caf\xe9.yaml", b"a: 1\n"),
    "a README among the records": write("records/README.md", b"hi\n"),
    "a backup of a record": write("records/000001.json.bak", b"\xff"),
    "a record's name in another form": write("records/1.json", b"no record"),
    "a folder among the records": write("records/old/000001.json", b"no record"),
    "a name that is not UTF-8 among the records": write(b"records/\xe9.json", b"\xff"),
    "a kustomization that is not configured": write("deploy/other/kustomization.yaml", b"\xff\xfe"),
    "a symbolic link": lambda checkout: (checkout / "link.yaml").symlink_to("/etc/passwd"),
    "an executable": executable,
    "a submodule": submodule,
    "a large file": write("model.bin", b"\0" * (20 << 20)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_put_there_is_not_read_and_survives(name: str, ledger: Ledger) -> None:
    commit(ledger, OTHERS[name])
    before = tree(ledger)
    assert len(ledger.read([OVERLAY]).records) == 1
    written = ledger.append(propose())[1]
    assert written
    assert written.number == 2
    after = tree(ledger)
    changed = {each for each in {*before, *after} if before.get(each) != after.get(each)}
    assert changed == {b"records/000002.json", OVERLAY.encode()}


def a_folder(place: Path) -> None:
    place.mkdir()
    (place / "x").touch()


def replaced(path: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(checkout: Path) -> None:
        place = checkout / path
        shutil.rmtree(place, ignore_errors=True)
        place.unlink(missing_ok=True)
        make(place)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced("records/000001.json", lambda place: place.symlink_to("x")), "records/000001.json .* is a symbolic link"),
        (replaced("records/000001.json", a_folder), "000001.json .* is a folder"),
        (replaced("records", lambda place: place.write_text("x")), "records in the ledger's branch is a file"),
        (replaced("records", lambda place: place.symlink_to("x")), "records in the ledger's branch is a symbolic link"),
    ],
)
def test_what_stands_where_a_record_should_is_named(change: Callable[[Path], object], words: str, ledger: Ledger) -> None:
    commit(ledger, change)
    before = tree(ledger)
    for ask in (ledger.read, lambda: ledger.append(propose())):
        with pytest.raises(ErroredError, match=words) as caught:
            ask()
        assert caught.value.remedy
    assert tree(ledger) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced(OVERLAY, lambda place: place.symlink_to("../../x.yaml")), "symbolic link"),
        (replaced("deploy", lambda place: place.write_text("x")), "deploy is a file there, not a folder"),
        (replaced("deploy/staging", lambda place: place.symlink_to("../x")), "deploy/staging is a symbolic link"),
        (replaced("deploy/staging", lambda place: a_folder(place.with_name("Staging"))), "differs from staging in case only"),
        (replaced(OVERLAY, lambda place: place.with_name("KUSTOMIZATION.yaml").touch()), "in case only"),
        (write(OVERLAY, b"a: caf\xe9\n"), "not UTF-8"),
        (write("deploy/staging/kustomization.yml", b"kind: Kustomization\n"), "one file per folder"),
        (write("deploy/staging/Kustomization", b"kind: Kustomization\n"), "one file per folder"),
        (replaced(OVERLAY, a_folder), "is a folder there"),
    ],
)  # fmt: skip
def test_a_kustomization_that_cannot_be_written_is_refused_and_nothing_changes(
    change: Callable[[Path], object], words: str, ledger: Ledger
) -> None:
    commit(ledger, change)
    before = tree(ledger)
    assert len(ledger.read().records) == 1, "the history can be read"
    with pytest.raises(ConfigError) as caught:
        ledger.append(propose())
    assert "kustomization" in caught.value.message
    assert words in f"{caught.value.message} {caught.value.why}"
    assert caught.value.remedy
    assert tree(ledger) == before
    assert ledger.append(propose("apps/kustomization.yaml"))[1], "channels with another kustomization go on"


@pytest.mark.parametrize(
    "path",
    ["../../x.yaml", "/abs/x.yaml", "records/000009.json", "Records/x.yaml", ".git/config", "a/.GIT/x", "a\\b", "a\0b", "a/"],
)
def test_the_ledger_itself_refuses_a_path_that_is_not_a_kustomization_s(path: str, ledger: Ledger) -> None:
    before = tree(ledger)
    with pytest.raises(ConfigError, match="cannot be used in the ledger's branch"):
        ledger.append(propose(path))
    assert tree(ledger) == before


@pytest.mark.parametrize("there", ["kustomization.yml", "Kustomization", "kustomization.yaml"])
@pytest.mark.parametrize("configured", ["kustomization.yml", "Kustomization", "kustomization.yaml"])
def test_the_name_that_is_there_is_the_one_that_is_written(there: str, configured: str, ledger: Ledger) -> None:
    text = (
        b"\xef\xbb\xbf# ours\r\nkind: Kustomization\r\nresources: [../base]\r\nimages:\r\n- name: vllm\r\n  newTag: old # pin"
    )
    commit(ledger, write(f"apps/{there}", text))
    assert ledger.append(propose(f"apps/{configured}"))[1]
    assert [name for name in tree(ledger) if name.startswith(b"apps/")] == [f"apps/{there}".encode()]
    assert content(ledger, f"apps/{there}") == text.replace(b"old", b"t2")


def test_an_executable_bit_stays(ledger: Ledger) -> None:
    commit(ledger, lambda checkout: (checkout / OVERLAY).chmod(0o755))
    assert ledger.append(propose())[1]
    assert tree(ledger)[OVERLAY.encode()].startswith(b"100755")


@pytest.mark.parametrize("text", ["# only ours\n", "# only ours", "\n\n", "---\n# x\n...\n"])
def test_a_file_of_comments_keeps_them(text: str, ledger: Ledger) -> None:
    commit(ledger, write("apps/kustomization.yaml", text.encode()))
    if "---" in text:
        with pytest.raises(ConfigError, match="not one YAML mapping"):
            ledger.append(propose("apps/kustomization.yaml"))
        assert content(ledger, "apps/kustomization.yaml") == text.encode()
        return
    assert ledger.append(propose("apps/kustomization.yaml"))[1]
    after = content(ledger, "apps/kustomization.yaml").decode()
    assert after.startswith(text)
    assert yaml.safe_load(after)["images"] == [{"name": "vllm", "newTag": "t2"}]


def test_names_with_spaces_quotes_and_letters_of_all_kinds_are_written_as_they_are(ledger: Ledger) -> None:
    path = 'apps/große "Kunden"/日本/kustomization.yaml'
    assert ledger.append(propose(path))[1]
    assert path.encode() in tree(ledger)


@pytest.mark.needs_tool
@pytest.mark.parametrize("name", ["kustomization.yaml", "kustomization.yml", "Kustomization"])
def test_kustomize_takes_the_names_that_we_take(name: str, tmp_path: Path) -> None:
    if shutil.which("kustomize") is None:
        pytest.skip("kustomize is not on PATH (go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1)")
    (tmp_path / name).write_text("kind: Kustomization\nconfigMapGenerator:\n- name: c\n  literals: [a=b]\n")
    build = ["kustomize", "build", str(tmp_path)]
    assert subprocess.run(build, capture_output=True, check=False).returncode == 0
    other = next(each for each in ("kustomization.yaml", "Kustomization") if each != name)
    (tmp_path / other).write_text("kind: Kustomization\n")
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "Found multiple kustomization files" in done.stderr
