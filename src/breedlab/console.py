"""What users see in the terminal: stages, progress, tables. In a pipe: plain lines, no bars.

The first of them imports rich (`terminal`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from breedlab.names import printable

if TYPE_CHECKING:
    from rich.table import Table

    from breedlab.terminal import SafeConsole as SafeConsole
    from breedlab.terminal import console as console


def __getattr__(name: str) -> Any:
    """Return the console, or its class, once it is asked for."""
    if name not in ("console", "SafeConsole"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from breedlab import terminal

    return getattr(terminal, name)


Report = Callable[[int, int], None]
"""What is called to say how far a task is: how many of how many."""


def stage(text: str) -> None:
    """Print the heading of the next stage."""
    from rich.text import Text

    from breedlab.terminal import console

    console.print(Text(f"› {printable(text)}", style="bold"))


def note(text: str) -> None:
    """Print one line of detail under a stage."""
    from breedlab.terminal import console

    console.print(f"  {printable(text)}", markup=False)


def warn(text: str) -> None:
    """Print a warning: something that a user should know and that stops nothing."""
    from breedlab.terminal import console

    console.print("  [yellow]warning:[/yellow] ", end="")
    console.print(printable(text), markup=False)


def progress(title: str, aside: bool = False) -> AbstractContextManager[Report]:
    """Show a progress bar on a terminal, which goes when it is done; elsewhere lines.

    Until its `Report` is called a bar shows that something is being done. In a pipe or a log the
    first line comes after two seconds and others every thirty, so that users can see that a feature
    pass of half an hour does not hang.

    Args:
        title: What is being done.
        aside: For commands whose output is read by programs: the bar goes to stderr, and no line
            follows.
    """
    from breedlab import terminal

    return terminal.progress(title, aside)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table with right-aligned number columns."""
    from breedlab import terminal

    return terminal.table(title, columns, rows)
