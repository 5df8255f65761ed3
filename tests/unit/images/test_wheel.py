from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest

from imagery.wheels import ELF, write_wheel
from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.image_spec import Files
from vllm_ci.images.entries import Entry, read
from vllm_ci.images.wheels.wheel import Environment, Wheel, belongs

ENVIRONMENT = Environment(prefix="/opt/vllm", python="3.11")
SITE = "opt/vllm/lib/python3.11/site-packages"


def installed(path: Path, project: str = "thing") -> dict[str, Entry]:
    return {entry.path: entry for entry, _ in Wheel(path, ENVIRONMENT, project=project).files()}


def content(entry: Entry) -> bytes:
    assert entry.content is not None
    return read(entry.content)


def test_each_scheme_goes_to_its_folder(tmp_path: Path) -> None:
    data = "thing-1.data"
    files = {
        "thing/__init__.py": b"",
        f"{data}/purelib/pure.py": b"1",
        f"{data}/platlib/plat.py": b"2",
        f"{data}/scripts/tool": b"#!python\nprint()\n",
        f"{data}/scripts/shell": b"#!/bin/sh\n",
        f"{data}/data/share/thing.txt": b"3",
        f"{data}/headers/thing.h": b"4",
    }
    found = installed(write_wheel(tmp_path, "thing", "1", files))
    assert {f"{SITE}/pure.py", f"{SITE}/plat.py", "opt/vllm/share/thing.txt"} <= set(found)
    assert "opt/vllm/include/site/python3.11/thing/thing.h" in found
    assert content(found["opt/vllm/bin/tool"]) == b"#!/opt/vllm/bin/python\nprint()\n"
    assert content(found["opt/vllm/bin/shell"]) == b"#!/bin/sh\n"
    assert found["opt/vllm/bin/tool"].mode == 0o755


def test_console_scripts_start_the_environments_interpreter(tmp_path: Path) -> None:
    found = installed(write_wheel(tmp_path, "thing", "1", {"thing.py": b""}, scripts=("thing = thing:main",)))
    assert content(found["opt/vllm/bin/thing"]).startswith(b"#!/opt/vllm/bin/python")
    assert b"from thing import main" in content(found["opt/vllm/bin/thing"])


def test_record_lists_what_is_installed_in_order(tmp_path: Path) -> None:
    found = installed(write_wheel(tmp_path, "thing", "1", {"thing.py": b"x", "b.py": b""}, scripts=("thing = thing:main",)))
    rows = list(csv.reader(io.StringIO(content(found[f"{SITE}/thing-1.dist-info/RECORD"]).decode())))
    names = [row[0] for row in rows]
    assert names == sorted(names)
    assert "../../../bin/thing" in names
    assert {name for name in names if not name.startswith("../")} == {
        path.removeprefix(f"{SITE}/") for path in found if path.startswith(SITE)
    }


def test_a_wheel_may_not_write_outside_its_folders(tmp_path: Path) -> None:
    path = write_wheel(tmp_path, "thing", "1", {"thing-1.data/data/../../../etc/passwd": b"x"})
    with pytest.raises(BuildError, match="holds \\.\\."):
        installed(path)


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.whl").write_bytes(b"not a zip")
    with pytest.raises(BuildError, match="is not a zip file"):
        installed(tmp_path / "bad.whl")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("x", b"")
    with pytest.raises(BuildError, match="dist-info"):
        installed(tmp_path / "empty.whl")


def test_machine_code_is_told_by_its_first_bytes_not_by_its_name(tmp_path: Path) -> None:
    found = installed(
        write_wheel(tmp_path, "thing", "1", {"thing/server": ELF, "thing/elf.py": b"x", "thing/lib.so": b"linker script"})
    )
    assert [path.rpartition("/")[2] for path, entry in sorted(found.items()) if belongs(entry, Files.COMPILED)] == [
        "lib.so",
        "server",
    ]
