"""The typed config: what every value may be, and what it is where nothing is said.

The defaults here are those of the base groups in conf/ (a test compares the two). They are what
lets a config that an older version recorded, which knows nothing of a newer field, still be read.
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
from breedlab.config.logger import Logger
from breedlab.config.profiler import Profiler
from breedlab.config.section import Fraction, JobName, Location, Name, PositiveInt, Rate, Section
from breedlab.hosts import check_host
from breedlab.registry import (
    AUGMENTATIONS,
    ENGINES,
    HEADS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    REGISTRIES,
    SCHEDULES,
)

# YAML reads a bare `off` as false; people mean the word.
_OFF_WORD = BeforeValidator(lambda value: "off" if value is False else value)


Host = Annotated[str, AfterValidator(check_host)]


class Monitor(Section):
    """The one metric that search, checkpoints and early stopping look at."""

    metric: Annotated[str, choice(METRICS)] = "valid/top1"
    """What decides which epoch, trial and run is the best."""
    mode: Literal["min", "max"] = "max"
    """Whether more of it is better or less: `min` for loss and calibration error."""


class Cache(Section):
    """The activations of a frozen backbone, computed once and shared."""

    mode: Annotated[Literal["auto", "off"], _OFF_WORD] = "auto"
    """`auto` keeps a frozen backbone's activations; `off` computes them anew every epoch."""
    views: Annotated[int, Field(ge=0)] = 1
    """The evaluation transform, and this many less one augmented variants, taken in turn, one an
    epoch; 0, with `mode: off`, cuts other crops every epoch."""
    max_gb: Annotated[float, Field(gt=0)] = 10.0
    """Above this many gigabytes nothing is kept, and activations are computed every epoch."""
    dir: Location = ".cache/activations"
    """Where they are kept, for all runs."""
    pixels: bool = False
    """Keep decoded images there, too, for what loads images every epoch: each file is decoded once,
    for all runs."""


class Model(Section):
    """The network: a backbone by name and fully connected layers on top."""

    name: str
    """The backbone: a torchvision classifier, or `timm/NAME`."""
    weights: Location
    """What the backbone starts from: a name of its weights, a file, a run, `package:NAME`, or
    `none`."""
    freeze: Annotated[str, StringConstraints(min_length=1)] = "backbone"
    """What does not train: the `backbone`, `none` of it, or everything through a named stage."""
    batch_norm: Literal["trains", "frozen"] = "trains"
    """Whether BatchNorm of a backbone that trains goes on with its pretrained statistics: `frozen`
    suits short fine-tuning and small batches."""
    head: list[PositiveInt] = Field(default_factory=lambda: [512, 256])
    """Widths of the fully connected layers between features and classes."""
    head_type: Annotated[str, choice(HEADS)] = "mlp"
    """What turns features into scores."""
    dropout: Rate = 0.2
    """The share of features that is dropped before each layer of the head, in training."""


class Data(Section):
    """The images and what is done to them before the network sees them."""

    root: Location
    """The folder of images, `root/train/<class>/`, with `valid` and `test` where there are such; or
    one in S3."""
    batch_size: Annotated[int, Field(ge=1, le=8192)] = 64
    """Images of a training step, in all processes together."""
    image_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)] = "auto"
    """Pixels of the square that the network sees; `auto` is as the weights were trained, also in
    the next four."""
    train_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Pixels of the random crops that train; null for `image_size`. A crop shows a part of the
    image, larger: some four fifths of `image_size` train faster, and often no worse."""
    resize: Literal["auto"] | Annotated[int, Field(ge=16, le=4096)] = "auto"
    """The shorter side before the center crop, in pixels."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """How images are resized."""
    mean: Literal["auto"] | Annotated[list[float], Field(min_length=3, max_length=3)] = "auto"
    """Subtracted from each channel, of values from 0 to 1."""
    std: (
        Literal["auto"]
        | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    ) = "auto"
    """Divides each channel after that."""
    augment: Annotated[str, choice(AUGMENTATIONS)] = "none"
    """What training does to images beside a random crop and flip; `none` leaves them as validation
    sees them."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of the Beta distribution by which pairs of images are mixed; 0 mixes none."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs images in the loss by the inverse frequency of their class."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """What an epoch takes: each image once, or as many images, each class as often as the others,
    images of rare classes several times."""
    valid_fraction: Fraction = 0.15
    """The share of train that is cut off for validation, where there is no such split."""
    test_fraction: Fraction = 0.15
    """The share of train that is cut off for the test, where there is no such split."""
    on_bad_file: Literal["error", "skip"] = "error"
    """`skip` leaves broken files out and records them; `error` stops."""
    ignore: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Folders of root to leave out, such as a test split without labels."""
    labels: Annotated[str, Field(min_length=1)] = "auto"
    """The file of root that labels the images, CSV or JSON lines; `auto` finds one if there are no
    class folders."""
    multi_label: bool = False
    """Whether an image may have several classes, or none: a cell such as `cat|dog`, a column a
    class, or the same image in several class folders. data=multi_label sets it, and a metric that
    suits it."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """What belongs together and is cut into one split: a column of a label file, or a regular
    expression on file names, whose first parentheses are the group: `'^([^_]+)_'`."""
    fixes: str | None = None
    """An edited `fixes.csv` of a run: which images have another class than their folder says, or
    are left out."""
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Processes that load images; 0 loads in the training's own."""


