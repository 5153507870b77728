"""What stands between a config and its first training step: photos checked, network built,
activations at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from breedlab import config as configs
from breedlab import distributed, weight_files
from breedlab.config import Config
from breedlab.config.schema import Data
from breedlab.console import note, progress
from breedlab.data.check import Report
from breedlab.data.module import KeptImages, PhotoData, TrainingBatches
from breedlab.data.transforms import EvalTransform
from breedlab.errors import ConfigError, TrainingError
from breedlab.models import backbone as backbones
from breedlab.models import input_check
from breedlab.models.boundary import NotSeparable
from breedlab.models.classifier import MLP, Architecture, Classifier
from breedlab.models.heads import Logistic
from breedlab.registry import AUGMENTATIONS, HEADS
from breedlab.serving.engines import multiplies_bf16
from breedlab.training import loop, solving
from breedlab.training.activations import Activations, TooLarge, cached_activations
from breedlab.training.engine_choice import EAGER, FeatureEngines
from breedlab.training.learner import Learner
from breedlab.training.pixel_cache import kept_images
from breedlab.training.precision import autocast

_CHECKED = 32
"""Training images that the weights are checked on."""


def at_leisure() -> None:
    """Let a pass over the images take as long as it does."""


def _network(config: Config) -> tuple[Any, ...]:
    """Return what decides the features of a frozen backbone."""
    data = config.data
    input_ = (data.image_size, data.resize, data.interpolation, tuple(data.mean), tuple(data.std))
    return (config.model.name, config.model.weights, *input_)


@dataclass
class Prepared:
    """Everything that the trials and the best have in common.

    Attributes:
        config: The experiment's.
        report: The checked photos.
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
    _activations: dict[tuple[str, str, int], Activations | None] = field(default_factory=dict)
    _kept: dict[tuple[bool, int | None], dict[str, KeptImages]] = field(default_factory=dict)
    _trainable: frozenset[str] = frozenset()
    scope: str = ""
    heed: Callable[[], None] = at_leisure
    engines: FeatureEngines = field(init=False)
    _variants: dict[tuple[Any, ...], Prepared] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engines = FeatureEngines(
            Path(self.config.cache.dir), self.device, self.precision, self.scope
        )
        parameters = self.backbone.network.named_parameters()
        self._trainable = frozenset(
            name for name, parameter in parameters if parameter.requires_grad
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.report.photos.classes

    def suited(self, config: Config) -> Prepared:
        """Return what a config with another backbone or input needs; itself where these are its
        own.

        Raises:
            ConfigError: If the backbone or its weights are not to be had.
        """
        key = _network(config)
        if key == _network(self.config):
            return self
        if key not in self._variants:
            known = {
                _network(each.config)[:2]: each.backbone
                for each in (self, *self._variants.values())
            }
            weights = weight_files.file_of(config.model.weights)
            backbone = known.get(key[:2]) or backbones.build(config.model.name, weights)
            evaluation = evaluation_transform(config.data, backbone.pretraining)
            scope = (
                f"{config.model.name} {config.model.weights} {evaluation.resize}/{evaluation.crop} "
            )
            made = Prepared(
                config,
                self.report,
                backbone,
                evaluation,
                self.accelerator,
                self.precision,
                scope=scope,
            )
            if self.engines.run is not None:
                made.engines.resume(self.engines.run)
            _try_out(made.classifier(config), config)
            self._variants[key] = made
        chosen = self._variants[key]
        chosen.heed = self.heed
        for other in (self, *self._variants.values()):
            if other is not chosen:
                other.forget()
        return chosen

    def forget(self) -> None:
        """Let go of activations in memory; they are on the disk."""
        self._activations.clear()

    def classifier(self, config: Config, synced: bool = False) -> Classifier:
        """A fresh network for a config: pretrained backbone, seeded head.

        Args:
            config: The experiment's, or a trial's.
            synced: BatchNorm that trains sees the whole batch, whichever process has its photos; on
                GPUs only.
        """
        torch.manual_seed(config.seed)
        # a frozen backbone never changes, so all may share it
        shared = config.model.freeze == "backbone"
        network = self.backbone.network if shared else self._trainable_backbone()
        if synced and not shared and self.accelerator == "gpu":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        classifier = Classifier(
            architecture(config, self.evaluation, len(self.classes), self.backbone.tag),
            replace(self.backbone, network=network),
            config.model.freeze,
            self.evaluation.crop,
        )
        if head := self._own_head(classifier):
            classifier.head.load_state_dict(head)
        if config.trainer.compile:
            classifier.compile()
        return classifier

    def _trainable_backbone(self) -> nn.Module:
        """Copy the backbone as it was built: whoever shares it, a probe among them, has frozen
        it."""
        network = deepcopy(self.backbone.network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self._trainable)
        return network

    def _own_head(self, classifier: Classifier) -> dict[str, torch.Tensor]:
        """The head that the weights' file brings, if it tells the same classes apart by the same
        layers; else empty."""
        loaded = self.backbone.loaded
        if loaded is None or not loaded.card or loaded.card["classes"] != self.classes:
            return {}
        shapes = {name: tensor.shape for name, tensor in classifier.head.state_dict().items()}
        return (
            loaded.head
            if {name: tensor.shape for name, tensor in loaded.head.items()} == shapes
            else {}
        )

    def describe_start(self) -> list[str]:
        """What the weights brought along, in lines for the user."""
        pretraining, used, loaded = self.backbone.pretraining, self.evaluation, self.backbone.loaded
        auto = Data.model_fields.keys() & {"image_size", "resize", "interpolation", "mean", "std"}
        given = sorted(f"data.{name}" for name in auto if getattr(self.config.data, name) != "auto")
        numbers = [",".join(f"{value:.4g}" for value in values) for values in (used.mean, used.std)]
        lines = [
            f"input: resize {used.resize}, crop {used.crop}, {used.interpolation}, mean"
            f" {numbers[0]}, std {numbers[1]}: {pretraining.source}"
            + (f", but for {', '.join(given)}" if given else "")
        ]
        if loaded is None:
            return lines
        named = f" under {loaded.prefix}" if loaded.prefix else ""
        if self._own_head(self.classifier(self.config)):
            return [
                *lines,
                f"weights: {loaded.path}, its head too, which tells the same classes apart",
            ]
        reason = (
            "its last layers are left out"
            if loaded.left_out or loaded.head
            else "it has no last layers"
        )
        if loaded.card:
            reason = f"its head of {len(loaded.card['classes'])} classes is left out"
            if len(loaded.card["classes"]) == len(self.classes):
                same = loaded.card["classes"] == self.classes
                reason += f", since {'model.head differs' if same else 'these are other classes'}"
        return [*lines, f"weights: {loaded.path}{named}; {reason}, and the head starts fresh"]

    def start(self) -> dict[str, Any]:
        """What the lineage says of the transform, and of the run that the weights come from."""
        loaded, evaluation = self.backbone.loaded, asdict(self.evaluation)
        if loaded is None or not (run := loaded.card.get("lineage", {}).get("run")):
            return {"transform": evaluation}
        return {"transform": evaluation, "parent": f"{loaded.path} (run {run})"}

    def card(self, config: Config) -> dict[str, Any]:
        """What `model.json` says of a model, for its checkpoints."""
        return {
            "architecture": asdict(
                architecture(config, self.evaluation, len(self.classes), self.backbone.tag)
            ),
            "classes": list(self.classes),
            "transform": asdict(self.evaluation),
        }

    def data(self, config: Config) -> PhotoData:
        """The photos as a config batches and augments them."""
        frozen_views = None if config.model.freeze == "none" else config.cache.views
        return PhotoData(
            self.report.photos, config.data, self.evaluation, config.seed, frozen_views
        )

    def live_data(self, config: Config) -> PhotoData:
        """The photos as training loads them every epoch: with `cache.pixels` decoded once, for all
        runs."""
        data = self.data(config)
        if not config.cache.pixels:
            return data
        needs = (data.training is None, data.views.frozen_views)
        if needs not in self._kept:
            self._kept[needs] = kept_images(data, config.cache, self.report.fingerprint, progress)
        data.kept = self._kept[needs]
        return data

    def activations(self, classifier: Classifier, config: Config) -> Activations | None:
        """The frozen part's activations, or None where they are computed live; says why."""
        if config.model.freeze == "none" or config.cache.mode == "off":
            return None
        augmentation = str(AUGMENTATIONS.identity(config.data))
        key = (config.model.freeze, augmentation, config.cache.views)
        if key not in self._activations:
            self._activations[key] = self._cached(classifier, config)
        return self._activations[key]

    def _cached(self, classifier: Classifier, config: Config) -> Activations | None:
        self.heed()
        try:
            classifier.tail()
            return cached_activations(
                classifier,
                self.data(config),
                config.cache,
                fingerprint=self.report.fingerprint,
                precision=self.precision,
                device=self.device,
                engines=self.engines,
                progress=self._progress,
            )
        except (NotSeparable, TooLarge) as reason:
            note(f"activations are computed live every epoch: {reason}")
            return None

    @contextmanager
    def _progress(self, title: str) -> Iterator[Callable[[int, int], None]]:
        with progress(title) as report:

            def reported(done: int, count: int) -> None:
                report(done, count)
                self.heed()

            yield reported

    def answers(self, classifier: Classifier) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives a trained classifier's logits (n, classes) on the CPU, its frozen part by the
        run's engine."""
        network = classifier.to(self.device).eval()
        choice = None if classifier.freeze == "none" else self.engines.recorded(classifier.freeze)
        if choice is None or choice.engine == EAGER:
            return lambda images: network(images.to(self.device)).float().cpu()
        _, engine = self.engines.engine_or_eager(classifier, choice)
        tail = classifier.tail().eval()
        return lambda images: tail(engine(images).to(self.device)).float().cpu()

    @torch.no_grad()
    def features(
        self, classifier: Classifier, config: Config, split: str, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return what a trained classifier's head gets of some images of `train` or `valid`, as
        training left it."""
        if (
            classifier.freeze == "backbone"
            and (activations := self.activations(classifier, config)) is not None
        ):
            return (activations.train[0] if split == "train" else activations.valid)[
                indices
            ].float()
        network = classifier.to(self.device).eval()
        loader = self.data(config).view_dataloader(split, 0, indices=indices.tolist())
        with autocast(self.device, self.precision):
            batches = [
                network.backbone(network.normalised(images.to(self.device))) for images, _ in loader
            ]
        return torch.cat([batch.float().cpu() for batch in batches])

    @torch.no_grad()
    def validation_logits(
        self, classifier: Classifier, config: Config
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a trained classifier's logits (n, classes) on the validation images, and their
        labels (n,)."""
        classifier.to(self.device).eval()
        activations = self.activations(classifier, config)
        if activations is None:
            answers, data = self.answers(classifier), self.live_data(config)
            with autocast(self.device, self.precision):
                rows = [answers(images) for images, _ in data.view_dataloader("valid", 0)]
            return torch.cat(rows), data.labels("valid")
        tail = classifier.tail().eval()
        with autocast(self.device, self.precision):
            rows = [
                tail(inputs.to(self.device)).float().cpu()
                for inputs, _ in activations.valid_batches()
            ]
        return torch.cat(rows), activations.valid_labels

    def learner(
        self, classifier: Classifier, config: Config, epochs: int
    ) -> tuple[Learner, loop.Feed]:
        """What the lean loop trains, and what it trains on."""
        activations = self.activations(classifier, config)
        data = self.data(config) if activations is not None else self.live_data(config)
        feed: loop.Feed = LiveFeed(data) if activations is None else CachedFeed(activations, config)
        learner = Learner(
            classifier,
            config,
            steps_per_epoch=len(
                TrainingBatches(len(data.dataset("train")), config.data.batch_size, 0, data.views)
            ),
            class_weights=data.class_weights(),
            tail=None if activations is None else classifier.tail(),
            epochs=epochs,
        )
        learner.card = self.card(config)
        return learner, feed

    def epochs(self, classifier: Classifier, config: Config, count: int) -> Iterator[loop.Epoch]:
        """Trains with the lean loop, an epoch at a time; a head that is solved has one."""
        if is_solved(config):
            yield solving.as_epoch(self.solve(classifier, config))
            return
        learner, feed = self.learner(classifier, config, count)
        precision = self.training_precision(config, cached=isinstance(feed, CachedFeed))
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
            on: The activations, in place of the config's.
            c: The penalty, in place of the config's.

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
        head = HEADS.chosen(config.model)
        assert isinstance(head, Logistic)
        loss = solving.Loss(self.data(config).class_weights(), config.optim.label_smoothing)
        penalty = c or (None if head.c == "auto" else head.c)
        solution = solving.solve(
            activations, len(self.classes), loss, config.monitor, self.device, penalty
        )
        solution.put_into(classifier.head)
        return solution

    def training_precision(self, config: Config, cached: bool) -> str:
        """Return what training computes in, in trials, probe and final training alike.

        That is the run's precision, but for a head on cached activations where
        `trainer.precision=auto` on a CPU: to cast its weights in every step costs more than bf16
        saves (5.5 ms a step against 3.4 in fp32).

        Args:
            config: The experiment's, or a trial's.
            cached: Whether the frozen part's activations are computed once.
        """
        head_alone = cached and config.model.freeze == "backbone"
        return (
            "fp32"
            if head_alone and self.accelerator == "cpu" and config.trainer.precision == "auto"
            else self.precision
        )

    def probe(self, classifier: Classifier, config: Config) -> None:
        """Trains the head alone on the still frozen backbone, so that fine-tuning starts from a
        sensible head.

        Linear probe, then fine-tune (Kumar et al. 2022, arXiv 2202.10054).
        """
        values = {
            "model.freeze": "backbone",
            "cache.views": 1,
            "data.augment": "none",
            "data.mixup": 0.0,
            "trainer.probe_epochs": 0,
            "trainer.max_epochs": config.trainer.probe_epochs,
            "trainer.ema": 0.0,
            "trainer.compile": False,
            "optim.lr": config.trainer.probe_lr,
            "optim.warmup_epochs": 0.0,
            "tuner.strategy": "none",
        }
        probing = configs.replace(config, values)
        frozen = self.classifier(probing)
        for epoch in self.epochs(frozen, probing, config.trainer.probe_epochs):
            figures = "  ".join(f"{name} {value:.4f}" for name, value in epoch.valid.items())
            note(
                f"probe epoch {epoch.number + 1}/{config.trainer.probe_epochs}"
                f"  train/loss {epoch.train_loss:.4f}  {figures}"
            )
        classifier.head.load_state_dict(frozen.head.state_dict())


def is_solved(config: Config) -> bool:
    """Whether a config's head is solved in one go."""
    return HEADS.chosen(config.model).solved


class LiveFeed:
    """Photos, decoded and augmented as they are needed."""

    def __init__(self, data: PhotoData) -> None:
        self._train, self._valid = data.train_dataloader(), data.val_dataloader()

    def train(self, epoch: int) -> loop.Batches:
        assert isinstance(self._train.batch_sampler, TrainingBatches)
        self._train.batch_sampler.set_epoch(epoch)
        return self._train

    def valid(self) -> loop.Batches:
        return self._valid


class CachedFeed:
    """Activations, a batch a read."""

    def __init__(self, activations: Activations, config: Config) -> None:
        self._activations, self._config = activations, config

    def train(self, epoch: int) -> Any:
        return self._activations.batches(epoch, self._config.data.batch_size, self._config.seed)

    def valid(self) -> Any:
        return self._activations.valid_batches()


def prepare(config: Config, report: Report) -> Prepared:
    """Builds the network and settles what the config leaves open.

    Raises:
        ConfigError: If the backbone, its weights, the frozen stage or the accelerator are not to be
            had.
    """
    _refuse_constant_monitor(config, len(report.photos.classes))
    accelerator = choose_accelerator(config.trainer.accelerator)
    # weights=none must draw the same numbers again when a run is resumed
    torch.manual_seed(config.seed)
    backbone = backbones.build(config.model.name, weight_files.file_of(config.model.weights))
    prepared = Prepared(
        config=config,
        report=report,
        backbone=backbone,
        evaluation=evaluation_transform(config.data, backbone.pretraining),
        accelerator=accelerator,
        precision=choose_precision(config.trainer.precision, accelerator),
    )
    _try_out(prepared.classifier(config), config)
    _try_batch_of_one(prepared, config)
    return prepared


def _refuse_constant_monitor(config: Config, classes: int) -> None:
    if config.monitor.metric == "valid/top5" and classes <= 5:
        raise ConfigError(
            f"monitor.metric: got 'valid/top5', but of {classes} classes every image's is among the"
            " five likeliest, so all epochs and trials would tie; expected valid/top1, valid/f1,"
            " valid/loss or valid/ece"
        )


def _try_out(classifier: Classifier, config: Config) -> None:
    """Send one black image through the network, before anything is computed for long."""
    image = torch.zeros(1, 3, classifier.side, classifier.side)
    try:
        with torch.no_grad():
            # as written: what compiling it comes to is asked below
            classifier.eval().forward(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"data.image_size: {config.model.name} does not take photos of {classifier.side} px"
            f" ({reason}); expected auto, or a size that this network was made for"
        ) from error
    if config.trainer.compile:
        _try_compiled(classifier, image)


def _try_compiled(classifier: Classifier, image: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            classifier(image)
    except Exception as error:  # the compiler's, Dynamo's and Inductor's errors share no base class
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(
            f"trainer.compile: got true, but the network cannot be compiled here ({reason});"
            " install a C++ compiler (such as g++), or set trainer.compile=false"
        ) from error


def _try_batch_of_one(prepared: Prepared, config: Config) -> None:
    """Refuse batches of one image for a network whose BatchNorm trains: it has no variance to
    divide by."""
    trains_on = len(prepared.report.photos.splits["train"])
    if min(config.data.batch_size, trains_on) > 1 or config.model.freeze == "backbone":
        return
    classifier = prepared.classifier(config).train()  # a copy, so that its averages may move
    try:
        with torch.no_grad():
            classifier.forward(torch.zeros(1, 3, classifier.side, classifier.side))
    except ValueError as error:
        raise ConfigError(
            f"data.batch_size: got {config.data.batch_size}; {config.model.name} normalizes each"
            " batch by its own images, which takes at least 2 in it; expected data.batch_size=2 or"
            " more, or model.freeze=backbone"
        ) from error


def concerns(prepared: Prepared) -> list[str]:
    """What is wrong with the weights, by the config and on a few training images; one line each."""
    config = prepared.config
    if config.model.weights == "none":
        if config.model.freeze == "none":
            return []
        return [
            f"model.weights=none with model.freeze={config.model.freeze}: what is frozen stays"
            " random numbers, and the rest learns from noise; give weights (model.weights=...), or"
            " train all of it (model.freeze=none)"
        ]
    evaluation = prepared.evaluation
    images = prepared.data(config).dataset("train")
    chosen = range(0, len(images), -(-len(images) // _CHECKED))
    batch = torch.stack([images[0, index][0] for index in chosen])
    stated = prepared.backbone.pretraining
    published = not backbones.is_path(config.model.weights) and (
        evaluation.mean,
        evaluation.std,
    ) == (
        stated.mean,
        stated.std,
    )
    found = input_check.concern(
        prepared.backbone.network, batch, evaluation.mean, evaluation.std, published=published
    )
    return [found] if found else []


def architecture(
    config: Config, evaluation: EvalTransform, classes: int, tag: str = ""
) -> Architecture:
    head = HEADS.chosen(config.model)
    return Architecture(
        name=config.model.name,
        classes=classes,
        head=() if head.one_layer else tuple(config.model.head),
        dropout=0.0 if head.solved else config.model.dropout,
        mean=evaluation.mean,
        std=evaluation.std,
        tag=tag,
        head_type=MLP if head.one_layer else config.model.head_type,
        head_settings={} if head.one_layer else head.model_dump(mode="json"),
    )


def evaluation_transform(data: Data, pretraining: backbones.Pretraining) -> EvalTransform:
    """What `auto` stands for: what the weights were trained with, the resize in proportion to the
    crop."""
    crop = pretraining.crop if data.image_size == "auto" else data.image_size
    resize = (
        round(crop * pretraining.resize / pretraining.crop)
        if data.resize == "auto"
        else data.resize
    )
    if resize < crop:
        raise ConfigError(f"data.resize: got {resize}; expected at least data.image_size ({crop})")
    return EvalTransform(
        resize=resize,
        crop=crop,
        interpolation=(
            pretraining.interpolation if data.interpolation == "auto" else data.interpolation
        ),
        mean=(
            pretraining.mean if data.mean == "auto" else (data.mean[0], data.mean[1], data.mean[2])
        ),
        std=pretraining.std if data.std == "auto" else (data.std[0], data.std[1], data.std[2]),
    )


def choose_accelerator(wanted: str) -> str:
    if wanted == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.accelerator: got 'gpu', but this machine has no CUDA device; expected auto"
            " or cpu"
        )
    gpus, processes = torch.cuda.device_count(), distributed.local_world()
    if wanted != "cpu" and 0 < gpus < processes:
        raise ConfigError(
            f"trainer.accelerator: {processes} processes on this machine, which has {gpus} GPUs;"
            " start one a GPU, or set trainer.accelerator=cpu"
        )
    return "gpu" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(wanted: str, accelerator: str) -> str:
    """`auto` is bf16 where the machine multiplies it natively; emulated it is slower than fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if has_native_bf16(accelerator) else "fp32"


def has_native_bf16(accelerator: str) -> bool:
    return multiplies_bf16(torch.device("cuda" if accelerator == "gpu" else "cpu"))
