"""What AWS takes for a pipeline's definition: its structure, its references, and every step's
arguments by the model of the call that the step makes.

CreatePipeline refuses a definition whose steps the API's model refuses ("Unable to parse pipeline
definition. Model Validation failed: string '...' with length=91 cannot be greater than max=63.0
defined for ProcessingJobName", aws/sagemaker-python-sdk issue 5099). The structure is that of AWS's
own JSON schema (aws-sagemaker-mlops/sagemaker-model-building-pipeline-definition-JSON-schema) and
of what SDK v3's `Pipeline` writes, which is newer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from breedlab.backends.sagemaker.documented_limits import documented
from breedlab.backends.sagemaker.limits import (
    Call,
    Found,
    Unknown,
    output_member,
    violations,
)

VERSION = "2020-12-01"
LARGEST = 100 * 1024
"""Bytes; the SDK sends a definition from here on by way of S3 (`Pipeline._create_args`)."""


@dataclass(frozen=True)
class StepKind:
    """What a type of step calls.

    Attributes:
        operation: The call that takes its arguments.
        describe: The calls whose answers its properties are.
        named: The argument that AWS fills in, and takes from no one.
        refused: Others that the SDK takes out before it sends them.
    """

    operation: str
    describe: tuple[str, ...]
    named: str
    refused: tuple[str, ...] = ()


KINDS = {
    "Training": StepKind(
        "CreateTrainingJob", ("DescribeTrainingJob",), "TrainingJobName", ("ExperimentConfig",)
    ),
    "Tuning": StepKind(
        "CreateHyperParameterTuningJob",
        ("DescribeHyperParameterTuningJob", "ListTrainingJobsForHyperParameterTuningJob"),
        "HyperParameterTuningJobName",
    ),
    "RegisterModel": StepKind(
        "CreateModelPackage",
        ("DescribeModelPackage",),
        "ModelPackageName",
        ("CertifyForMarketplace", "Description"),
    ),
}
"""The types of steps that breedlab makes; others are refused here."""

_TOP = (
    "Version",
    "Metadata",
    "Parameters",
    "PipelineExperimentConfig",
    "MlflowConfig",
    "Steps",
)
_STEP = (
    "Name",
    "Type",
    "Arguments",
    "DependsOn",
    "DisplayName",
    "Description",
    "CacheConfig",
    "RetryPolicies",
)
_STEP_NAME = re.compile(r"[A-Za-z0-9\-_]{1,64}")
_EXECUTION = (
    "PipelineName",
    "PipelineArn",
    "PipelineExecutionId",
    "PipelineExecutionArn",
    "StartDateTime",
    "CurrentDateTime",
)
_PART = re.compile(r"\.?([A-Za-z0-9]+)|\['([^']+)'\]|\[(\d+)\]")


def refusals(definition: str, before: Sequence[Call] = ()) -> list[tuple[str, str]]:
    """Return the path and the message of everything that AWS would refuse in a definition.

    Args:
        definition: The definition.
        before: The calls that were made before it.
    """
    if (size := len(definition.encode())) >= LARGEST:
        return [("PipelineDefinition", f"got {size} bytes; expected fewer than {LARGEST}")]
    try:
        tree = json.loads(definition)
    except ValueError as error:
        return [("PipelineDefinition", f"is not valid JSON: {error}")]
    return [
        (f"PipelineDefinition.{path}", message) for path, message in _of_definition(tree, before)
    ]


def properties(path: str) -> list[str | int]:
    """Return the parts of a reference to a step's properties, without the step's name.

    Args:
        path: Such as `BestTrainingJob.TunedHyperParameters['optim__lr']`.

    Raises:
        ValueError: If it is not written as AWS reads it.
    """
    parts: list[str | int] = []
    end = 0
    while end < len(path):
        match = _PART.match(path, end)
        if match is None:
            raise ValueError(path)
        name, key, index = match.groups()
        if name and (end > 0) != match[0].startswith("."):
            raise ValueError(path)
        parts.append(int(index) if index else (name or key))
        end = match.end()
    return parts


def _of_definition(tree: Any, before: Sequence[Call]) -> Found:
    if not isinstance(tree, Mapping):
        yield "", f"got {tree!r}; expected a mapping"
        return
    for name in tree:
        if name not in _TOP:
            fields = ", ".join(_TOP)
            yield name, f"is not a field of a pipeline definition; expected some of {fields}"
    if tree.get("Version") != VERSION:
        yield "Version", f"got {tree.get('Version')!r}; expected {VERSION!r}"
    steps = tree.get("Steps")
    if not isinstance(steps, list) or not steps:
        yield "Steps", "expected a list of steps"
        return
    names = [step.get("Name") for step in steps]
    by_name = {str(step.get("Name")): step for step in steps}
    for index, step in enumerate(steps):
        where = f"Steps[{index}]"
        if names.count(step.get("Name")) > 1:
            yield f"{where}.Name", f"got {step.get('Name')!r} twice; expected each name once"
        resolver = _Resolver(str(step.get("Name")), by_name, tree.get("Parameters") or [])
        yield from _of_step(where, step, resolver, before)
    yield from _of_order(by_name)


def _of_step(
    where: str, step: Mapping[str, Any], resolver: _Resolver, before: Sequence[Call]
) -> Found:
    for name in step:
        if name not in _STEP:
            fields = ", ".join(_STEP)
            yield f"{where}.{name}", f"is not a field of a step; expected some of {fields}"
    for name in ("Name", "DisplayName"):
        text = step.get(name, "x" if name == "DisplayName" else None)
        if not isinstance(text, str) or not _STEP_NAME.fullmatch(text):
            expected = "1 to 64 letters, digits, '-' and '_'"
            yield f"{where}.{name}", f"got {text!r}; expected {expected}"
    for name in step.get("DependsOn", []):
        if name not in resolver.steps:
            yield f"{where}.DependsOn", f"got {name!r}; expected a step of the definition"
    kind = KINDS.get(str(step.get("Type")))
    if kind is None:
        yield f"{where}.Type", f"got {step.get('Type')!r}; expected one of {', '.join(KINDS)}"
        return
    arguments = resolver.resolve(step.get("Arguments", {}), f"{where}.Arguments")
    yield from resolver.problems
    for name in (kind.named, *kind.refused):
        if name in arguments:
            yield f"{where}.Arguments.{name}", "expected none: AWS gives it in a pipeline"
    whole = {kind.named: "name", **arguments} if _needs_name(kind) else arguments
    for path, message in [
        *violations("sagemaker", kind.operation, whole),
        *documented((kind.operation, whole), before),
    ]:
        yield f"{where}.Arguments.{path}", message


def _needs_name(kind: StepKind) -> bool:
    return kind.operation != "CreateModelPackage"


def _of_order(steps: Mapping[str, Any]) -> Found:
    """Yield the steps that wait for each other."""
    waits = {
        name: {*step.get("DependsOn", []), *_references(step.get("Arguments", {}))}
        for name, step in steps.items()
    }
    earlier: set[str] = set()
    while (
        ready := {name for name, needs in waits.items() if needs & waits.keys() <= earlier}
        - earlier
    ):
        earlier |= ready
    if cycle := sorted(waits.keys() - earlier):
        yield "Steps", f"{', '.join(cycle)} depend on each other; expected no cycle"


def _references(value: Any) -> Iterator[str]:
    """Yield the names of the steps that a value refers to."""
    if isinstance(value, Mapping):
        if value.keys() == {"Get"}:
            kind, _, rest = str(value["Get"]).partition(".")
            if kind == "Steps":
                yield rest.partition(".")[0]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


@dataclass
class _Resolver:
    """A visitor that replaces references by placeholders, and notes those that lead nowhere."""

    step: str
    steps: Mapping[str, Any]
    parameters: list[Any]
    problems: list[tuple[str, str]] = field(default_factory=list)

    def resolve(self, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [self.resolve(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        if value.keys() == {"Get"}:
            return self._reference(value["Get"], path)
        if value.keys() == {"Std:Join"}:
            return self._joined(value["Std:Join"], path)
        return {name: self.resolve(item, f"{path}.{name}") for name, item in value.items()}

    def _joined(self, join: Any, path: str) -> str:
        if not isinstance(join, Mapping) or not {"Values"} <= join.keys() <= {"On", "Values"}:
            self.problems.append((path, f"got {join!r}; expected On and Values"))
            return Unknown()
        parts = [self.resolve(item, path) for item in join["Values"]]
        if any(isinstance(part, Mapping | list) for part in parts):
            self.problems.append((path, "can join only strings, numbers, and references"))
            return Unknown()
        if all(isinstance(part, Unknown) for part in parts):
            return Unknown()
        texts = [str(part) or "x" if isinstance(part, Unknown) else str(part) for part in parts]
        text = str(join.get("On", "")).join(texts)
        return Unknown(text) if any(isinstance(part, Unknown) for part in parts) else text

    def _reference(self, text: Any, path: str) -> str:
        if reason := self._wrong(str(text)):
            self.problems.append((path, f"got {text!r}, {reason}"))
        return Unknown()

    def _wrong(self, text: str) -> str | None:
        kind, _, rest = text.partition(".")
        if kind == "Execution":
            return None if rest in _EXECUTION else "which is not a property of an execution"
        if kind == "Parameters":
            names = [each.get("Name") for each in self.parameters]
            return None if rest in names else "which is not among Parameters"
        name, _, path = rest.partition(".")
        if kind != "Steps" or name not in self.steps:
            return "which is not a step of the definition"
        if name == self.step:
            return "which is the step itself"
        return _wrong_property(self.steps[name], path)


def _wrong_property(step: Mapping[str, Any], path: str) -> str | None:
    """Return why a step has no such property, by the model of what describes it."""
    kind = KINDS.get(str(step.get("Type")))
    try:
        parts = properties(path)
    except ValueError:
        return "which is not written as Name.Name['key'][0]"
    if kind is None or not parts:
        return "which is not a property of the step"
    shapes = [output_member("sagemaker", operation, parts) for operation in kind.describe]
    reached = [shape for shape in shapes if shape is not None]
    if not reached:
        return f"which is not in the response of {' or '.join(kind.describe)}"
    if reached[0] in ("structure", "list", "map"):
        return "which is not a single value"
    if parts[:2] == ["BestTrainingJob", "TunedHyperParameters"] and parts[2] not in _ranged(step):
        return "which the search does not vary"
    return None


def _ranged(step: Mapping[str, Any]) -> set[str]:
    search = step["Arguments"].get("HyperParameterTuningJobConfig", {})
    ranges = search.get("ParameterRanges", {})
    return {each["Name"] for kind in ranges.values() for each in kind}
