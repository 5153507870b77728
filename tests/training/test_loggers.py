"""`logger`: where a run's figures go, read back by the clients of those who keep them."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import preloaded
import pytest
from codes import raises_code

from breedlab import extras
from breedlab.backends.local import LocalBackend
from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.config.logger import TRACKING_VARIABLE
from breedlab.reporting.record import read_curves
from breedlab.training import loggers

Configure = Callable[..., Config]
EPOCHS = ({"valid/top1": 0.5, "train/loss": 1.2}, {"valid/top1": 0.75, "train/loss": 0.9})
TEST = {"metrics": {"top1": 0.8, "loss": 0.7}, "intervals": {"top1": [0.7, 0.9]}}


@pytest.fixture
def run(here: Path) -> Path:
    folder = here / "runs" / "small" / "2026-01-01"
    folder.mkdir(parents=True)
    return folder


def train(config: Config, run: Path, epochs: Any = EPOCHS, first: int = 0) -> None:
    """What Lightning does with loggers in a training."""
    loggers.begin(config, run)
    made = loggers.make_loggers(config, run)
    for step, figures in enumerate(epochs, first):
        for logger in made:
            logger.log_metrics(dict(figures), step)
    for logger in made:
        logger.save()
        logger.finalize("success")


def test_the_default_is_what_it_was(configure: Configure, run: Path) -> None:
    config = configure()
    assert config.logger.name == "tensorboard"
    tree = config.model_dump()
    del tree["logger"]  # as an older version recorded it
    assert validate(tree, recorded=True).logger == config.logger
    train(config, run)
    assert list((run / "tensorboard" / "final").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["none", "csv"])
def test_curves_are_read_without_tensorboard(name: str, configure: Configure, run: Path) -> None:
    config = configure(f"logger={name}")
    train(config, run)
    assert not list(run.rglob("events.out.tfevents.*"))
    assert read_curves(run / "tensorboard" / "final")["valid/top1"] == [(1, 0.5), (2, 0.75)]
    tables = sorted((run / "csv").glob("*/metrics.csv")) if name == "csv" else []
    assert len(tables) == (name == "csv")
    for table in tables:
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert [float(row["valid/top1"]) for row in rows] == [0.5, 0.75]
    assert not (run / loggers.KEPT).exists()


@pytest.mark.slow
def test_mlflow_has_one_run_of_a_resumed_training(
    configure: Configure, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv(TRACKING_VARIABLE, raising=False)
    config = configure("logger=mlflow", "name=small", "logger.experiment=dogs")
    train(config, run, EPOCHS[:1])
    train(config, run, EPOCHS[1:], first=1)
    loggers.finish(config, run, TEST)
    client = mlflow.MlflowClient(f"sqlite:///{run.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dogs")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == json.loads((run / loggers.KEPT).read_text())["id"]
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "valid/top1")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.75)]
    assert found.data.metrics["test/top1"] == 0.8
    assert found.data.metrics["test/top1_low"] == 0.7
    assert found.data.params["optim/lr"] == str(config.optim.lr)
    assert found.data.tags["breedlab.run"] == "small/2026-01-01"


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """The address of an `mlflow server` process, as a team runs it, with a name and a password."""
    pytest.importorskip("mlflow")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    home = tmp_path / "mlflow"
    home.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    store = ["--backend-store-uri", f"sqlite:///{home / 'store.db'}", "--workers", "1"]
    with (
        (home / "log").open("wb") as log,
        preloaded.FreshPopen(
            [*command, "--port", str(port), *store],
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as server,
    ):
        try:
            ends = time.monotonic() + 180
            while not _answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None and time.monotonic() < ends, (home / "log").read_text()
                time.sleep(0.2)
            yield f"http://anna:s3cret-word@127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_gets_the_run_and_keeps_no_password(
    configure: Configure, run: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, mlflow_server)
    config = configure("logger=mlflow", "name=small", "logger.experiment=dogs")
    train(config, run, EPOCHS[:1])
    train(config, run, EPOCHS[1:], first=1)
    loggers.finish(config, run, TEST)
    asked = urllib.request.Request(
        mlflow_server.replace("anna:s3cret-word@", "")
        + "/api/2.0/mlflow/runs/get?run_id="
        + json.loads((run / loggers.KEPT).read_text())["id"]
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found = json.load(answer)["run"]
    assert found["info"]["status"] == "FINISHED"
    metrics = {each["key"]: each["value"] for each in found["data"]["metrics"]}
    assert metrics["valid/top1"] == 0.75 and metrics["test/top1_low"] == 0.7
    kept = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert not any(b"s3cret-word" in content for content in [*kept, json.dumps(found).encode()])


def test_an_mlflow_that_does_not_answer_is_told_before_anything_starts(
    configure: Configure, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv(TRACKING_VARIABLE, "http://anna:s3cret-word@127.0.0.1:9")
    with raises_code("BL122", names="http://anna:***@127.0.0.1:9"):
        loggers.begin(configure("logger=mlflow"), run)
    assert not (run / loggers.KEPT).exists()


@pytest.mark.parametrize("uri", ["file:mlruns", "./mlruns"])
def test_a_folder_gets_the_run_if_mlflow_may_still_write_one(
    uri: str, configure: Configure, run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow 3 raises its own error, which ended the launch with a traceback."""
    mlflow = pytest.importorskip("mlflow")
    config = configure("logger=mlflow", f"logger.tracking_uri={uri}")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with raises_code("BL122", names=(uri, "sqlite:///mlflow.db", "MLFLOW_ALLOW_FILE_STORE=true")):
        loggers.begin(config, run)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    loggers.begin(config, run)
    for logger in loggers.make_loggers(config, run):
        logger.log_metrics({"valid/top1": 0.5}, 0)
    (folder,) = mlflow.MlflowClient(uri).search_experiments(filter_string=f"name = '{config.name}'")
    (logged,) = mlflow.MlflowClient(uri).search_runs([folder.experiment_id])
    assert logged.data.metrics["valid/top1"] == 0.5 and (here / "mlruns").is_dir()


