"""The sections of the typed config: what every value may be, and what it is where nothing is said.

The defaults here are those of the base groups in conf/ (a test compares the two). They are what
lets a config that an older version recorded, which knows nothing of a newer field, still be read.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from breedlab.config.components import choice
from breedlab.config.section import Fraction, JobName, Location, PositiveInt, Rate, Section
from breedlab.hosts import check_host
from breedlab.registry import AUGMENTATIONS, ENGINES, HEADS, LOSSES, METRICS, OPTIMIZERS, SCHEDULES

# YAML reads a bare `off` as false; people mean the word.
_OFF_WORD = BeforeValidator(lambda value: "off" if value is False else value)


Host = Annotated[str, AfterValidator(check_host)]


class Monitor(Section):
    """The metric that the search, checkpoints, and early stopping use."""

    metric: Annotated[str, choice(METRICS)] = "valid/top1"
    """The metric that decides which epoch, trial, and run is best."""
    mode: Literal["min", "max"] = "max"
    """Whether higher or lower is better: `min` for loss and calibration error."""


class Cache(Section):
    """The cache of a frozen backbone's activations."""

    mode: Annotated[Literal["auto", "off"], _OFF_WORD] = "auto"
    """`auto` computes a frozen backbone's activations once; `off`, every epoch."""
    views: Annotated[int, Field(ge=0)] = 1
    """How many variants of each image to cache: the evaluation transform and, above 1, augmented
    ones; epochs take turns. 0, with `mode: off`, draws new augmentations every epoch."""
    max_gb: Annotated[float, Field(gt=0)] = 10.0
    """The largest cache in gigabytes. Activations that do not fit are computed every epoch."""
    dir: Location = ".cache/activations"
    """The cache folder, shared by all runs."""
    pixels: bool = False
    """Whether to cache decoded images as well, for training that loads images every epoch. Each
    file is then decoded once for all runs."""


class Model(Section):
    """The network: a pretrained backbone and a head."""

    name: str
    """The backbone: a torchvision classifier, or `timm/NAME`."""
    weights: Location
    """The backbone's initial weights: a name that torchvision or timm knows, a file, a run,
    `package:NAME`, or `none`."""
    freeze: Annotated[str, StringConstraints(min_length=1)] = "backbone"
    """What stays frozen: the `backbone`, `none` of it, or everything through a named stage."""
    batch_norm: Literal["trains", "frozen"] = "trains"
    """Whether BatchNorm layers update their statistics when the backbone trains. `frozen` keeps the
    pretrained ones, which suits short fine-tuning and small batches."""
    head: list[PositiveInt] = Field(default_factory=lambda: [512, 256])
    """Widths of the head's hidden layers; [] for a single linear layer."""
    head_type: Annotated[str, choice(HEADS)] = "mlp"
    """The kind of head that turns features into class scores."""
    dropout: Rate = 0.2
    """The dropout rate before each layer of the head."""


