"""Averages of the frozen network's weights and the fine-tuned ones, chosen on validation."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from breedlab.config import Config, validate
from breedlab.config.migrations import upgrade
from breedlab.pipeline import final_test, validation_passes
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.refit import refitted
from breedlab.pipeline.run import run
from breedlab.pipeline.weight_averaging import Mix, best_of, compare, weights
from breedlab.training.fit import Fitted
from breedlab.training.preparation import prepare
from breedlab.weight_files import file_of

Configure = Callable[..., Config]
Weights = dict[str, torch.Tensor]

# After a head that learned nothing, a few large steps lead past a better network.
OVERSHOOTS = (
    "model.name=resnet18",
    "trainer.max_epochs=1",
    "optim.lr=0.000001",
    "model.head_type=linear",
    "model.dropout=0",
    "monitor.metric=valid/loss",
    "monitor.mode=min",
    "fine_tune.epochs=1",
    "fine_tune.lr=0.01",
    "fine_tune.ema=0",
    "fine_tune.layer_decay=0.5",
)


def of(file: Path) -> Weights:
    """Return a checkpoint's weights by the classifier's names."""
    state = torch.load(file, weights_only=True)["state_dict"]
    return {name.removeprefix("classifier."): tensor for name, tensor in state.items()}


def between(first: Weights, last: Weights, alpha: float) -> Weights:
    """Return the average of two networks, by the definition."""
    return {
        name: (1 - alpha) * first[name] + alpha * tensor if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }


def test_a_better_average_is_tested_and_exported_and_a_resumed_run_ends_with_the_same(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure(*OVERSHOOTS)
    passes = []
    validate_once = validation_passes.validated

    def killed_in_the_second(*args: Any) -> Any:
        passes.append(None)
        if len(passes) == 2:
            raise KeyboardInterrupt
        return validate_once(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(validation_passes, "validated", killed_in_the_second)
        run(config, [])
    stopped = Path("runs/latest").resolve()
    checkpoints = stopped / "fine_tune" / "checkpoints"
    assert weights(checkpoints).name == "best.ckpt"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(final_test, "_temperature", killed)
        run(config, [], resume=stopped)
    assert file_of(str(stopped)) == str(weights(checkpoints))  # as model.weights of another run
    written = weights(checkpoints).stat().st_mtime_ns
    found = run(config, [], resume=stopped).metrics
    assert weights(checkpoints).stat().st_mtime_ns == written

    tuned = found["training"]["fine_tune"]
    chosen = tuned["wise_ft"]
    assert tuned["kept"] and 0 < chosen["alpha"] < 1
    assert [mix["alpha"] for mix in chosen["tried"]] == [0, 0.25, 0.5, 0.75, 1]
    assert chosen["best"] == min(mix["best"] for mix in chosen["tried"])
    assert chosen["best"] < tuned["best"] < tuned["before"]
    assert found["monitor"]["best"] == chosen["best"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"{chosen['alpha']:g} of the fine-tuned" in said and f"{chosen['best']:.4f}" in said
    assert f"{chosen['alpha']:g} of the fine-tuned" in (stopped / "report.html").read_text()

    context = prepare(config, checked_images(config))
    frozen = context.classifier(config)
    frozen.head.load_state_dict(
        {
            name.removeprefix("head."): tensor
            for name, tensor in of(stopped / "checkpoints" / "best.ckpt").items()
            if name.startswith("head.")
        }
    )
    expected = between(frozen.state_dict(), of(checkpoints / "best.ckpt"), chosen["alpha"])
    with tarfile.open(stopped / "model.tar.gz") as archive:
        served = load(archive.extractfile("model.safetensors").read())  # type: ignore[union-attr]
    for name, tensor in served.items():
        torch.testing.assert_close(tensor, expected[name])

    network = context.classifier(config).eval()
    network.load_state_dict(expected)
    with torch.inference_mode():
        batches = context.live_data(config).val_dataloader()
        losses = [
            torch.nn.functional.cross_entropy(network(images), labels, reduction="none")
            for images, labels in batches
        ]
    assert float(torch.cat(losses).mean()) == pytest.approx(chosen["best"], rel=1e-4)


def test_the_refit_is_averaged_in_the_same_proportion(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in OVERSHOOTS if not word.startswith("fine_tune.")]
    config = configure(*words, "model.freeze=layer3", "cache.mode=off", "optim.lr=0.01")
    context = prepare(config, checked_images(config))
    head = {name: tensor + 1 for name, tensor in context.classifier(config).head.named_parameters()}
    files = {}
    for alpha in (1.0, 0.25):
        (here / str(alpha) / "checkpoints").mkdir(parents=True)
        refitted(context, config, here / str(alpha), 1, None, "fp32", head, alpha)
        files[alpha] = here / str(alpha) / "checkpoints" / "refit.ckpt"
    first = context.classifier(config)
    first.head.load_state_dict(head)
    start = first.state_dict()
    whole, part = of(files[1.0]), of(files[0.25])
    for name, tensor in between(start, {each: whole[each] for each in start}, 0.25).items():
        torch.testing.assert_close(part[name], tensor, rtol=1e-5, atol=1e-6)
    assert torch.equal(part["backbone.conv1.weight"], start["backbone.conv1.weight"])
    assert not torch.equal(part["head.1.weight"], whole["head.1.weight"])

    # chosen anew, in another proportion: the file is of no use
    refitted(context, config, here / "0.25", 1, None, "fp32", head, 1.0)
    torch.testing.assert_close(of(files[0.25]), whole)


@pytest.mark.parametrize(
    ("measured", "alpha"),
    [
        ({0.25: (0.7, 0.5), 0.5: (0.9, 0.5), 0.75: (0.8, 0.1)}, 0.5),
        ({0.25: (0.8, 0.5), 0.5: (0.8, 0.3), 0.75: (0.8, 0.4)}, 0.5),
        ({0.25: (0.7, 0.1), 0.5: (0.7, 0.1), 0.75: (0.7, 0.1)}, 1.0),
        ({0.25: (0.7, 0.1), 0.5: (0.9, float("nan")), 0.75: (0.8, 0.1)}, 0.75),
    ],
    ids=["metric", "loss of ties", "none better", "overflows"],
)
def test_validation_chooses_and_no_other_checkpoint_is_left(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: dict[float, tuple[float, float]],
    alpha: float,
) -> None:
    config = configure("model.head_type=linear")
    context = prepare(config, checked_images(config))
    start = context.classifier(config)
    trained = {f"classifier.{name}": tensor for name, tensor in start.state_dict().items()}
    head = {name: torch.zeros_like(each) for name, each in start.head.state_dict().items()}
    for name in ("best.ckpt", "averaged.ckpt"):
        torch.save({"state_dict": trained}, here / name)
    answers = iter(measured.values())

    def measure(*_: Any) -> dict[str, float]:
        top1, loss = next(answers)
        return {"valid/top1": top1, "valid/loss": loss}

    monkeypatch.setattr(validation_passes, "validated", measure)
    ends = Fitted(1, "its one epoch", 1, 0.75, loss=0.2), Fitted(3, "all", 3, 0.8, loss=0.6)
    mixes = compare(context, config, here, head, *ends, "fp32")
    assert best_of(mixes, "max").alpha == alpha
    assert mixes[0] == Mix(0.0, 0.75, 0.2) and mixes[-1] == Mix(1.0, 0.8, 0.6)
    assert (weights(here).name == "averaged.ckpt") == (alpha < 1)
    chosen = of(weights(here))
    torch.testing.assert_close(chosen["head.1.weight"], alpha * start.head.state_dict()["1.weight"])
    # nothing is measured again
    assert compare(context, config, here, head, *ends, "fp32") == mixes
    # but of a network that was trained anew
    answers = iter([(0.0, 9.0)] * 3)
    again = compare(context, config, here, head, ends[0], Fitted(3, "all", 2, 0.7), "fp32")
    assert best_of(again, "max").alpha == 0 and weights(here).name == "best.ckpt"


def test_a_run_that_an_older_version_began_is_resumed_without_averaging(
    configure: Configure, here: Path
) -> None:
    recorded = configure(*OVERSHOOTS).model_dump()
    assert recorded["fine_tune"].pop("wise_ft")
    older = validate(upgrade(recorded, "run", "config.yaml"), recorded=True)
    result = run(older, [])
    tuned = result.metrics["training"]["fine_tune"]
    assert tuned["kept"] and "wise_ft" not in tuned
    assert result.metrics["monitor"]["best"] == tuned["best"]
    folder = result.run / "fine_tune" / "checkpoints"
    assert weights(folder).name == "best.ckpt"
    assert not list(folder.glob("averaged*"))
    assert json.loads((result.run / "metrics.json").read_text())["training"]["fine_tune"] == tuned
