"""Fuzz one target: `python tests/fuzz/run.py voc --seconds 600`; an input that breaks it is written to a file.

Guided by coverage where atheris is installed (`pip install atheris`; Linux), otherwise by random mutations.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TOKENS = (
    *(b"NaN", b"-1", b"1e999", b"99999999999999999999", b"null", b"true", b"{}", b"[]", b'""', b"0", b"\x00", b"\xff"),
    *(b"\r\n", b"\n", b"&lol;", b"<!DOCTYPE", b"<object>", b"[" * 200, b"../", b"%00", b"\xed\xa0\x80", b"--xYzZY"),
)


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return `data` with some random mutations: bytes set, removed, repeated or inserted, or another input's end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(out) + 1)
        length = min(rng.choice((1, 1, 2, 4, 16, 64)), len(out) - at)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1:
                del out[at : at + length]
            case 2:
                out[at:at] = out[at : at + length] * rng.choice((1, 2, 50))
            case 3:
                out[at : at + length] = rng.choice(TOKENS)
            case 4:
                del out[at:]
            case 5:
                other = rng.choice(others)
                out[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(out)


def fuzz_randomly(name: str, seconds: float, seed: int) -> int:
    """Run a target on mutated seeds, and return the number of inputs; raise the target's error."""
    from tests.fuzz.targets import SEEDS, TARGETS

    rng, end, count = random.Random(seed), time.monotonic() + seconds, 0
    for data in SEEDS[name]:
        TARGETS[name](data)
    while time.monotonic() < end:
        data = mutate(rng.choice(SEEDS[name]), rng, SEEDS[name])
        try:
            TARGETS[name](data)
        except BaseException:
            file = Path(tempfile.gettempdir()) / f"fuzz-{name}-{hashlib.sha256(data).hexdigest()[:12]}"
            file.write_bytes(data)
            print(f"{name}: broken by {file} (input {count} of seed {seed})", file=sys.stderr)
            raise
        count += 1
    return count


def fuzz_with_coverage(name: str, seconds: float, seed: int) -> None:
    """Run a target with atheris, which ends the process."""
    import atheris

    packages = ["common", "stage1_faces", "pipeline", "defusedxml", "python_multipart", "yaml"]
    with atheris.instrument_imports(include=packages):
        from tests.fuzz.targets import SEEDS, TARGETS

    corpus = tempfile.mkdtemp(prefix=f"fuzz-{name}-")
    for k, data in enumerate(SEEDS[name]):
        (Path(corpus) / str(k)).write_bytes(data)
    flags = [
        f"-max_total_time={seconds:.0f}",
        f"-seed={seed or 1}",
        "-max_len=20000",
        "-rss_limit_mb=4000",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, corpus], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    args = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(f"{args.name}: {fuzz_randomly(args.name, args.seconds, args.seed)} inputs, no error")
    else:
        fuzz_with_coverage(args.name, args.seconds, args.seed)


if __name__ == "__main__":
    main()
