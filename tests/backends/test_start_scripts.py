"""The scripts that start a training job are those that the SDK's own ModelTrainer would send."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import boto3
import pytest
from sagemaker_account import ROLE, Account

from breedlab.backends.sagemaker.jobs.requests import ARCHIVE, ENTRY
from breedlab.backends.sagemaker.jobs.start_scripts import write_start_scripts


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_they_are_the_sdks_to_the_byte(
    processes: int, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagemaker.core.helper import session_helper
    from sagemaker.core.training.configs import Compute, InputData, SourceCode
    from sagemaker.train import ModelTrainer
    from sagemaker.train.distributed import Torchrun

    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    monkeypatch.setattr(session_helper, "sts_regional_endpoint", lambda region: account.url)
    logging.getLogger("sagemaker").setLevel(logging.ERROR)
    archive = tmp_path / ARCHIVE
    archive.write_bytes(b"source")
    trainer = ModelTrainer(
        sagemaker_session=session_helper.Session(
            boto_session=boto3.Session(region_name="us-east-1")
        ),
        role=ROLE,
        base_job_name="theirs",
        training_image=(
            "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker"
        ),
        source_code=SourceCode(
            source_dir=str(archive), entry_script=ENTRY, requirements="requirements.txt"
        ),
        compute=Compute(instance_type="ml.m5.xlarge", instance_count=1),
        distributed=Torchrun(process_count_per_node=processes) if processes > 1 else None,
        input_data_config=[InputData(channel_name="training", data_source="s3://photos/dogs/")],
    )
    request: dict[str, Any] = trainer._create_training_job_args(boto3=True)
    specification = request["AlgorithmSpecification"]
    channels = {
        c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"]
        for c in request["InputDataConfig"]
    }
    bucket, _, prefix = channels["sm_drivers"].removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    theirs = {
        entry["Key"].removeprefix(prefix).lstrip("/"): (
            s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        )
        for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        if "__pycache__" not in entry["Key"]
    }
    ours_folder = tmp_path / "ours"
    write_start_scripts(ours_folder, processes, 1)
    ours = {
        p.relative_to(ours_folder).as_posix(): p.read_bytes()
        for p in ours_folder.rglob("*")
        if p.is_file()
    }
    # The one difference: where the archive lay on the machine that launched.
    theirs["sourcecode.json"] = theirs["sourcecode.json"].replace(
        str(archive).encode(), ARCHIVE.encode()
    )
    assert ours == theirs
    assert specification["ContainerEntrypoint"] == ["/bin/bash"]
    assert specification["ContainerArguments"][0] == "-c"
