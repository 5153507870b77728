"""Passwords in addresses, such as https://user:password@mlflow.example: used, and written down
nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from breedlab.config.environment import FromEnvironment
from breedlab.config.problems import Problem

_PASSWORD = re.compile(r"(\w[\w+.-]*://[^/\s:@]*):([^/\s@]+)@")

_OF_JOBS = "backend.environment."
"""Where the backend knows how to keep secrets."""


def holds_password(text: str) -> bool:
    """Return whether a text has an address with a password in it."""
    return _PASSWORD.search(text) is not None


def without_passwords(text: str) -> str:
    """Return a text as it may be printed and kept."""
    return _PASSWORD.sub(r"\1:***@", text)


def password_problems(leaves: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield which values would write a password into records and archives.

    Args:
        leaves: The config's values by path; those from the environment are recorded by its name.
    """
    for path, value in leaves.items():
        texts = value if isinstance(value, list) else [value]
        if path.startswith(_OF_JOBS) or not any(map(_is_plain_password, texts)):
            continue
        other = (
            "; or take it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if path == "logger.tracking_uri"
            else ""
        )
        yield Problem(
            path,
            "holds a password, which config.yaml and every record would keep; export the address"
            f" and write {path}='${{oc.env:NAME}}'{other}",
            "BL116",
        )


def _is_plain_password(value: Any) -> bool:
    return (
        isinstance(value, str) and not isinstance(value, FromEnvironment) and holds_password(value)
    )
