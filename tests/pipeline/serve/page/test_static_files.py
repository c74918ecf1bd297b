"""The files of the web page."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.inference.draw import PALETTE

STATIC = Path(__file__).resolve().parents[4] / "pipeline" / "serve" / "static"


def test_the_page_is_complete_without_another_host() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        outside = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert outside == set(), path.name
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", page)


def test_the_pages_colours_are_those_of_the_annotated_pictures() -> None:
    css = (STATIC / "page.css").read_text(encoding="utf-8")
    kinds = (STATIC / "kinds.js").read_text(encoding="utf-8")
    for i, colour in enumerate(PALETTE):
        assert f".kind-{i} {{ --kind: #{bytes(colour).hex()};" in css
    listed = re.findall(r"\[(\d+), (\d+), (\d+)\]", kinds)
    assert [tuple(map(int, each)) for each in listed] == list(PALETTE)
