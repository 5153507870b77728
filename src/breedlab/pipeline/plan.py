"""What `dry_run=true` prints: everything that would happen, without torch and without starting any
of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from breedlab import config as configs
from breedlab.catalogue import Entry, lookup
from breedlab.config import Config, search_space, trial_count
from breedlab.config.space import PAIRED, Choices, Dimension
from breedlab.data.fixes import apply_fixes
from breedlab.data.folders import SPLITS, is_absent, scan, splitting
from breedlab.data.sources import source_of
from breedlab.names import counted, printable
from breedlab.pipeline.suitability import cap_batch_sizes, early_stopping_concern
from breedlab.training.progress import Done

_GB = 1e9


@dataclass(frozen=True)
class Images:
    """How many images there are or will be, by split, and what was noticed about their folders."""

    origin: str
    classes: int
    counts: dict[str, int]
    download: int = 0
    notes: tuple[str, ...] = ()


def plan(config: Config, resume: Path | None) -> str:
    """Return the plan as text; for a run to continue, what remains of it.

    Raises:
        DataError: If the data folder is there and cannot be used.
    """
    title = f"experiment {config.name} (dry run: nothing is started)"
    already = Done()
    if resume is not None:
        from breedlab.pipeline.extension import left, trained_values

        already = left(resume, config)
        if already.has_checkpoint:
            config = configs.replace(config, trained_values(resume))
    if already.complete:
        return (
            f"{title}\n\noutput    {resume}/\n          this run is complete; nothing is left to do"
        )
    images = find_images(config)
    config, notes = suited(config, images)
    lines = [
        title,
        "",
        *describe_task(config, images),
        *notes,
        "",
        "stages" if resume is None else f"stages left of {resume}",
        *(f"  {number}. {text}" for number, text in enumerate(_stages(config, images, already), 1)),
        "",
        f"output    {resume or Path(config.runs_dir, config.name, '<date_time>')}/",
        *_space(config, images),
    ]
    return "\n".join(lines)


def describe_task(config: Config, images: Images | None) -> list[str]:
    """Return the lines about data and network; images are None where they cannot be counted from
    here."""
    if images is None:
        data = [f"data      {config.data.root}: in S3, used where it lies; counted by the job"]
    else:
        counts = ", ".join(f"{images.counts[s]:,} {s}" for s in SPLITS)
        data = [f"data      {images.origin}", f"          {images.classes} classes; {counts}"]
        data += [f"          {printable(text)}" for text in images.notes]
    head = " > ".join(
        map(str, [*config.model.head, "classes" if images is None else images.classes])
    )
    return [
        *data,
        (
            f"network   {config.model.name}, weights {config.model.weights}, frozen:"
            f" {config.model.freeze}, head {head}"
        ),
    ]


def suited(config: Config, images: Images | None) -> tuple[Config, list[str]]:
    """Return the config as a run of it corrects it for these images, and lines on that and on what
    a run warns of."""
    notes = [text] if (text := early_stopping_concern(config)) else []
    if images is not None:
        config, notice = cap_batch_sizes(config, images.counts["train"])
        notes += [notice] if notice else []
    return config, [f"note      {text}" for text in notes]


def find_images(config: Config) -> Images:
    """Return the number of images that exist here or will.

    Raises:
        DataError: If the data folder is there and cannot be used.
    """
    data, root = config.data, Path(config.data.root)
    if is_absent(root) and (source := source_of(data)):
        expected = source.expected()
        counts = dict(zip(SPLITS, expected.counts, strict=True))
        return Images(
            f"{root}: not there yet, {expected.how}", expected.classes, counts, expected.bytes
        )
    images = scan(root, **splitting(config))
    if data.fixes is not None:
        images = apply_fixes(images, Path(data.fixes))
    cut = f" ({' and '.join(images.cut)} cut from train)" if images.cut else ""
    counts = {split: len(images.splits[split]) for split in SPLITS}
    return Images(
        f"{root}{cut}", len(images.classes), counts, notes=(*images.notes, *images.left_out)
    )


def _stages(config: Config, images: Images, already: Done) -> list[str]:
    train, tuner = images.counts["train"], config.tuner
    cached = config.model.freeze != "none" and config.cache.mode == "auto"
    stages, space = ["check every image"], search_space(config)
    if cached and not already.trained:
        total = config.cache.views * train + images.counts["valid"]
        unless_cached = (
            f", unless {config.cache.dir} still has them"
            if already.trials or already.has_checkpoint
            else ""
        )
        varies = any(path in space for pair in PAIRED for path in pair)
        each = " for each backbone, image size, and number of views tried" if varies else ""
        stages.append(
            f"compute the frozen part's activations once{each}{unless_cached}:"
            f" {counted(total, 'image')}"
        )
    trials = trial_count(config)
    if tuner.strategy != "none" and already.trials < trials:
        progress = f" ({already.trials} of {trials} are done)" if already.trials else ""
        at_once = f", {tuner.parallel} at a time" if tuner.parallel > 1 else ""
        best = "highest" if config.monitor.mode == "max" else "lowest"
        limit = "" if tuner.minutes is None else f"up to {tuner.minutes:g} minutes, "
        stages.append(
            f"search: {limit}{trials - already.trials} trials x {tuner.max_epochs}"
            f" epochs{progress}, {tuner.strategy}{at_once}, for the {best} {config.monitor.metric}"
        )
        stages[-1] += "".join(
            f"\n       {path}: {describe_dimension(dimension)}" for path, dimension in space.items()
        )
        if tuner.confirm:
            stages.append(
                f"confirm: run the best {tuner.confirm} again with other seeds; the best mean wins"
            )
    if config.trainer.probe_epochs and not already.has_checkpoint:
        stages.append(f"linear probe: {config.trainer.probe_epochs} epochs of the head alone")
    steps = ceil(train / config.data.batch_size)
    the_best = "train the best" if tuner.strategy != "none" else "train"
    batch = f"{config.optim.name} at {config.optim.lr:g}, batch size {config.data.batch_size}"
    if tuner.strategy != "none" and not already.has_checkpoint:
        batch += ", or what was found best"
    epochs = config.trainer.max_epochs - already.epochs
    if already.has_checkpoint:
        # so that the steps are fewer
        midway = f", within epoch {already.epochs + 1}" if already.midway else ""
        the_best = (
            f"continue training after epoch {already.epochs} of {config.trainer.max_epochs}{midway}"
        )
    if not already.trained:
        stages.append(
            f"{the_best}: {epochs} epochs x {steps} step{'s' * (steps != 1)} ="
            f" {epochs * steps:,} steps ({batch})"
        )
    if already.has_checkpoint and already.trials < trials:
        stages.append("train the best again, if a new trial is better")
    if config.fine_tune.epochs:
        stages.append(_fine_tuning(config))
    if config.trainer.refit:
        stages.append(
            f"refit on train and validation: {counted(train + images.counts['valid'], 'image')}"
        )
    stages.append(f"test on {counted(images.counts['test'], 'image')}")
    stages.append("export model.tar.gz")
    return stages


def _fine_tuning(config: Config) -> str:
    settings, limited = config.fine_tune, config.tuner.minutes is not None
    what = {
        "none": "train all layers",
        "auto": "train all layers, or the last third" if limited else "train all layers",
    }.get(settings.freeze, f"train the layers after {settings.freeze}")
    room = ", as far as the search leaves time" if limited else ""
    averaged = ", alone or averaged with the frozen network" if settings.wise_ft else ""
    seeds = f", with up to {settings.soup} seeds averaged greedily" if settings.soup > 1 else ""
    return (
        f"{what}: up to {settings.epochs} epochs{room}{seeds}; kept if validation is"
        f" better{averaged}"
    )


def describe_dimension(dimension: Dimension) -> str:
    """Return a description of a search dimension."""
    if isinstance(dimension, Choices):
        return f"one of {', '.join(map(_as_typed, dimension.values))}"
    scale = ""
    if dimension.log:
        scale = ", log scale"
    elif dimension.step:
        scale = f" in steps of {dimension.step:g}"
    kind = "integers" if dimension.integer else "numbers"
    return f"{kind} from {dimension.low:g} to {dimension.high:g}{scale}"


def _as_typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _space(config: Config, images: Images) -> list[str]:
    lines = []
    if images.download:
        lines.append(
            f"space     {2 * images.download / _GB:.1f} GB for the download and what is unpacked"
            " from it"
        )
    entry: Entry | None = lookup(config.model.name)
    title = "space     " if not lines else "          "
    if entry is None:
        lines.append(
            f"{title}checkpoints and archive: about four times the size of {config.model.name}'s"
            " weights"
        )
    else:
        # Two checkpoints with the optimizer's state of what trains, the archive, and its folder
        # while it is packed.
        copies = 4 if config.model.freeze != "none" else 8
        lines.append(
            f"{title}{copies * entry.parameters * 4 / _GB:.2f} GB for checkpoints and archive"
        )
    if config.model.freeze == "backbone" and config.cache.mode == "auto" and entry is not None:
        total = config.cache.views * images.counts["train"] + images.counts["valid"]
        lines.append(
            f"          {max(total * entry.features * 4 / _GB, 0.01):.2f} GB for activations in"
            f" {config.cache.dir}"
        )
    elif config.model.freeze != "none" and config.cache.mode == "auto":
        lines.append(
            f"          at most {config.cache.max_gb:g} GB for activations in {config.cache.dir}"
        )
    return lines
