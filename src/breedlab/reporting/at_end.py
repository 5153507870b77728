"""A run's report as its last step: what goes wrong with it, or is not installed for it, warns and
loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breedlab import extras
from breedlab.commands import command
from breedlab.console import note, warn


def write_at_end(run: Path, metrics: Mapping[str, Any]) -> None:
    """Write the report of a run that is about to end.

    Args:
        run: Its directory.
        metrics: As for `read_run`.
    """
    if not extras.has("report"):
        note(f"no report.html was written; it needs {extras.install('report')}")
        return
    try:
        from breedlab.reporting.report import write_report

        note(str(write_report([run], run / "report.html", metrics)))
    except Exception as error:
        reason = " ".join(str(error).split()) or repr(error)
        warn(f"no report was written ({reason}); try: {command('report', run)}")
