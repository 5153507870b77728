"""Metrics as text, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from breedlab.evaluation.metrics import end_names, is_percent, is_rate, titles
from breedlab.evaluation.statistics import f1_interval, span_text, wilson

_FEWEST_CLASSES_OF_TOP5 = 20
"""With fewer classes, five guesses cover a quarter of them or more, and top-5 says little."""


def shown_metrics(test: Mapping[str, Any]) -> dict[str, str]:
    """Return the titles of those metrics that say something about a test, which may be empty."""
    metrics = test.get("metrics", {})
    few = len(test.get("per_class", {})) < _FEWEST_CLASSES_OF_TOP5
    return {
        name: title
        for name, title in titles().items()
        if name in metrics and not (few and name == "top5")
    }


def interval(name: str, test: Mapping[str, Any]) -> str:
    """Return the 95% interval of a test's metric, such as `80.8% to 89.5%`; empty if none is known.

    Tests of older versions recorded none; for rates it follows from the number of images.
    """
    if ends := (test.get("intervals") or {}).get(name):
        return f"{metric(name, ends[0])} to {metric(name, ends[1])}"
    if not is_rate(name) or not test.get("photos"):
        return ""
    return rate_interval(test["metrics"][name], test["photos"])


def with_span(name: str, value: float, span: Sequence[float] | None) -> str:
    """Return a metric with its 95% interval in parentheses, if one is known, such as `85.7% (80.8%
    to 89.5%)`."""
    if span is None:
        return metric(name, value)
    low, high = span
    return f"{metric(name, value)} ({metric(name, low)} to {metric(name, high)})"


def validated(name: str, value: float, images: int) -> str:
    """Return a monitored metric with its 95% interval if it is a rate, such as `85.7% (80.8% to
    89.5%)`; that of others does not follow from the number of images.

    Args:
        name: Such as `valid/top1`.
        value: Its value.
        images: Of validation.
    """
    return with_span(name, value, rate_ends(name, value, images))


def rate_ends(name: str, value: float, images: int) -> tuple[float, float] | None:
    """Return the ends of the 95% interval of a monitored metric if it is a rate, else None;
    arguments as for `validated`."""
    if not images or not is_rate(name.removeprefix("valid/")):
        return None
    return wilson(value * images, images)


def objective_interval(metric: str, value: float, images: int) -> str:
    """Return the 95% interval of a monitored metric if it is a rate, such as `0.8312 to 0.8710`;
    else empty, since that of others does not follow from the number of images.

    Args:
        metric: Such as `valid/top1`.
        value: Its value.
        images: Of validation.
    """
    return span_text(rate_ends(metric, value, images))


def objective(metric: str, value: float, images: int) -> str:
    """Return the value of a monitored metric as a log has it, with its interval if it is a rate,
    such as `0.8523 (95% 0.8312 to 0.8710)`; arguments as for `objective_interval`."""
    return logged(value, rate_ends(metric, value, images))


def logged(value: float, ends: Sequence[float] | None) -> str:
    """Return the value of a monitored metric as a log has it, with its interval if that is known;
    SageMaker reads it by `interval_regexes`."""
    return f"{value:.4f} (95% {span_text(ends)})" if ends else f"{value:.4f}"


def named_ends(name: str, span: Sequence[float] | None) -> dict[str, float]:
    """Return the ends of a metric's interval by `end_names`; empty if it is not known."""
    return dict(zip(end_names(name), map(float, span), strict=True)) if span else {}


def rate_interval(rate: float, images: int) -> str:
    """Return the Wilson interval of a rate over that many images, such as `80.8% to 89.5%`."""
    low, high = wilson(rate * images, images)
    return f"{low:.1%} to {high:.1%}"


def set_size(sets: Mapping[str, Any]) -> str:
    """Return how many classes sets have on average, with the 95% interval if it was recorded, such
    as `1.4 (1.2 to 1.7)`."""
    ends = sets.get("size_interval")
    span = f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
    return f"{sets['size']:.1f}{span}"


