"""How fast the image builder is, beside the bounds it has to keep, and beside other builders where they are installed.

    python benchmarks/build.py --image cuda
    python benchmarks/build.py --image cpu --peers --json out.json

Wheels and packages are fetched first and are not part of any figure. A repository that is vLLM itself is made of the locked
wheel's own files, so that a changed line takes the way of a real commit. Needs room for the image twice, and once more unpacked
(for the comparison with tar).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_ci.images import supply
from vllm_ci.images.compare import difference
from vllm_ci.images.debian.mirrors import sources
from vllm_ci.images.lockfile import read_debs, read_wheels
from vllm_ci.images.spec_file import host_platform, load
from vllm_ci.images.store import Store
from vllm_ci.images.tree import materialise
from vllm_ci.images.vllm import ladder

ROUNDS = 7
SOURCE = "vllm/config/model.py"
ALONE = """
import gzip, hashlib, io, sys, tarfile
from pathlib import Path
source = Path(sys.argv[1]).read_bytes()
import marshal
code = marshal.dumps(compile(source, "x.py", "exec", dont_inherit=True))
output = io.BytesIO()
with tarfile.open(fileobj=output, mode="w") as archive:
    for name, content in (("x.py", source), ("x.pyc", code)):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
packed = gzip.compress(output.getvalue(), 6)
hashlib.sha256(output.getvalue()).hexdigest(), hashlib.sha256(packed).hexdigest()
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure and its bound; an empty bound is for comparison only."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def kept(self) -> str:
        """Whether the bound is kept, in a word."""
        return "" if self.bound is None else ("kept" if self.value <= self.bound else "BROKEN")


