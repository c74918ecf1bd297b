"""Text in the encodings that annotation tools write."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.annotations.text import EncodingError, decode_text, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_with_and_without_a_mark(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("0 0.5 0.5 0.2 0.3\n".encode(encoding))
    assert read_text(file) == "0 0.5 0.5 0.2 0.3\n"
    file.write_bytes('{"마스크": "Ā"}'.encode(encoding))
    assert read_text(file) == '{"마스크": "Ā"}'


NAMES = ("CP949", "GB18030", "CP932", "BIG5", "CP1251", "CP1252")


@pytest.mark.parametrize(
    ("encoding", "text", "alternatives"),
    [
        ("CP949", "마스크", {"GB18030"}),  # common syllables share their bytes with common Chinese characters
        ("GB18030", "口罩", set()),
        ("CP932", "マスク", set()),
        ("BIG5", "戴口罩的臉", set()),
        ("CP1251", "маска", set()),
        ("CP1252", "masqué", set()),
    ],
)
def test_other_encodings_are_named_not_guessed(encoding: str, text: str, alternatives: set[str]) -> None:
    with pytest.raises(EncodingError, match=r"not UTF-8.*iconv -f \S+ -t UTF-8") as raised:
        decode_text(f"names: [{text}]".encode(encoding))
    assert {name for name in NAMES if name in str(raised.value)} == {encoding, *alternatives}


def test_bytes_that_are_no_text() -> None:
    for data in (bytes([0xFF, 0xFF, 0x81, 0x8D, 0xA0, 0xFF]), "ab".encode("utf-16") + b"\x00"):
        with pytest.raises(EncodingError, match="is not UTF-8 text; save it or export it again as UTF-8"):
            decode_text(data)


def test_short_and_empty_text() -> None:
    assert [decode_text(data) for data in (b"", b"a", b"ab\n", "é".encode())] == ["", "a", "ab\n", "é"]
