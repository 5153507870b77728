"""A pipeline's steps executed as SageMaker executes them: each one's container runs what its
request starts, and what a step leaves is what the next one gets."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import yaml
from containers import Container, Service, needs_namespace
from sagemaker_account import Account

from breedlab.backends.sagemaker.jobs import follow
from breedlab.backends.sagemaker.jobs.hyperparameters import decode
from breedlab.cli import launch
from breedlab.serving.handler import model_fn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.aws_stack,
    needs_namespace,
]


def fetched_from(uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bytes(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


def test_a_step_gets_what_the_one_before_it_left(
    container: Container,
    account: Account,
    cloud: Callable[..., list[str]],
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Search, training of its best, and registering, none of them started from here."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.2)
    words = ["tuner=random", "tuner.trials=1", "tuner.max_epochs=1", "trainer.max_epochs=1"]
    words += ["debugger=none", "serving.engine=openvino", "name=piped", "backend.job_name=piped"]
    words += ["backend.orchestrate=pipeline", "backend.register_in=breeds"]
    with Service(account, container) as service:
        assert launch.main(cloud(*words)) == 0
    assert account.created() == ["CreateModelPackageGroup", "CreatePipeline"]
    assert [ended.code for ended in service.ended.values()] == [[0], [0]]

    (execution,) = account.executions.values()
    assert execution["PipelineExecutionStatus"] == "Succeeded"
    search, train = (execution["steps"][step]["name"] for step in ("search", "train"))
    trial, last = service.ended
    assert trial.startswith(f"{search}-") and last == train
    assert "sagemaker-training-toolkit" in service.ended[trial].log[0]
    final = service.ended[train]
    assert "Running Basic Script driver" in final.log[0]

    # The values: as the search found them, through the shell's variables, to what was trained.
    best = decode(account.tuning[search]["BestTrainingJob"]["TunedHyperParameters"])
    trained = yaml.safe_load((final.checkpoints / train / "config.yaml").read_text())
    assert best == {
        "optim.lr": trained["optim"]["lr"],
        "data.batch_size": trained["data"]["batch_size"],
    }
    # The model: the version's is the archive that the container left, exported there for OpenVINO,
    # whose packages traveled; and it can be served.
    (version,) = account.packages["breeds"]
    (served,) = version["InferenceSpecification"]["Containers"]
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(fetched_from(served["ModelDataUrl"]))
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "model")
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["engine"]["name"] == "openvino"
    assert (tmp_path / "model" / described["engine"]["file"]).is_file()
    assert len(model_fn(str(tmp_path / "model")).classes) == 2
    statistics = version["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    metrics = json.loads(fetched_from(statistics))
    run = Path("runs/latest").resolve()
    assert json.loads((run / "metrics.json").read_text())["test"] == metrics["test"]
    assert (run / "trials" / "0" / "trial.json").is_file()