class Bench:
    """One run on one image."""

    def __init__(self, image: str, work: Path) -> None:
        self.image, self.work = image, work
        self.spec = load(image)
        self.shared = Store()
        self.rows: list[Row] = []
        self.repository = work / "vllm"
        self.config = self.repository / "vllm-ci.yaml"

    def add(self, name: str, value: float, unit: str, bound: float | None = None) -> None:
        """Keep and print a figure."""
        row = Row(name=name, value=value, unit=unit, bound=bound)
        self.rows.append(row)
        shown = f"<= {bound:,.2f}" if bound is not None else ""
        print(f"{row.name:<58} {row.value:>12,.2f} {row.unit:<3} {shown:<14} {row.kept}", flush=True)

    def prepare(self) -> None:
        """Fetch everything, and make the repository."""
        platform = host_platform()
        wheels = [wheel for wheel in read_wheels(self.spec.wheels_lock, self.spec.platforms) if platform in wheel.platforms]
        debs = [deb for deb in read_debs(self.spec.debs_lock) if deb.architecture == platform.partition("/")[2]]
        supply.fetch_wheels(self.shared, wheels, emit=print)
        supply.fetch_debs(self.shared, debs, sources=lambda: sources(self.spec.base.suite), emit=print)
        self.wheels_bytes = sum(wheel.size_bytes for wheel in wheels)
        from vllm_ci.domain.image_spec import VllmSource

        locked = ladder.locked_wheel(self.spec, VllmSource(), wheels)
        with zipfile.ZipFile(supply.wheel_path(self.shared, locked)) as archive:
            for info in archive.infolist():
                if info.filename.startswith("vllm/") and not info.is_dir() and not info.filename.endswith("_version.py"):
                    content = archive.read(info)
                    if not content.startswith(b"\x7fELF"):
                        target = self.repository / info.filename
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(content)
        (self.repository / "setup.py").write_text("setup()\n", encoding="utf-8")
        self.config.write_text(f"version: 1\nname: bench\nimage:\n  spec: {self.image}\n  vllm: {{}}\n", encoding="utf-8")
        self.git("init", "--quiet")
        self.commit("release")
        self.git("tag", f"v{locked.version}")

    def git(self, *arguments: str) -> str:
        """What git says in the repository."""
        command = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", *arguments]
        return subprocess.run(command, cwd=self.repository, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def change(self) -> None:
        """One line of one file, committed."""
        with (self.repository / SOURCE).open("a", encoding="utf-8") as file:
            file.write(f"# {time.time_ns()}\n")
        self.commit("one line")

    def home(self, name: str, *shared: str) -> Path:
        """A store of its own that shares downloads (and more) with the user's."""
        home = self.work / name
        home.mkdir(parents=True)
        for each in ("wheels", "debs", *shared):
            (self.shared.root / each).mkdir(exist_ok=True)
            (home / each).symlink_to(self.shared.root / each)
        return home

    def build(self, home: Path, *more: str) -> tuple[dict[str, Any], float]:
        """One call of the command line, from outside: what it printed and how long it took."""
        command = [sys.executable, "-m", "vllm_ci", "build", "--json", "--config", str(self.config), *more]
        env = {**os.environ, "VLLM_CI_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
        started = time.perf_counter()
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found, time.perf_counter() - started


def median(run: Callable[[], float]) -> float:
    """Median seconds of several rounds, after one that does not count."""
    run()
    return statistics.median(run() for _ in range(ROUNDS))


def timed(command: list[str], **more: Any) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    return time.perf_counter() - started


def incremental(bench: Bench, home: Path) -> None:
    """Bounds on a small change, and on none."""
    command = [sys.executable, "-c", ALONE, str(bench.repository / SOURCE)]
    alone = median(lambda: timed(command))
    bench.add("one file alone: an interpreter, compile, tar, gzip, hash", alone, "s")
    found: list[dict[str, Any]] = []

    def one_line() -> float:
        bench.change()
        image, seconds = bench.build(home)
        found.append(image)
        return seconds

    seconds = median(one_line)
    bench.add("one line changed, to digest", seconds, "s", 1.0)
    inside = statistics.median(item["seconds"] for item in found)
    bench.add("  of which building (the rest is the start of Python)", inside, "s")
    bench.add("  building, in times of that file alone", inside / alone, "x", 3.0)
    pulled = difference(Store(home), found[-2]["image"]["digest"], found[-1]["image"]["digest"])
    bench.add("  bytes to push", pulled.pulled_bytes / 1e3, "kB", 200.0)

    def runnable() -> float:
        bench.change()
        started = time.perf_counter()
        image, _ = bench.build(home)
        materialise(image["image"]["digest"], store=Store(home))
        return time.perf_counter() - started

    bench.add("one line changed, to a runnable tree", statistics.median(runnable() for _ in range(3)), "s", 4.0)
    bench.add("same commit again", median(lambda: bench.build(home)[1]), "s", 0.5)


def cold(bench: Bench) -> Path:
    """Bounds on a build from nothing but downloads."""
    home = bench.home("cold")
    image, seconds = bench.build(home)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = sum(layer["size_bytes"] for layer in image["layers"])
    bench.add("cold, byte code included", seconds, "s")
    bench.add("  compressed image", size / 1e6, "MB")
    bench.add("  peak memory", peak / 1e6, "MB", 1000.0)
    own = sum(path.lstat().st_blocks * 512 for path in home.rglob("*") if not path.is_symlink())
    bench.add("  disk, wheels apart", own / 1e6, "MB", 2.2 * size / 1e6)
    for name in ("images", "layers", "files", "checked"):
        shutil.rmtree(home / name)
    _, seconds = bench.build(home)
    bench.add("cold, byte code known", seconds, "s")
    os.environ["VLLM_CI_HOME"] = str(home)
    tree = materialise(image["image"]["digest"], store=Store(home))
    shutil.rmtree(home / "bytecode")
    reference = min(timed(["sh", "-c", f"tar -C '{tree}' -cf - . | zstd -q -T0 -3 >'{bench.work}/tar.zst'"]) for _ in range(2))
    (bench.work / "tar.zst").unlink()
    bench.add("  tar | zstd -T0 -3 of the same tree", reference, "s")
    bench.add("  in times of that", seconds / reference, "x", 1.3)
    return home


def peers(bench: Bench, home: Path) -> None:
    """The same change with buildah: a Dockerfile that copies one file over the image and compiles it."""
    if not shutil.which("buildah"):
        print("buildah is not installed")
        return
    image, _ = bench.build(home)
    folder = bench.work / "buildah"
    storage = ["--storage-driver", "overlay", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
    layout = f"oci:{home / 'images'}:{image['image']['reference'].partition('@')[0]}:{image['image']['tags'][0]}"
    started = time.perf_counter()
    base = subprocess.run(
        ["buildah", *storage, "pull", "-q", layout], check=True, capture_output=True, text=True
    ).stdout.strip()
    bench.add("buildah: import the base image once", time.perf_counter() - started, "s")
    target = f"{bench.spec.site_packages}/{SOURCE}"
    compile_it = json.dumps([f"{bench.spec.prefix}/bin/python", "-m", "compileall", "-q", target])
    lines = [f"FROM {base}", "USER 0", f"COPY {SOURCE} {target}", f"RUN {compile_it}", "USER 2000:0"]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def one_line() -> float:
        bench.change()
        command = ["buildah", *storage, "bud", "-q", "--isolation", "chroot", "--pull=never", "--layers=false"]
        started = time.perf_counter()
        subprocess.run(
            [*command, "-t", "bench", "-f", str(folder / "Dockerfile"), str(bench.repository)], check=True, capture_output=True
        )
        subprocess.run(["buildah", *storage, "push", "-q", "bench", f"oci:{folder / 'out'}:x"], check=True, capture_output=True)
        return time.perf_counter() - started

    bench.add("buildah: one line changed, to a layout", one_line(), "s")
    bench.add("buildah: once more", one_line(), "s")


def main() -> int:
    """Run; exit code 1 when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", default="cuda")
    parser.add_argument("--work", type=Path, help="folder for what is built (a temporary one by default)")
    parser.add_argument("--peers", action="store_true", help="also time buildah")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-ci-bench-", dir=options.work) as folder:
        bench = Bench(options.image, Path(folder))
        bench.prepare()
        home = cold(bench)
        incremental(bench, home)
        if options.peers:
            peers(bench, home)
    if options.json:
        options.json.write_text(
            json.dumps([asdict(row) | {"kept": row.kept} for row in bench.rows], indent=1) + "\n", encoding="utf-8"
        )
    return int(any(row.kept == "BROKEN" for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
