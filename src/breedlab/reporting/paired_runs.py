"""Which of several runs is better on the images that they were tested on, by paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from breedlab.evaluation import paired as models
from breedlab.evaluation.paired import SIGNIFICANT
from breedlab.reporting.record import RunRecord


@dataclass(frozen=True)
class _Pair:
    """The answers of two runs to the same images, in the same order, and McNemar's test of them."""

    labels: list[Any]
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    tested: models.PairedTest


def _pair(one: RunRecord, other: RunRecord) -> _Pair | None:
    """Return the answers of two runs to the images that both were tested on; None if those
    differ."""
    if _fingerprint(one) != _fingerprint(other):
        return None
    images, theirs = (run.predictions.get("photos", []) for run in (one, other))
    if not images or set(images) != set(theirs):
        return None
    row = {image: index for index, image in enumerate(theirs)}
    second = {
        name: [column[row[image]] for image in images]
        for name, column in other.predictions.items()
        if name in ("predicted", "probabilities", "losses")
    }
    labels = one.predictions["labels"]
    return _Pair(
        labels, one.predictions, second, models.compare_right(labels, one.predictions, second)
    )


def _fingerprint(run: RunRecord) -> Any:
    """Return what distinguishes the images of one run from those of another."""
    return (run.lineage.get("data") or {}).get("fingerprint")


def clear_winner(runs: Sequence[RunRecord]) -> int | None:
    """Return the index of the run that is right more often than every other by more than chance, if
    there is one.

    With several rivals the threshold is divided by their number (Bonferroni).
    """
    best = _most_right(runs)
    rivals = [run for index, run in enumerate(runs) if index != best]
    pairs = [_pair(runs[best], rival) for rival in rivals]
    least = SIGNIFICANT / len(rivals)
    return best if all(pair is not None and pair.tested.p < least for pair in pairs) else None


def _most_right(runs: Sequence[RunRecord]) -> int:
    """Return the index of the run with the most right answers."""
    right = [
        sum(models.right(run.predictions.get("labels", []), run.predictions))
        if run.predictions
        else 0
        for run in runs
    ]
    return max(range(len(runs)), key=right.__getitem__)


def paired(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    """Return, for the run that is right most often against each other one, what paired tests say,
    in a few sentences."""
    best, rivals = _most_right(runs), len(runs) - 1
    texts = []
    for index, run in enumerate(runs):
        pair = None if index == best else _pair(runs[best], run)
        if pair is None:
            continue
        several = run.multi_label
        right_on = "has all labels right on" if several else "is right on"
        said = pair.tested.in_words(right_on, f"test images than {names[index]}", rivals)
        sentences = [f"{names[best]} {said}."]
        sentences.append(_class_by_class(pair, run.classes, rivals))
        others = models.in_words(models.differences(pair.labels, pair.first, pair.second))
        if others:
            sentences.append(f"Its {'; its '.join(others)} (paired bootstrap, 95% intervals).")
        texts.append(" ".join(sentences))
    return texts


def _class_by_class(pair: _Pair, classes: Sequence[str], rivals: int) -> str:
    """Return in a sentence for which classes, or labels, one of two runs is better."""
    tests = models.compare_right_by_class(pair.labels, pair.first, pair.second, len(classes))
    least = SIGNIFICANT / (rivals * len(tests))
    clear = [
        f"{name} on {abs(test.more):,} {'more' if test.more > 0 else 'fewer'} (p = {test.p:.2g})"
        for name, test in zip(classes, tests, strict=True)
        if test.p < least
    ]
    if not clear:
        kind = "class" if isinstance(pair.labels[0], int) else "label"
        return f"Of no single {kind} does it answer more images right than chance can explain."
    return f"By more than chance explains, it answers right: {', '.join(clear)}."
