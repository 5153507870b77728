"""What is needed between a config and its first training step: checked images, the network, and
its activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from breedlab import weight_files
from breedlab.config import Config
from breedlab.console import note, progress
from breedlab.data.batches import TrainingBatches
from breedlab.data.check import Report
from breedlab.data.dataset import KeptImages
from breedlab.data.decode import KEPT_BY_TRAINING, keep_memory
from breedlab.data.image_set import ImageSet
from breedlab.data.module import ImageData
from breedlab.data.transforms import EvalTransform
from breedlab.errors import TrainingError
from breedlab.models import backbone as backbones
from breedlab.models.boundary import NotSeparable
from breedlab.models.classifier import Classifier
from breedlab.models.heads import Logistic
from breedlab.registry import AUGMENTATIONS, HEADS
from breedlab.training import loaded_head, loop, network_checks, solving
from breedlab.training.activations import (
    Activations,
    Computing,
    TooLarge,
    cached_activations,
    cached_parts,
)
from breedlab.training.architecture import architecture, is_solved
from breedlab.training.auto_values import evaluation_transform, training_precision
from breedlab.training.engine_choice import FeatureEngines
from breedlab.training.feeds import CachedFeed, LiveFeed
from breedlab.training.learner import Learner
from breedlab.training.pixel_cache import kept_images
from breedlab.training.tasks import task_of


def at_leisure() -> None:
    """Let a pass over the images take as long as it does."""


def _network(config: Config) -> tuple[Any, ...]:
    """Return what decides the features of a frozen backbone."""
    data = config.data
    input_ = (data.image_size, data.resize, data.interpolation, tuple(data.mean), tuple(data.std))
    return (config.model.name, config.model.weights, *input_)


@dataclass
class TrainingContext:
    """Everything that the trials and the best have in common.

    Attributes:
        config: The experiment's.
        report: The checked images.
        backbone: With its weights; trials that train it get a copy.
        evaluation: The transform of validation, test and serving.
        accelerator: `cpu` or `gpu`.
        precision: `fp32` or `bf16`.
        scope: Which network and input these are of a run that searches several, for its records;
            empty for the run's.
        heed: Called between batches of a pass over the images; raises to end it.
        engines: What computes frozen parts.
    """

    config: Config
    report: Report
    backbone: backbones.Backbone
    evaluation: EvalTransform
    accelerator: str
    precision: str
    _activations: dict[tuple[Any, ...], Activations | None] = field(default_factory=dict)
    _pixel_caches: dict[tuple[bool, int | None], dict[str, KeptImages]] = field(
        default_factory=dict
    )
    scope: str = ""
    heed: Callable[[], None] = at_leisure
    engines: FeatureEngines = field(init=False)
    _variants: dict[tuple[Any, ...], TrainingContext] = field(default_factory=dict)
    _takes: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engines = FeatureEngines(
            Path(self.config.cache.dir), self.device, self.precision, self.scope
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.report.images.classes

    def takes(self, side: int) -> bool:
        """Return whether the backbone takes images of a size, which is tried once."""
        if side not in self._takes:
            self._takes[side] = network_checks.takes(self.backbone.network.eval(), side)
        return self._takes[side]

    def suited(self, config: Config) -> TrainingContext:
        """Return what a config with another backbone or input needs; itself where these are its
        own.

        Raises:
            ConfigError: If the backbone or its weights are not available.
        """
        key = _network(config)
        if key == _network(self.config):
            return self
        if key not in self._variants:
            same = {
                _network(each.config)[:2]: each.backbone
                for each in (self, *self._variants.values())
            }
            weights = weight_files.file_of(config.model.weights)
            backbone = same.get(key[:2]) or backbones.build(config.model.name, weights)
            evaluation = evaluation_transform(config.data, backbone.pretraining)
            scope = (
                f"{config.model.name} {config.model.weights} {evaluation.resize}/{evaluation.crop} "
            )
            context = TrainingContext(
                config,
                self.report,
                backbone,
                evaluation,
                self.accelerator,
                self.precision,
                scope=scope,
            )
            if self.engines.run is not None:
                context.engines.resume(self.engines.run)
            network_checks.try_network(context.classifier(config), config)
            self._variants[key] = context
        variant = self._variants[key]
        variant.heed = self.heed
        for other in (self, *self._variants.values()):
            if other is not variant:
                other.forget()
        return variant

    def forget(self) -> None:
        """Let go of activations in memory; they are on the disk."""
        self._activations.clear()

    def classifier(self, config: Config, synced: bool = False) -> Classifier:
        """Return a fresh network for a config: pretrained backbone, and the head of the starting
        weights if it fits, else a seeded one.

        Args:
            config: The experiment's, or a trial's.
            synced: Whether trained BatchNorm layers normalize over the whole batch, across
                processes; on GPUs only.
        """
        torch.manual_seed(config.seed)
        # a frozen backbone never changes, so all may share it
        shared = config.model.freeze == "backbone"
        network = self.backbone.network if shared else self.backbone.unfrozen_copy()
        if synced and not shared and self.accelerator == "gpu":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        classifier = Classifier(
            architecture(config, self.evaluation, len(self.classes), self.backbone.tag),
            replace(self.backbone, network=network),
            config.model.freeze,
            self.evaluation.crop,
        )
        head = loaded_head.matching_head(self.backbone.loaded, self.classes, classifier)
        if head:
            classifier.head.load_state_dict(head)
        if config.trainer.compile:
            classifier.compile()
        return classifier

    def lineage(self) -> dict[str, Any]:
        """Return what lineage.json says of the transform, and of the run that the weights come
        from."""
        lineage: dict[str, Any] = {"transform": asdict(self.evaluation)}
        if parent := loaded_head.parent(self.backbone.loaded):
            lineage["parent"] = parent
        return lineage

    def card(self, config: Config) -> dict[str, Any]:
        """Return a model's description, as in `model.json`, for its checkpoints."""
        return {
            "architecture": asdict(
                architecture(config, self.evaluation, len(self.classes), self.backbone.tag)
            ),
            "classes": list(self.classes),
            "transform": asdict(self.evaluation),
        }

    def data(
        self, config: Config, epochs: int | None = None, images: ImageSet | None = None
    ) -> ImageData:
        """Return the images as a config batches and augments them.

        Args:
            config: The experiment's, or a trial's.
            epochs: Of the whole training; None is `trainer.max_epochs`.
            images: With other splits; None is those of the run.
        """
        frozen_views = None if config.model.freeze == "none" else config.cache.views or None
        return ImageData(
            images or self.report.images,
            config.data,
            self.evaluation,
            config.seed,
            frozen_views,
            epochs=epochs or config.trainer.max_epochs,
        )

    def live_data(self, config: Config, epochs: int | None = None) -> ImageData:
        """Return the images as training loads them every epoch: with `cache.pixels` decoded once,
        for all runs. Arguments as in `data`."""
        if self.accelerator == "cpu":
            keep_memory(KEPT_BY_TRAINING)
        data = self.data(config, epochs)
        if not config.cache.pixels:
            return data
        needs = (data.training is None, data.views.frozen_views)
        if needs not in self._pixel_caches:
            self._pixel_caches[needs] = kept_images(
                data, config.cache, self.report.fingerprint, progress
            )
        data.caches = self._pixel_caches[needs]
        return data

    def activations(self, classifier: Classifier, config: Config) -> Activations | None:
        """Return the frozen part's activations, or None if they are computed live; print why."""
        if config.model.freeze == "none" or config.cache.mode == "off":
            return None
        augmentation = str(AUGMENTATIONS.identity(config.data))
        key = (config.model.freeze, augmentation, config.cache.views, config.data.train_size)
        if key not in self._activations:
            self._activations[key] = self._cached(classifier, config)
        return self._activations[key]

    def _cached(self, classifier: Classifier, config: Config) -> Activations | None:
        self.heed()
        try:
            classifier.tail()
            if config.data.train_size and config.model.freeze != "backbone":
                raise NotSeparable("training crops have another size than validation's images")
            data = self.data(config)
            return cached_activations(classifier, data, config.cache, self._computing())
        except (NotSeparable, TooLarge) as reason:
            note(f"activations are computed live every epoch: {reason}")
            return None

    def _computing(self) -> Computing:
        return Computing(
            self.report.fingerprint,
            self.precision,
            self.device,
            self.engines,
            self._progress,
            self.report.digests,
        )

    def features(self, config: Config, splits: Sequence[str]) -> list[torch.Tensor] | None:
        """Return a frozen backbone's features of splits with images, (n, width) each, which stay in
        the cache for a training; None if they do not fit there, with a note."""
        network, parts = self.classifier(config), [(split, 0) for split in splits]
        try:
            return cached_parts(network, self.data(config), parts, config.cache, self._computing())
        except TooLarge as reason:
            note(f"no features of the images: {reason}")
            return None

    @contextmanager
    def _progress(self, title: str) -> Iterator[Callable[[int, int], None]]:
        with progress(title) as report:

            def reported(count: int, total: int) -> None:
                report(count, total)
                self.heed()

            yield reported

    def learner(
        self, classifier: Classifier, config: Config, epochs: int, on: Activations | None = None
    ) -> tuple[Learner, loop.Feed]:
        """Return what the lean loop trains and its data: the config's activations, or others
        instead."""
        activations = on or self.activations(classifier, config)
        data = self.data(config) if activations is not None else self.live_data(config, epochs)
        feed: loop.Feed = LiveFeed(data) if activations is None else CachedFeed(activations, config)
        learner = Learner(
            classifier,
            config,
            steps_per_epoch=len(
                TrainingBatches(
                    len(data.dataset("train") if on is None else on.labels),
                    config.data.batch_size,
                    0,
                    data.views,
                )
            ),
            class_counts=data.images.counts("train"),
            class_weights=data.class_weights(),
            tail=None if activations is None else classifier.tail(),
            epochs=epochs,
        )
        learner.card = self.card(config)
        return learner, feed

    def epochs(self, classifier: Classifier, config: Config, count: int) -> Iterator[loop.Epoch]:
        """Train with the lean loop, one epoch at a time; a solved head has a single epoch."""
        if is_solved(config):
            yield solving.as_epoch(self.solve(classifier, config))
            return
        learner, feed = self.learner(classifier, config, count)
        precision = training_precision(
            config, self.accelerator, self.precision, cached=isinstance(feed, CachedFeed)
        )
        yield from loop.epochs(
            learner, feed, config, count=count, accelerator=self.accelerator, precision=precision
        )

    def solve(
        self,
        classifier: Classifier,
        config: Config,
        on: Activations | None = None,
        c: float | None = None,
    ) -> solving.Solution:
        """Solve a head that is not trained in epochs, and leave its weights in the classifier.

        Args:
            classifier: With such a head.
            config: The experiment's, or a trial's.
            on: The activations, instead of the config's.
            c: The inverse strength of the penalty, instead of the config's.

        Raises:
            TrainingError: If there are no cached features to solve it on.
        """
        activations = on or self.activations(classifier, config)
        if activations is None:
            raise TrainingError(
                f"model.head_type: {config.model.head_type} is solved on all features at once, and"
                " they are not cached (the reason is above); raise cache.max_gb, or choose another"
                " head"
            )
        loss = task_of(config.data).solved_loss(
            self.data(config).solving_weights(), config.optim.label_smoothing
        )
        penalty = c or self.penalty(config)
        solution = solving.solve(
            activations, len(self.classes), loss, config.monitor, self.device, penalty
        )
        solution.put_into(classifier.head)
        return solution

    def penalty(self, config: Config) -> float | None:
        """Return the penalty that the config gives a head that is solved; None where it is to be
        chosen."""
        head = HEADS.chosen(config.model)
        assert isinstance(head, Logistic)
        return None if head.c == "auto" else head.c
