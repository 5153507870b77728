"""`breedlab report`: a run's report, or several runs compared, as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path

from breedlab import extras
from breedlab.cli.parser import Parser, page_file
from breedlab.errors import UsageError


def main(argv: list[str]) -> int:
    """Write report.html.

    Raises:
        BreedlabError: If a run is not there, or the file cannot be written.
    """
    parser = command_parser()
    words = parser.parse_args(argv)
    if words.out is not None and words.out.is_dir():
        raise UsageError(
            f"--out {words.out} is a folder; expected a file such as {words.out / 'report.html'}"
        )
    extras.require("report", "a report")
    from breedlab.reporting.comparison import titles
    from breedlab.reporting.paired_runs import paired
    from breedlab.reporting.record import read_run, run_directory
    from breedlab.reporting.report import write_report

    page = write_report(words.run, words.out)
    runs = list(dict.fromkeys(run_directory(path) for path in words.run))
    if len(runs) > 1:
        records = [read_run(run) for run in runs]
        for sentence in paired(records, titles(records)):
            print(sentence, file=sys.stderr)
    print(page)
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "report",
        "RUN... [--out FILE]",
        description=(
            "Write a run's report again, or compare several runs: one HTML file that needs no"
            " network."
        ),
        examples=(
            "runs/latest",
            "runs/resnet34/* --out comparison.html",
        ),
    )
    parser.add_argument(
        "run", type=Path, nargs="+", metavar="RUN", help="a run directory, or several to compare"
    )
    parser.add_argument(
        "--out",
        type=page_file,
        metavar="FILE",
        help="the file (default: RUN/report.html, or comparison.html for several)",
    )
    return parser
