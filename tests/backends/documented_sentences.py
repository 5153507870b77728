"""What AWS's documentation says that limits the members of our requests, sentence by sentence.

`documented_sentences.txt` lists the sentences that botocore carries, each under what covers it: a
row of `documented_limits.LIMITS`, or the reason why no request can break it.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from breedlab.backends.sagemaker.pipeline_definition import KINDS

_LIMITS = re.compile(
    r"\b(can't|cannot|must|only|not support\w*|aren't supported|maximum|at most|up to|mutually"
    r"|required|less than|greater than|exceed|unique|should be|don't choose)\b",
    re.IGNORECASE,
)
_COVER = re.compile(r"== (limit|reason): (.+)")


def limiting_sentences(operation: str, parameters: Mapping[str, Any]) -> set[str]:
    """The sentences about the members of a SageMaker request that state a limit."""
    shape = _model()["operations"][operation].get("input", {}).get("shape")
    return set() if shape is None else set(_of_shape(shape, parameters))


@cache
def listed() -> dict[str, tuple[str, str]]:
    """What covers each sentence: `limit` and its name, or `reason` and the reason."""
    found: dict[str, tuple[str, str]] = {}
    cover = ("", "")
    for line in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines():
        if match := _COVER.fullmatch(line):
            cover = (match[1], match[2])
        elif line:
            assert line not in found, f"listed twice: {line}"
            found[line] = cover
    return found


def _of_shape(name: str, value: Any) -> Iterator[str]:
    shape = _model()["shapes"][name]
    if shape["type"] == "structure" and isinstance(value, Mapping):
        for member, item in value.items():
            if member not in shape["members"]:
                continue  # the judge of requests says so
            yield from _sentences(name, member)
            if member == "PipelineDefinition":
                yield from _of_definition(item)
            else:
                yield from _of_shape(shape["members"][member]["shape"], item)
    elif shape["type"] == "list" and isinstance(value, list):
        for item in value:
            yield from _of_shape(shape["member"]["shape"], item)
    elif shape["type"] == "map" and isinstance(value, Mapping):
        for item in value.values():
            yield from _of_shape(shape["value"]["shape"], item)


def _of_definition(text: Any) -> Iterator[str]:
    definition = json.loads(text) if isinstance(text, str) else text
    for step in definition["Steps"]:
        yield from limiting_sentences(KINDS[step["Type"]].operation, step["Arguments"])


@cache
def _sentences(shape: str, member: str) -> tuple[str, ...]:
    """The limiting sentences of a member, and of the shape that it has."""
    shapes = _model()["shapes"]
    described = shapes[shape]["members"][member]
    texts = (
        described.get("documentation", ""),
        shapes[described["shape"]].get("documentation", ""),
    )
    plain = (html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", text))) for text in texts)
    sentences = [
        each.strip() for text in plain for each in re.split(r"(?<=[.:])\s+(?=[A-Z])", text)
    ]
    return tuple(each for each in sentences if _LIMITS.search(each))


@cache
def _model() -> dict[str, Any]:
    from botocore.loaders import Loader

    model: dict[str, Any] = Loader().load_service_model("sagemaker", "service-2")
    return model
