"""model.json, read and checked in one place: an archive may come from anywhere, and what it says
sizes a network.

It needs no torch. Fields that are not known here are left alone.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from breedlab.errors import ServingError
from breedlab.serving.engine_kinds import EAGER, OPENVINO
from breedlab.serving.fetch import allowed_from

FORMAT = 2
"""The newest format that is read. Multi-label models, and those with `flip_tta`, have 2, since code
that reads only 1 would answer otherwise."""
SCHEMA_VERSION = 1  # config/migrations has it, too, but is not there on an endpoint
_MAX_BYTES = 64_000_000
_MAX_CLASSES = 100_000
_MAX_WIDTH = 1_000_000
_MAX_SIDE = 4096
_MOST_REQUIREMENTS = 100
_TEMPERATURES = (1e-3, 1e3)
_ENGINE_FILE = re.compile(r"engines/[a-z0-9_]+\.[a-z0-9]{1,16}")


class _Wrong(Exception):
    """What is wrong with a field, as text, and the code that it is known by."""

    code = "BL507"


class _Newer(_Wrong):
    code = "BL111"


def read_description(folder: Path) -> dict[str, Any]:
    """Return what an archive's model.json says.

    Args:
        folder: The archive's content, unpacked.

    Raises:
        ServingError: In one line: the field, what it holds, and what was expected.
    """
    file = folder / "model.json"
    try:
        if not file.is_file():
            raise _Wrong("is missing; expected an archive that breedlab exported")
        if file.stat().st_size > _MAX_BYTES:
            raise _Wrong(f"has more than the {_MAX_BYTES:,} bytes that are read")
        try:
            tree = json.loads(file.read_bytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _Wrong(f"is not JSON ({_short(error)}); export the model again") from error
        if not isinstance(tree, dict):
            raise _Wrong("holds no object; expected an archive that breedlab exported")
        _check_version(tree)
        _check(tree)
    except _Wrong as error:
        raise ServingError(f"model.json: {error}", code=error.code) from error
    except OSError as error:
        raise ServingError(f"model.json: cannot be read ({error.strerror})") from error
    return tree


def _check_version(tree: dict[str, Any]) -> None:
    version = _whole(tree.get("schema_version", SCHEMA_VERSION), "schema_version", 1, 10**9)
    number = _whole(_field(tree, "format", ""), "format", 1, 10**9)
    if version > SCHEMA_VERSION or number > FORMAT:
        raise _Newer(
            f"written by a newer breedlab (schema_version {version}, format {number}; this one"
            f" reads up to {SCHEMA_VERSION} and {FORMAT}); upgrade breedlab to open it"
        )


def _check(tree: dict[str, Any]) -> None:
    shape = _object(tree, "architecture")
    _text(_field(shape, "name", "architecture"), "architecture.name")
    count = _whole(
        _field(shape, "classes", "architecture"), "architecture.classes", 1, _MAX_CLASSES
    )
    for width in _list(_field(shape, "head", "architecture"), "architecture.head", most=32):
        _whole(width, "architecture.head", 1, _MAX_WIDTH)
    if not 0 <= _number(_field(shape, "dropout", "architecture"), "architecture.dropout") <= 1:
        raise _Wrong("architecture.dropout is not from 0 to 1")
    classes = _list(_field(tree, "classes", ""), "classes", most=_MAX_CLASSES)
    for name in classes:
        _text(name, "classes")
    if len(classes) != count or len(set(classes)) != count:
        raise _Wrong(f"names {len(set(classes))} classes; its network has {count}")
    transform = _object(tree, "transform")
    for name in ("resize", "crop"):
        _whole(_field(transform, name, "transform"), f"transform.{name}", 1, _MAX_SIDE)
    if _field(transform, "interpolation", "transform") not in ("bilinear", "bicubic"):
        raise _Wrong("transform.interpolation is neither bilinear nor bicubic")
    for where, values in (("architecture", shape), ("transform", transform)):
        for name in ("mean", "std"):
            _channels(_field(values, name, where), f"{where}.{name}", positive=name == "std")
    _object(tree, "lineage")
    hosts = tree.get("allow_urls", "none")
    try:
        if not isinstance(hosts, str) and not (
            isinstance(hosts, list) and all(isinstance(one, str) for one in hosts)
        ):
            raise ValueError
        allowed_from(hosts)
    except (ValueError, TypeError, AttributeError) as error:
        raise _Wrong("allow_urls is neither none nor public nor a list of hosts") from error
    if "answers" in tree:
        _check_answers(_object(tree, "answers"), count)
    if tree.get("engine") is not None:
        _check_engine(_object(tree, "engine"), count)


def _check_answers(answers: dict[str, Any], classes: int) -> None:
    least, most = _TEMPERATURES
    if not least <= _number(answers.get("temperature", 1.0), "answers.temperature") <= most:
        raise _Wrong(f"answers.temperature is not from {least:g} to {most:g}")
    if not isinstance(answers.get("flip_tta", False), bool):
        raise _Wrong("answers.flip_tta is neither true nor false")
    if answers.get("thresholds") is not None:
        _check_thresholds(answers, classes)
    if answers.get("sets") is not None:
        sets = _object(answers, "sets", "answers.")
        for name in ("coverage", "least"):
            if not 0 <= _number(_field(sets, name, "answers.sets"), f"answers.sets.{name}") <= 1:
                raise _Wrong(f"answers.sets.{name} is not from 0 to 1")
    if answers.get("unknown") is not None:
        unknown = _object(answers, "unknown", "answers.")
        if _field(unknown, "method", "answers.unknown") not in ("nearest", "mahalanobis"):
            raise _Wrong("answers.unknown.method is neither nearest nor mahalanobis")
        _whole(_field(unknown, "width", "answers.unknown"), "answers.unknown.width", 1, _MAX_WIDTH)
        _number(_field(unknown, "threshold", "answers.unknown"), "answers.unknown.threshold")
        quantiles = _list(
            _field(unknown, "quantiles", "answers.unknown"),
            "answers.unknown.quantiles",
            most=10_000,
        )
        numbers = [_number(one, "answers.unknown.quantiles") for one in quantiles]
        if not numbers or numbers != sorted(numbers):
            raise _Wrong("answers.unknown.quantiles are not in ascending order")
        if not isinstance(unknown.get("row", False), bool):
            raise _Wrong(f"answers.unknown.row is {_shown(unknown['row'])}; expected true or false")


def _check_thresholds(answers: dict[str, Any], classes: int) -> None:
    thresholds = _list(answers["thresholds"], "answers.thresholds", most=_MAX_CLASSES)
    if not all(0 <= _number(one, "answers.thresholds") <= 1 for one in thresholds):
        raise _Wrong("answers.thresholds are not all from 0 to 1")
    if len(thresholds) != classes:
        raise _Wrong(
            f"answers.thresholds has {len(thresholds)} numbers; there are {classes} classes"
        )
    if answers.get("sets") is not None:
        raise _Wrong("answers has both thresholds and sets; expected one of them")
    if (answers.get("unknown") or {}).get("row"):
        raise _Wrong("answers has both thresholds and a row for unknown; expected one of them")


def _check_engine(engine: dict[str, Any], classes: int) -> None:
    if _field(engine, "precision", "engine") not in ("fp32", "bf16", "int8"):
        raise _Wrong("engine.precision is none of fp32, bf16 and int8")
    name = _field(engine, "name", "engine")
    if name == EAGER:
        return
    if not isinstance(name, str) or re.fullmatch("[a-z][a-z0-9_]{0,63}", name) is None:
        raise _Wrong(
            f"engine.name is {_shown(name)}; expected eager, openvino, or the name of a plugin's"
            " engine"
        )
    file = _text(_field(engine, "file", "engine"), "engine.file")
    suffix = ".xml" if name == OPENVINO else ""  # OpenVINO reads other formats, too
    if _ENGINE_FILE.fullmatch(file) is None or not file.endswith(suffix):
        raise _Wrong(f"engine.file is {file[:80]!r}; expected engines/NAME{suffix or '.SUFFIX'}")
    if "settings" in engine:
        _object(engine, "settings", "engine.")
    makers = engine.get("requirements", [])
    for line in _list(makers, "engine.requirements", most=_MOST_REQUIREMENTS):
        _text(line, "engine.requirements")
    probe = _object(engine, "probe", "engine.")
    _whole(_field(probe, "side", "engine.probe"), "engine.probe.side", 1, _MAX_SIDE)
    scores = _list(
        _field(probe, "scores", "engine.probe"), "engine.probe.scores", most=_MAX_CLASSES
    )
    for score in scores:
        _number(score, "engine.probe.scores")
    if len(scores) != classes:
        raise _Wrong(f"engine.probe.scores has {len(scores)} numbers; there are {classes} classes")


def _field(tree: dict[str, Any], name: str, where: str) -> Any:
    if name not in tree:
        path = f"{where}.{name}" if where else name
        raise _Wrong(f"{path} is missing")
    return tree[name]


def _object(tree: dict[str, Any], name: str, where: str = "") -> dict[str, Any]:
    value = _field(tree, name, where.rstrip("."))
    if not isinstance(value, dict):
        raise _Wrong(f"{where}{name} is {_shown(value)}; expected an object")
    return value


def _list(value: Any, name: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise _Wrong(f"{name} is {_shown(value)}; expected a list of at most {most:,}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 1000:
        raise _Wrong(f"{name} is {_shown(value)}; expected a string of up to 1,000 characters")
    return value


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _Wrong(f"{name} is {_shown(value)}; expected a whole number from {least} to {most}")
    return value


def _number(value: Any, name: str) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or abs(value) > 1e30
        or not math.isfinite(value)
    ):
        raise _Wrong(f"{name} is {_shown(value)}; expected a number")
    return float(value)


def _channels(value: Any, name: str, positive: bool) -> None:
    numbers = [_number(one, name) for one in _list(value, name, most=3)]
    if len(numbers) != 3 or (positive and min(numbers) <= 0):
        kind = "positive numbers" if positive else "numbers"
        raise _Wrong(f"{name} is {_shown(value)}; expected three {kind}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a number of many digits"
    text = repr(value[:50] if isinstance(value, str | list) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _short(error: Exception) -> str:
    return (
        "nested too deeply"
        if isinstance(error, RecursionError)
        else " ".join(str(error).split())[:100]
    )
