"""The web page: keyboard, screen readers, languages, colours, phones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs the package playwright")

from playwright.sync_api import expect

from tests.helpers.serve.browser import (
    CHROMIUM,
    CONTRASTS,
    choose,
    pixels,
    wait_for_photos,
)
from tests.helpers.serve.page_visits import DETECT, Visits, shown_score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
STATIC = Path(__file__).resolve().parents[4] / "pipeline" / "serve" / "static"
SMALL = {"width": 320, "height": 640}
WIDTH = "document.documentElement.scrollWidth"


def test_by_keyboard_alone(visits: Visits, photos: Path) -> None:
    page = visits.open()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel || 'none'"))

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            # the focus is visible
            assert (
                focused() == "none" or page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            )
            if focused() == name:
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([photos / "tiled.png", photos / "tiny.png"])
    wait_for_photos(page, 2)
    page.reload()
    tab_to("choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([photos / "tiled.png", photos / "tiny.png"])
    wait_for_photos(page, 2)

    page.keyboard.press("Shift+Tab")  # theme
    page.keyboard.press("Shift+Tab")  # language
    page.keyboard.press("Shift+Tab")
    assert focused() == "skip" and page.locator("#skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert focused() == "result"
    tab_to("tiny.png: 3 faces: With mask 1, Without mask 1, Mask worn wrongly 1")
    page.keyboard.press("Enter")
    assert page.inner_text("#name") == "tiny.png"
    tab_to("score")
    page.keyboard.press("Home")
    assert shown_score(page) < 0.1
    tab_to("Face 2")
    page.keyboard.press("Space")
    assert page.locator("#rows button").nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.locator("#rows button").nth(1).get_attribute("aria-pressed") == "false"
    tab_to("save-all")
    with page.expect_download():
        page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused() == "none"  # the focus leaves the page: no keyboard trap


def test_every_control_has_a_name_for_screen_readers(visits: Visits, photos: Path) -> None:
    page = visits.open()
    choose(page, photos / "tiled.png")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input:not([hidden]), canvas[role=img], table, nav")]
            .filter((e) => e.checkVisibility())
            .filter((e) => !(e.ariaLabel || e.textContent.trim() && e.tagName === "BUTTON" || e.labels?.length
                             || document.getElementById(e.getAttribute("aria-labelledby"))))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_korean_by_the_browsers_language_and_a_remembered_choice(visits: Visits, photos: Path) -> None:
    page = visits.open(locale="ko-KR")
    assert page.get_attribute("html", "lang") == "ko" and page.title() == "얼굴 마스크 감지"
    choose(page, photos / "tiled.png", photos / "notes.txt")
    assert page.inner_text("#counts").split("\n")[1::3] != []
    assert all(name in page.inner_text("#counts") for name in ("마스크 착용", "마스크 미착용", "마스크 잘못 착용"))
    hangul = "|".join(page.locator("[data-words]:visible").all_inner_texts())
    assert re.findall("[A-Za-z]{2,}", hangul.replace("JSON", "")) == []
    (korean,) = pixels(page, "overlay")
    page.select_option("#language", "en")
    assert page.get_attribute("html", "lang") == "en" and page.title() == "Face mask detection"
    assert "Without mask" in page.inner_text("#counts") and "Without mask" in page.inner_text("#rows")
    page.wait_for_timeout(100)
    assert not np.array_equal(korean, pixels(page, "overlay")[0])  # the texts in the picture have changed, too
    page.reload()
    assert page.inner_text("#choose") == "Choose photos" and page.input_value("#language") == "en"
    assert visits.open(locale="de-DE").get_attribute("html", "lang") == "en"


def test_every_text_exists_in_both_languages(visits: Visits) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
    keys = set(re.findall(r'data-words(?:-label)?="([^"]+)"', (STATIC / "index.html").read_text(encoding="utf-8")))
    keys |= set(re.findall(r'(?:say|Refusal)\("(\w+)"', sources)) | set(re.findall(r'"(camera[A-Z]\w+)"', sources))
    assert len(keys) > 60
    page = visits.open()
    missing = page.evaluate(
        """async (keys) => {
            const { say, speak } = await import("/static/words.js");
            const texts = (code) => { speak(code); return keys.map((key) => say(key)); };
            const [en, ko] = [texts("en"), texts("ko")];
            return keys.filter((key, i) => !en[i] && key !== "refused" || !ko[i] && key !== "refused"
                || en[i] === ko[i] && !["inPhoto", "scoreValue", "share", "size", "refused"].includes(key));
        }""",
        sorted(keys),
    )
    assert missing == []


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "ko-KR")])
def test_texts_have_enough_contrast(visits: Visits, photos: Path, scheme: Any, locale: str) -> None:
    page = visits.open(color_scheme=scheme, locale=locale, reduced_motion="reduce")
    assert page.get_attribute("html", "data-theme") == scheme
    texts = page.evaluate(CONTRASTS)
    choose(page, photos / "tiled.png", photos / "notes.txt")
    page.locator("#rows button").first.click()
    texts += page.evaluate(CONTRASTS)
    page.locator("#strip button").nth(1).click()
    texts += page.evaluate(CONTRASTS)
    assert len(texts) > 90
    assert [row for row in texts if row[0] < row[1]] == []


def test_light_and_dark_by_the_device_and_a_remembered_choice(visits: Visits) -> None:
    page = visits.open(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => {background} !== '{light}'")
    dark = page.evaluate(background)
    page.select_option("#theme", "light")
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light and page.input_value("#theme") == "light"
    page.select_option("#theme", "auto")
    assert page.evaluate(background) == dark


def test_a_phone_has_no_sideways_scroll_and_large_targets(visits: Visits, photos: Path) -> None:
    page = visits.open(viewport=SMALL, is_mobile=True, has_touch=True)
    expect(page.locator("#take")).to_be_visible()
    assert page.get_attribute("#shot", "capture") == "environment"
    assert page.evaluate(WIDTH) == 320
    choose(page, photos / "tiled.png", photos / "notes.txt")
    page.locator("#rows button").first.click()
    for language in ("ko", "en"):
        page.select_option("#language", language)
        assert page.evaluate(WIDTH) == 320
        targets = page.locator("button:visible, select:visible, input:visible")
        small = [
            (targets.nth(i).get_attribute("id"), box)
            for i in range(targets.count())
            if (box := targets.nth(i).bounding_box()) and min(box["width"], box["height"]) < 44
        ]
        assert small == [] and targets.count() > 12
    page.locator("#strip button").nth(1).click()
    assert page.evaluate(WIDTH) == 320


def test_less_motion_when_preferred(visits: Visits, photos: Path) -> None:
    still = "getComputedStyle(document.getElementById('veil'), '::before').animationName"
    for motion, name in (("reduce", "none"), ("no-preference", "breathe")):
        page = visits.open(reduced_motion=motion)
        page.route(DETECT, lambda route: None)
        with page.expect_file_chooser() as chooser:
            page.click("#choose")
        chooser.value.set_files(photos / "tiled.png")
        expect(page.locator("#veil[data-state=working]")).to_be_visible()
        assert page.evaluate(still) == name


def test_file_names_are_never_html(visits: Visits, photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)><b>&amp;.png"
    odd.write_bytes((photos / "tiled.png").read_bytes())
    bad = tmp_path / "<i>bad<i>.png"
    bad.write_text("no picture")
    page = visits.open()
    choose(page, odd, bad)
    assert page.inner_text("#name") == odd.name
    assert page.locator("#result img, #result i, #notices i, #result b b").count() == 0
    assert bad.name in page.inner_text("#notices")
