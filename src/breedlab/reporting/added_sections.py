"""Sections that a plugin adds to a run's report, after those that every report has."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from breedlab.config.section import Section
from breedlab.registry import REPORT_SECTIONS

if TYPE_CHECKING:
    from breedlab.reporting.record import RunRecord


class ReportSection(Section):
    """A section of report.html.

    Attributes:
        title: Its heading, and its name in the contents.
    """

    title: ClassVar[str]

    @abstractmethod
    def build(self, run: RunRecord) -> str:
        """Return what the section shows: a text, or HTML as a `markupsafe.Markup`.

        Args:
            run: Everything that a run directory holds: `run.metrics`, `run.config`, `run.trials`,
                `run.curves`, ...
        """


def added_sections(run: RunRecord) -> list[dict[str, Any]]:
    """Return the identifier, title and content of each registered section; one that fails says so
    instead."""
    return [
        {"id": name, "title": section.title, "body": _body(name, section, run)}
        for name, section in REPORT_SECTIONS.items()
    ]


def _body(name: str, section: type[ReportSection], run: RunRecord) -> str:
    report = run.config.get("report")
    settings = report.get(name, {}) if isinstance(report, dict) else {}
    try:
        return section.model_validate(settings).build(run)
    except Exception as error:  # whatever a plugin does, the rest of the report is written
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"This section could not be written ({type(error).__name__}: {reason})."
