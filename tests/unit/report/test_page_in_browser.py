"""The page in a real Chromium: no console error, search, deep links, accessibility, hostile texts, without JavaScript."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unit.report.pages import HOSTILE, hostile, report
from vllm_ci.domain.report import Report
from vllm_ci.report import html

pytestmark = [pytest.mark.needs_browser, pytest.mark.slow]


class Opened:
    """A report in a browser, and what the browser's console said."""

    def __init__(self, chromium: Any, folder: Path, made: Report, *, fragment: str = "", **settings: Any) -> None:
        file = folder / "report.html"
        text = html.from_report(made, {"server": "INFO fine\nERROR it broke\n" + "\n".join(HOSTILE)})
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
        self.context = chromium.new_context(**settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(f"file://{file}{fragment}")

    def visible_cases(self) -> int:
        return int(self.page.evaluate("document.querySelectorAll('.case:not([hidden])').length"))

    def shows(self, count: str) -> None:
        """Wait until the page says that it shows so many cases."""
        from playwright.sync_api import expect

        expect(self.page.locator("#shown")).to_have_text(count, timeout=20_000)


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    made: list[Opened] = []

    def open_(what: Report, **settings: Any) -> Opened:
        made.append(Opened(chromium, tmp_path, what, **settings))
        return made[-1]

    yield open_
    for each in made:
        each.context.close()


@pytest.mark.parametrize("count", [1, 400, 5000])
def test_search_and_filters_work_at_any_size(opened: Any, count: int) -> None:
    seen = opened(report(count))
    last = count - 1
    assert seen.page.text_content("#shown") == f"{count + 1} cases"
    begun = time.monotonic()
    seen.page.fill("#search", f"chat-{last}]")
    seen.shows(f"1 of {count + 1} cases")
    assert time.monotonic() - begun < 10
    assert seen.visible_cases() == 1
    seen.page.press("#search", "Escape")
    assert seen.visible_cases() == count + 1
    seen.page.uncheck("input[data-status=passed]")
    failed, skipped = len(range(2, count, 40)), len(range(3, count, 40))
    assert seen.visible_cases() == failed + skipped
    assert seen.said == []


def test_filtering_5000_cases_takes_no_more_than_a_moment(opened: Any) -> None:
    page = opened(report(5000)).page
    page.evaluate("search.value = 'number 77'; filter()")  # the first search reads the texts of all cases
    took_ms = page.evaluate("const begun = performance.now(); search.value = 'chat-4999'; filter(); performance.now() - begun")
    assert took_ms < 500, "on a busy machine; about 15 ms on an idle one"


def test_a_deep_link_opens_its_case_also_when_a_filter_hides_it(opened: Any) -> None:
    place = html.place("streaming", "streaming/test_many.py::test_stream_number_399_comes_whole[chat-399]")
    seen = opened(report(400), fragment=f"#{place}")
    row = seen.page.locator(f'[id="{place}"]')
    assert row.get_attribute("open") is not None
    box = row.bounding_box()
    assert 0 <= box["y"] < 720, "it is scrolled to"
    seen.page.fill("#search", "nothing at all")
    seen.shows("0 of 401 cases")
    seen.page.evaluate(f"location.hash = ''; location.hash = '{place}'")
    seen.shows("401 cases")
    assert row.is_visible()
    assert seen.said == []


def test_an_open_case_shows_its_name_as_text_once(opened: Any) -> None:
    name = "streaming/test_many.py::test_stream_number_5_comes_whole[chat-5]"
    seen = opened(report(10))
    row = seen.page.locator(f'[id="{html.place("streaming", name)}"]')
    for _ in range(3):
        row.locator("summary").click()
    assert row.locator("code").all_text_contents() == [name]
    assert row.evaluate("row => getComputedStyle(row, '::after').content") == "none"
    assert seen.said == []


def test_an_open_case_shows_its_name_without_javascript_too(opened: Any) -> None:
    name = "streaming/test_many.py::test_stream_number_5_comes_whole[chat-5]"
    seen = opened(report(10), java_script_enabled=False)
    row = seen.page.locator(f'[id="{html.place("streaming", name)}"]')
    closed = row.bounding_box()["height"]
    row.locator("summary").click()
    assert row.locator("code").count() == 0
    assert row.evaluate("row => getComputedStyle(row, '::after').content") == f'"{name}"'
    assert row.bounding_box()["height"] > closed + 15


def test_the_search_is_reached_by_keyboard(opened: Any) -> None:
    page = opened(report(10)).page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_and_nothing_is_cut_off(opened: Any, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    seen = opened(report(60), color_scheme=scheme, viewport={"width": width, "height": 900})
    seen.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = Axe().run(seen.page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.said == []


def test_texts_from_outside_cannot_act(opened: Any) -> None:
    seen = opened(hostile())
    seen.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    seen.page.wait_for_timeout(200)
    assert "acted" not in seen.page.title()
    assert seen.page.evaluate("document.querySelectorAll('#acted, img, main script, [onload], [onerror]').length") == 0
    assert seen.page.evaluate("[...document.links].filter((link) => !/^(https?|file):/.test(link.href)).length") == 0
    assert seen.said == [], "nothing was even tried: the policy had nothing to refuse"


def test_the_policy_stops_a_script_that_gets_into_the_page(chromium: Any, tmp_path: Path) -> None:
    page = chromium.new_page()
    text = html.from_report(report(1)).replace(
        "</main>", "<script>document.title='acted'</script><img src=x onerror=alert(1)></main>"
    )
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    page.goto(f"file://{tmp_path}/page.html")
    assert page.title() != "acted"
    page.close()


def test_it_can_be_read_without_javascript_and_on_paper(opened: Any) -> None:
    seen = opened(report(60), java_script_enabled=False)
    for text in ("2 of 61 cases failed", "What is wrong", "the stream ended without [DONE]", "Where the time went", "--url"):
        assert seen.page.get_by_text(text).first.is_visible(), text
    assert not seen.page.locator("#search").is_visible()
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("nav").is_visible()
    assert seen.page.get_by_text("Repeat just this").first.is_visible()


def test_a_report_of_an_earlier_version_is_shown_without_what_it_does_not_have(opened: Any) -> None:
    seen = opened(replace(report(5), begun={}, layers=()))
    assert seen.page.get_by_text("does not say when the steps started").is_visible()
    assert seen.page.locator("#image").count() == 0
    assert seen.said == []


def test_opening_a_case_puts_its_address_into_the_address_bar(opened: Any) -> None:
    seen = opened(report(10))
    place = html.place("streaming", "streaming/test_many.py::test_stream_number_7_comes_whole[chat-7]")
    seen.page.locator(f'[id="{place}"] summary').click()
    assert "number_7_comes" in seen.page.url
    assert seen.said == []
