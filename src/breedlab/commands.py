"""How breedlab's commands are spelled in messages: as the user has typed this one."""

from __future__ import annotations

import sys
from pathlib import Path


def command(name: str, *words: object) -> str:
    """Return a command for the user to copy: `breedlab predict RUN`, or `python scripts/predict.py
    RUN` in a checkout.

    Args:
        name: The command, such as `predict`.
        words: What follows it.
    """
    script = Path(sys.argv[0]).with_name(f"{name}.py") if sys.argv[0] else Path()
    # Scripts of the user's own may lie in a folder of that name, too, but not with this one next to
    # them.
    from_checkout = (
        sys.argv[0].endswith(".py") and script.parent.name == "scripts" and script.is_file()
    )
    typed = f"python {script}" if from_checkout else f"breedlab {name}"
    return " ".join([typed, *map(str, words)])
