"""A study whose file is damaged is rebuilt from its trials' files, and the search goes on as if
nothing had been."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from codes import raises_code

from breedlab.config import Config
from breedlab.tuning import reopen
from breedlab.tuning import study as studies
from breedlab.tuning.study import search
from breedlab.tuning.trial import Outcome

Configure = Callable[..., Config]
NOTHING: Any = SimpleNamespace()
"""What trials share: these share nothing."""
RANGE = "tuner.space={optim: {lr: {low: 0.0001, high: 0.01, log: true}}, model: {head: [[], [8]]}}"


def quick_trial(
    _: Any, values: Mapping[str, Any], stop_early: Callable[[int, float], bool]
) -> Outcome:
    """A trial without a network: it is as good as its learning rate is near 0.002."""
    epochs = []
    for epoch in range(4):
        value = (epoch + 1) / (1 + abs(math.log(values["optim.lr"] / 0.002)))
        epochs.append({"valid/top1": value, "valid/loss": 1 - value})
        if stop_early(epoch, value) and epoch < 3:
            return Outcome("pruned", value, epochs, reason="fell behind")
    return Outcome("complete", epochs[-1]["valid/top1"], epochs)


def trials(run: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(run / "study.db") as database:
        return database.execute(
            "select t.number, t.state, v.value, p.param_name, p.param_value from trials t left join"
            " trial_values v using (trial_id) join trial_params p using (trial_id) order by 1, 4"
        ).fetchall()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def lost(file: Path) -> None:
    file.unlink()


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwritten(file: Path) -> None:
    file.write_bytes(b"\0" * 512 + file.read_bytes()[512:])


def torn(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:8192] + bytes(40000) + content[48192:])


def page_lost(file: Path) -> None:
    """As where the power failed before the disk had one page, of an index here."""
    with closing(sqlite3.connect(file)) as database:
        name = "ix_trials_study_id"
        (root,) = database.execute(
            "select rootpage from sqlite_master where name = ?", (name,)
        ).fetchone()
        (size,) = database.execute("pragma page_size").fetchone()
    content = file.read_bytes()
    start = (root - 1) * size
    empty_leaf = bytes([10, 0, 0, 0, 0, size >> 8, size & 255, 0])
    file.write_bytes(content[:start] + empty_leaf.ljust(size, b"\0") + content[start + size :])


def of_another_day(file: Path) -> None:
    """As where the copy in S3 is older than the trials' files beside it."""
    with sqlite3.connect(file) as database:
        newest = "(select trial_id from trials where number >= 3)"
        for table in ("trial_values", "trial_params", "trials"):
            database.execute(f"delete from {table} where trial_id in {newest}")


@pytest.mark.parametrize("strategy", ["bayesian", "hyperband"])
@pytest.mark.parametrize(
    "damage", [empty, lost, cut_off, overwritten, torn, page_lost, of_another_day]
)
def test_a_search_whose_study_is_damaged_goes_on_as_if_it_were_not(
    tmp_path: Path,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    strategy: str,
) -> None:
    config = configure(
        f"tuner={strategy}", "tuner.trials=7", "tuner.max_epochs=4", "cache.mode=off", RANGE
    )
    monkeypatch.setattr(studies, "run_trial", quick_trial)
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    for folder in (unbroken, run):
        folder.mkdir()
    winner = search(config, NOTHING, unbroken)
    started: list[float] = []

    def killed_in_the_sixth(_: Any, values: Mapping[str, Any], stop_early: Any) -> Outcome:
        started.append(values["optim.lr"])
        if len(started) == 6:
            raise KeyboardInterrupt
        return quick_trial(_, values, stop_early)

    monkeypatch.setattr(studies, "run_trial", killed_in_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        search(config, NOTHING, run)
    damage(run / "study.db")
    capsys.readouterr()

    assert search(config, NOTHING, run) == winner

    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(said) == 1 and "rebuilt from the 5 trials" in said[0], said
    assert len(started) == 8 and started[6] == started[5], (
        "only the trial that was cut off, again, and the seventh"
    )
    assert trials(run) == trials(unbroken)
    assert (run / "study.db.damaged").exists() == (
        damage in (cut_off, overwritten, torn, page_lost)
    )


def test_a_trial_whose_file_is_gone_too_runs_again_under_its_number(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(
        "tuner=random", "tuner.trials=5", "tuner.max_epochs=4", "cache.mode=off", RANGE
    )
    monkeypatch.setattr(studies, "run_trial", quick_trial)
    winner = search(config, NOTHING, tmp_path)
    before = trials(tmp_path)
    cut_off(tmp_path / "study.db")
    shutil.rmtree(tmp_path / "trials" / "2")
    (tmp_path / "trials" / "3" / "trial.json").write_text("")
    assert search(config, NOTHING, tmp_path) == winner
    assert trials(tmp_path) == before
    again = json.loads((tmp_path / "trials" / "3" / "trial.json").read_text())
    assert again["values"]["optim.lr"] in [row[4] for row in before if row[0] == 3]


def test_where_neither_can_be_used_one_message_names_the_trial(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(
        "tuner=random", "tuner.trials=3", "tuner.max_epochs=4", "cache.mode=off", RANGE
    )
    monkeypatch.setattr(studies, "run_trial", quick_trial)
    search(config, NOTHING, tmp_path)
    file = tmp_path / "trials" / "1" / "trial.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "values": {"optim.lr": 5, "model.head": []}})
    )
    cut_off(tmp_path / "study.db")
    content = (tmp_path / "study.db").read_bytes()
    with raises_code("BL112", names="trials/1"):
        search(config, NOTHING, tmp_path)
    assert (tmp_path / "study.db").read_bytes() == content, "nothing is lost"


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN]
)
def test_a_full_disk_or_a_lock_is_not_taken_for_damage(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    config = configure(
        "tuner=random", "tuner.trials=1", "tuner.max_epochs=4", "cache.mode=off", RANGE
    )
    monkeypatch.setattr(studies, "run_trial", quick_trial)
    search(config, NOTHING, tmp_path)
    content = (tmp_path / "study.db").read_bytes()

    def failing(*_: Any) -> Any:
        error = sqlite3.OperationalError("not the file's fault")
        error.sqlite_errorcode = code
        raise RuntimeError("Optuna's own") from error

    monkeypatch.setattr(reopen, "create_study", failing)
    with pytest.raises(RuntimeError):
        search(config, NOTHING, tmp_path)
    assert (tmp_path / "study.db").read_bytes() == content
    assert not (tmp_path / "study.db.damaged").exists()