class Optim(Section):
    """The optimizer, its schedule and the loss's smoothing."""

    name: Annotated[str, choice(OPTIMIZERS)] = "adam"
    """The optimizer."""
    lr: Annotated[float, Field(gt=0)] = 0.001
    """The learning rate: of the head, where `layer_decay` lowers that of the stages before it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """How strongly weights are pulled to zero."""
    momentum: Rate = 0.9
    """What `sgd` keeps of the step before; the others ignore it."""
    schedule: Annotated[str, choice(SCHEDULES)] = "constant"
    """How the learning rate goes on from step to step."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs in which the learning rate rises to `lr`; they may be a fraction."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer (a residual block, a transformer block) learns at this fraction of the next one's
    rate."""
    param_groups: Literal["layers", "legacy"] = "layers"
    """`layers` decays no biases and norms; `legacy` groups by stage and decays all, as breedlab 0.1
    did."""
    loss: Annotated[str, choice(LOSSES)] = "cross_entropy"
    """What training minimizes."""
    label_smoothing: Rate = 0.0
    """The share of each target that is spread over all classes."""


class Trainer(Section):
    """How the best is trained."""

    max_epochs: PositiveInt = 10
    """How long the best is trained; with `patience` at most."""
    probe_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs in which only the head trains, before the rest does."""
    probe_lr: Annotated[float, Field(gt=0)] = 0.001
    """The learning rate of those."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What training computes in; `auto` is bf16 where the machine multiplies it natively, else
    fp32."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where it trains; `auto` is a GPU if there is one."""
    compile: bool = False
    """Whether torch.compile compiles the network."""
    patience: PositiveInt | None = None
    """Epochs without a better metric after which training stops; null trains all of them."""
    ema: Rate = 0.0
    """Decay of a moving average of the weights, which is what is validated and kept; 0 has none."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of a step's gradient; null does not clip."""
    refit: bool = False
    """Whether the final model is trained anew on train and validation, for as many epochs as
    validation found best."""


class FineTune(Section):
    """Training of all layers after the head's, kept only if it does better on validation."""

    epochs: Annotated[int, Field(ge=0)] = 0
    """How many, with a cosine schedule; 0 leaves the backbone frozen. Of `tuner.minutes` the search
    leaves some for it, and as many epochs run as fit in."""
    freeze: str = "auto"
    """What stays frozen all the same: `none`, or everything through a named stage; `auto` freezes
    the first two thirds of the layers where there is no time to train all of them."""
    train_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)] | None = "auto"
    """Pixels of its random crops; null for `data.image_size`, `auto` for some four fifths of it
    where the network takes any size."""
    lr: Annotated[float, Field(gt=0)] = 0.0003
    """AdamW's learning rate for the head."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Each layer learns at this fraction of the next one's rate."""
    batch_size: Annotated[int, Field(ge=2, le=8192)] = 32
    """Images of a step."""
    augment: Annotated[str, choice(AUGMENTATIONS)] = "basic"
    """What it does to images beside a random crop and flip."""
    ema: Rate = 0.9
    """Decay of the moving average of the weights, which is what is validated and kept."""


