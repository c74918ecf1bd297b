"""Processes in which only the packages of one extra can be imported, as after `pip install '.[EXTRA]'`."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# Read by Python when it starts, in child processes, too.
SITE = '''
import os, sys
from importlib.machinery import PathFinder

BLOCKED = frozenset(os.environ["BLOCKED_PACKAGES"].split(","))


class BareFinder(PathFinder):
    """Finds no package that is not installed with the extra; Ray brings copies of some in its own folder."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in BLOCKED:
            path = [folder for folder in sys.path if os.path.basename(folder) != "site-packages"]
        return PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = BareFinder
'''


@cache
def allowed_distributions(extra: str) -> frozenset[str]:
    """Return the canonical names of all distributions that an extra installs; "" for no extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    waiting = [(Requirement(text), "") for text in wanted]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        for each in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), each)
            if key in seen:
                continue
            seen.add(key)
            try:
                inner = distribution(requirement.name).requires or []
            except PackageNotFoundError:  # for another system
                continue
            waiting += [(Requirement(text), each) for text in inner]
    return frozenset(name for name, _ in seen)


@cache
def blocked_packages(extra: str) -> tuple[str, ...]:
    """Return the installed top-level packages that an extra does not install."""
    allowed = allowed_distributions(extra)
    own = canonicalize_name("face-mask-detection")
    found = []
    for package, names in packages_distributions().items():
        canonical = {canonicalize_name(name) for name in names}
        if own not in canonical and not canonical & allowed:
            found.append(package)
    return tuple(sorted(found))


def bare_environment(extra: str, folder: Path) -> dict[str, str]:
    """Return the environment of a process with the packages of an extra; a file is written into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    paths = os.pathsep.join((str(folder), str(ROOT)))
    return {**os.environ, "PYTHONPATH": paths, "BLOCKED_PACKAGES": ",".join(blocked_packages(extra))}


def run_bare(extra: str, arguments: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` with the packages of an extra."""
    environment = bare_environment(extra, folder / "site")
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
