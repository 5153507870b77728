"""How good a model is: what validation and the test measure, and what may be monitored as
`valid/NAME`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from breedlab.config.section import Section
from breedlab.registry import METRICS

if TYPE_CHECKING:
    import torchmetrics


class Metric(Section):
    """A metric of validation and test.

    Attributes:
        title: What people read.
        lower_is_better: Whether `monitor.mode` is `min`.
        percent: Whether it is a share, shown in percent.
        rate: Whether it is a share of the images, which has an interval.
        single_label, multi_label: Whether it measures images of one class, and of several.
    """

    title: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = True
    rate: ClassVar[bool] = False
    single_label: ClassVar[bool] = True
    multi_label: ClassVar[bool] = False

    @abstractmethod
    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        """Return a metric of torchmetrics, updated with logits (n, classes) and labels (n,), that
        computes one number.

        Args:
            classes: Number of classes.
            how: What torchmetrics' `Metric` takes; hand it on.
        """

    def build_multi_label(self, thresholds: Sequence[float], **how: Any) -> torchmetrics.Metric:
        """Return what `build` does, of a metric with `multi_label`: updated with logits (n,
        classes) and targets (n, classes) of zeros and ones.

        Args:
            thresholds: The probability of each class from which an image is given its label.
            how: As for `build`.
        """
        raise NotImplementedError(f"{type(self).__name__} measures images of one class")


class _OfLabels(Metric):
    """A metric of images of several classes alone."""

    single_label, multi_label = False, True

    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        raise NotImplementedError(f"{type(self).__name__} measures images of several classes")


@METRICS.register("loss")
class Loss(Metric):
    """The mean cross-entropy in nats, whatever weights or smoothing the training loss has; of
    images of several classes the mean binary one of their classes."""

    title, lower_is_better, percent, multi_label = "cross-entropy", True, False, True

    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.class_metrics import CrossEntropy

        return CrossEntropy(**how)

    def build_multi_label(self, thresholds: Sequence[float], **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.label_metrics import BinaryCrossEntropy

        return BinaryCrossEntropy(**how)


@METRICS.register("top1")
class Top1(Metric):
    """Accuracy: the share of images whose class has the highest score."""

    title, rate = "top-1", True

    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(classes, average="micro", validate_args=False, **how)


@METRICS.register("top5")
class Top5(Metric):
    """The share of images whose class is among the five with the highest scores."""

    title, rate = "top-5", True

    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(
            classes, average="micro", top_k=min(5, classes), validate_args=False, **how
        )


@METRICS.register("map")
class Map(_OfLabels):
    """Mean average precision, over the classes that have images (`data.multi_label`)."""

    title = "mAP"

    def build_multi_label(self, thresholds: Sequence[float], **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.label_metrics import MeanAveragePrecision

        return MeanAveragePrecision(**how)


@METRICS.register("f1")
class F1(Metric):
    """The mean of the classes' F1; of images of several classes at the classes' thresholds, which
    are 0.5 while training."""

    title, multi_label = "macro F1", True

    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.class_metrics import MacroF1

        return MacroF1(classes, **how)

    def build_multi_label(self, thresholds: Sequence[float], **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.label_metrics import LabelF1

        return LabelF1(thresholds, average="macro", **how)


@METRICS.register("micro_f1")
class MicroF1(_OfLabels):
    """F1 of all labels together at the classes' thresholds (`data.multi_label`)."""

    title = "micro F1"

    def build_multi_label(self, thresholds: Sequence[float], **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.label_metrics import LabelF1

        return LabelF1(thresholds, average="micro", **how)


@METRICS.register("exact")
class Exact(_OfLabels):
    """The share of images whose labels are all right, none missing and none too many
    (`data.multi_label`)."""

    title, rate = "all labels right", True

    def build_multi_label(self, thresholds: Sequence[float], **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.label_metrics import ExactMatch

        return ExactMatch(thresholds, **how)


@METRICS.register("ece")
class Ece(Metric):
    """The expected calibration error, over 15 bins of confidence."""

    title, lower_is_better, percent = "calibration error", True, False

    def build(self, classes: int, **how: Any) -> torchmetrics.Metric:
        from breedlab.evaluation.class_metrics import CalibrationError

        return CalibrationError(classes, n_bins=15, validate_args=False, **how)


def titles() -> dict[str, str]:
    """Return what people read for each metric, by name; the loss, which says least to them, comes
    last."""
    names = sorted(METRICS.names(), key="loss".__eq__)
    return {name: METRICS.get(name).title for name in names}


def lower_is_better(name: str) -> bool:
    """Return whether less of a metric, such as `valid/loss`, is better."""
    metric: type[Metric] = METRICS.get(name.rpartition("/")[2])
    return metric.lower_is_better


def is_percent(name: str) -> bool:
    """Return whether a metric is shown in percent; False for one that is not registered here, such
    as a plugin's in another machine's run."""
    short = name.rpartition("/")[2]
    return short in METRICS.names() and METRICS.get(short).percent


def is_rate(short: str) -> bool:
    """Return whether the metric of a short name is a share of the images; False for one that is not
    known here."""
    return short in METRICS.names() and bool(METRICS.get(short).rate)


def end_names(name: str) -> tuple[str, str]:
    """Return how loggers call the ends of an interval: `test/top1_low` and `test/top1_high`."""
    return f"{name}_low", f"{name}_high"
