"""report.html: everything about a run, or several side by side, in one file that loads nothing from
elsewhere."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket
from markupsafe import Markup

from breedlab.commands import command
from breedlab.errors import FileError
from breedlab.files import atomic_write_text
from breedlab.reporting import (
    comparison,
    diagnosis_sections,
    label_section,
    quality_sections,
    sections,
)
from breedlab.reporting.added_sections import added_sections
from breedlab.reporting.charts import theme
from breedlab.reporting.record import RunRecord, read_run, run_directory
from breedlab.user_cache import cached_text

_PAGE = Path(__file__).with_name("page")
_CONTENTS = {
    "summary": ("Summary", sections.summary),
    "data": ("Data", sections.data),
    "curves": ("Curves", sections.curves),
    "search": ("Search", sections.search),
    "confusion": ("Confusion", quality_sections.confusion),
    "calibration": ("Calibration", quality_sections.calibration),
    "classes": ("Classes", quality_sections.classes),
    "rules": ("Rules", diagnosis_sections.rules),
    "profile": ("Profile", diagnosis_sections.profile),
    "debug": ("Debugger", diagnosis_sections.debug),
    "model": ("Model", sections.model),
}
"""By the id of a section, its title and the function that returns its content."""
_OF_ONE_CLASS = ("confusion", "calibration", "classes")
"""Sections that do not apply to multi-label runs; a section on labels replaces them."""


def _contents(run: RunRecord) -> Mapping[str, tuple[str, Callable[[RunRecord], Any]]]:
    """Return the sections of a run's page."""
    if not run.multi_label:
        return _CONTENTS
    before = {name: _CONTENTS[name] for name in ("summary", "data", "curves", "search")}
    after = {name: each for name, each in _CONTENTS.items() if name not in _OF_ONE_CLASS}
    return {**before, "labels": ("Labels", label_section.labels), **after}


def write_report(
    paths: Sequence[Path],
    out: Path | None = None,
    metrics: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of a run, or of several compared, and return its path.

    Args:
        paths: Run directories.
        out: The file; by default `report.html` in the run, or `comparison.html` in the folder that
            the runs share.
        metrics: As for `read_run`.
        tell: Called with each sentence of a comparison's paired tests.

    Raises:
        ConfigError: If one is not a run directory, or the file has no place.
    """
    if out is not None and not out.parent.is_dir():
        raise FileError(
            f"{out}: cannot be written (there is no folder {out.parent}); name a file in a folder"
        )
    path_of = {run_directory(path): path for path in paths}  # each once
    with ThreadPoolExecutor(1) as aside:
        # compiled code that takes a second or two, and releases the GIL meanwhile
        aside.submit(_bundle)
        runs = [read_run(path, metrics) for path in path_of]
        if len(runs) > 1:
            file = out or Path(os.path.commonpath(path_of)) / "comparison.html"
            variables = page_of_several(runs, list(path_of.values()), file)
            if tell is not None:
                for sentence in variables["paired"]:
                    tell(sentence)
        else:
            file = out or runs[0].path / "report.html"
            variables = page_of(runs[0], *path_of.values())
    write_page(file, variables)
    return file


def write_page(file: Path, variables: Mapping[str, Any]) -> None:
    """Fill a template, and write the page.

    Args:
        file: The page.
        variables: Those of the template, and its name as `template`.

    Raises:
        ConfigError: If the file has no place.
    """
    page = _render(**variables)
    try:
        atomic_write_text(file, page)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise FileError(
            f"{file}: cannot be written ({error.strerror}); name a file in a folder"
        ) from error


def page_of(run: RunRecord, path: Path) -> dict[str, Any]:
    """Return the contents of one run's page.

    Args:
        run: What is shown.
        path: The run as the user called it, for the commands.
    """
    contents = _contents(run)
    variables: dict[str, Any] = {name: content(run) for name, (_, content) in contents.items()}
    titles = [(name, title) for name, (title, _) in contents.items()]
    sections = added_sections(run)
    return {
        "template": "run.html.j2",
        "title": run.name,
        "subtitle": variables["summary"]["what"],
        "contents": [*titles, *((section["id"], section["title"]) for section in sections)],
        "added": sections,
        "path": str(path),
        "ended": bool(run.metrics),
        "labels": None,
        **variables,
    }


def page_of_several(runs: Sequence[RunRecord], paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Return the contents of the comparison page; arguments as for `comparison.compare`."""
    variables = comparison.compare(runs, paths, out)
    return {
        "template": "comparison.html.j2",
        "title": f"{len(runs)} runs compared",
        "subtitle": ", ".join(variables["names"]),
        "contents": list(comparison.CONTENTS.items()),
        **variables,
    }


class _CompiledTemplates(jinja2.BytecodeCache):
    """Compiled templates in memory: compiling them takes longer than filling them, and a grid
    writes a report for every run."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if code := self._code.get(f"{bucket.key} {bucket.checksum}"):
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[f"{bucket.key} {bucket.checksum}"] = bucket.bytecode_to_string()


@functools.cache
def _compiled() -> _CompiledTemplates:
    return _CompiledTemplates()


def _render(template: str, **context: Any) -> str:
    specs: dict[str, theme.Spec] = {}

    def put(name: str, spec: theme.Spec) -> str:
        specs[name] = spec
        return name

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_compiled(),
    )
    pages.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    pages.globals["put"] = put
    pages.globals["command"] = command
    page = pages.get_template(template)
    # Filled while the body is rendered, and written after it.
    pages.globals["charts"] = {"config": theme.config(), "specs": specs}
    return page.render(
        css=Markup((_PAGE / "report.css").read_text("utf-8")),
        script=Markup((_PAGE / "report.js").read_text("utf-8")),
        bundle=lambda: Markup(_bundle()),  # of which a page without charts has no need
        nonce=secrets.token_urlsafe(12),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=version("breedlab"),
        **context,
    )


@functools.cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, built once per machine since it takes
    seconds."""
    return cached_text(f"vega-{version('vl-convert-python')}.js", _made_bundle)


def _made_bundle() -> str:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # as its own help has it
    # No bundle so far contains text that would end the script element early; in a string, it can be
    # written like this.
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
