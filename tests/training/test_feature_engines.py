"""What computes frozen parts: equal to PyTorch, refused where it is not, and the same one when a
run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.pipeline.checked_images import checked_images
from breedlab.training import engine_choice
from breedlab.training.context import TrainingContext
from breedlab.training.engine_choice import Choice, FeatureEngines, agreement
from breedlab.training.feature_engines import Eager, OpenVino
from breedlab.training.inference import logits_of
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]
CPU = torch.device("cpu")


@pytest.fixture
def context(tmp_path: Path, configure: Configure) -> TrainingContext:
    config = configure(f"cache.dir={tmp_path / 'cache'}")
    return prepare(config, checked_images(config))


def images(count: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).to(torch.uint8)


@pytest.mark.parametrize("freeze", ["backbone", "stage2"])
def test_openvino_computes_what_pytorch_does_in_the_order_of_the_images(
    configure: Configure, freeze: str
) -> None:
    pytest.importorskip("openvino")
    config = configure(f"model.freeze={freeze}")
    classifier = prepare(config, checked_images(config)).classifier(config)
    batches = [images(count, count) for count in (5, 1, 8, 2, 3)]
    before = torch.get_rng_state()
    engine = OpenVino(classifier, "fp32")
    assert torch.equal(torch.get_rng_state(), before), (
        "training draws what it would draw without an engine"
    )
    found = list(engine.stream(batches))
    with torch.no_grad():
        for batch, features in zip(batches, found, strict=True):
            torch.testing.assert_close(
                features, classifier.to_boundary(batch), rtol=1e-3, atol=1e-4
            )


def test_a_wrong_engine_is_told_from_rounding(context: TrainingContext) -> None:
    eager = Eager(context.classifier(context.config), CPU, "fp32")
    batch = images(32)
    reference = eager(batch)
    rounded = agreement(
        reference, Eager(context.classifier(context.config), CPU, "bf16")(batch).float()
    )
    least_cosine, least_readout = engine_choice.LEAST_ALIKE["bf16"]
    assert rounded[0] >= least_cosine and rounded[1] >= least_readout
    swapped_channels, other_images = eager(batch.flip(1)), reference.roll(1, 0)
    for wrong in (swapped_channels, other_images, reference * float("nan"), reference[:, :-1]):
        cosine, readout = agreement(reference, wrong)
        assert cosine < least_cosine or readout < least_readout


class Quick:
    """An engine that takes no time, and whose features are PyTorch's times a factor for each
    feature."""

    def __init__(self, eager: Eager, factors: torch.Tensor) -> None:
        self.eager, self.factors = eager, factors

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.eager(images) * self.factors

    def stream(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(len(batch), len(self.factors)) for batch in batches])


@pytest.mark.parametrize("right", [True, False])
def test_the_fastest_is_taken_if_it_agrees(
    context: TrainingContext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    right: bool,
) -> None:
    classifier = context.classifier(context.config)
    eager = Eager(classifier, CPU, "fp32")
    width = 1024
    factors = (
        torch.ones(width)
        if right
        else torch.randn(width, generator=torch.Generator().manual_seed(1))
    )
    quick = Quick(eager, factors)
    monkeypatch.setattr(FeatureEngines, "_candidate", lambda *_: "openvino")
    monkeypatch.setattr(
        FeatureEngines, "engine", lambda self, c, name: eager if name == "eager" else quick
    )
    monkeypatch.setattr(engine_choice, "FEWEST_IMAGES", 1)
    chosen = context.engines.choose(classifier, {}, 10**6, lambda: images(32))
    assert chosen.engine == ("openvino" if right else "eager")
    printed = " ".join(capsys.readouterr().out.split())
    assert ("is computed by openvino" if right else "does not agree with PyTorch") in printed


def test_a_short_pass_looks_for_no_engine(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureEngines, "_measured", None)
    classifier = context.classifier(context.config)
    assert context.engines.choose(classifier, {}, 399, lambda: images(32)) == Choice()


def with_choice(monkeypatch: pytest.MonkeyPatch, choice: Choice) -> None:
    monkeypatch.setattr(engine_choice, "FEWEST_IMAGES", 1)
    monkeypatch.setattr(FeatureEngines, "_candidate", lambda *_: "openvino")
    monkeypatch.setattr(FeatureEngines, "_measured", lambda *_: choice)


def test_a_resumed_run_and_the_next_run_keep_the_engine(
    context: TrainingContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    chosen, classifier, run = (
        Choice("openvino", 3.0, 0.99, 0.97),
        context.classifier(context.config),
        tmp_path / "run",
    )
    run.mkdir()
    context.engines.begin(run)
    with_choice(monkeypatch, chosen)
    activations = context.activations(classifier, context.config)
    assert activations is not None
    with torch.no_grad():
        batch, _ = next(iter(context.data(context.config).val_dataloader()))
        torch.testing.assert_close(
            activations.valid[:24], classifier.to_boundary(batch), rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            logits_of(context, classifier)(batch), classifier(batch), rtol=1e-3, atol=1e-4
        )
    files = set((tmp_path / "cache").glob("*.npy"))

    with_choice(monkeypatch, Choice())  # a busy moment would have chosen otherwise
    resumed = prepare(context.config, context.report)
    resumed.engines.resume(run)
    again = resumed.activations(classifier, context.config)
    assert resumed.engines.recorded("backbone") == chosen
    assert again is not None and torch.equal(again.train[0], activations.train[0])
    another = prepare(context.config, context.report)
    another.engines.begin(run)
    assert another.activations(classifier, context.config) is not None
    assert another.engines.recorded("backbone") == chosen
    assert set((tmp_path / "cache").glob("*.npy")) == files, "nothing was computed again"


def test_a_run_of_an_older_breedlab_goes_on_with_pytorch(
    context: TrainingContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.engines.resume(tmp_path)
    with_choice(monkeypatch, Choice("openvino", 3.0))
    assert (
        context.engines.choose(context.classifier(context.config), {}, 10**6, lambda: images(32))
        == Choice()
    )


def test_where_the_engine_of_a_run_is_missing_pytorch_computes_and_says_so(
    context: TrainingContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    context.engines.begin(tmp_path)
    with_choice(monkeypatch, Choice("openvino", 3.0))
    monkeypatch.setattr(engine_choice, "_has_openvino", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    activations = context.activations(context.classifier(context.config), context.config)
    assert activations is not None and len(activations.train[0]) == 100
    assert "openvino cannot be used here" in " ".join(capsys.readouterr().out.split())


def test_engines_have_activations_of_their_own(
    context: TrainingContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    classifier = context.classifier(context.config)
    assert context.activations(classifier, context.config) is not None
    with_choice(monkeypatch, Choice("openvino", 3.0))
    other = prepare(context.config, context.report)
    assert other.activations(classifier, context.config) is not None
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4
    manifests = [path.read_text() for path in (tmp_path / "cache").glob("*.json")]
    assert sum('"openvino 20' in text for text in manifests) == 2


def test_compiled_takes_a_last_batch_that_is_smaller(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from breedlab.training.feature_engines import Compiled

    seen: list[int] = []

    def compile_nothing(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        def compiled(batch: torch.Tensor) -> torch.Tensor:
            seen.append(len(batch))
            result: torch.Tensor = module(batch)
            return result

        return compiled

    monkeypatch.setattr(torch, "compile", compile_nothing)
    classifier = context.classifier(context.config)
    found = list(Compiled(classifier, CPU, "fp32").stream([images(32), images(3)]))
    assert seen == [32, 32] and [len(part) for part in found] == [32, 3]
    torch.testing.assert_close(
        found[1], Eager(classifier, CPU, "fp32")(images(3)), rtol=1e-4, atol=1e-5
    )


def test_a_classifier_is_left_as_it_was(context: TrainingContext) -> None:
    pytest.importorskip("openvino")
    classifier: Classifier = context.classifier(context.config)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    OpenVino(classifier, "fp32")
    assert all(
        torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items()
    )
