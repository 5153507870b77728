"""Each rule on a training that was made to have its fault, and on a sound one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from smdebug import modes
from smdebug.rules import Rule
from torch import nn

from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.debugger import Debugger
from breedlab.debugging.collections import hook_from_config
from breedlab.debugging.reader import Loss, TensorLog, _pass, opened
from breedlab.debugging.rule_runner import judge
from breedlab.debugging.rules import RULES
from breedlab.verdicts import Verdict

CLASSES, WIDTH, BATCH, PASSES, STEPS = 4, 20, 32, 10, 6
NAMES = [
    *("LossNotDecreasing", "Overfit", "Overtraining", "VanishingGradient", "ExplodingTensor"),
    "PoorWeightInitialization",
    "DeadRelu",
    "SaturatedActivation",
    "AllZero",
    "NaN/Inf",
    "UnchangedTensor",
    *("UpdateTooSmall", "ClassImbalance", "Confusion", "WeightUpdateRatio"),
]


class Training:
    """A small network learns to tell clouds of points apart, recorded as a run records its own.

    Every knob that a fault turns is an argument; the defaults make a sound training.
    """

    def __init__(
        self,
        *,
        lr: float = 0.003,
        network: Callable[[], nn.Module] | None = None,
        shares: tuple[float, ...] = (1, 1, 1, 1),
        noise: float = 0.0,
        images: int = BATCH * STEPS,
        spread: float = 0.5,
        taken_for: dict[int, int] | None = None,
        passes: int = PASSES,
        optimized: Callable[[str], bool] = lambda name: True,
        spoil: Callable[[nn.Module, int], None] = lambda network, step: None,
    ) -> None:
        chance = torch.Generator().manual_seed(0)
        self.centers = torch.randn(CLASSES, WIDTH, generator=chance)
        self.chance, self.spread, self.noise, self.taken_for = (
            chance,
            spread,
            noise,
            taken_for or {},
        )
        self.shares = torch.tensor(shares, dtype=torch.float)
        self.train, self.valid = self._points(images), self._points(64, honest=True)
        torch.manual_seed(0)
        self.network = (network or sound_network)()
        self.lr, self.passes, self.optimized, self.spoil = lr, passes, optimized, spoil

    def _points(self, count: int, honest: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        weights = torch.ones(CLASSES) if honest else self.shares
        labels = torch.multinomial(weights, count, replacement=True, generator=self.chance)
        drawn = labels.clone()
        for label, other in self.taken_for.items():
            drawn[labels == label] = other
        inputs = self.centers[drawn] + self.spread * torch.randn(
            count, WIDTH, generator=self.chance
        )
        if self.noise and not honest:
            wrong = torch.rand(count, generator=self.chance) < self.noise
            labels = torch.where(
                wrong, torch.randint(0, CLASSES, (count,), generator=self.chance), labels
            )
        return inputs, labels

    def record(self, run: Path, debugger: Debugger) -> Path:
        network, loss = self.network, nn.CrossEntropyLoss()
        trained = [
            parameter for name, parameter in network.named_parameters() if self.optimized(name)
        ]
        optimizer = torch.optim.Adam(trained, lr=self.lr) if trained else None
        hook = hook_from_config(debugger, run / "debug" / "0", network, outputs=True)
        hook.start_at(0, 0)
        hook.register(network, network, loss)
        step = 0
        for _ in range(self.passes):
            hook.set_mode(modes.TRAIN)
            order = torch.randperm(len(self.train[1]), generator=self.chance)
            for _ in range(STEPS):
                batch = order.roll(-step * BATCH)[:BATCH]
                self.spoil(network, step)
                network.zero_grad()
                loss(network(self.train[0][batch]), self.train[1][batch]).backward()
                if optimizer is not None:
                    optimizer.step()
                hook.step_is_over()
                step += 1
            hook.set_mode(modes.EVAL)
            with torch.no_grad():
                for half in range(2):
                    part = slice(32 * half, 32 * half + 32)
                    loss(network(self.valid[0][part]), self.valid[1][part])
        hook.end()
        return run


def sound_network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, CLASSES)
    )


def deep_sigmoids() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(WIDTH, 16), nn.Sigmoid()]
    for _ in range(10):
        layers += [nn.Linear(16, 16), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(16, CLASSES))


def with_first(change: Callable[[nn.Linear], object]) -> Callable[[], nn.Module]:
    """The sound network with its first layer changed."""

    def make() -> nn.Module:
        network = sound_network()
        with torch.no_grad():
            change(network.get_submodule("0"))  # type: ignore[arg-type]
        return network

    return make


def _explode(network: nn.Module, step: int) -> None:
    with torch.no_grad():
        network.get_parameter("4.weight").mul_(3)


def _not_a_number(network: nn.Module, step: int) -> None:
    if step == 30:
        with torch.no_grad():
            network.get_parameter("0.weight")[0, 0] = float("nan")


FAULTS: dict[str, Callable[[], Training]] = {
    "LossNotDecreasing": lambda: Training(noise=1.0, lr=1e-6),
    "Overfit": lambda: Training(noise=0.6, images=32, spread=2.0, passes=18, lr=0.01),
    "Overtraining": lambda: Training(noise=0.6, images=32, spread=2.0, passes=18, lr=0.01),
    "VanishingGradient": lambda: Training(network=deep_sigmoids),
    "ExplodingTensor": lambda: Training(spoil=_explode, passes=4),
    "PoorWeightInitialization": lambda: Training(
        network=with_first(lambda layer: layer.weight.mul_(1e-3))
    ),
    "DeadRelu": lambda: Training(network=with_first(lambda layer: layer.bias.fill_(-100))),
    "SaturatedActivation": lambda: Training(
        network=with_first(lambda layer: layer.weight.mul_(100))
    ),
    "AllZero": lambda: Training(
        network=with_first(lambda layer: layer.weight.zero_()), optimized=lambda n: n[0] != "0"
    ),
    "NaN/Inf": lambda: Training(spoil=_not_a_number),
    "UnchangedTensor": lambda: Training(optimized=lambda name: name != "2.weight"),
    "UpdateTooSmall": lambda: Training(lr=1e-8),
    "ClassImbalance": lambda: Training(shares=(1, 1, 1, 0.03)),
    "Confusion": lambda: Training(taken_for={1: 2}, shares=(1, 0.2, 1, 1)),
    "WeightUpdateRatio": lambda: Training(lr=3.0),
}


@pytest.fixture(scope="module")
def debugger() -> Debugger:
    return validate(
        load(["experiment=quickstart", "debugger=default", "debugger.every=5"])
    ).debugger


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, debugger: Debugger
) -> Callable[[Training], dict[str, Verdict]]:
    def make(training: Training) -> dict[str, Verdict]:
        run = training.record(tmp_path_factory.mktemp("run"), debugger)
        return {
            found.rule: found
            for found in judge(TensorLog(opened(run)), debugger.rules, ("a", "b", "c", "d"))
        }

    return make


@pytest.fixture(scope="module")
def sound(judged: Callable[[Training], dict[str, Verdict]]) -> dict[str, Verdict]:
    return judged(Training())


def test_every_rule_of_the_issue_is_there_on_smdebugs_own_classes(
    debugger: Debugger, sound: Any
) -> None:
    assert [rule.name for rule in RULES] == NAMES == list(sound)
    assert all(issubclass(rule, Rule) for rule in RULES)
    assert {rule.section for rule in RULES} == set(type(debugger.rules).model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_keeps_still_on_a_sound_training(name: str, sound: dict[str, Verdict]) -> None:
    assert sound[name].verdict == "passed", sound[name]
    assert sound[name].figures and sound[name].meaning and not sound[name].advice


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_fires_on_its_fault(
    name: str, judged: Callable[[Training], dict[str, Verdict]]
) -> None:
    found = judged(FAULTS[name]())[name]
    assert found.verdict == "triggered", found
    assert found.steps and found.tensors and found.figures and found.advice
    assert found.link.startswith("report.html#")


LACKING = {
    # A few losses and nothing else; or labels alone.
    False: (),
    True: (
        "debugger.collections.labels.train=1",
        "debugger.collections.losses={train: 0, eval: 0}",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_lacks_its_tensors_says_which_and_of_what_mode(
    name: str, scarce: dict[bool, Any]
) -> None:
    found = scarce[name in ("ExplodingTensor", "NaN/Inf")][name]  # losses are enough for these two
    assert found.verdict == "not_enough_data", found
    assert found.meaning.startswith("needs ") and not found.figures and not found.advice
    kind = next(kind for kind in RULES if kind.name == name)
    assert found.mode == kind.mode and kind.needs.split(",")[0].split(" and ")[0] in found.meaning


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, Verdict]]:
    """Verdicts on one short pass of which little was recorded, without any loss or with."""
    made = {}
    for without, words in LACKING.items():
        settings = validate(load(["experiment=quickstart", "debugger=losses", *words])).debugger
        run = Training(passes=1).record(tmp_path_factory.mktemp("run"), settings)
        made[without] = {
            found.rule: found for found in judge(TensorLog(opened(run)), settings.rules)
        }
    return made


def test_the_loss_of_an_epoch_is_the_mean_over_its_images_not_over_its_batches() -> None:
    """97 images in batches of 32: the last batch is a single hard one."""
    entries = [Loss(step, 5, 0.3, 32) for step in (1, 2, 3)] + [Loss(4, 5, 4.0, 1)]
    assert _pass(5, entries).loss == pytest.approx((96 * 0.3 + 4.0) / 97)
    # of a recording that has no batch sizes
    older = [Loss(entry.step, 5, entry.loss) for entry in entries]
    assert _pass(5, older).loss == pytest.approx((3 * 0.3 + 4.0) / 4)
