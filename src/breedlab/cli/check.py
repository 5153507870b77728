"""`breedlab check DIR`: all that is wrong with a folder of images, or may be, before anything is
trained on it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab import extras
from breedlab.cli.parser import Parser, page_file
from breedlab.commands import command
from breedlab.config.yaml_folders import literally
from breedlab.errors import FileError, UsageError

if TYPE_CHECKING:
    from breedlab.data.check import Finding, Report
    from breedlab.pipeline.suspects import Suspects

FILE = Path("fixes.csv")
STOPS = 1
"""The exit code for images that a training would refuse."""


def main(argv: list[str]) -> int:
    """Check a folder's images, and list what should be looked at.

    Returns:
        0 if a training would take the images as they are, however many are suspect; 1 if it would
        refuse some.

    Raises:
        BreedlabError: If the folder cannot be understood, a word is not a setting, or a file cannot
            be written.
    """
    settings, others = _settings_in(argv)
    args = command_parser().parse_args(others)
    return _check(args.dir, settings, args.out, args.page)


def _settings_in(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings of a command line, and its other words: names of files and folders may
    have an equals sign, too."""
    settings, others = list[str](), list[str]()
    for before, word in zip(["", *argv], argv, strict=False):
        is_name = word.startswith("-") or before in ("--out", "--page") or Path(word).is_dir()
        (settings if "=" in word and not is_name else others).append(word)
    return settings, others


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "check",
        "DIR [PATH=VALUE ...] [--out FILE] [--page FILE]",
        description=(
            "Check a folder of labeled images before anything is trained on it: files that cannot"
            " be used, near duplicates, labels that are probably wrong, outliers. The list it"
            " writes can be edited, and applied with data.fixes=FILE."
        ),
        examples=(
            "flowers",
            "flowers --page check.html",
            "flowers data.group='^([^_]+)_' data.ignore=[test] --out flowers.csv",
        ),
        notes=(
            "PATH=VALUE is a setting, as for a training.\n\n"
            "The exit code is 0 if a training would take the images as they are, however many are\n"
            "suspect; 1 if it would refuse some, or lacks images of a class or split; 2 if the\n"
            "folder or the command cannot be understood. With data.on_bad_file=skip, files that\n"
            "are left out do not count. Fixes that are filled in stay when the list is written\n"
            "again."
        ),
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="a folder of labeled images")
    parser.add_argument(
        "--out",
        type=Path,
        default=FILE,
        metavar="FILE",
        help=f"the list of what to look at (default: {FILE})",
    )
    parser.add_argument(
        "--page", type=page_file, metavar="FILE", help="a page with the images as well, in HTML"
    )
    return parser


def _check(root: Path, words: list[str], out: Path, page: Path | None) -> int:
    from breedlab.console import console, note, progress, stage, warn
    from breedlab.data.check import inspect
    from breedlab.data.fixes import REMOVE, edited_rows, write_fixes
    from breedlab.names import counted, printable
    from breedlab.pipeline import data_check
    from breedlab.pipeline.proposal import describe_layout, look
    from breedlab.pipeline.suspects import how_to_fix, unjudged_labels

    _refuse_no_place(out, page)
    edited = edited_rows(out, root)
    requested, images = look(root, words)
    if requested.data.fixes is not None and Path(requested.data.fixes).resolve() != out.resolve():
        edited += edited_rows(Path(requested.data.fixes), root)
    if others := [row["file"] for row in edited if not _is_in(root, row["file"])]:
        raise UsageError(
            f"--out {out}: has fixes of files that are not in {root}, such as {others[0]}; name"
            " another file, or remove those fixes"
        )
    with progress("checking images") as update:
        report = inspect(images, Path(requested.cache.dir, "checks"), update)
    layout = list(describe_layout(images))
    for line in layout:
        note(line)
    for text in report.warnings:
        warn(text)
    stops = bool(report.lacking) or (requested.data.on_bad_file == "error" and report.stops)
    if report.stops:
        stage("What a training would refuse" if stops else "What a training would leave out")
        for line in _faults(report):
            note(printable(line))
    stage("What a frozen backbone sees")
    suspects = data_check.by_features(root, report, words)
    notes = [] if suspects is None else list(unjudged_labels(suspects.labels))
    rows: list[dict[str, Any]] = list(data_check.rows(images, report, suspects))
    write_fixes(out, rows, edited)
    for text in notes:
        note(text)
    if suspects is not None:
        _print_suspects(suspects, rows, images.multi_label)
    following = _command(root, words, out if rows or edited else None)
    if page is not None:
        from breedlab.reporting.check_page import write_check_page

        write_check_page(
            page,
            root,
            rows,
            layout=layout,
            warnings=report.warnings,
            notes=notes,
            listed_in=out,
            next_command=following,
        )
    stage("Next")
    if edited:
        note(f"{out} keeps the fixes that were filled in ({len(edited):,})")
    if rows or edited:
        note(
            f"{out} lists {counted(len(rows), 'image')}: fill in the column fix"
            f" ({how_to_fix(images.multi_label)}, or {REMOVE}) where something is wrong"
        )
    if page is not None:
        note(f"{page} shows them")
    if report.lacking:
        note("add what is missing to the folder, which no list can do")
    listing = "then train with it:" if rows or edited else "nothing to list; to train:"
    note("then train:" if report.lacking and not rows else listing)
    console.print(f"  {printable(following)}", markup=False, soft_wrap=True)
    return STOPS if stops else 0


