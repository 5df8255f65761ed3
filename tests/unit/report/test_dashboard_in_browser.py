"""The dashboard in a real Chromium: 0, 1 and 400 runs, light and dark, phone width, without JavaScript, hostile texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unit.report.boards import board, hostile
from vllm_ci.report import dashboard_page
from vllm_ci.report.dashboard import Dashboard

pytestmark = [pytest.mark.needs_browser, pytest.mark.slow]


def opened(chromium: Any, folder: Path, made: Dashboard, **settings: Any) -> tuple[Any, list[str]]:
    file = folder / "index.html"
    file.write_text(dashboard_page.render(made, {}), encoding="utf-8", errors="backslashreplace")
    page = chromium.new_context(**settings).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"file://{file}")
    return page, said


@pytest.mark.parametrize("count", [0, 1, 400])
def test_the_runs_are_there_and_can_be_searched(chromium: Any, tmp_path: Path, count: int) -> None:
    page, said = opened(chromium, tmp_path, board(count))
    assert page.locator(".matrix tbody tr").count() == count
    if count:
        page.fill("#search", "no-such-commit")
        assert page.text_content("#shown") == f"0 of {count} runs"
        page.fill("#search", "passed main")
        assert int(page.text_content("#shown").split()[0]) > 0
    page.context.close()
    assert said == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1200)])
def test_axe_finds_nothing_and_nothing_is_cut_off(chromium: Any, tmp_path: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, said = opened(chromium, tmp_path, board(40), color_scheme=scheme, viewport={"width": width, "height": 900})
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()
    assert said == []


def test_it_can_be_read_without_javascript_and_on_paper(chromium: Any, tmp_path: Path) -> None:
    page, _ = opened(chromium, tmp_path, board(40), java_script_enabled=False)
    for text in ("40 runs, 20 commits, 40 releases", "Moves of the channels", "latency doubled", "Flaky cases", "changed at"):
        assert page.get_by_text(text).first.is_visible(), text
    assert not page.locator("#search").is_visible()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.tall')).maxHeight") == "none"
    page.context.close()


def test_texts_from_outside_cannot_act(chromium: Any, tmp_path: Path) -> None:
    page, said = opened(chromium, tmp_path, hostile())
    assert "acted" not in page.title().replace("document.title='acted'", "")
    assert page.evaluate("document.querySelectorAll('#acted, img, main script, [onload], [onerror]').length") == 0
    assert page.evaluate("[...document.links].filter((link) => !/^(https?|file):/.test(link.href)).length") == 0
    page.context.close()
    assert said == []
