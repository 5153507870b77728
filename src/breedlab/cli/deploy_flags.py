"""The flags that `breedlab deploy` had before it had settings; they work until the next release."""

from __future__ import annotations

import argparse
import re
from typing import Any

from breedlab.config.endpoint import Endpoint
from breedlab.config.yaml_folders import in_quotes

_REPEATED = {
    "tags": "tag",
    "environment": "env",
    "subnets": "subnet",
    "security_groups": "security-group",
    "alarms": "alarm",
}
"""The flags that may be given more than once, by their settings."""

_PAIRS = ("tags", "environment")
_SPECIAL = re.compile(r"[^\w./@+-]")
"""What Hydra accepts in a name only after a backslash."""
_TEXT = re.compile(r"[A-Za-z/~][\w./:@+-]*")
"""What Hydra reads as a text without quotes, `true`, `null` and the like aside."""


def add_old_flags(parser: argparse.ArgumentParser) -> None:
    """Have a parser take a flag for each setting of `endpoint`, which its help does not mention."""
    for name, field in Endpoint.model_fields.items():
        if name == "region":  # which is a flag of all commands
            continue
        options: dict[str, Any] = {"help": argparse.SUPPRESS, "dest": f"old_{name}"}
        if field.annotation is bool:
            options["action"] = "store_true"
        elif name in _REPEATED:
            options |= {"action": "append", "default": []}
        parser.add_argument(f"--{_REPEATED.get(name, name.replace('_', '-'))}", **options)


def overrides_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the overrides that say what the flags said."""
    overrides: list[str] = []
    for name in Endpoint.model_fields:
        value: Any = getattr(args, f"old_{name}", None)
        if name in _PAIRS:
            if wrong := [pair for pair in value if not re.match(r"[^=]+=", pair)]:
                parser.error(f"--{_REPEATED[name]}: got {wrong[0]!r}; expected KEY=VALUE")
            overrides += _mapping(name, dict(pair.split("=", 1) for pair in value))
        elif isinstance(value, list):
            if value:
                overrides.append(f"endpoint.{name}=[{','.join(map(_written, value))}]")
        elif value is True:
            overrides.append(f"endpoint.{name}=true")
        elif value and name == "kind":
            overrides.append(f"endpoint={value}")
        elif value is not None and value is not False:
            overrides.append(f"endpoint.{name}={_written(value, number=_is_number(name))}")
    return overrides


def _mapping(name: str, values: dict[str, str]) -> list[str]:
    if all(re.fullmatch(r"[\w-]+", key) for key in values):
        return [f"endpoint.{name}.{key}={_written(text)}" for key, text in values.items()]
    # A name with dots or colons would be a path to Hydra; in braces it is a name once they are
    # escaped.
    inside = [f"{_SPECIAL.sub(_escaped, key)}: {_written(text)}" for key, text in values.items()]
    return [f"endpoint.{name}={{{', '.join(inside)}}}"]


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _is_number(name: str) -> bool:
    annotation = str(Endpoint.model_fields[name].annotation)
    return not any(kind in annotation for kind in ("str", "Literal['"))


def _written(value: str, number: bool = False) -> str:
    """Return a value as Hydra reads it, quoted where it would read something else."""
    if number and re.fullmatch(r"[\d.+-]+", value):
        return value
    words = ("true", "false", "null", "on", "off", "yes", "no")
    if _TEXT.fullmatch(value) and value.lower() not in words:
        return value
    return in_quotes(value)
