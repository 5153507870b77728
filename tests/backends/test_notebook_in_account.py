"""The notebook with its one word changed: jobs as AWS's toolkit and start scripts run them, then an
endpoint."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import nbformat
import pytest
from containers import Container, Service, needs_namespace
from nbclient import NotebookClient
from sagemaker_account import REGION, ROLE, TRUST, serving
from sagemaker_endpoints import EndpointAccount

from breedlab.serving import handler

BOOK = Path(__file__).resolve().parents[2] / "notebooks" / "dog_breeds.ipynb"
BUCKET = "breedlab-notebook"
# Looked at more often than AWS has to be.
IMPATIENT = """
from breedlab.backends.sagemaker.endpoints import lifecycle
from breedlab.backends.sagemaker.jobs import follow
follow.POLL_SECONDS = lifecycle.POLL_S = 0.2
"""


def served(
    account: EndpointAccount, folder: Path
) -> Callable[[bytes, str, str], tuple[int, bytes, str]]:
    """What answers for the account's endpoint: the model that it was made of, loaded when it is
    first asked."""
    loaded: list[Any] = []

    def answer(body: bytes, kind: str, accept: str) -> tuple[int, bytes, str]:
        if not loaded:
            (model,) = account.models.values()
            bucket, _, key = (
                model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").partition("/")
            )
            content = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(folder)
            loaded.append(handler.model_fn(str(folder)))
        return 200, *handler.output_fn(
            handler.predict_fn(handler.input_fn(body, kind), loaded[0]), accept
        )

    return answer


@pytest.mark.slow
@pytest.mark.aws_stack
@needs_namespace
def test_the_notebook_goes_the_whole_way_on_sagemaker_by_one_word(
    image: Path,
    no_account: None,
    words: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    book = nbformat.read(BOOK, as_version=4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    small = words("experiment=quickstart", "tuner=random", "tuner.trials=1", "tuner.max_epochs=2")
    small += ["debugger=default", "profiler=system"]
    place = [
        f"backend.role={ROLE}",
        f"backend.bucket={BUCKET}",
        "backend.instance_type=ml.m5.xlarge",
    ]
    place.append("backend.trials=job_each")  # a frozen backbone would be searched in one job
    parameters.source = (
        parameters.source.replace('WHERE = "local"', 'WHERE = "sagemaker"')
        .replace("ACCOUNT = []", f"ACCOUNT = {place!r}")
        .replace('["experiment=quickstart"]', repr(small))
        + IMPATIENT
    )
    for folder in ("containers", "model", "here"):
        (tmp_path / folder).mkdir()
    account = EndpointAccount()
    account.container = served(account, tmp_path / "model")
    with serving(account) as account.url:
        for name, value in {
            "AWS_ENDPOINT_URL": account.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": REGION,
            "BREEDLAB_INFERENCE_ENV": "/nowhere",
            "PYTHONPATH": str(BOOK.parents[1] / "src"),
        }.items():
            monkeypatch.setenv(name, value)
        # All accounts of a process are one to moto, and other tests' roles would be there.
        urllib.request.urlopen(
            urllib.request.Request(f"{account.url}/moto-api/reset", method="POST")
        ).close()
        boto3.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument=TRUST)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        client = NotebookClient(
            book, timeout=600, resources={"metadata": {"path": str(tmp_path / "here")}}
        )
        with Service(account, Container(image, tmp_path / "containers", account.url)):
            done = client.execute()
    said = "\n".join(
        json.dumps(output) for cell in done.cells for output in cell.get("outputs", [])
    )
    assert "CreateHyperParameterTuningJob" in said  # the plan
    assert account.created()[:2] == ["CreateHyperParameterTuningJob", "CreateTrainingJob"]
    assert "LossNotDecreasing" in said and "CPUBottleneck" in said
    assert "4 scores; it is a " in said
    assert account.invoked and account.endpoints == {}  # asked, and taken away again
    assert (tmp_path / "here" / "runs" / "latest" / "report.html").is_file()
