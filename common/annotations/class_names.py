"""Class names: cleaned, renamed by the user, and checked for near-equal and usual spellings."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from common.annotations.types import MASK_CLASSES
from common.errors import UserError

# Spellings of public face-mask datasets, as `class_key` returns them.
_USUAL_SPELLINGS = {
    "with_mask": "mask withmask masked facemask wearingmask maskon maskworn goodmask yesmask correctmask maskcorrect "
    "maskedface wearmask withfacemask maskweared maskweareds properlymasked facewithmask withmasks masks correct",
    "without_mask": "nomask withoutmask unmasked notmasked maskoff nofacemask facenomask withoutfacemask face bareface "
    "nonmask notmask nomaskface unmaskedface notwearingmask facewithoutmask nomasks",
    "mask_weared_incorrect": "incorrectmask maskincorrect improperlymasked improper impropermask maskwornincorrect "
    "wrongmask incorrect maskwearedincorrect maskwornincorrectly incorrectlymasked badmask incorrectlyworn "
    "maskedincorrectly maskwornimproperly wrongwear incorrectlywornmask halfmask poormask wrong maskwrong "
    "facewithmaskincorrect facewithmaskincorrectly facemaskincorrect wearingmaskincorrect wearingmaskincorrectly "
    "maskwearedincorrectly",
}
_CLASS_OF_SPELLING = {key: name for name, keys in _USUAL_SPELLINGS.items() for key in keys.split()}


def clean_name(name: str) -> str:
    """Return a class name in Unicode's NFC, without spaces around it, and with single spaces inside.

    Halves of characters (surrogates), which no file can hold, become U+FFFD.
    """
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cs" else c for c in name)
    return " ".join(unicodedata.normalize("NFC", shown).split())


def class_key(name: str) -> str:
    """Return a class name without case, spaces, hyphens, dots and underscores."""
    return re.sub(r"[\s_.\-]+", "", name).casefold()


def parse_renames(renames: Sequence[str]) -> dict[str, str]:
    """Return {old name: new name} of texts such as "Mask=with_mask"; raise UserError for other texts."""
    parsed: dict[str, str] = {}
    for text in renames:
        old, sign, new = (clean_name(part) for part in text.partition("="))
        if not (old and sign and new):
            raise UserError(f"--rename {text!r}: is not OLD=NEW; use for instance 'Mask=with_mask'")
        if parsed.setdefault(old, new) != new:
            raise UserError(f"--rename: {old!r} is given two new names; remove one")
    return parsed


def check_renames(renames: Mapping[str, str], found: Iterable[str]) -> None:
    """Raise UserError when a renamed class is not in the data."""
    present = sorted(set(found))
    for old in renames:
        if old not in present:
            raise UserError(f"--rename {old}={renames[old]}: no such class; the data has {', '.join(present)}")


def better_names(names: Iterable[str]) -> dict[str, str]:
    """Return {class name: better name} for usual spellings of the mask classes, and for other near-equal names."""
    by_key = _by_key(names)
    near_equal = {other: alike[-1] for alike in by_key.values() for other in alike[:-1]}
    return near_equal | _usual_renames(by_key)


def _by_key(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the sorted names by their `class_key`."""
    by_key = defaultdict(list)
    for name in sorted(set(names)):
        by_key[class_key(name)].append(name)
    return dict(by_key)


def _usual_renames(by_key: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return {class name: mask class} for usual spellings of the three mask classes."""
    usual = {
        name: _CLASS_OF_SPELLING[key]
        for key, alike in by_key.items()
        if key in _CLASS_OF_SPELLING
        for name in alike
        if name not in MASK_CLASSES
    }
    speaking = {key for key in by_key if key in _CLASS_OF_SPELLING or key in map(class_key, MASK_CLASSES)}
    return {} if speaking == {"face"} else usual  # alone, it says nothing about masks


def class_hints(names: Iterable[str]) -> list[str]:
    """Return one line on near-equal class names, and one on usual spellings of the three mask classes."""
    by_key = _by_key(names)
    hints = []
    for alike in by_key.values():
        if len(alike) > 1:
            kept = alike[-1]
            fix = " ".join(f"{name!r}" for name in (f"{other}={kept}" for other in alike[:-1]))
            shown = " and ".join(map(repr, alike))
            hints.append(f"the classes {shown} differ only in case or separators; if they are one, use --rename {fix}")
    if usual := _usual_renames(by_key):
        fix = " ".join(f"'{old}={new}'" for old, new in usual.items())
        hints.append(f"to train and score the three mask classes, use --rename {fix}")
    return hints


def suggest_renames(names: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Return {name: the known class that it probably is}, sorted, for unknown names that have one.

    That class differs only in case or separators, or the name is a usual spelling of that mask class.
    """
    by_key = {class_key(name): name for name in known}
    suggested = {}
    for name in sorted(set(names) - set(known)):
        key = class_key(name)
        new = by_key.get(key) or _CLASS_OF_SPELLING.get(key)
        if new is not None and new in known:
            suggested[name] = new
    return suggested
