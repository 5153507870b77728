"""Rules on labels and on what is predicted in their place."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from breedlab.debugging.reader import EvalPass, Values
from breedlab.debugging.rules.base import RunRule


class ClassImbalance(RunRule):
    name, section, latest = "ClassImbalance", "class_imbalance", True
    needs = "the labels of training"
    link = "report.html#classes"
    meaning = "Some classes have many times the images of others; the network will favor them."
    advice = "Set data.class_weights=balanced, or collect images of the rare classes."
    sound = "Classes are about equally frequent."

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._counts, self._counted = np.zeros(0, dtype=np.int64), -1

    def steps_to_check(self) -> list[int]:
        # The first epoch has every image once. Asked at its end only: half an epoch says little of
        # rare classes.
        passes = self.tape.passes("TRAIN")
        steps = list(self.tape.saved("labels", "TRAIN"))
        if not passes:
            return steps[-1:]
        return [step for step in steps if step <= passes[0].last][-1:]

    def invoke_at_step(self, step: int) -> bool:
        labels = [
            self.tape.value("labels", s) for s in self.tape.saved("labels", "TRAIN") if s <= step
        ]
        all_labels = np.concatenate(
            [np.asarray(values).ravel() for values in labels if values is not None]
        )
        counts = np.bincount(all_labels.astype(np.int64), minlength=len(self.classes))
        self._counts = counts
        most, least = int(counts.argmax()), int(counts.argmin())
        factor = float(counts[most] / max(counts[least], 1))
        self.figures = {
            "factor": factor,
            "labels": int(counts.sum()),
            "most_frequent": _named(self.classes, most),
            "photos_of_most": int(counts[most]),
            "least_frequent": _named(self.classes, least),
            "photos_of_least": int(counts[least]),
        }
        self.tensor_names = ["labels"]
        return bool(factor > self.limits.factor)

    def missing(self) -> str:
        if not self.judged:
            return f"needs {self.needs}"
        average = float(self._counts.mean()) if len(self._counts) else 0.0
        needed = self.limits.labels
        return (
            ""
            if average >= needed
            else f"needs {needed} labels a class on average in TRAIN; {average:.1f} saved"
        )


class Confusion(RunRule):
    name, section, latest, mode = "Confusion", "confusion", True, "EVAL"
    needs = "the labels and predictions of validation"
    link = "report.html#confusion"
    meaning = "Most images of one class are taken for one and the same other class."
    advice = (
        "Look at images of both, for wrong labels or a difference too fine for data.image_size;"
        " collect more."
    )
    sound = "No class is mostly taken for another."

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._streak: dict[tuple[int, int], int] = {}
        self._most = 0

    def steps_to_check(self) -> list[int]:
        saved = self.tape.saved("predictions", "EVAL")
        return [one.last for one in self.tape.passes("EVAL") if one.last in saved]

    def invoke_at_step(self, step: int) -> bool:
        one = next(one for one in self.tape.passes("EVAL") if one.last == step)
        matrix = self._confusion(one)
        images = matrix.sum(1)
        self._most = max(self._most, int(images.max(initial=0)))
        shares = matrix / np.maximum(images, 1)[:, None]
        np.fill_diagonal(shares, 0)
        shares[images < self.limits.photos] = 0
        bad = {(int(i), int(j)) for i, j in np.argwhere(shares > self.limits.share)}
        self._streak = {pair: self._streak.get(pair, 0) + 1 for pair in bad}
        pairs = [pair for pair, streak in self._streak.items() if streak >= self.limits.patience]
        i, j = np.unravel_index(int(shares.argmax()), shares.shape) if shares.size else (0, 0)
        self.figures = {
            "largest_share": float(shares.max(initial=0)),
            "class": _named(self.classes, int(i)),
            "taken_for": _named(self.classes, int(j)),
            "confused_pairs": [
                f"{_named(self.classes, a)} for {_named(self.classes, b)}" for a, b in pairs
            ],
        }
        self.tensor_names = ["labels", "predictions"]
        return bool(pairs)

    def missing(self) -> str:
        if len(self.judged) < self.limits.patience:
            saved = f"{len(self.judged)} saved"
            return f"needs {self.needs} of at least {self.limits.patience} epochs; {saved}"
        few = self._most < self.limits.photos
        return (
            f"needs {self.limits.photos} images of a class in validation; at most {self._most}"
            if few
            else ""
        )

    def _confusion(self, one: EvalPass) -> Values:
        labels = _joined(self.tape.value("labels", step) for step in one.steps)
        predicted = _joined(self.tape.value("predictions", step) for step in one.steps)
        count = max(len(self.classes), *(int(v.max(initial=-1)) + 1 for v in (labels, predicted)))
        matrix = np.zeros((count, count), dtype=np.int64)
        if len(labels) == len(predicted):
            np.add.at(matrix, (labels, predicted), 1)
        return matrix


def _joined(values: Iterable[Values | None]) -> Values:
    parts = [np.asarray(value).ravel().astype(np.int64) for value in values if value is not None]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _named(classes: object, label: int) -> str:
    names = list(classes) if isinstance(classes, list | tuple) else []
    return str(names[label]) if label < len(names) else str(label)
