"""Write THIRD_PARTY_NOTICES.md: the packages that breedlab and its extras install, with their
versions in the lock and their licenses.

    make notices
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "dev.txt"
EXTRAS = frozenset({"all", "onnx"})
OUTPUT = ROOT / "THIRD_PARTY_NOTICES.md"
_LONGEST = 60  # some packages put their whole license text into the field for its name

HEAD = """# Third-party notices

breedlab's wheel and sdist contain no third-party code. `pip install 'breedlab[all,onnx]'` installs
the packages below, each under its own license; nearly all carry its text in their `*.dist-info`
folder. `report.html` embeds Vega, Vega-Lite, and Vega-Embed (BSD-3-Clause), which
`vl-convert-python` brings.

Written by `make notices` from `requirements/dev.txt` and the packages' own metadata (Linux, x86-64,
Python 3.11).

| package | version | license |
|---|---|---|
"""


def locked() -> dict[str, str]:
    """Return the version that the lock has of each package for this machine."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", LOCK.read_text("utf-8"), re.MULTILINE)
    pins = [each for each in map(Requirement, lines) if _applies(each, frozenset())]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def installed_by(name: str, extras: frozenset[str]) -> dict[str, metadata.Distribution]:
    """Return the distributions that a package and its extras need on this machine, by name."""
    needed: dict[str, metadata.Distribution] = {}
    visited: set[tuple[str, frozenset[str]]] = set()
    queue = [(canonicalize_name(name), extras)]
    while queue:
        name, extras = queue.pop()
        if (name, extras) in visited:
            continue
        visited.add((name, extras))
        needed[name] = metadata.distribution(name)
        for requirement in map(Requirement, needed[name].requires or []):
            if _applies(requirement, extras):
                queue.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return needed


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def license_of(distribution: metadata.Distribution) -> str:
    """Return a package's license as its metadata names it, in SPDX if it does."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [text.split(" :: ") for text in about.get_all("Classifier") or []]
    names = [parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 2]
    if names:
        return "; ".join(names)
    name = (about.get("License") or "").strip()
    if name and name != "UNKNOWN" and "\n" not in name and len(name) <= _LONGEST:
        return name
    # pip, without wheel, records no files of what it builds
    has_text = "License-File" in about or any(
        "license" in str(file).lower() for file in distribution.files or []
    )
    return "see its LICENSE file" if has_text else "see its metadata"


def lines() -> Iterator[str]:
    """Yield a table row for each package.

    Raises:
        SystemExit: If what is installed is not what the lock names.
    """
    pins = locked()
    for name, distribution in sorted(installed_by("breedlab", EXTRAS).items()):
        if name == "breedlab":
            continue
        if pins.get(name) != distribution.version:
            sys.exit(f"{name} {distribution.version}: {LOCK} has {pins.get(name)}; make .venv/dev")
        yield f"| {name} | {distribution.version} | {license_of(distribution)} |"


def page() -> str:
    """Return the whole file."""
    return HEAD + "\n".join(lines()) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(page(), "utf-8")
