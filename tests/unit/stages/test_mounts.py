from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vllm_ci.stages import mounts


def test_what_is_mounted_is_enough_for_pytest_in_a_bare_python(tmp_path: Path) -> None:
    """As inside an image: this interpreter without its site-packages has nothing but what was gathered."""
    mounts.gather(tmp_path / "tools")
    (tmp_path / "test_one.py").write_text("def test_one(request):\n    assert request.config.option.vllm_report\n")
    command = ["-I", "-S", str(tmp_path / "tools" / "start.py"), "-p", "vllm_ci.suites.inside", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [
            sys.executable,
            *command,
            "-c",
            os.devnull,
            "--rootdir",
            str(tmp_path),
            "--vllm-report",
            str(tmp_path / "out"),
            "test_one.py",
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "cases.json").is_file()
