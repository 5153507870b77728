"""The typed config: what every value may be. YAML in conf/ holds the defaults, so no field has one here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

# YAML reads a bare `off` as false; people mean the word.
_OFF_WORD = BeforeValidator(lambda value: "off" if value is False else value)

Location = Annotated[str, StringConstraints(min_length=1), AfterValidator(os.path.expanduser)]
"""A file or folder; `~` is the person's own."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
PositiveInt = Annotated[int, Field(ge=1)]
_MAX_5, _MAX_16 = Field(max_length=5), Field(max_length=16)
Number = int | float


def _check_host(word: str) -> str:
    from breedlab.serving.fetch import check_host

    return check_host(word)


Host = Annotated[str, AfterValidator(_check_host)]

METRICS = ("valid/loss", "valid/top1", "valid/top5", "valid/f1", "valid/ece")
LOWER_IS_BETTER = ("valid/loss", "valid/ece")


def _matching(pattern: str, words: str) -> AfterValidator:
    """Refuses what does not match a pattern, in words that say what would."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("pattern", "{words}", {"words": words})
        return value

    return AfterValidator(check)


def _not_a_number(words: str) -> Callable[[Any], Any]:
    """Refuses what YAML reads as a number."""

    def check(value: Any) -> Any:
        if isinstance(value, int | float):
            raise PydanticCustomError("number", "{words}", {"words": words})
        return value

    return check


JobName = Annotated[
    str, _matching(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,31}", "up to 32 letters, digits and '-', the first and last no '-'")
]


class Section(BaseModel):
    """One part of the config: closed, typed, never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


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


Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

Interval = Literal["every"] | Annotated[int, Field(ge=0)]
"""Every how many steps; 0 is never, `every` is what `debugger.every` says."""

Reduction = Literal[
    "min", "max", "mean", "std", "variance", "sum", "l1_norm", "l2_norm",
    "abs_min", "abs_max", "abs_mean", "abs_std", "abs_variance", "abs_sum",
    "update", "zeros", "dead", "saturated",
]  # fmt: skip
"""smdebug's own by the names of its JSON, and four more: what the last step changed, over the weight's norm; the share
of zeros; of channels that are zero throughout; of values at an activation's limits."""


class TensorCollection(Section):
    """When smdebug saves a collection of tensors, and what of them."""

    train: Interval
    eval: Interval
    reductions: list[Reduction]
    values: bool


class CustomCollection(TensorCollection):
    """Tensors by regular expressions on their names."""

    include: list[str]


class Collections(Section):
    """smdebug's collections."""

    losses: TensorCollection
    labels: TensorCollection
    predictions: TensorCollection
    weights: TensorCollection
    biases: TensorCollection
    gradients: TensorCollection
    relu_activations: TensorCollection
    bounded_activations: TensorCollection
    custom: CustomCollection


class DebuggerRule(Section):
    """What happens when a rule fires during training."""

    action: Literal["warn", "stop"]


class Patient(DebuggerRule):
    """A rule that waits for its condition to last, in saved steps or in epochs."""

    patience: PositiveInt


class LossNotDecreasing(DebuggerRule):
    """By which share the mean loss of the last window of steps has to lie below the first window's."""

    window: PositiveInt
    decrease: Share


class Overfit(Patient):
    """By which share, and by how much, the validation loss may lie above its minimum while training goes on."""

    rise: Positive
    margin: Annotated[float, Field(ge=0)]


class Overtraining(Patient):
    """By which share a validation loss has to be lower to count as better."""

    improvement: Share


class VanishingGradient(Patient):
    """The mean size of a weight's gradient, and its share of the largest, below both of which it has vanished."""

    abs_mean: Positive
    ratio: Positive


class ExplodingTensor(Patient):
    """The largest sound value."""

    abs_max: Positive


class PoorWeightInitialization(DebuggerRule):
    """The largest sound factor between a weight's deviation and He's for its shape, either way."""

    factor: Annotated[float, Field(gt=1)]


class PatientShare(Patient):
    """The largest sound share."""

    share: Share


class PatientRatio(Patient):
    """A ratio of the update's norm to the weight's."""

    ratio: Positive


class ClassImbalance(DebuggerRule):
    """The largest sound factor between the most and the least frequent class, from so many labels a class on."""

    factor: Annotated[float, Field(gt=1)]
    labels: PositiveInt


class ConfusionLimits(PatientShare):
    """The share of a class of at least so many photos that may be taken for one other class."""

    photos: PositiveInt


class DebuggerRules(Section):
    """The thresholds of the debugger's rules."""

    loss_not_decreasing: LossNotDecreasing
    overfit: Overfit
    overtraining: Overtraining
    vanishing_gradient: VanishingGradient
    exploding_tensor: ExplodingTensor
    poor_weight_initialization: PoorWeightInitialization
    dead_relu: PatientShare
    saturated_activation: PatientShare
    all_zero: Patient
    nan_inf: DebuggerRule
    unchanged_tensor: Patient
    update_too_small: PatientRatio
    class_imbalance: ClassImbalance
    confusion: ConfusionLimits
    weight_update_ratio: PatientRatio


class Debugger(Section):
    """What the debugger's hook records, and from when on its rules speak up."""

    level: Literal["none", "losses", "default", "full"]
    every: PositiveInt
    collections: Collections
    rules: DebuggerRules


