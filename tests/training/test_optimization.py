"""Optimizers, discriminative learning rates, schedules; the figures; the objective line."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from codes import raises_code
from torch import nn

from breedlab.config import Config, validate
from breedlab.config.migrations import upgrade
from breedlab.config.sections import Optim
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier
from breedlab.training.evaluation import evaluate
from breedlab.training.objective import best_epoch, objective_line, rank, read_objective
from breedlab.training.optimization import make_optimizer, make_schedule, refuse_other_groups

Configure = Callable[..., Config]


def classifier(freeze: str = "none") -> Classifier:
    architecture = Architecture("resnet18", 4, (16,), 0.0, (0.5,) * 3, (0.5,) * 3)
    return Classifier(architecture, backbones.build("resnet18"), freeze, 32)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_named_optimizer_gets_every_parameter_that_trains_once(
    configure: Configure, name: str
) -> None:
    network = classifier("layer2")
    optimizer = make_optimizer(
        network, configure(f"optim.name={name}", "optim.layer_decay=0.5").optim
    )
    assert type(optimizer).__name__.lower() == name
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(given) == sorted(wanted)


def test_each_block_further_from_the_head_learns_more_slowly(configure: Configure) -> None:
    network = classifier()
    optimizer = make_optimizer(network, configure("optim.layer_decay=0.5", "optim.lr=0.8").optim)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    found = [rate[id(next(network.backbone.get_submodule(block).parameters()))] for block in blocks]
    assert found == pytest.approx([0.8 * 0.5**depth for depth in range(8, 0, -1)])
    assert rate[id(network.head[1].weight)] == rate[id(network.head[1].bias)] == 0.8
    assert rate[id(network.backbone.conv1.weight)] == pytest.approx(0.8 * 0.5**9)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_weight_decay_leaves_biases_and_norms_alone(
    configure: Configure, layer_decay: float
) -> None:
    network = classifier()
    words = ("optim.name=adamw", "optim.weight_decay=0.1", f"optim.layer_decay={layer_decay}")
    optimizer = make_optimizer(network, configure(*words).optim)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            expected = (
                0.1 if isinstance(module, nn.Conv2d | nn.Linear) and name == "weight" else 0.0
            )
            assert decay[id(parameter)] == expected, (type(module), name)


def test_a_run_of_an_older_version_keeps_the_groups_that_its_optimizer_was_saved_with(
    configure: Configure,
) -> None:
    """0.1 had one group, or one for each top-level block, and decayed all of it."""
    recorded = configure(
        "optim.layer_decay=0.5", "optim.lr=0.8", "optim.weight_decay=0.1"
    ).model_dump()
    del recorded["optim"]["param_groups"]
    older = validate(upgrade(recorded, "run", "config.yaml"), recorded=True)
    network = classifier()
    optimizer = make_optimizer(network, older.optim)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.8 * 0.5**depth for depth in (6, 5, 4, 3, 2, 1, 0)])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    single = make_optimizer(network, older.optim.model_copy(update={"layer_decay": 1.0}))
    assert [len(group["params"]) for group in single.param_groups] == [
        len(list(network.parameters()))
    ]
    assert single.param_groups[0]["weight_decay"] == 0.1


def test_a_saved_optimizer_of_other_groups_is_refused_in_a_sentence(configure: Configure) -> None:
    network = classifier()
    optim = configure("optim.layer_decay=0.5").optim
    saved = make_optimizer(network, optim).state_dict()
    refuse_other_groups(network, optim, saved)
    other = optim.model_copy(update={"param_groups": "legacy"})
    with raises_code("BL300", names=("20", "7", "resnet18")):
        refuse_other_groups(network, other, saved)


def rates(config: Config, epochs: int = 10, steps: int = 5) -> list[float]:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.optim.lr, momentum=0.9)
    schedule = make_schedule(optimizer, config.optim, steps_per_epoch=steps, epochs=epochs)
    seen = []
    for _ in range(epochs * steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_have_their_shapes(configure: Configure) -> None:
    constant = rates(configure("optim.lr=1.0", "optim.schedule=constant"))
    assert set(constant) == {1.0}
    cosine = rates(configure("optim.lr=1.0", "optim.schedule=cosine"))
    assert cosine[0] == 1.0 and cosine[25] == pytest.approx(0.5) and cosine[-1] < 0.01
    warmed = rates(configure("optim.lr=1.0", "optim.schedule=cosine", "optim.warmup_epochs=1.5"))
    assert warmed[:8] == sorted(warmed[:8]) and warmed[0] < 0.2 and max(warmed) == 1.0
    one_cycle = rates(configure("optim.lr=1.0", "optim.schedule=one_cycle"))
    assert (
        one_cycle[0] < 0.1
        and max(one_cycle) == pytest.approx(1.0, abs=0.01)
        and one_cycle[-1] < 0.01
    )


def test_the_figures_are_those_one_would_compute_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 8), torch.randint(0, 8, (50,))
    metrics = make_metrics(8)
    for part in (slice(0, 33), slice(33, 50)):  # uneven batches must weigh by their images
        metrics.update(logits[part], labels[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    predicted = logits.argmax(1)
    assert found["top1"] == pytest.approx(float((predicted == labels).double().mean()))
    top5 = logits.topk(5).indices == labels[:, None]
    assert found["top5"] == pytest.approx(float(top5.any(1).double().mean()))
    assert found["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5
    )
    scores = []
    for c in range(8):
        hit = int(((predicted == c) & (labels == c)).sum())
        size = int((predicted == c).sum() + (labels == c).sum())
        scores.append(2 * hit / size if size else 0.0)
    assert found["f1"] == pytest.approx(sum(scores) / 8, abs=1e-4)


def test_accuracy_is_no_integer_division() -> None:
    metrics = make_metrics(3, only="top1")
    metrics.update(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 2]))
    assert float(metrics.compute()["top1"]) == pytest.approx(2 / 3)


def test_two_classes_have_a_top_five() -> None:
    metrics = make_metrics(2)
    metrics.update(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert float(metrics.compute()["top5"]) == 1.0


def test_confusions_are_named_and_counted() -> None:
    truth = [0] * 6 + [1] * 4 + [2] * 2
    taken = [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 2, 2]
    images = 5 * torch.eye(3)[taken]
    found = evaluate(
        lambda images: images,  # images that are their own logits
        [(images, torch.tensor(truth))],
        ("cat", "dog", "eel"),
        total=12,
        progress=lambda done, total: None,
    )
    assert [(w.truth, w.taken_for, w.count, w.of) for w in found.worst] == [
        ("cat", "dog", 3, 6),
        ("dog", "cat", 1, 4),
    ]
    assert found.confusion == {(0, 0): 3, (0, 1): 3, (1, 0): 1, (1, 1): 3, (2, 2): 2}
    assert found.per_class["cat"] == {"photos": 6, "top1": 0.5, "precision": 0.75}
    assert found.metrics["top1"] == pytest.approx(8 / 12)
    assert [label for label, _ in found.predictions] == taken


@pytest.mark.parametrize("value", [0.8125, -3.5, 1e-9, 123456789.0, -2.5e-7, 0.0, 1e22])
def test_the_objective_is_found_in_its_own_line(value: float) -> None:
    found = read_objective(f"epoch 3/10  train/loss 0.1  {objective_line('valid/top1', value)}")
    assert found is not None and found[0] == "valid/top1"
    assert math.isclose(found[1], value, rel_tol=1e-5)


def test_other_lines_hold_no_objective() -> None:
    assert read_objective("valid/top1 0.8") is None


def test_ties_in_the_monitored_metric_go_to_the_lower_validation_loss() -> None:
    epochs = [
        {"valid/top1": 0.9, "valid/loss": 0.1},
        {"valid/top1": 1.0, "valid/loss": 0.578},
        {"valid/top1": 1.0, "valid/loss": 0.227},
        {"valid/top1": 1.0, "valid/loss": 0.3},
    ]
    assert best_epoch(epochs, "valid/top1", "max") == 2
    assert best_epoch(epochs, "valid/loss", "min") == 0
    assert best_epoch([{"valid/ece": 0.2}, {"valid/ece": 0.1}], "valid/ece", "min") == 1
    # a trial that an older version recorded without its loss loses a tie, and only a tie
    assert rank(1.0, 9.0, "max") < rank(1.0, None, "max") < rank(0.9, 0.0, "max")
    assert rank(0.1, None, "min") < rank(0.2, 0.0, "min")


def test_one_cycle_leaves_the_momentum_as_it_was_asked_for() -> None:
    optim = Optim(name="sgd", lr=0.1, momentum=0.7, schedule="one_cycle")
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=optim.lr, momentum=optim.momentum)
    schedule = make_schedule(optimizer, optim, steps_per_epoch=5, epochs=4)
    rates = []
    for _ in range(20):
        assert optimizer.param_groups[0]["momentum"] == 0.7
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.1, rel=0.02) and rates[0] < 0.01 and rates[-1] < 0.01


def test_the_calibration_error_is_of_probabilities_even_where_logits_look_like_some() -> None:
    """By its definition, with one bin for each score: |accuracy - confidence|."""
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])  # all between 0 and 1
    labels = torch.tensor([0, 0, 1, 1])
    metrics = make_metrics(2)
    metrics.update(logits, labels)
    confidence = logits.softmax(1).max(1).values
    first, second = confidence[:3].mean(), confidence[3:].mean()
    expected = 3 / 4 * abs(2 / 3 - first) + 1 / 4 * abs(1 - second)
    assert float(metrics.compute()["ece"]) == pytest.approx(float(expected), abs=1e-6)
