"""A model's card: README.md of a model repository, from the archive's lineage and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from breedlab.evaluation.figures import interval, metric, shown_metrics
from breedlab.evaluation.metrics import is_percent
from breedlab.serving.model import Model

_NAMED = 50
"""Classes that the card lists; config.json and model.json have all."""


def model_card(model: Model, *, in_timm: bool = False) -> str:
    """Return the card as Markdown with the Hub's metadata.

    It says what the run recorded, and nothing of this machine: no path, no command line.

    Args:
        model: A loaded archive.
        in_timm: Whether it is next to the files that timm reads.
    """
    return "\n".join([*_front_matter(model, in_timm), *_body(model, in_timm)]) + "\n"


def tested(model: Model) -> dict[str, Any]:
    """Return the test of a model as far as its lineage has it, as `shown_metrics` takes it."""
    lineage = model.lineage
    return {
        "metrics": lineage.get("test") or {},
        "intervals": lineage.get("test_intervals") or {},
        "per_class": dict.fromkeys(model.classes),
        "photos": (lineage.get("data") or {}).get("photos", {}).get("test"),
    }


def _front_matter(model: Model, in_timm: bool) -> Iterator[str]:
    experiment = str(model.lineage.get("experiment") or "model")
    test = tested(model)
    results = [
        {"type": "accuracy" if name == "top1" else name, "name": title, "value": round(value, 6)}
        for name, title in shown_metrics(test).items()
        if (value := test["metrics"][name]) is not None
    ]
    tree: dict[str, Any] = {
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *(["timm"] if in_timm else []), "breedlab"],
        **({"library_name": "timm"} if in_timm else {}),
    }
    if results:
        tree["model-index"] = [
            {
                "name": experiment,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "the run's test split", "type": "imagefolder"},
                        "metrics": results,
                    }
                ],
            }
        ]
    yield from ("---", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).strip(), "---", "")


def _body(model: Model, in_timm: bool) -> Iterator[str]:
    lineage = model.public_lineage()
    transform, architecture = model.transform, model.network.architecture
    classes = len(model.classes)
    yield f"# {_plain(str(lineage.get('experiment') or 'Model'))}\n"
    several = model.answers.multi_label
    does, what = "Classifies images into", "classes"
    if several:
        does, what = "Gives images any number of", "labels"
    yield (
        f"{does} {classes:,} {what}. The network is `{architecture.name}`, trained with breedlab.\n"
    )
    yield "## Test\n"
    yield from _results(model)
    yield "## Use\n"
    if in_timm:
        yield _TIMM_USE.replace("softmax(1)", "sigmoid()") if several else _TIMM_USE
    yield (
        f"Input: upright RGB, the shorter side at {transform.resize} pixels"
        f" ({transform.interpolation}, antialiased), {transform.crop}x{transform.crop} from the"
        f" center, mean {_numbers(architecture.mean)}, std {_numbers(architecture.std)}."
    )
    temperature = model.answers.temperature
    if temperature != 1.0:
        folded = "is part of the last layer here" if in_timm else "divides the logits"
        yield (
            f"Scores are calibrated: a temperature of {temperature:.3f}, fitted on validation,"
            f" {folded}."
        )
    if model.answers.flip_tta:
        yield "The scores of each image and of its mirror image are averaged."
    if model.answers.thresholds is not None:
        thresholds = zip(model.classes[:_NAMED], model.answers.thresholds, strict=False)
        text = ", ".join(f"{_plain(name)} {threshold:.3f}" for name, threshold in thresholds)
        yield (
            "An image gets each label whose probability (the sigmoid of its score) is at least"
            f" the label's threshold, found on validation: {text}."
        )
    yield "\n## Training\n"
    for name, value in _facts(model).items():
        yield f"- {name}: {_plain(value)}"
    yield "\n## Limits\n"
    yield (
        "The metrics hold for images like those of the test split."
        + ("" if several else " An image of none of the classes is given one of them.")
        + " Check what the model does for groups of images that matter to you"
        " before you rely on it.\n"
    )
    yield "## Classes\n"
    yield ", ".join(_plain(name) for name in model.classes[:_NAMED]) + (
        f", and {classes - _NAMED:,} more" if classes > _NAMED else ""
    )


_TIMM_USE = """```python
import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()  # this folder
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
probabilities = model(prepare(image)[None]).softmax(1)  # image: PIL, RGB
```
"""


def _results(model: Model) -> Iterator[str]:
    test = tested(model)
    metrics = shown_metrics(test)
    if not metrics:
        yield "The archive records no test.\n"
        return
    images = f"{test['photos']:,} images" if test["photos"] else "the test split"
    yield f"| {images} | value | 95% interval |"
    yield "|---|---|---|"
    for name, title in metrics.items():
        value = test["metrics"][name]
        yield f"| {title} | {metric(name, value)} | {interval(name, test) or 'not recorded'} |"
    if any(is_percent(name) for name in metrics):
        yield "\nIntervals say how far the value may be from that of all such images.\n"


def _facts(model: Model) -> dict[str, str]:
    lineage = model.public_lineage()
    images = (lineage.get("data") or {}).get("photos") or {}
    git = lineage.get("git")
    commit = git.get("commit") if isinstance(git, dict) else git
    facts = {
        "started": lineage.get("started"),
        "breedlab": lineage.get("breedlab"),
        "commit": commit,
        "images": ", ".join(f"{count:,} {split}" for split, count in images.items()),
        "seed": model.lineage.get("seed"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _plain(text: str) -> str:
    """Escape text for Markdown: names may contain anything."""
    flat = " ".join(text.split())
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#" else each for each in flat)