class CpuBottleneck(Section):
    """How busy the CPU and how idle the GPU is, and in which share of samples."""

    cpu_percent: Percent
    gpu_percent: Percent
    share: Share


class IoBottleneck(Section):
    """How long the CPU waits for disks while the GPU idles, and in which share of samples."""

    io_percent: Percent
    gpu_percent: Percent
    share: Share


class ShareLimit(Section):
    """The largest share of the time that is sound."""

    share: Share


class GpuMemoryIncrease(Section):
    """The share of the memory by which its use may rise between the first and the last window."""

    increase: Share
    window: PositiveInt


class BatchSize(Section):
    """Below all of these a larger batch would fit."""

    cpu_percent: Percent
    gpu_percent: Percent
    gpu_memory_percent: Percent


class LowGpuUtilization(Section):
    """The least sound 95th percentile, and the largest sound spread from the 5th to it."""

    gpu_percent: Percent
    spread: Percent


class LoadBalancing(Section):
    """The largest sound difference between GPUs."""

    difference: Percent


class MaxInitializationTime(Section):
    """How long the preparation may take, as a share of the run; shorter than this many seconds it always may."""

    share: Share
    seconds: Annotated[float, Field(ge=0)]


class Outlier(Section):
    """How far from the mean a step is an outlier, and the largest sound share of those."""

    deviations: Annotated[float, Field(gt=0)]
    share: Share


class ProfilerRules(Section):
    """The thresholds of the profiler's rules."""

    min_samples: PositiveInt
    cpu_bottleneck: CpuBottleneck
    io_bottleneck: IoBottleneck
    dataloader: ShareLimit
    gpu_memory_increase: GpuMemoryIncrease
    batch_size: BatchSize
    low_gpu_utilization: LowGpuUtilization
    load_balancing: LoadBalancing
    max_initialization_time: MaxInitializationTime
    outlier: Outlier


class Profiler(Section):
    """What the profiler measures, and from when on its rules speak up."""

    level: Literal["none", "system", "full"]
    interval_ms: Annotated[int, Field(ge=50, le=60_000)]
    trace_steps: list[Annotated[int, Field(ge=0)]]
    rules: ProfilerRules


class Vpc(Section):
    """The private network that jobs run in; both lists empty for none."""

    subnets: Annotated[list[Annotated[str, _matching(r"subnet-[0-9a-f]+", "a subnet such as subnet-0abc")]], _MAX_16]
    security_groups: Annotated[list[Annotated[str, _matching(r"sg-[0-9a-f]+", "a group such as sg-0abc")]], _MAX_5]


KmsKey = Annotated[str, _matching(r"[a-zA-Z0-9:/_-]+", "the ID, alias or ARN of a KMS key")]


class Kms(Section):
    """Keys of the account's own for what is stored; null is AWS's."""

    output: KmsKey | None
    volume: KmsKey | None


class Limits(Section):
    """The account's limits of one search."""

    trials: PositiveInt
    parallel: PositiveInt


Hours = Annotated[float, Field(gt=0, le=28 * 24)]
Region = Annotated[str, _matching(r"[a-z]{2,4}(-[a-z]+)+-[0-9]", "an AWS region such as eu-central-1")]
Bucket = Annotated[
    str, _matching(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name without s3://: small letters, digits, '-'")
]
Prefix = Annotated[
    str, _matching(r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?", "letters, digits, '_', '.', '-' and '/' inside")
]
Role = Annotated[
    str,
    _matching(
        r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/)?[a-zA-Z0-9_+=,.@/-]+",
        "a role's name, or its ARN such as arn:aws:iam::123456789012:role/SageMakerRole",
    ),
]
InstanceType = Annotated[str, _matching(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "a type such as ml.g5.xlarge")]
Image = Annotated[
    str,
    StringConstraints(min_length=1),
    BeforeValidator(_not_a_number("all three parts of a version, such as 2.13.0, since 2.10 would be read as 2.1")),
]
Variable = Annotated[str, _matching(r"[a-zA-Z_][a-zA-Z0-9_]*", "a name of letters, digits and '_'")]


class Backend(Section):
    """Where the experiment runs; all but the first two are SageMaker's."""

    name: Literal["local", "sagemaker"]
    wait: bool
    trials: Literal["job_each", "one_job"]
    region: Region | None
    role: Role | None
    bucket: Bucket | None
    prefix: Prefix
    job_name: JobName | None
    image: Image
    instance_type: InstanceType
    instance_count: Annotated[int, Field(ge=1, le=100)]
    processes: Literal["auto"] | PositiveInt
    volume_gb: Annotated[int, Field(ge=1, le=16_384)]
    max_run_hours: Hours
    spot: bool
    max_wait_hours: Hours | None
    keep_alive_minutes: Annotated[int, Field(ge=0, le=360)]
    retries: Annotated[int, Field(ge=0, le=30)]
    tags: dict[str, str]
    environment: dict[Variable, str]
    network_isolation: bool
    encrypt_traffic: bool
    vpc: Vpc
    kms: Kms
    tensorboard: bool
    limits: Limits
    price_per_hour: Annotated[float, Field(gt=0)] | None


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
