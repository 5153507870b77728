"""Limits of tuning jobs that only AWS's documentation states; `documented_limits` has their
sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    most = search.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {}).get("MaxResource", 0)
    if most > 20_000:
        path = f"{where}.StrategyConfig.HyperbandStrategyConfig.MaxResource"
        yield path, f"got {most}; expected at most 20000 epochs"
    total = sum(len(each) for each in ranges.values())
    if total > 30:
        yield (
            f"{where}.ParameterRanges",
            f"got {total} hyperparameters to search; expected at most 30",
        )
    for kind in ("ContinuousParameterRanges", "IntegerParameterRanges"):
        for index, each in enumerate(ranges.get(kind, [])):
            if each.get("ScalingType") == "Logarithmic" and float(each["MinValue"]) <= 0:
                path = f"{where}.ParameterRanges.{kind}[{index}].MinValue"
                yield (
                    path,
                    f"got {each['MinValue']}; expected more than 0, since its scale is logarithmic",
                )
    for index, each in enumerate(ranges.get("CategoricalParameterRanges", [])):
        if len(each.get("Values", [])) > 30:
            path = f"{where}.ParameterRanges.CategoricalParameterRanges[{index}].Values"
            yield path, f"got {len(each['Values'])} values; expected at most 30"


def enough_combinations(call: Call, before: Sequence[Call]) -> Found:
    """Yield that a search wants more trials than its ranges have combinations."""
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
    if counts and jobs > math.prod(counts):
        where = "HyperParameterTuningJobConfig.ResourceLimits.MaxNumberOfTrainingJobs"
        yield (
            where,
            (f"got {jobs}; expected at most {math.prod(counts)}, the number of combinations"),
        )
