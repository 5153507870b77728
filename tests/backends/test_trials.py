"""What a tuning job's trials become in metrics.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from breedlab.backends.sagemaker.jobs.status import Trial
from breedlab.backends.sagemaker.jobs.trials import _set_metrics
from breedlab.config import Config
from breedlab.tuning.trial import Outcome
from breedlab.tuning.trial_log import TrialLog


def test_of_trials_that_tie_the_one_that_was_trained_is_named_and_the_tie_told(
    tmp_path: Path, configure: Callable[..., Config]
) -> None:
    """SageMaker takes any of them; without its word the lowest validation loss decides."""
    config = configure()
    losses = {0: 0.6, 1: 0.2, 2: 0.4, 3: 0.1}
    objectives = {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.9}
    rows = [TrialLog(n, {"optim.lr": 0.001 * (n + 1)}, "complete", objectives[n]) for n in losses]
    trials = [Trial(f"job-{row.number}", row) for row in rows]
    outcomes = {
        n: Outcome("complete", objectives[n], [{"valid/top1": objectives[n], "valid/loss": loss}])
        for n, loss in losses.items()
    }

    def search(trained: dict[str, float]) -> tuple[int, list[int]]:
        (tmp_path / "metrics.json").write_text(json.dumps({"search": None}))
        _set_metrics(config, tmp_path, trials, outcomes, trained)
        found = json.loads((tmp_path / "metrics.json").read_text())["search"]
        return found["trial"], found["tied"]

    assert search({"optim.lr": 0.003}) == (2, [0, 1])
    assert search({}) == (1, [0, 2])
