"""Read the configuration of a YOLO dataset: data.yaml, or Darknet's obj.data."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.annotations.collect import Collector
from common.annotations.photos import SPLIT_FOLDERS, entries_in, name_parts, split_of_folders
from common.annotations.text import EncodingError, read_text
from common.cli import requires_extra
from common.errors import UserError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
SPLIT_KEYS = ("train", "val", "valid", "test")
PATH_KEYS = ("path", *SPLIT_KEYS)
USED_KEYS = (*PATH_KEYS, "names", "nc", "kpt_shape")
DARKNET_OTHER_KEYS = ("classes", "names", "backup", "eval", "results", "top")  # all others are lists of images
NO_VALUE = ("", "~", "null", "none")  # as a YAML file writes that there is no value
MAX_CONFIG_BYTES = 1_000_000  # .data is also the name of large tables
MAX_TRIED = 4  # paths in a message


@dataclass
class YoloSettings:
    """What a configuration says: class names, and where the images are."""

    names: dict[int, str] | None = None
    prefix: str = ""  # data.yaml's `path`
    sources: list[tuple[str, str, str | None]] = field(default_factory=list)  # (key, path, split)
    kpt_shape: tuple[int, int] | None = None


def yolo_config(root: Path) -> Path | None:
    """Return the data.yaml or obj.data of a dataset, if there is one.

    A YAML file of another name counts if it has `names:` and one of `train:`, `val:` and `test:`.
    """
    found = yolo_configs(root)
    return found[0] if found else None


def yolo_configs(root: Path) -> list[Path]:
    """Return the configurations of a dataset; several only where none has a usual name."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        return []
    suffixes = (".yaml", ".yml", ".data")
    files = sorted(p for p in entries_in(root) if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file())
    texts = {file: text_of_any(file) for file in files}
    usual = [root / name for name in YAML_NAMES if root / name in texts]
    found = [file for file in usual if _has_key(texts[file], "names") or _has_key(texts[file], *SPLIT_KEYS)]
    if found:
        return found[:1]
    yamls = [file for file in texts if file.suffix.lower() != ".data"]
    found = [file for file in yamls if _has_key(texts[file], "names") and _has_key(texts[file], *SPLIT_KEYS)]
    darknet = [file for file in texts if file not in yamls and _is_darknet(texts[file])]
    return found or usual[:1] or darknet


def _is_darknet(text: str) -> bool:
    """Return whether text names a file of class names and a list of images, as Darknet's obj.data does."""
    return all(re.search(line, text, re.M) for line in (r"^[ \t]*names[ \t]*=", r"^[ \t]*\w+[ \t]*=.*\.txt[ \t]*$"))


def _has_key(text: str, *keys: str) -> bool:
    """Return whether the text of a YAML file has one of the keys."""
    return re.search(rf"(^|[{{,])[ \t]*['\"]?({'|'.join(keys)})['\"]?\s*:", text, re.M) is not None


def text_of_any(file: Path) -> str:
    """Return a file's text, in whatever encoding; empty where it cannot be read, or is too long for a configuration."""
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            return ""
        return read_text(file)
    except EncodingError:
        return file.read_text(encoding="latin-1")
    except OSError:
        return ""


def read_darknet(config: Path, collector: Collector) -> YoloSettings:
    """Return the settings of Darknet's obj.data: lines such as `train = data/train.txt`."""
    pairs = [line.partition("=") for line in lines_of(config) if "=" in line and line[0] != "#"]
    values = {key.strip().lower(): value.strip() for key, _, value in pairs}
    settings = YoloSettings()
    if values.get("names"):
        found, tried = find_path(config.parent, "", values["names"])
        if found is not None and found.is_file():
            settings.names = dict(enumerate(lines_of(found)))
        else:
            collector.add_problem(config, f"names: {values['names']} does not exist; not used, tried {tried}")
    settings.sources = [
        (key, value, SPLIT_FOLDERS.get(key)) for key, value in values.items() if key not in DARKNET_OTHER_KEYS and value
    ]
    _check_count(config, values.get("classes", ""), settings.names, "classes", collector)
    return settings


def read_yaml(config: Path, collector: Collector) -> YoloSettings:
    """Return the settings of a data.yaml."""
    nodes = _yaml_nodes(config)
    settings = YoloSettings()
    if "names" in nodes:
        settings.names = _names_of_node(config, nodes["names"])
    for key in PATH_KEYS:
        try:
            values = _scalars(nodes[key]) if key in nodes else []
        except TypeError as error:
            named = key if key != "path" else next((key for key in SPLIT_KEYS if key in nodes), "train")
            raise UserError(f"{config}: `{named}` or `path` is not a path; correct it") from error
        if key == "path":
            settings.prefix = values[0] if values else ""
        else:
            settings.sources += [(key, value, SPLIT_FOLDERS[key]) for value in values]
    settings.kpt_shape = _kpt_shape(config, nodes.get("kpt_shape"))
    count = nodes.get("nc")
    _check_count(config, str(count.value) if count is not None else "", settings.names, "nc", collector)
    return settings


def _check_count(config: Path, count: str, names: dict[int, str] | None, key: str, collector: Collector) -> None:
    """Note a number of classes that is not that of the names."""
    if names and count.isdecimal() and int(count) != len(names):
        collector.add_note(f"{config}: {key} is {int(count)}, but it names {len(names)} classes; the names are used")