class Data(Section):
    """The images, their labels, and how they are prepared for the network."""

    root: Location
    """The folder of images, such as `root/train/<class>/`, with or without `valid` and `test`; or
    an S3 URI."""
    batch_size: Annotated[int, Field(ge=1, le=8192)] = 64
    """Images per training step, over all processes."""
    image_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)] = "auto"
    """The side of the network's square input, in pixels; `auto` is the size that the weights were
    trained with."""
    train_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """The side of the random crops for training, in pixels; null is `image_size`. About 80% of
    `image_size` trains faster, often just as well."""
    start_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """The side of the random crops in the first epoch, in pixels, growing to `train_size` in the
    last (progressive resizing); null starts with `train_size`."""
    resize: Literal["auto"] | Annotated[int, Field(ge=16, le=4096)] = "auto"
    """The shorter side before the center crop, in pixels; `auto` is as the weights were trained."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """How images are resized; `auto` is as the weights were trained."""
    mean: Literal["auto"] | Annotated[list[float], Field(min_length=3, max_length=3)] = "auto"
    """What is subtracted from each channel (values from 0 to 1); `auto` is as the weights were
    trained."""
    std: (
        Literal["auto"]
        | Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    ) = "auto"
    """What each channel is then divided by; `auto` is as the weights were trained."""
    augment: Annotated[str, choice(AUGMENTATIONS)] = "none"
    """The augmentation of training images, on top of a random crop and flip; `none` uses the
    validation transform."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Mixup's alpha, the parameter of its Beta distribution; 0 turns mixup off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """CutMix's alpha, the parameter of its Beta distribution; 0 turns CutMix off. With `mixup`,
    each batch gets one of the two at random."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weights each image's loss by the inverse frequency of its class."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """How an epoch draws images: `shuffled` takes each once; `balanced` draws all classes equally
    often, so images of rare classes repeat."""
    valid_fraction: Fraction = 0.15
    """The share of train that becomes the validation split if there is none."""
    test_fraction: Fraction = 0.15
    """The share of train that becomes the test split if there is none."""
    on_bad_file: Literal["error", "skip"] = "error"
    """What to do about unusable files: `error` stops, `skip` leaves them out and records them."""
    ignore: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Folders in `root` to leave out, such as a test split without labels."""
    labels: Annotated[str, Field(min_length=1)] = "auto"
    """The label file in `root`, CSV or JSON lines; `auto` looks for one if there are no class
    folders."""
    multi_label: bool = False
    """Whether an image can have several labels, or none: a cell such as `cat|dog`, a column per
    class, or the same image in several class folders. `data=multi_label` sets this and a suitable
    metric."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """What must stay in one split: a column of the label file, or a regular expression on file
    names whose first group names it, such as `'^([^_]+)_'`."""
    fixes: str | None = None
    """An edited `fixes.csv`, of a check or an earlier run, with images to relabel or leave out."""
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Processes that load images; 0 loads them in the training process."""


class Optim(Section):
    """The optimizer, its schedule, and the loss."""

    name: Annotated[str, choice(OPTIMIZERS)] = "adam"
    """The optimizer."""
    lr: Annotated[float, Field(gt=0)] = 0.001
    """The learning rate; with `layer_decay`, the head's."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay."""
    momentum: Rate = 0.9
    """Momentum of `sgd`; the other optimizers ignore it."""
    schedule: Annotated[str, choice(SCHEDULES)] = "constant"
    """The learning rate schedule."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear warmup to `lr`; fractions are allowed."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning rate decay: each layer (a residual or transformer block) learns at this
    fraction of the next layer's rate."""
    param_groups: Literal["layers", "legacy"] = "layers"
    """`layers` applies no weight decay to biases and norms; `legacy` groups by stage and decays
    everything, as breedlab 0.1 did."""
    loss: Annotated[str, choice(LOSSES)] = "cross_entropy"
    """The training loss."""
    label_smoothing: Rate = 0.0
    """Label smoothing: the share of each target that is spread over all classes."""


