"""The typed config: what every value may be, and what it is where nothing is said.

The defaults here are those of the base groups in conf/ (a test compares the two). They are what lets a config that an
older version recorded, which knows nothing of a newer field, still be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from breedlab.config.backend import Backend
from breedlab.config.components import choice, extended
from breedlab.config.debugger import Debugger
from breedlab.config.environment import SHORT, concealed, marked, texts_in
from breedlab.config.profiler import Profiler
from breedlab.config.section import Fraction, JobName, Location, Name, PositiveInt, Rate, Section
from breedlab.hosts import check_host
from breedlab.registry import AUGMENTATIONS, REGISTRIES

# YAML reads a bare `off` as false; people mean the word.
_OFF_WORD = BeforeValidator(lambda value: "off" if value is False else value)

METRICS = ("valid/loss", "valid/top1", "valid/top5", "valid/f1", "valid/ece")
LOWER_IS_BETTER = ("valid/loss", "valid/ece")


Host = Annotated[str, AfterValidator(check_host)]


class Monitor(Section):
    """The one metric that search, checkpoints and early stopping look at."""

    metric: Literal["valid/loss", "valid/top1", "valid/top5", "valid/f1", "valid/ece"] = "valid/top1"
    mode: Literal["min", "max"] = "max"


class Cache(Section):
    """The activations of a frozen backbone, computed once and shared."""

    mode: Annotated[Literal["auto", "off"], _OFF_WORD] = "auto"
    views: PositiveInt = 1
    max_gb: Annotated[float, Field(gt=0)] = 10.0
    dir: Location = ".cache/activations"


class Model(Section):
    """The network: a backbone by name and fully connected layers on top."""

    name: str
    weights: Location
    freeze: Annotated[str, StringConstraints(min_length=1)] = "backbone"
    head: list[PositiveInt] = Field(default_factory=lambda: [512, 256])
    dropout: Rate = 0.2


class Sample(Section):
    """How many made-up photos to draw where `data.root` does not exist yet."""

    classes: Annotated[int, Field(ge=2)]
    train: PositiveInt
    valid: PositiveInt
    test: PositiveInt
    size: Annotated[int, Field(ge=32)]
    seed: Annotated[int, Field(ge=0)]


class ArchiveSource(Section):
    """The archive to download where `data.root` does not exist yet."""

    url: str
    bytes: PositiveInt
    folder: str
    classes: PositiveInt
    train: PositiveInt
    valid: PositiveInt
    test: PositiveInt


class Data(Section):
    """The photos and what is done to them before the network sees them."""

    root: Location
    sample: Sample | None = None
    archive: ArchiveSource | None = None
    batch_size: Annotated[int, Field(ge=1, le=8192)] = 64
    image_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)] = "auto"
    resize: Literal["auto"] | Annotated[int, Field(ge=16, le=4096)] = "auto"
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    mean: Literal["auto"] | Annotated[list[float], Field(min_length=3, max_length=3)] = "auto"
    std: Literal["auto"] | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)] = "auto"
    augment: Annotated[str, choice(AUGMENTATIONS)] = "none"
    mixup: Annotated[float, Field(ge=0)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    valid_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.15
    on_bad_file: Literal["error", "skip"] = "error"
    ignore: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"


class Optim(Section):
    """The optimizer, its schedule and the loss's smoothing."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Rate = 0.9
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    param_groups: Literal["layers", "legacy"] = "layers"
    label_smoothing: Rate = 0.0


class Trainer(Section):
    """How the best is trained."""

    max_epochs: PositiveInt = 10
    probe_epochs: Annotated[int, Field(ge=0)] = 0
    probe_lr: Annotated[float, Field(gt=0)] = 0.001
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    compile: bool = False
    patience: PositiveInt | None = None
    ema: Rate = 0.0
    gradient_clip: Annotated[float, Field(gt=0)] | None = None


