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
    from breedlab.reporting.report import write_report

    def tell(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    print(write_report(words.run, words.out, tell=tell))
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
