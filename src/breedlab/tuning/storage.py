"""Where a run's study is, for Optuna."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any


def storage_url(run: Path) -> str:
    """Return the address of a run's study."""
    return file_url(run / "study.db")


def file_url(path: Path) -> str:
    """Return the address of a study's file, whatever is in its path: a `?` or `#` that is pasted in
    would end it."""
    from sqlalchemy.engine import URL

    address = URL.create("sqlite", database=str(path.resolve())).render_as_string(
        hide_password=False
    )
    return address.replace("{", "{{").replace("}", "}}")  # Optuna fills in templates


class Connection(sqlite3.Connection):
    """A connection to a study's file that leaves it to the system when to write to the disk.

    A trial takes a dozen transactions, and would wait for the disk at the end of each. A kill loses
    nothing by it. A power cut may leave a file that is old or torn, as `reopen` expects: it checks
    the file, and rebuilds the study from the trials' own files, which are on the disk by the time
    that a trial has ended.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.execute("PRAGMA synchronous = OFF")

    def check(self) -> None:
        """Look at every page of the file.

        Raises:
            sqlite3.DatabaseError: If one is not what the others say it is.
        """
        ((result, *_), *_) = self.execute("PRAGMA integrity_check(1)")
        if result != "ok":
            error = sqlite3.DatabaseError(result)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