class Tuner(Section):
    """The search: which values, how many trials, which strategy."""

    strategy: Literal["none", "random", "grid", "bayesian", "hyperband"] = "none"
    trials: PositiveInt | None = None
    parallel: PositiveInt = 1
    max_epochs: PositiveInt = 5
    early_stopping: bool = False
    warm_start: list[JobName] = Field(default_factory=list)
    space: dict[str, Any] = Field(default_factory=dict)


class Serving(Section):
    """What the exported archive computes with, and what it may fetch."""

    engine: Literal["auto", "eager", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    allow_urls: Literal["none", "public"] | Annotated[list[Host], Field(min_length=1)] = "none"


class Config(Section):
    """A whole experiment.

    It knows which of its values come from the environment, and by which text; see `config.environment`.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    dry_run: bool = False
    resume: str | None = None
    plugins: list[str] = Field(default_factory=list)
    runs_dir: Location = "runs"
    monitor: Monitor = Field(default_factory=Monitor)
    cache: Cache = Field(default_factory=Cache)
    model: Model
    data: Data
    optim: Optim = Field(default_factory=Optim)
    trainer: Trainer = Field(default_factory=Trainer)
    tuner: Tuner = Field(default_factory=Tuner)
    debugger: Debugger = Field(default_factory=Debugger)
    profiler: Profiler = Field(default_factory=Profiler)
    backend: Backend = Field(default_factory=Backend)
    serving: Serving = Field(default_factory=Serving)

    _texts: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _with_texts(cls, tree: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:
        config = handler(tree)
        if isinstance(tree, dict):
            config._texts = texts_in(tree)
        return config

    def tree(self) -> dict[str, Any]:
        """Return the config as plain containers, in which `FromEnvironment` marks what comes from the environment."""
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            node[leaf] = marked(node[leaf], text)
        return tree

    def recorded(self) -> dict[str, Any]:
        """Return the config as it is written down: with the text of what comes from the environment.

        What the record itself is read by stays a value: the experiment's name, which names its folder, too, the
        network, and every number and choice.
        """
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            if not _is_read_by(path, node[leaf]):
                node[leaf] = text
        return tree

    def conceal(self, text: str) -> str:
        """Return a text that is written down, with the variables' texts in place of their values."""
        return concealed(text, dict(self._values()))

    def _values(self) -> Iterator[tuple[str, str]]:
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            value = node[leaf]
            if isinstance(value, str) and len(value) >= SHORT and not _is_read_by(path, value):
                yield value, text
                if path in _PLACES:
                    yield os.path.abspath(value), text
                    yield os.path.realpath(value), text


def schema() -> type[Config]:
    """Return the schema with the sections of all registered components, those of plugins among them."""
    return cast("type[Config]", extended(Config))


_PLACES = ("data.root", "model.weights", "cache.dir", "runs_dir")
"""Paths that name something on this machine, which records name by its absolute path, too."""


def _place(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a leaf, and its name there; names in an open mapping may have dots."""
    node, rest = tree, path
    while rest not in node:
        name = next(name for name in node if rest.startswith(f"{name}."))
        node, rest = node[name], rest.removeprefix(f"{name}.")
    return node, rest


def _is_read_by(path: str, value: Any) -> bool:
    """Whether a record needs a value: the names that decide what everything else means, and one of a few choices."""
    if path in ("name", "model.name", "model.freeze"):
        return True
    if path == "model.weights":  # a keyword such as DEFAULT or package:efficientnet_lite0, no place
        return "/" not in value and "." not in value
    if any(value in registry.choices() for registry in REGISTRIES):
        return True
    annotation: Any = Config
    for part in path.split("."):
        fields = getattr(_section(annotation), "model_fields", {})
        if part not in fields:
            return False
        annotation = fields[part].annotation
    return value in _choices(annotation)


def _section(annotation: Any) -> Any:
    return next((kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")), None)


def _choices(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for kind in (annotation, *get_args(annotation)):
        found += get_args(kind) if get_origin(kind) is Literal else _choices(kind) if kind is not annotation else []
    return found
