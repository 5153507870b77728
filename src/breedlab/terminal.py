"""What `console` prints with: rich, which takes longer to import than a typo to be found."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from breedlab.names import printable


class SafeConsole(Console):
    """A console whose terminal no text can steer: what it shows of files, archives and servers is
    only shown."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                text = "".join(c if c in "\n\t" else printable(c) for c in segment.text)
                segment = Segment(text, segment.style)
            yield segment


# A pipe has no width to fit: what is cut off there is lost to the program that reads it.
console = SafeConsole(
    highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000
)


class _Count(MofNCompleteColumn):
    """How many of how many, once that is known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


_FIRST_LINE_S, _LINE_S = 2.0, 30.0
"""Seconds until the first progress line and between lines, without a terminal."""


def _so_far(count: int, total: int, seconds: float) -> str:
    remaining = round(seconds * (total - count) / count)
    return f"{count:,} of {total:,}, about {remaining // 60} min {remaining % 60} s left"


@contextmanager
def progress(title: str, aside: bool) -> Iterator[Callable[[int, int], None]]:
    """As `console.progress`."""
    screen = SafeConsole(stderr=True) if aside else console
    started = time.monotonic()
    last = [0]
    next_line = [started + _FIRST_LINE_S]
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        _Count(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        task = bars.add_task(title, total=None)

        def report(count: int, total: int) -> None:
            last[0] = count
            bars.update(task, completed=count, total=total)
            now = time.monotonic()
            if not screen.is_terminal and now >= next_line[0] and 0 < count < total:
                next_line[0] = now + _LINE_S
                screen.print(f"  {title}: {_so_far(count, total, now - started)}", markup=False)

        yield report
    if last[0] and not aside:
        seconds = time.monotonic() - started
        console.print(f"  {printable(title)}: {last[0]:,} in {seconds:.1f} s", markup=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """As `console.table`."""
    grid = Table(
        title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=True
    )
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        # As text: in a string, `[b]` and `:dog:` of a file's name would be markup.
        grid.add_row(
            *(
                Text(f"{cell:.4g}" if isinstance(cell, float) else printable(str(cell)))
                for cell in row
            )
        )
    return grid