def test_an_mlflow_that_goes_away_ends_no_training(
    configure: Configure, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv(TRACKING_VARIABLE, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (run / loggers.KEPT).write_text(json.dumps({"name": "mlflow", "id": "1" * 32}))
    config = configure("logger=mlflow")
    for logger in loggers.make_loggers(config, run):
        logger.log_metrics({"valid/top1": 0.5}, 0)
    assert "training continues" in "".join(capsys.readouterr())
    assert read_curves(run / "tensorboard" / "final")["valid/top1"] == [(1, 0.5)]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_extra_is_one_sentence(
    name: str, words: Callable[..., list[str]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "has", lambda extra: extra != name)
    typed = words(f"logger={name}")
    with raises_code("BL401", names=(f"logger={name}", f"pip install 'breedlab[{name}]'")):
        LocalBackend().run(validate(load(typed)), typed, None)
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_wandb_writes_offline(configure: Configure, run: Path) -> None:
    pytest.importorskip("wandb")
    config = configure("logger=wandb", "logger.offline=true", "name=small")
    train(config, run)
    loggers.finish(config, run, TEST)
    kept = json.loads((run / loggers.KEPT).read_text())["id"]
    (folder,) = [f for f in (run / "wandb").glob("offline-run-*") if f.is_dir()]
    assert folder.name.endswith(kept)
    (log,) = folder.glob("*.wandb")
    names = (b"valid/top1", b"test/top1_low", b"small")
    for _ in range(300):  # its own process writes, and on a busy machine later than it says
        if all(name in log.read_bytes() for name in names):
            break
        time.sleep(0.1)
    content = log.read_bytes()
    for name in names:
        assert name in content


def test_wandb_without_a_login_is_refused(
    configure: Configure, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(type(wandb.api), "api_key", None, raising=False)
    with raises_code("BL122", names=("logger=wandb", "WANDB_API_KEY")):
        loggers.begin(configure("logger=wandb"), run)
