"""The page of a data check: what is wrong with files, and the images that a user should look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from breedlab.data.fixes import COPY_OF, LABEL, OUTLIER
from breedlab.reporting.example_images import pictured
from breedlab.reporting.report import write_page

_MOST = 120
"""Pictures of each kind."""


def write_check_page(
    page: Path,
    root: Path,
    rows: Sequence[dict[str, Any]],
    *,
    layout: Sequence[str],
    warnings: Sequence[str],
    notes: Sequence[str],
    listed_in: Path,
    next_command: str,
) -> None:
    """Write the page.

    Args:
        page: Its file.
        root: The folder that was checked.
        rows: Of the list of fixes.
        layout: Lines on the folder.
        warnings: Of the check.
        notes: What could not be judged.
        listed_in: The list of fixes.
        next_command: How to go on.

    Raises:
        ConfigError: If the file has no place.
    """
    kinds = {LABEL: "labels", OUTLIER: "outliers", COPY_OF: "copies"}
    of_kind: dict[str, list[dict[str, Any]]] = {name: [] for name in (*kinds.values(), "faults")}
    for row in rows:
        kind = next((name for why, name in kinds.items() if row["why"].startswith(why)), "faults")
        of_kind[kind].append(row)
    faults = of_kind.pop("faults")
    write_page(
        page,
        {
            "template": "check.html.j2",
            "title": f"Data check of {root.resolve().name}",
            "subtitle": str(root),
            "contents": [("files", "Files"), ("suspects", "Suspects"), ("next", "Next")],
            "layout": layout,
            "faults": faults,
            "warnings": warnings,
            "notes": notes,
            "most": _MOST,
            "file": str(listed_in),
            "next": next_command,
            **{name: pictured(some[:_MOST], root) for name, some in of_kind.items()},
        },
    )
