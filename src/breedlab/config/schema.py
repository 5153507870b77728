"""The typed config: what every value may be. YAML in conf/ holds the defaults, so no field has one here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from breedlab.config.backend import Backend
from breedlab.config.debugger import Debugger
from breedlab.config.profiler import Profiler
from breedlab.config.section import Fraction, JobName, Location, Name, PositiveInt, Rate, Section

# YAML reads a bare `off` as false; people mean the word.
_OFF_WORD = BeforeValidator(lambda value: "off" if value is False else value)

METRICS = ("valid/loss", "valid/top1", "valid/top5", "valid/f1", "valid/ece")
LOWER_IS_BETTER = ("valid/loss", "valid/ece")


def _check_host(word: str) -> str:
    from breedlab.serving.fetch import check_host

    return check_host(word)


Host = Annotated[str, AfterValidator(_check_host)]


class Monitor(Section):
    """The one metric that search, checkpoints and early stopping look at."""

    metric: Literal["valid/loss", "valid/top1", "valid/top5", "valid/f1", "valid/ece"]
    mode: Literal["min", "max"]


class Cache(Section):
    """The activations of a frozen backbone, computed once and shared."""

    mode: Annotated[Literal["auto", "off"], _OFF_WORD]
    views: PositiveInt
    max_gb: Annotated[float, Field(gt=0)]
    dir: Location


class Model(Section):
    """The network: a backbone by name and fully connected layers on top."""

    name: str
    weights: Location
    freeze: Annotated[str, StringConstraints(min_length=1)]
    head: list[PositiveInt]
    dropout: Rate


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
    sample: Sample | None
    archive: ArchiveSource | None
    batch_size: Annotated[int, Field(ge=1, le=8192)]
    image_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)]
    resize: Literal["auto"] | Annotated[int, Field(ge=16, le=4096)]
    interpolation: Literal["auto", "bilinear", "bicubic"]
    mean: Literal["auto"] | Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Literal["auto"] | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    augment: Literal["none", "basic", "trivial", "randaug"]
    mixup: Annotated[float, Field(ge=0)]
    class_weights: Literal["none", "balanced"]
    valid_fraction: Fraction
    test_fraction: Fraction
    on_bad_file: Literal["error", "skip"]
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)]


class Optim(Section):
    """The optimizer, its schedule and the loss's smoothing."""

    name: Literal["adam", "adamw", "sgd"]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    momentum: Rate
    schedule: Literal["constant", "cosine", "one_cycle"]
    warmup_epochs: Annotated[float, Field(ge=0)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    label_smoothing: Rate


class Trainer(Section):
    """How the best is trained."""

    max_epochs: PositiveInt
    probe_epochs: Annotated[int, Field(ge=0)]
    probe_lr: Annotated[float, Field(gt=0)]
    precision: Literal["auto", "fp32", "bf16"]
    accelerator: Literal["auto", "cpu", "gpu"]
    compile: bool
    patience: PositiveInt | None
    ema: Rate
    gradient_clip: Annotated[float, Field(gt=0)] | None


class Tuner(Section):
    """The search: which values, how many trials, which strategy."""

    strategy: Literal["none", "random", "grid", "bayesian", "hyperband"]
    trials: PositiveInt | None
    parallel: PositiveInt
    max_epochs: PositiveInt
    early_stopping: bool
    warm_start: list[JobName]
    space: dict[str, Any]


class Serving(Section):
    """What the exported archive computes with, and what it may fetch."""

    engine: Literal["auto", "eager", "openvino"]
    precision: Literal["auto", "fp32", "bf16", "int8"]
    allow_urls: Literal["none", "public"] | Annotated[list[Host], Field(min_length=1)]


class Config(Section):
    """A whole experiment."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    dry_run: bool
    resume: str | None
    runs_dir: Location
    monitor: Monitor
    cache: Cache
    model: Model
    data: Data
    optim: Optim
    trainer: Trainer
    tuner: Tuner
    debugger: Debugger
    profiler: Profiler
    backend: Backend
    serving: Serving
