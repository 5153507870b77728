"""Where a run's study is, for Optuna."""

from __future__ import annotations

from pathlib import Path


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
