from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_ci.cli import servers
from vllm_ci.domain.errors import UsageError

HOLD = (
    "import sys, signal\n"
    "from vllm_ci.cli import servers\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    "with servers.register(sys.argv[1]) as entry:\n"
    "    entry.announce({'url': 'http://127.0.0.1:1', 'model': 'tiny'})\n"
    "    print('held', flush=True)\n"
    "    signal.pause()\n"
)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CI_HOME", str(tmp_path))


def hold(name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.slow
def test_servers_are_listed_while_they_run_and_stopped_by_name() -> None:
    one, two = hold("one"), hold("two")
    assert [(each["name"], each["pid"]) for each in servers.running()] == [("one", one.pid), ("two", two.pid)]
    servers.stop("one")
    end(one)
    assert [each["name"] for each in servers.running()] == ["two"]
    servers.stop("two")
    end(two)
    assert servers.running() == []


@pytest.mark.slow
def test_a_name_in_use_is_refused() -> None:
    process = hold("one")
    with pytest.raises(UsageError, match="server stop one"), servers.register("one"):
        pytest.fail("it was given twice")
    servers.stop("one")
    end(process)


def test_a_killed_server_is_not_listed_and_its_name_is_free(tmp_path: Path) -> None:
    process = hold("one")
    os.kill(process.pid, signal.SIGKILL)
    end(process)
    assert servers.running() == []
    assert not list(tmp_path.glob("servers/*"))
    with servers.register("one"):
        pass


def test_stopping_an_unknown_server_lists_the_running_ones() -> None:
    with pytest.raises(UsageError, match="running servers: none"):
        servers.stop("absent")


@pytest.mark.parametrize("name", ["", "../x", "A", "a" * 80, "-x"])
def test_a_name_is_a_file_name_and_nothing_more(name: str) -> None:
    with pytest.raises(UsageError), servers.register(name):
        pytest.fail("it was taken")


def test_a_key_is_readable_by_its_user_alone_and_gone_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with servers.register("one") as entry:
        path = entry.write_key("SOME_KEY")
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


# Tries to have one name, again and again; whoever has it writes and reads a file that nobody else may touch meanwhile.
CONTEND = """
import sys, time
from pathlib import Path
from vllm_ci.cli import servers
from vllm_ci.domain.errors import UsageError
owner, end, mine = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2]), sys.argv[3]
had = 0
while time.monotonic() < end or not had:
    try:
        with servers.register("one") as entry:
            assert not owner.exists(), "two have it"
            owner.write_text(mine, encoding="utf-8")
            entry.announce({"url": mine})
            assert owner.read_text(encoding="utf-8") == mine
            owner.unlink()
            had += 1
    except UsageError:
        pass
    if mine.endswith("0"):
        for each in servers.running():
            assert each["name"] == "one"
"""


@pytest.mark.slow
def test_fifty_processes_at_once_never_have_one_name_together(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", CONTEND, str(tmp_path / "owner"), "5"]
    processes = [subprocess.Popen([*argv, str(number)]) for number in range(50)]
    assert [process.wait(200) for process in processes] == [0] * 50
    assert servers.running() == []


@pytest.mark.slow
def test_a_server_is_listed_all_the_time_while_it_changes_what_others_may_know() -> None:
    code = (
        "from vllm_ci.cli import servers\n"
        "with servers.register('one') as entry:\n"
        "    print('held', flush=True)\n"
        "    while True: entry.announce({'url': 'http://127.0.0.1:1' + '0' * 2000})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert [len(servers.running()) for _ in range(500)] == [1] * 500
    process.kill()
    end(process)