def _yaml_nodes(config: Path) -> dict[str, Any]:
    """Return the YAML node of each key that is used: nodes have the values as written, such as `no`."""
    with requires_extra("train"):
        import yaml
    try:
        text = read_text(config)
        # In double quotes, "..\train" would have a tab.
        text = re.sub(rf"^[ \t]*({'|'.join(PATH_KEYS)})\s*:.*", lambda m: m[0].replace("\\", "/"), text, flags=re.M)
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except EncodingError as error:
        raise UserError(f"{config}: {error}") from error
    except OSError as error:
        raise UserError(f"{config}: cannot be read ({error.strerror}); check its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{config}: malformed YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{config}: is not a YOLO data.yaml (it has no `names:`); use another file")
    nodes: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key.value, str):
            line = key.start_mark.line + 1
            raise UserError(f"{config}: the key on line {line} is a list or a table; correct it")
        if key.value in nodes and key.value in USED_KEYS:
            raise UserError(f"{config}: has `{key.value}:` twice; remove one")
        nodes[key.value] = value
    return nodes


def _scalars(node: Any) -> list[str]:
    """Return the text of a YAML node, or the texts of its list; raise TypeError for deeper ones."""
    values = (
        [node.value] if isinstance(node.value, str) else [inner.value for inner in node.value if node.id != "mapping"]
    )
    if node.id == "mapping" or not all(isinstance(value, str) for value in values):
        raise TypeError(node.id)
    return [value for value in values if value.lower() not in NO_VALUE]


def _names_of_node(config: Path, node: Any) -> dict[int, str] | None:
    """Return {class number: name} of a list, a table, one name or a file of names; None where it is empty."""
    fault = UserError(f"{config}: `names` is not a list of names or a table from number to name; correct it")
    if node.id == "mapping":
        pairs = [(key.value, value.value) for key, value in node.value]
    elif node.id == "sequence":
        pairs = [(number, value.value) for number, value in enumerate(node.value)]
    else:
        text = node.value.strip()
        if text.lower() in NO_VALUE:
            return None
        if text.lower().endswith((".names", ".txt")):
            found, tried = find_path(config.parent, "", text)
            if found is None or not found.is_file():
                raise UserError(f"{config}: names: {text} does not exist (tried {tried}); correct it")
            return dict(enumerate(lines_of(found)))
        if "," in text or text.replace(".", "").isdecimal():
            raise fault
        pairs = [(0, text)]
    names: dict[int, str] = {}
    for key, name in pairs:
        try:
            number = int(key)
        except (TypeError, ValueError) as error:
            raise fault from error
        if not isinstance(name, str):
            raise fault
        if number in names:
            raise UserError(f"{config}: `names` has number {number} twice ({names[number]}, {name}); remove one")
        names[number] = name
    return names


def _kpt_shape(config: Path, node: Any) -> tuple[int, int] | None:
    """Return `kpt_shape` of data.yaml: the number of key points, and 2 or 3 values of each."""
    if node is None or (isinstance(node.value, str) and node.value.lower() in NO_VALUE):
        return None
    try:
        points, values = map(int, _scalars(node))
    except (TypeError, ValueError):
        points, values = -1, -1
    if points == 0:
        return 0, 0
    if points < 0 or values not in (2, 3):
        raise UserError(f"{config}: `kpt_shape` is not [number of points, 2 or 3], such as [5, 2]; correct it")
    return points, values


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file without spaces around them, and without empty lines at the end.

    Empty lines between others count: the number of a line is the number of a class.
    """
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except EncodingError as error:
        raise UserError(f"{file}: {error}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    while lines and not lines[-1]:
        lines.pop()
    return lines


def find_path(base: Path, prefix: str, value: str) -> tuple[Path | None, str]:
    """Return the file or folder of a path in a configuration, or None, and the paths that were tried.

    Paths of Windows and of other machines are read: Roboflow writes ../train/images for train/images, and
    /content/set/train/images for the same. Ends of the path are tried, the longest first, that are in the same split.
    """
    prefix, value = prefix.replace("\\", "/"), value.strip().replace("\\", "/")
    inner = value
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
    folders = (base / prefix, base)
    candidates = [folder / path for path in (inner, value) for folder in folders]
    if prefix.startswith("../"):  # YOLOv5 has data/NAME.yaml, with paths from one folder up
        candidates.append(base.parent / prefix / value)
    # Not Path.exists, which raises on a name that is too long or has invalid characters.
    found = next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110
    if found is not None:
        return found, ""
    parts = name_parts(f"{prefix}/{value}")
    ends = [parts[i:] for i in range(len(parts)) if split_of_folders(parts[i:]) == split_of_folders(parts)]
    tried = list(dict.fromkeys(str(path) for path in (*candidates[:2], *(base.joinpath(*end) for end in ends))))
    shown = ", ".join(tried[:MAX_TRIED]) + (f" and {len(tried) - MAX_TRIED} more" if len(tried) > MAX_TRIED else "")
    return next(filter(None, (_alike(base, end) for end in ends)), None), shown


def _alike(folder: Path, parts: Iterable[str]) -> Path | None:
    """Return the path below a folder with these parts, else one that differs in case or Unicode form only."""
    for part in parts:
        inner = folder / part
        if not os.path.exists(inner):  # noqa: PTH110
            key = unicodedata.normalize("NFC", part).casefold()
            try:
                same = [p for p in folder.iterdir() if unicodedata.normalize("NFC", p.name).casefold() == key]
            except OSError:
                return None
            if len(same) != 1:
                return None
            inner = same[0]
        folder = inner
    return folder
