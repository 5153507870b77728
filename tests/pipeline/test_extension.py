"""A run that goes on longer than it was asked to: more epochs, more trials, and the refusal of
fewer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from codes import raises_code

import breedlab
from breedlab.cli.launch import main
from breedlab.tuning import study as studies
from breedlab.tuning.trial import Outcome

Words = Callable[..., list[str]]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        run / f"checkpoints/{name}.ckpt", weights_only=True
    )["state_dict"]
    return state


def launched(*argv: str) -> Path:
    assert main(list(argv)) == 0
    return Path("runs/latest").resolve()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "more", [["model.dropout=0.3"], ["optim.name=sgd", "trainer.ema=0.9", "trainer.patience=9"]]
)
def test_a_finished_training_goes_on_to_what_a_longer_one_would_have_come_to(
    here: Path, words: Words, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = launched(*words("trainer.max_epochs=4", *more))
    run = launched(*words("trainer.max_epochs=2", *more))
    assert json.loads((run / "metrics.json").read_text())["training"]["epochs"] == 2
    capsys.readouterr()
    planned = main([f"resume={run}", "trainer.max_epochs=4", "dry_run=true"])
    shown = capsys.readouterr().out
    assert (
        planned == 0
        and "continue training after epoch 2 of 4: 2 epochs x 7 steps = 14 steps" in shown
    )
    assert launched(f"resume={run}", "trainer.max_epochs=4") == run
    assert "trainer.max_epochs: 2 becomes 4; continues after epoch 2" in capsys.readouterr().out
    for name in ("last", "best"):
        assert same(weights(run, name), weights(whole, name)), name
    then, now = (json.loads((r / "metrics.json").read_text()) for r in (whole, run))
    assert now["training"] == then["training"] and now["test"] == then["test"]
    # What is recorded says what happened.
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 4
    assert yaml.safe_load((run / "overrides.yaml").read_text())[-1] == "trainer.max_epochs=4"
    extended = json.loads((run / "lineage.json").read_text())["extended"]
    assert [entry["changed"] for entry in extended] == [{"trainer.max_epochs": [2, 4]}]
    assert extended[0]["behind"]["epochs"] == 2
    assert json.loads((run / "superseded/1/metrics.json").read_text())["training"]["epochs"] == 2
    # And it is complete again.
    launched(f"resume={run}", "trainer.max_epochs=4")
    assert "nothing is left to do" in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_that_had_ended_goes_on_as_that_of_the_longer_training(
    here: Path,
    words: Words,
    schedule: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def noted(optimizer: torch.optim.Adam, closure: Any = None) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    launched(*words("trainer.max_epochs=3", f"optim.schedule={schedule}"))
    longer = rates.copy()
    run = launched(*words("trainer.max_epochs=2", f"optim.schedule={schedule}"))
    rates.clear()
    launched(f"resume={run}", "trainer.max_epochs=3")
    assert f"optim.schedule: from here on, {schedule} over 3 epochs" in capsys.readouterr().out
    assert rates == pytest.approx(longer[14:], rel=1e-9), "7 steps an epoch"


def test_a_training_that_early_stopping_ended_has_its_patience_anew(
    here: Path, words: Words
) -> None:
    run = launched(*words("trainer.max_epochs=6", "trainer.patience=1", "optim.lr=1e-12"))
    stopped = json.loads((run / "trained.json").read_text())["epochs"]
    assert stopped == 2
    launched(f"resume={run}", "trainer.max_epochs=7")
    assert json.loads((run / "trained.json").read_text())["epochs"] in (3, 4)


@pytest.mark.parametrize(
    ("word", "behind"),
    [("trainer.max_epochs=1", "2 epochs of training"), ("tuner.trials=1", "2 trials")],
)
def test_fewer_than_there_are_is_refused(here: Path, words: Words, word: str, behind: str) -> None:
    space = [
        "tuner=random",
        "tuner.trials=2",
        "tuner.max_epochs=1",
        "tuner.space.optim.lr=[0.01, 0.02]",
    ]
    run = launched(*words(*space))
    before = (run / "config.yaml").read_text()
    with raises_code("BL110", names=(word.partition("=")[0], behind)):
        launched(f"resume={run}", word)
    assert (run / "config.yaml").read_text() == before and (run / "metrics.json").exists()


@pytest.mark.parametrize("better", [False, True])
def test_more_trials_are_added_and_the_best_is_trained_anew_only_if_it_is_another(
    here: Path,
    words: Words,
    better: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = "tuner.space={optim: {lr: {low: 0.001, high: 0.01}}}"
    ran: list[float] = []

    def quick(_: Any, values: dict[str, float], __: Any) -> Outcome:
        ran.append(values["optim.lr"])
        value = 0.5 if len(ran) <= 2 else 0.9 if better else 0.1
        return Outcome("complete", value, [{"valid/top1": value, "valid/loss": 1 - value}])

    monkeypatch.setattr(studies, "run_trial", quick)
    run = launched(*words("tuner=random", "tuner.trials=2", space))
    first = json.loads((run / "metrics.json").read_text())["search"]["trial"]
    kept = weights(run)
    capsys.readouterr()
    assert main([f"resume={run}", "tuner.trials=4", "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert "search: 2 trials x 5 epochs (2 of 4 are done)" in shown
    assert "train the best again, if a new trial is better" in shown
    resumed = breedlab.run("tuner.trials=4", resume=run)
    assert len(ran) == 4 and len(resumed.trials) == 4
    search = json.loads((run / "metrics.json").read_text())["search"]
    assert search["trial"] == (2 if better else first)
    assert same(weights(run), kept) != better
    assert (run / "superseded/2/checkpoints/best.ckpt").exists() == better
    extended = json.loads((run / "lineage.json").read_text())["extended"]
    assert [entry["changed"] for entry in extended] == [{"tuner.trials": [2, 4]}]


def test_both_at_once(here: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    run = launched(
        *words(
            "tuner=random", "tuner.trials=1", "tuner.max_epochs=1", "tuner.space.optim.lr=[0.01]"
        )
    )
    assert main([f"resume={run}", "trainer.max_epochs=3", "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert " at 0.01, batch size " in shown and "or what was found best" not in shown
    launched(f"resume={run}", "tuner.trials=2", "trainer.max_epochs=3")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["training"]["epochs"] == 3 and len(list(run.glob("trials/*/trial.json"))) == 2
