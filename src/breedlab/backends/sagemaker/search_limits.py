"""Limits of tuning jobs that only AWS's documentation states; `documented_limits` has their
sources."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

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
        expected = f"{'as many as' if grid else 'at most'} {combinations}"
        where = "HyperParameterTuningJobConfig.ResourceLimits.MaxNumberOfTrainingJobs"
        yield where, f"got {jobs}; expected {expected}, the number of combinations"