def rate(share: float, images: int) -> str:
    """Return a rate over that many images with its interval, such as `85.7% (80.8% to 89.5%)`; the
    rate alone where there are none."""
    return f"{share:.1%} ({rate_interval(share, images)})" if images else f"{share:.1%}"


def f1_span(hits: float, predicted: int, images: int) -> str:
    """Return the interval of a class's F1, such as `80.8% to 89.5%`; empty where no image is of the
    class or was taken for it.

    Args:
        hits: Images of the class that were taken for it.
        predicted: All that were taken for it.
        images: All of the class.
    """
    mistakes = predicted + images - 2 * round(hits)
    if not hits + mistakes:
        return ""
    low, high = f1_interval(hits, mistakes)
    return f"{low:.1%} to {high:.1%}"


def calibration_before(test: Mapping[str, Any]) -> tuple[str, str]:
    """Return the calibration error of a test without its temperature, and its interval; empty where
    an older version recorded none."""
    calibration = test["calibration"]
    ends = calibration.get("ece_before_interval")
    span = " to ".join(metric("ece", end) for end in ends) if ends else ""
    return metric("ece", calibration["ece_before"]), span


def chance(test: Mapping[str, Any]) -> float | None:
    """Return the top-1 of always predicting the most frequent training class, which any model has
    to beat; None for a multi-label test, and for a test of a single class, where a guess is always
    right.

    Where the frequencies in training were not recorded, those of the test stand in for them.
    """
    if test.get("multi_label"):
        return None
    counts = {name: own["photos"] for name, own in test.get("per_class", {}).items()}
    if sum(count > 0 for count in counts.values()) < 2:
        return None
    guess = test.get("most_frequent_class")
    right = max(counts.values()) if guess is None else counts.get(guess, 0)
    return float(right / sum(counts.values()))


def metric(name: str, value: float) -> str:
    """Format a test metric: rates in percent, others with three decimals."""
    return f"{value:.1%}" if is_percent(name) else f"{value:.3f}"


RIGHTNESS = {"top1": "valid top-1", "exact": "valid, all labels right"}
"""What an engine answers right, as an export records it, and its title in a table."""


def rightness(candidates: Sequence[Mapping[str, Any]]) -> str:
    """Return which of `RIGHTNESS` an export recorded; empty where labels decided nothing."""
    module = candidates[0] if candidates else {}
    return next((name for name in RIGHTNESS if module.get(name) is not None), "")


def agreement(candidate: Mapping[str, Any], export: Mapping[str, Any], name: str) -> str:
    """Return a share of the images that an export compared its engines on, with its interval; empty
    where an engine has none.

    Args:
        candidate: An engine.
        export: What was recorded of all.
        name: `agreement`, or one of `RIGHTNESS`.
    """
    share = candidate.get(name)
    if share is None:
        return ""
    compared = export.get("photos") or {}
    images = int(compared.get("validation") or compared.get("test") or 0)
    # the module agrees with itself on any image
    certain = name == "agreement" and candidate == export["candidates"][0]
    return rate(share, 0 if certain else images)


def speedup(candidate: Mapping[str, Any], module: Mapping[str, float]) -> str:
    """Return an engine's speedup over the module, with the quartiles of its rounds where they were
    recorded."""
    if not candidate["milliseconds"]:
        return ""
    if recorded := candidate.get("speedup"):
        middle, low, high = recorded
        return f"{middle:.1f} ({low:.1f} to {high:.1f})"
    return (
        f"{geometric_mean(module[size] / ms for size, ms in candidate['milliseconds'].items()):.1f}"
    )


def figure(value: Any) -> str:
    """Return a value of a config or a table, short."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(figure(item) for item in value) + "]"
    return str(value)


def duration(seconds: float) -> str:
    """Format seconds for reading, as seconds, minutes, or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"