class Trainer(Section):
    """The final training, with the best settings of the search if there is one."""

    max_epochs: PositiveInt = 10
    """Epochs of the final training; at most, if `patience` is set."""
    probe_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of linear probing first, in which only the head trains."""
    probe_lr: Annotated[float, Field(gt=0)] = 0.001
    """The learning rate of the linear probe."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """The precision of training; `auto` is bf16 if the machine supports it natively, else fp32."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """The device; `auto` is a GPU if there is one."""
    compile: bool = False
    """Whether to use torch.compile."""
    patience: PositiveInt | None = None
    """Early stopping: stop after this many epochs without improvement; null trains all epochs."""
    ema: Rate = 0.0
    """Decay of an exponential moving average of the weights, which is then validated and kept; 0
    turns it off."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    """The maximum gradient norm; null does not clip."""
    refit: bool = False
    """Whether to train the final model again on train and validation together, for the number of
    epochs that was best on validation."""


class FineTune(Section):
    """Fine-tuning of the backbone after the head, kept only if validation improves."""

    epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs, with a cosine schedule; 0 leaves the backbone frozen. With `tuner.minutes`, as many
    run as the remaining time allows."""
    freeze: str = "auto"
    """What stays frozen: `none`, or everything through a named stage; `auto` freezes the first two
    thirds of the layers if there is no time to train all."""
    train_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)] | None = "auto"
    """The side of the random crops, in pixels; null is `data.image_size`, `auto` about 80% of it if
    the network takes any size."""
    start_size: Literal["auto"] | Annotated[int, Field(ge=16, le=2048)] | None = None
    """The side of the random crops in the first epoch, in pixels, growing to `train_size` in the
    last (progressive resizing); null starts with `train_size`, `auto` with about half of it."""
    lr: Annotated[float, Field(gt=0)] = 0.0003
    """AdamW's learning rate for the head."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Each layer learns at this fraction of the next one's rate."""
    batch_size: Annotated[int, Field(ge=2, le=8192)] = 32
    """Images per step."""
    augment: Annotated[str, choice(AUGMENTATIONS)] = "basic"
    """The augmentation, on top of a random crop and flip."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """CutMix's alpha, as `data.cutmix`; 0 turns CutMix off."""
    ema: Rate = 0.9
    """Decay of an exponential moving average of the weights, which is then validated and kept."""
    soup: Annotated[int, Field(ge=1, le=16)] = 1
    """How many fine-tunings, with other seeds, to average greedily by validation (a model soup);
    with `tuner.minutes`, as many as the remaining time allows."""
    wise_ft: bool = True
    """Whether to average the fine-tuned weights with those of the frozen network (WiSE-FT), in the
    proportion that is best on validation."""


class Tuner(Section):
    """The hyperparameter search."""

    strategy: Literal["none", "random", "grid", "bayesian", "hyperband", "auto"] = "none"
    """How values are chosen; `none` does not search, `auto` also searches backbones and image
    sizes."""
    trials: PositiveInt | None = None
    """The number of trials; null for `grid`, which runs every combination, and for `auto`, which is
    limited by `minutes`."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """The time limit of an `auto` search in minutes, including feature computation and `confirm`;
    the final training comes on top."""
    confirm: Annotated[int, Field(ge=0, le=20)] = 0
    """How many of the best trials to repeat with two more seeds and rank by their mean; 0 takes the
    best trial as it is."""
    folds: Annotated[int, Field(ge=1, le=20)] = 1
    """The number of cross-validation folds, over train and validation, that rate a trial; 1 uses
    the validation split. Needs cached features (model.freeze=backbone)."""
    parallel: PositiveInt = 1
    """Trials that run at the same time."""
    max_epochs: PositiveInt = 5
    """Epochs per trial."""
    early_stopping: bool = False
    """Whether SageMaker stops trials that fall behind."""
    warm_start: list[JobName] = Field(default_factory=list)
    """Finished SageMaker tuning jobs, with the same paths in `space`, to start the search from."""
    space: dict[str, Any] = Field(default_factory=dict)
    """Config paths and their candidate values: a list of choices, or `{low: ..., high: ..., log:
    true}`."""


class Serving(Section):
    """How the exported model runs, and which URLs it may fetch."""

    engine: Annotated[str, choice(ENGINES)] = "auto"
    """The inference engine of the exported model; `auto` is the fastest on this machine that agrees
    with PyTorch."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """The inference precision; `auto` is the fastest without a significant loss of accuracy."""
    unknown: Annotated[Literal["field", "row", "off"], _OFF_WORD] = "field"
    """How answers flag images of none of the classes: `field` in a field besides the scores, `row`
    also as an extra score, `off` not at all."""
    flip_tta: bool = False
    """Test-time augmentation: whether test and answers average the scores of each image and its
    mirror image, which takes twice as long. The run reports what it gains on the test."""
    allow_urls: Literal["none", "public"] | Annotated[list[Host], Field(min_length=1)] = "none"
    """From which hosts an endpoint fetches images by URL: none, any public host, or the listed
    ones."""


class Report(Section):
    """Settings of the report sections that plugins add."""