def _is_in(root: Path, file: str) -> bool:
    return not Path(file).is_relative_to(os.pardir) and os.path.lexists(root / file)


def _refuse_no_place(out: Path, page: Path | None) -> None:
    """Refuse files that cannot be written before minutes are spent on what they are to hold.

    Raises:
        BreedlabError: If there is no such folder, or a page needs an extra.
    """
    for flag, file in (("--out", out), ("--page", page)):
        if file is not None and file.is_dir():
            raise UsageError(f"{flag} {file} is a folder; expected the name of a file")
        if file is not None and not file.parent.is_dir():
            raise FileError(
                f"{flag} {file}: cannot be written (there is no folder {file.parent}); name a file"
                " in a folder"
            )
    if page is not None and page.resolve() == out.resolve():
        raise UsageError(f"--page {page} is the file of --out, too; expected one for each")
    if page is not None:
        extras.require("report", "--page")


def _faults(report: Report) -> Iterator[str]:
    """Yield lines on all that stops a training."""
    from breedlab.data.check import KEEP_ONE
    from breedlab.data.folders import first_few
    from breedlab.names import counted

    def named(findings: Sequence[Finding]) -> list[str]:
        return first_few([f"  {finding.path} {finding.reason}" for finding in findings])

    if report.bad:
        yield f"{counted(len(report.bad), 'broken file')}:"
        yield from named(report.bad)
    if report.conflicts:
        labels = "with other labels" if report.images.multi_label else "in two classes"
        yield f"{counted(len(report.conflicts), 'image')} {labels}:"
        yield from named(report.conflicts)
        yield KEEP_ONE
    if report.shared:
        yield f"{counted(len(report.shared), 'image')} in two splits:"
        yield from named(report.shared)
    yield from report.lacking
    if report.missing and report.apart:
        yield report.apart


def _print_suspects(suspects: Suspects, rows: Sequence[dict[str, Any]], multi_label: bool) -> None:
    """Print the worst of each kind."""
    from breedlab.console import console, note, table
    from breedlab.data.fixes import COPY_OF, LABEL, OUTLIER
    from breedlab.data.folders import FEW
    from breedlab.names import counted

    labels = [row for row in rows if row["why"] == LABEL]
    outliers = [row for row in rows if row["why"].startswith(OUTLIER)]
    copies = [row for row in rows if row["why"].startswith(COPY_OF)]
    if not labels and not outliers and not copies:
        note("no image is suspect")
    wrong = len(suspects.labels.wrong)
    many = counted(len(labels), "label")
    about_labels = f"{many} worth a look, {wrong or 'none'} of them probably wrong"
    if multi_label:
        many = counted(len(labels), "image")
        about_labels = f"{many} with labels worth a look; {counted(wrong, 'label')} may be wrong"
    for title, columns, some in (
        (
            about_labels,
            ("file", "label", "suggested", "confidence"),
            [
                (row["file"], row["label"], row["suggested"], f"{row['confidence']:.0%}")
                for row in labels
            ],
        ),
        (
            counted(len(outliers), "outlier"),
            ("file", "label", "why"),
            [(row["file"], row["label"], _why_unlike(row["why"])) for row in outliers],
        ),
        (
            f"{counted(len(copies), 'image')} nearly the same as another",
            ("file", "label", "the other"),
            [(row["file"], row["label"], row["why"].removeprefix(COPY_OF)) for row in copies],
        ),
    ):
        if some:
            worst = f"; the first {FEW}" if len(some) > FEW else ""
            console.print(table(f"{title}{worst}", columns, some[:FEW]))


def _why_unlike(why: str) -> str:
    return why.partition(": ")[2] or "unlike all others"


def _in_hydra(path: Path) -> str:
    """Return a path as a value of an override, in quotes where its grammar needs them."""
    return str(path) if re.fullmatch(r"[\w./-]+", str(path)) else literally(str(path))


def _command(root: Path, words: Sequence[str], fixes: Path | None) -> str:
    """Return the command that trains on the folder, with a list if there is one."""
    tail = [word for word in words if not word.lstrip("+~").startswith("data.fixes=")]
    if fixes is not None:
        tail.append(f"data.fixes={_in_hydra(fixes)}")
    launch = command("launch")
    if launch.startswith("breedlab "):
        return shlex.join(["breedlab", str(root), *tail])
    return f"{launch} {shlex.join([f'data.root={_in_hydra(root)}', *tail])}"
