"""`plugins=[my_package]` of every command that loads a model.

A run directory names its plugins. What a bare archive names is never imported: it may be anyone's.
"""

from __future__ import annotations

from breedlab.config.compose import named_plugins
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import error_from


def without_plugins(argv: list[str]) -> list[str]:
    """Import the packages that `plugins=[...]` names among args, and return the other args.

    Raises:
        ConfigError: If a package cannot be imported.
    """
    words = [word for word in argv if word.startswith("plugins=")]
    if words and (problems := load_plugins(named_plugins(words))):
        raise error_from(problems)
    return [word for word in argv if word not in words]
