"""Reads a page of `pipeline.check` with Python's HTML parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "rect", "path"}


@dataclass
class PageContent:
    """What is on a page."""

    text: str = ""  # all visible text, with single spaces
    rows: list[list[str]] = field(default_factory=list)  # the cells of each table row
    items: list[str] = field(default_factory=list)  # the list items
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # each tag with its attributes

    def attributes(self, name: str) -> list[str]:
        """Return the values of an attribute on all tags."""
        return [values[name] for _, values in self.tags if name in values]


def read_page(page: str) -> PageContent:
    """Return the content of a page; raise AssertionError where a tag is not closed."""
    reader = _PageReader()
    reader.feed(page)
    reader.close()
    assert reader.open == [], reader.open
    reader.content.text = " ".join(" ".join(reader.texts).split())
    return reader.content


class _PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.content = PageContent()
        self.open: list[str] = []
        self.texts: list[str] = []
        self._collected: list[list[str]] = []  # of the open cells and list items

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.content.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.content.rows.append([])
        if tag in ("td", "th", "li"):
            self._collected.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, tag
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())
        self.open.pop()
        if tag in ("td", "th", "li"):
            text = " ".join("".join(self._collected.pop()).split())
            if tag == "li":
                self.content.items.append(text)
            else:
                self.content.rows[-1].append(text)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
            for collected in self._collected:
                collected.append(data)
