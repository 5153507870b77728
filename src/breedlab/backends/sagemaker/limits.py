"""What AWS takes and what it refuses: the judge of every request, before it leaves and in the
tests' account.

Two sources: the API's own model, as botocore carries it, which boto3 itself checks for names and
types only; and limits that only AWS's documentation states (`documented_limits`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from breedlab.backends.sagemaker import java_pattern

Call = tuple[str, Mapping[str, Any]]
"""An operation and its parameters."""

Found = Iterator[tuple[str, str]]
"""Paths and messages."""

_STAND_INS = {
    r"<role>": "arn:aws:iam::123456789012:role/Role",
    r"<bucket>": "bucket",
    r"<region>": "us-east-1",
    r"<account>": "123456789012",
    r"<image>": "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:1",
    r"<fingerprint>": "0" * 32,
    r"<best [^<>]*>": "0",
    r"<ARN of [^<>]*>": (
        "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:0:resource/sagemaker/x:policyName/x"
    ),
}
"""What a dry run prints for what it does not know, and a value of the kind that a launch will have
there."""


class Unknown(str):
    """A text that AWS fills in when it gets there, such as a job's name: empty, or with a
    placeholder for the part that is not known."""


def training_part(call: Call) -> Mapping[str, Any]:
    """Return the part that a training job and a tuning job's definition share; empty for other
    calls."""
    operation, parameters = call
    if operation == "CreateTrainingJob":
        return parameters
    if operation == "CreateHyperParameterTuningJob":
        definition: Mapping[str, Any] = parameters.get("TrainingJobDefinition", {})
        return definition
    return {}


def training_root(call: Call) -> str:
    """Return how the paths of that part begin."""
    return "TrainingJobDefinition." if call[0] == "CreateHyperParameterTuningJob" else ""


def violations(
    service: str, operation: str, parameters: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the path and the message of everything in a request that the API's own model does not
    allow."""
    shape = _api(service).operation_model(operation).input_shape
    if shape is None:
        return [(name, "the operation takes no parameters") for name in parameters]
    return list(_of_shape(shape, parameters, ""))


def output_member(service: str, operation: str, parts: Sequence[str | int]) -> str | None:
    """Return the type of what a path into an operation's answer leads to; None if nowhere.

    Args:
        service: Such as `sagemaker`.
        operation: The call.
        parts: Names of members, keys of maps, and places in lists.
    """
    shape = _api(service).operation_model(operation).output_shape
    for part in parts:
        if shape is None:
            return None
        if shape.type_name == "structure":
            shape = shape.members.get(part)
        elif shape.type_name == "map" and isinstance(part, str):
            shape = shape.value
        elif shape.type_name == "list" and isinstance(part, int):
            shape = shape.member
        else:
            return None
    return None if shape is None else str(shape.type_name)


def values_of(service: str, shape: str) -> list[str]:
    """Return the values that a text of the API's model may have, such as the instance types of a
    use."""
    return list(_api(service).shape_for(shape).enum)


def with_stand_ins(value: Any, key: str = "") -> Any:
    """Return a request with its placeholders replaced by values of their kind, so that the rest can
    be judged."""
    if isinstance(value, Mapping):
        return {name: with_stand_ins(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [with_stand_ins(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if key == "PipelineDefinition":
        return json.dumps(with_stand_ins(json.loads(value)))
    for mark, stand_in in _STAND_INS.items():
        value = re.sub(mark, stand_in, value)
    if key in ("RoleArn", "ExecutionRoleArn") and not value.startswith("arn:"):
        # a dry run does not ask IAM for the ARN of a name
        return f"arn:aws:iam::123456789012:role/{value}"
    return value


@cache
def _api(service: str) -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def _of_shape(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    check = _CHECKS.get(shape.type_name)
    if check is not None:
        yield from check(shape, value, path)


def _of_structure(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path, f"got {value!r}; expected a mapping"
        return
    for name in shape.required_members:
        if name not in value:
            yield f"{path}.{name}".lstrip("."), "is missing"
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield (
            path,
            (
                f"got {', '.join(value) or 'nothing'}; expected exactly one of"
                f" {', '.join(shape.members)}"
            ),
        )
    for name, item in value.items():
        where = f"{path}.{name}".lstrip(".")
        if name not in shape.members:
            yield where, "is not a field of the API of the installed boto3"
        else:
            yield from _of_shape(shape.members[name], item, where)


def _of_list(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list | tuple):
        yield path, f"got {value!r}; expected a list"
        return
    yield from _size(shape, len(value), "entries", path)
    for index, item in enumerate(value):
        yield from _of_shape(shape.member, item, f"{path}[{index}]")


def _of_map(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path, f"got {value!r}; expected a mapping"
        return
    yield from _size(shape, len(value), "entries", path)
    for name, item in value.items():
        yield from _of_shape(shape.key, name, f"{path}.{name}")
        yield from _of_shape(shape.value, item, f"{path}.{name}")


def _of_string(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str):
        yield path, f"got {value!r}; expected a string"
        return
    if isinstance(value, Unknown) and not value:
        return
    if not isinstance(value, Unknown):
        yield from _size(shape, len(value), "characters", path)
    if shape.enum and value not in shape.enum:
        yield path, f"got {value!r}, which the installed boto3 does not know; a newer one may"
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        line = "; it has a line break" if re.search(r"[\n\r\u0085\u2028\u2029]", value) else ""
        yield path, f"got {value[:80]!r}; expected {pattern}{line}"


def _of_integer(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool) or not isinstance(value, int):
        yield path, f"got {value!r}; expected a whole number"
    else:
        yield from _size(shape, value, "", path)


def _of_float(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield path, f"got {value!r}; expected a number"
    else:
        yield from _size(shape, value, "", path)


def _of_boolean(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, bool):
        yield path, f"got {value!r}; expected true or false"


_CHECKS: Mapping[str, Any] = {
    "structure": _of_structure,
    "list": _of_list,
    "map": _of_map,
    "string": _of_string,
    "integer": _of_integer,
    "long": _of_integer,
    "float": _of_float,
    "double": _of_float,
    "boolean": _of_boolean,
}


def _matches(pattern: str, value: str) -> bool:
    try:
        return java_pattern.matches(pattern, value)
    except re.error:
        # of a newer boto3; the tests translate every pattern of the one that is locked
        return True


def _size(shape: Any, size: float, unit: str, path: str) -> Iterator[tuple[str, str]]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        yield path, f"got {size} {unit}".rstrip() + f"; expected at least {least}"
    if most is not None and size > most:
        yield path, f"got {size} {unit}".rstrip() + f"; expected at most {most}"
