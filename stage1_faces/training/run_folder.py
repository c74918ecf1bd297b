"""The folder of one fine-tuning: what it records, the nets finished so far, and the state to go on from."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.annotations import AnnotatedImage
from common.errors import UserError
from stage1_faces.training.nets import build_net

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NETS = ("pnet", "rnet", "onet")
HEADER = "face_cascade"
FORMAT = 1


class RunFolder:
    """Files of one run, each written to a temporary name first, so that a kill leaves the old or the new one."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in one step."""
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{name}.tmp"
        try:
            temporary.write_bytes(data)
            os.replace(temporary, self.path / name)  # noqa: PTH105 (the temporary's name must not be shown in errors)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path / name)) from error
        finally:
            temporary.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as an indented JSON file."""
        self.write(name, (json.dumps(value, indent=2) + "\n").encode())

    def start(self, record: Mapping[str, Any], overwrite: bool) -> None:
        """Takes the folder for a run of `record`, or goes on with such a run.

        Raises UserError when it holds a run of another record (unless `overwrite` removes that), or other files.
        """
        file = self.path / "config.json"
        if overwrite and file.is_file():
            for name in _OWN:
                (self.path / name).unlink(missing_ok=True)
        elif file.is_file():
            try:
                before = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{file}: damaged ({error}); give --overwrite or another --out") from error
            now = json.loads(json.dumps(record))
            for name in sorted(now):
                if before.get(name) != now[name]:
                    raise UserError(
                        f"{self.path}: holds a run with another {name} ({before.get(name)!r}, now {now[name]!r}); "
                        "go on with the same, or give --overwrite or another --out"
                    )
            return
        elif self.path.is_dir() and any(path.suffix != ".tmp" for path in self.path.iterdir()):
            raise UserError(f"{self.path}: is not empty and holds no fine-tuning; give another --out")
        self.write_json("config.json", record)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from training in the folder. Raises UserError when one does (not told on Windows)."""
        with (self.path / "config.json").open("rb") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise UserError(f"{self.path}: another process trains here; wait for it or end it") from error
            yield

    @property
    def finished(self) -> bool:
        """Whether all nets are there, and their reports, too: what serves the way to them is removed last."""
        nets = all((self.path / f"{name}.safetensors").is_file() for name in NETS)
        return nets and not any((self.path / name).exists() for name in _ON_THE_WAY)

    def tidy(self) -> None:
        """Removes what serves the way to the nets only: up to a hundred megabytes, made again when needed."""
        for name in _ON_THE_WAY:
            (self.path / name).unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl."""
        file = self.path / "log.jsonl"
        if not file.is_file():
            return []
        try:
            rows = [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
            if not all("net" in row for row in rows):
                raise ValueError("a line names no net")
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error}); give --overwrite or another --out") from error
        return rows

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes log.jsonl, one JSON object a line."""
        self.write("log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def save_net(self, name: str, net: nn.Module, facts: Mapping[str, Any]) -> None:
        """Writes a finished net's weights; facts stand in the file's header. Its state is no longer needed."""
        tensors = {key: value.detach().contiguous().clone() for key, value in net.state_dict().items()}
        self.write(f"{name}.safetensors", save(tensors, {HEADER: json.dumps({"net": name, **facts})}))
        (self.path / f"{name}.state").unlink(missing_ok=True)

    def save_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Writes the state of a net in training (tensors, numbers, strings, lists, dictionaries)."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **state}, buffer)
        self.write(f"{name}.state", buffer.getvalue())

    def load_state(self, name: str) -> dict[str, Any] | None:
        """What save_state wrote, without running code from it; None when there is none.

        Raises UserError when the file is damaged.
        """
        file = self.path / f"{name}.state"
        if not file.is_file():
            return None
        data = file.read_bytes()
        try:
            state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise many kinds
            raise UserError(f"{file}: damaged; remove it to train this net anew") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise UserError(f"{file}: of another version of this program; remove it to train this net anew")
        return state


_ON_THE_WAY = tuple(f"{name}{end}" for name in NETS for end in (".state", ".windows.npz"))
_OWN = (
    "log.jsonl",
    "landmarks.npz",
    *(f"{name}.safetensors" for name in NETS),
    *_ON_THE_WAY,
    "config.json",  # last, so that a kill on the way leaves what is known as a run
)


def load_net(folder: Path | str, name: str) -> nn.Module:
    """A finished net of a run, in eval mode. Raises UserError when it is missing, damaged or another net's."""
    file = Path(folder) / f"{name}.safetensors"
    if not file.is_file():
        raise UserError(f"{file}: not found; train it with `python -m stage1_faces.finetune --out {folder}`")
    try:
        with safe_open(file, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get(HEADER, "{}"))
            tensors: dict[str, Tensor] = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged or not safetensors ({error}); train or copy it anew") from error
    net = build_net(name)
    try:
        if not isinstance(header, dict) or header.get("net") != name:
            raise RuntimeError(f"its header names {header}")
        net.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")  # the first tells of none of the tensors
        raise UserError(f"{file}: holds no {name} of this version ({reason}); train or copy it anew") from error
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{file}: its weights are not finite numbers ({key}); train or copy it anew")
    return net.eval()


def run_facts(folder: Path | str) -> dict[str, Any]:
    """What config.json says of a run: its recipe and the fingerprint of its training photos. Raises UserError."""
    file = Path(folder) / "config.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return {"recipe": dict(record["recipe"]), "data": str(record["data"])}
    except FileNotFoundError as error:
        raise UserError(f"{file}: not found; name a run of stage1_faces.finetune") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); train the run anew") from error


def fingerprint(train: Sequence[AnnotatedImage]) -> str:
    """Tells the training photos and their faces from others."""
    digest = hashlib.sha256()
    for image in train:
        digest.update(f"{image.image_id} {image.size} {image.labels}".encode())
        digest.update(image.boxes.tobytes())
    return digest.hexdigest()