class Tuner(Section):
    """The search: which values, how many trials, which strategy."""

    strategy: Literal["none", "random", "grid", "bayesian", "hyperband", "auto"] = "none"
    """How values are chosen; `none` does not search, `auto` searches backbones and image sizes,
    too."""
    trials: PositiveInt | None = None
    """How many trials; null for a grid, which runs every combination, and for `auto`, which has
    `minutes`."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """How long an `auto` search may take, its passes over the images and `confirm` included; not
    the final training."""
    confirm: Annotated[int, Field(ge=0, le=20)] = 0
    """How many of the best trials run again with two more seeds; the mean decides. 0 takes the best
    trial as it is."""
    folds: Annotated[int, Field(ge=1, le=20)] = 1
    """Judge trials by cross-validation over train and validation, in so many folds; 1 judges them
    on validation alone. It takes cached features (model.freeze=backbone)."""
    parallel: PositiveInt = 1
    """Trials at a time."""
    max_epochs: PositiveInt = 5
    """Epochs of a trial."""
    early_stopping: bool = False
    """On SageMaker, whether it stops trials that fall behind."""
    warm_start: list[JobName] = Field(default_factory=list)
    """On SageMaker, finished tuning jobs that the search goes on from."""
    space: dict[str, Any] = Field(default_factory=dict)
    """Config paths and what each may be: a list of choices, or `{low: ..., high: ..., log:
    true}`."""


class Serving(Section):
    """What the exported archive computes with, and what it may fetch."""

    engine: Annotated[str, choice(ENGINES)] = "auto"
    """What the exported model computes with; `auto` is the fastest here that agrees with
    PyTorch."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """In what; `auto` is the fastest that loses nothing to speak of."""
    unknown: Annotated[Literal["field", "row", "off"], _OFF_WORD] = "field"
    """How answers tell images of none of the classes: `field` beside the scores, `row` also as one
    score more."""
    allow_urls: Literal["none", "public"] | Annotated[list[Host], Field(min_length=1)] = "none"
    """Whose images an endpoint fetches by their address: nobody's, any public host's, or those of
    listed hosts."""


class Config(Section):
    """A whole experiment.

    It knows which of its values come from the environment, and by which text; see
    `config.environment`.
    """

    name: Name
    """The experiment's; its runs are in `<runs_dir>/<name>/`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides all that is random."""
    dry_run: bool = False
    """Print what would happen, and start nothing."""
    resume: str | None = None
    """A run directory to go on with."""
    plugins: list[str] = Field(default_factory=list)
    """Packages of your own whose components are registered (docs/plugins.md)."""
    runs_dir: Location = "runs"
    """Where run directories are."""
    monitor: Monitor = Field(default_factory=Monitor)
    cache: Cache = Field(default_factory=Cache)
    model: Model
    data: Data
    optim: Optim = Field(default_factory=Optim)
    trainer: Trainer = Field(default_factory=Trainer)
    fine_tune: FineTune = Field(default_factory=FineTune)
    tuner: Tuner = Field(default_factory=Tuner)
    debugger: Debugger = Field(default_factory=Debugger)
    profiler: Profiler = Field(default_factory=Profiler)
    logger: Logger = Field(default_factory=Logger)
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
        """Return the config as plain containers, in which `FromEnvironment` marks what comes from
        the environment."""
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            node[leaf] = marked(node[leaf], text)
        return tree

    def recorded(self) -> dict[str, Any]:
        """Return the config as it is written down: with the text of what comes from the
        environment.

        What the record itself is read by stays a value: the experiment's name, which names its
        folder, too, the network, and every number and choice.
        """
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            if not _is_read_by(path, node[leaf]):
                node[leaf] = text
        return tree

    def conceal(self, text: str) -> str:
        """Return a text that is written down, with the variables' texts in place of their
        values."""
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
    """Return the schema with the sections of all registered components, those of plugins among
    them."""
    return cast("type[Config]", extended(Config))


_PLACES = ("data.root", "model.weights", "cache.dir", "runs_dir")
"""Paths that name something on this machine, which records name by its absolute path, too."""


def _place(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a leaf, and its name there; names in an open mapping may have
    dots."""
    node, rest = tree, path
    while rest not in node:
        name = next(name for name in node if rest.startswith(f"{name}."))
        node, rest = node[name], rest.removeprefix(f"{name}.")
    return node, rest


def _is_read_by(path: str, value: Any) -> bool:
    """Whether a record needs a value: the names that decide what everything else means, and one of
    a few choices."""
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
    return next(
        (kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")),
        None,
    )


def _choices(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for kind in (annotation, *get_args(annotation)):
        found += (
            get_args(kind)
            if get_origin(kind) is Literal
            else _choices(kind)
            if kind is not annotation
            else []
        )
    return found
