"""What tests ask of a refusal: its code, and what its message has to name. The wording is free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from breedlab.errors import CODES, BreedlabError

Names = object | Iterable[object]


@contextmanager
def raises_code(code: str, *, names: Names = ()) -> Iterator[pytest.ExceptionInfo[BreedlabError]]:
    """Expect an error of a code whose message names a setting, a file, a number, or a command.

    Args:
        code: Of `breedlab.errors.CODES`.
        names: What the message has to contain, each as it stands there; nothing else of it counts.
    """
    with pytest.raises(BreedlabError) as caught:
        yield caught
    check_code(caught.value, code, names=names)


@contextmanager
def exits_with_code(
    capture: pytest.CaptureFixture[str], code: str, *, names: Names = (), status: int = 2
) -> Iterator[None]:
    """Expect a command to end with one message on stderr, which begins with a code."""
    with pytest.raises(SystemExit) as ended:
        yield
    said = capture.readouterr().err
    assert ended.value.code == status, said
    assert f"[{code}]" in said, said
    check_names(said, names)


def check_code(error: BreedlabError, code: str, *, names: Names = ()) -> None:
    """Assert that an error has a code, and that its message names something."""
    assert code in CODES, f"{code} is not in the registry"
    assert error.code == code, f"[{error.code}] {error}"
    check_names(str(error), names)


def check_names(message: str, names: Names) -> None:
    """Assert that a message names something: one thing, or each of several."""
    several = names if isinstance(names, tuple | list | set) else (names,)
    for name in several:
        assert str(name) in message, f"{name} is not named in: {message}"


def problems_of(error: BreedlabError) -> dict[str, str]:
    """Return what a config error says of each path that it names."""
    title, *lines = str(error).splitlines()
    assert title.endswith("1 problem" if len(lines) == 1 else f"{len(lines)} problems"), title
    parted: dict[str, Any] = {}
    for line in lines:
        path, _, message = line.strip().partition(": ")
        parted[path] = message
    return parted
