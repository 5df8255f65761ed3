"""The request log of the gateway: whole answers of keys that consent, nothing else, and never at the users' expense."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from standin.deployment import Place
from standin.gateway import key_file, served
from vllm_ci.datasets.collecting import collect
from vllm_ci.datasets.record import Source
from vllm_ci.datasets.removing import remove
from vllm_ci.domain.gateway import GatewaySettings
from vllm_ci.targets.local import recorded
from vllm_ci.targets.local.key_changes import Keys
from vllm_ci.targets.local.target import LocalTarget

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]

LOGGED = GatewaySettings(api_keys=True, log_requests=True)
HOSTILE = 'line\nbreak \r\n data: [DONE]\n\n {"consent": false, "key": "team-b"} \u2028 ünï 😀 ' + "x" * 50


class Client:
    """Asks with one key."""

    def __init__(self, address: str, key: str) -> None:
        self.address, self.key = address, key

    async def ask(self, text: str, **more: Any) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
        async with httpx.AsyncClient(timeout=20) as client:
            answer = await client.post(
                f"{self.address}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {self.key}"}
            )
        assert answer.status_code == 200
        return answer.text


def lines(target: LocalTarget) -> list[dict[str, Any]]:
    files = sorted((target.folder / "requests").glob("*/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def dropped(target: LocalTarget) -> dict[str, int]:
    return dict(recorded.state(target.folder).dropped)


async def until(done: Callable[[], object], seconds: float = 15) -> None:
    with anyio.fail_after(seconds):
        while not done():
            await anyio.sleep(0.05)


async def listening(target: LocalTarget, ask: Callable[[str], Awaitable[str]]) -> None:
    """Ask until requests are recorded."""
    with anyio.fail_after(20):
        while not any(row["request"]["messages"][0]["content"] == "are you there" for row in lines(target)):
            await ask("are you there")
            await anyio.sleep(0.1)


async def test_rows_are_whole_private_and_only_of_keys_that_consent(place: Place) -> None:
    yes, no = key_file(place).add("team-a", consent=True), key_file(place).add("team-b")
    target = await served(place, LOGGED)
    address = (await target.current()).address
    asking, silent = Client(address, yes), Client(address, no)
    await listening(target, asking.ask)
    before = len(lines(target))
    await silent.ask("nobody may know this")
    await silent.ask("nobody may know this", stream=True)
    await asking.ask(HOSTILE, user="alice")
    await asking.ask(HOSTILE, stream=True, user="bob")
    with pytest.raises(httpx.HTTPError):
        await asking.ask("a long text that breaks off", stream=True, breaks_off=True)
    await asking.ask("y" * 1_100_000)
    await until(lambda: len(lines(target)) >= before + 2 and sum(dropped(target).values()) >= 2)
    rows = lines(target)[before:]
    assert [row["key"] for row in rows] == ["team-a", "team-a"]
    assert all(row["consent"] is True and row["request"]["messages"][0]["content"] == HOSTILE for row in rows)
    assert [row["response"]["choices"][0]["message"]["content"] for row in rows] == [HOSTILE, HOSTILE]
    assert dropped(target) == {"incomplete": 1, "too-long": 1}
    _check_files(target.folder, yes)


def _check_files(folder: Path, key: str) -> None:
    everything = [each for each in folder.rglob("*") if each.is_file()]
    assert not any(b"nobody may know this" in each.read_bytes() or key.encode() in each.read_bytes() for each in everything)
    holding = {each for each in everything if b"break" in each.read_bytes() and each.suffix == ".jsonl"}
    assert holding, "the rows are in the log"
    assert all(each.parent.parent == folder / "requests" for each in holding), "and nowhere else"
    assert b"ping" not in (folder / "gateway" / "access.log").read_bytes()
    assert {stat.S_IMODE(each.stat().st_mode) for each in holding} == {0o600}
    assert {stat.S_IMODE(each.parent.stat().st_mode) for each in holding} == {0o700}
    assert stat.S_IMODE((folder / "requests").stat().st_mode) == 0o700


async def test_consent_that_is_withdrawn_stops_at_once_also_for_open_streams(place: Place) -> None:
    key = key_file(place).add("team-a", consent=True)
    target = await served(place, LOGGED)
    keys, client = Keys(folder=target.folder), Client((await target.current()).address, key)
    await listening(target, client.ask)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: client.ask("begun before it was withdrawn", stream=True, interval=0.05))
        await anyio.sleep(0.5)
        assert await keys.consent("team-a", given=False) >= 1
        await client.ask("after it was withdrawn")
        assert await keys.consent("team-a", given=True) == 0
    await anyio.sleep(1)
    assert lines(target) == []
    await listening(target, client.ask)
    assert not any("withdrawn" in json.dumps(row) for row in lines(target))
    await keys.revoke("team-a")
    assert lines(target) == [], "what was recorded of a key that is revoked is deleted"


async def test_nothing_is_recorded_where_the_settings_do_not_say_so(place: Place) -> None:
    key = key_file(place).add("team-a", consent=True)
    target = await served(place, GatewaySettings(api_keys=True))
    client = Client((await target.current()).address, key)
    await client.ask("not recorded")
    assert not (target.folder / "requests").exists()
    on = place.target(LOGGED)
    await on.start(next(iter((await on.current()).revisions.values())), 1)
    await listening(on, client.ask)
    off = place.target(GatewaySettings(api_keys=True))
    await off.start(next(iter((await off.current()).revisions.values())), 1)
    before = len(lines(off))
    await client.ask("not recorded")
    await anyio.sleep(1)
    assert len(lines(off)) == before
    assert not recorded.state(off.folder).recording


async def test_a_full_disk_harms_nobody_and_the_log_recovers(place: Place) -> None:
    key = key_file(place).add("team-a", consent=True)
    target = await served(place, LOGGED)
    client = Client((await target.current()).address, key)
    await listening(target, client.ask)
    newest = max((target.folder / "requests" / "team-a").iterdir())
    pid = json.loads((target.folder / "state.json").read_bytes())["recorder"]["pid"]
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (newest.stat().st_size + 100, resource.RLIM_INFINITY))
    before, begun = newest.read_bytes(), time.monotonic()
    for _ in range(20):
        assert "choices" in await client.ask("while it cannot be written")
    assert time.monotonic() - begun < 10
    await anyio.sleep(1)
    assert newest.read_bytes() == before, "not even a part of a row"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    newest.write_bytes(before + b'{"half a row')
    await client.ask("it can be written again")
    await until(lambda: b"written again" in newest.read_bytes())
    assert newest.read_bytes().splitlines()[-2] == b'{"half a row'
    assert dropped(target)["not-written"] == 20


async def test_a_folder_that_cannot_be_written_harms_nobody(place: Place) -> None:
    key = key_file(place).add("team-a", consent=True)
    (place.folder / "target").joinpath("requests").write_text("a file in its place", encoding="utf-8")
    target = await served(place, LOGGED)
    client = Client((await target.current()).address, key)
    await anyio.sleep(1)
    assert [await client.ask(f"number {each}") for each in range(5)]
    assert (target.folder / "requests").read_text(encoding="utf-8") == "a file in its place"


async def test_a_recorder_that_is_killed_is_started_again_and_gives_way_to_comparisons(place: Place) -> None:
    key = key_file(place).add("team-a", consent=True)
    target = await served(place, LOGGED)
    client = Client((await target.current()).address, key)
    await listening(target, client.ask)
    with target.comparing():
        await anyio.sleep(1.5)
        before = len(lines(target))
        await client.ask("while answers are compared")
        await anyio.sleep(0.5)
        assert len(lines(target)) == before
    state = json.loads((target.folder / "state.json").read_bytes())
    os.kill(state["recorder"]["pid"], 9)
    await client.ask("while it is dead")
    await target.start(next(iter((await target.current()).revisions.values())), 1)
    await anyio.sleep(0.5)
    count = len(lines(target))
    with anyio.fail_after(20):
        while len(lines(target)) == count:
            await client.ask("after it was started again")
            await anyio.sleep(0.1)


async def test_rows_are_collected_under_the_name_of_the_key_and_removed_by_it(place: Place, tmp_path: Path) -> None:
    key = key_file(place).add("team-a", consent=True)
    target = await served(place, LOGGED)
    client = Client((await target.current()).address, key)
    await listening(target, client.ask)
    await client.ask("What is a channel?", stream=True, user="alice")
    await until(lambda: any("channel" in json.dumps(row) for row in lines(target)))
    copied = tmp_path / "requests.jsonl"
    assert recorded.copy(target.folder, copied, channel="production") == len(lines(target))
    made = collect([Source(path=copied)], into=tmp_path / "data")
    assert made.rows == 2
    assert [each.rows for each in remove(["alice"], store=tmp_path / "data", dry_run=True).versions] == [1]
    assert [each.rows for each in remove(["team-a"], store=tmp_path / "data").versions] == [2]
