"""Limits of tuning jobs that only AWS's documentation states; `documented_limits` has their
sources."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from breedlab.backends.sagemaker.limits import Call, Found


def search_suits_strategy(call: Call, before: Sequence[Call]) -> Found:
    """Yield what a search has against the rules of its strategy."""
    if call[0] != "CreateHyperParameterTuningJob":
        return
    search = call[1].get("HyperParameterTuningJobConfig", {})
    strategy, ranges = search.get("Strategy"), search.get("ParameterRanges", {})
    where = "HyperParameterTuningJobConfig"
    if strategy == "Hyperband" and search.get("TrainingJobEarlyStoppingType", "Off") != "Off":
        yield (
            f"{where}.TrainingJobEarlyStoppingType",
            "expected Off with Hyperband, which stops trials by itself",
        )
    if strategy == "Grid":
        for kind in ("ContinuousParameterRanges", "IntegerParameterRanges"):
            if ranges.get(kind):
                yield (
                    f"{where}.ParameterRanges.{kind}",
                    "expected none; a grid takes categorical ranges only",
                )
    if strategy != "Hyperband" and "StrategyConfig" in search:
        yield f"{where}.StrategyConfig", "expected none unless Strategy is Hyperband"
    resources = search.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
    least, most = resources.get("MinResource", 1), resources.get("MaxResource")
    if most is not None and not least < most <= 20_000:
        path = f"{where}.StrategyConfig.HyperbandStrategyConfig.MaxResource"
        yield path, f"got {most}; expected more than {least} and at most 20000 epochs"
    total = sum(len(each) for each in ranges.values())
    if total > 30:
        yield (
            f"{where}.ParameterRanges",
            f"got {total} hyperparameters to search; expected at most 30",
        )
    for kind in ("ContinuousParameterRanges", "IntegerParameterRanges"):
        for index, each in enumerate(ranges.get(kind, [])):
            path = f"{where}.ParameterRanges.{kind}[{index}].MinValue"
            yield from ((path, message) for message in _of_range(each))
    for index, each in enumerate(ranges.get("CategoricalParameterRanges", [])):
        if len(each.get("Values", [])) > 30:
            path = f"{where}.ParameterRanges.CategoricalParameterRanges[{index}].Values"
            yield path, f"got {len(each['Values'])} values; expected at most 30"


def _of_range(described: Mapping[str, str]) -> Iterator[str]:
    """Yield what the ends of a range have against each other and its scale."""
    low, high = float(described.get("MinValue", 0)), float(described.get("MaxValue", 1))
    scale = described.get("ScalingType")
    if not low < high:
        yield f"got {low:g} for a range that ends at {high:g}; expected less"
    if scale == "Logarithmic" and low <= 0:
        yield f"got {low:g}; expected more than 0, since its scale is logarithmic"
    if scale == "ReverseLogarithmic" and not (low >= 0 and high < 1):
        yield f"got {low:g} to {high:g}; expected 0 to less than 1, since its scale is reversed"


def parents_have_its_hyperparameters(call: Call, before: Sequence[Call]) -> Found:
    """Yield what a search has against the tuning jobs that it learns from, of those before it."""
    operation, parameters = call
    if operation != "CreateHyperParameterTuningJob":
        return
    earlier = {
        each["HyperParameterTuningJobName"]: each for name, each in before if name == operation
    }
    parents = parameters.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
    for index, parent in enumerate(parents):
        name = parent.get("HyperParameterTuningJobName")
        if name in earlier:
            where = f"WarmStartConfig.ParentHyperParameterTuningJobs[{index}]"
            for text in _differences(parameters, earlier[name]):
                yield where, f"{name} {text}"


def _differences(search: Mapping[str, Any], parent: Mapping[str, Any]) -> Iterator[str]:
    mine, theirs = _kinds_of_hyperparameters(search), _kinds_of_hyperparameters(parent)
    if more := sorted(theirs.keys() - mine.keys()):
        yield f"also has {', '.join(more)}; expected the same hyperparameters"
    if less := sorted(mine.keys() - theirs.keys()):
        yield f"lacks {', '.join(less)}; expected the same hyperparameters"
    for path in sorted(mine.keys() & theirs.keys()):
        if mine[path] and theirs[path] and mine[path] != theirs[path]:
            yield f"has {path} among {theirs[path]}, here it is among {mine[path]}"
    metrics = [
        each.get("HyperParameterTuningJobConfig", {})
        .get("HyperParameterTuningJobObjective", {})
        .get("MetricName")
        for each in (search, parent)
    ]
    if metrics[0] != metrics[1]:
        yield f"was judged by {metrics[1]}; expected {metrics[0]}"


def _kinds_of_hyperparameters(search: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind of range of each hyperparameter, empty for those with one value."""
    fixed = search.get("TrainingJobDefinition", {}).get("StaticHyperParameters", {})
    kinds = {name: "" for name in fixed if not name.startswith("_")}  # AWS's own
    ranges = search.get("HyperParameterTuningJobConfig", {}).get("ParameterRanges", {})
    return kinds | {each["Name"]: kind for kind, listed in ranges.items() for each in listed}


def enough_combinations(call: Call, before: Sequence[Call]) -> Found:
    """Yield that a search wants more trials than its ranges have combinations, or a grid fewer."""
    if call[0] != "CreateHyperParameterTuningJob":
        return
    search = call[1].get("HyperParameterTuningJobConfig", {})
    ranges, limits = search.get("ParameterRanges", {}), search.get("ResourceLimits", {})
    jobs = limits.get("MaxNumberOfTrainingJobs")
    if jobs is None or ranges.get("ContinuousParameterRanges"):
        return
    counts = [len(each.get("Values", [])) for each in ranges.get("CategoricalParameterRanges", [])]
    counts += [
        int(each["MaxValue"]) - int(each["MinValue"]) + 1
        for each in ranges.get("IntegerParameterRanges", [])
    ]
    if not counts:
        return
    combinations = math.prod(counts)
    grid = search.get("Strategy") == "Grid"
    if jobs > combinations or (grid and jobs < combinations):
        bound = "as many as" if grid else "at most"
        where = "HyperParameterTuningJobConfig.ResourceLimits.MaxNumberOfTrainingJobs"
        yield where, f"got {jobs}; expected {bound} {combinations}, the number of combinations"
