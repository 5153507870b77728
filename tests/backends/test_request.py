"""The requests that leave: every setting of the config is in them, and the API's own model takes
them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from sagemaker_account import ROLE, Account

from breedlab.backends.sagemaker.checks import model_problems
from breedlab.backends.sagemaker.images import problems, training_image
from breedlab.backends.sagemaker.request import Request
from breedlab.cli.launch import main
from breedlab.config import Config
from breedlab.config.validate import known_paths
from breedlab.registry import BACKENDS

SEARCH = ["tuner=random", "tuner.trials=3"]

Sent = Callable[..., dict[str, Any]]


_arrived: dict[tuple[str, ...], dict[str, Any]] = {}


@pytest.fixture
def sent(cloud: Callable[..., list[str]], account: Account, here: Path) -> Sent:
    """Launches, and gives the one request that created something, as it arrived; the same words are
    launched once."""

    def make(*words: str) -> dict[str, Any]:
        if words not in _arrived:
            account.requests.clear()
            assert main(cloud("backend.wait=false", *words)) == 0
            operations = account.created()
            assert len(operations) == 1
            parameters = _arrived[words] = account.sent(operations[0])[0]
            assert model_problems(Request(operations[0], parameters)) == []
        return _arrived[words]

    return make


def definition(sent: dict[str, Any]) -> dict[str, Any]:
    """The part that a training job and a tuning job have in common."""
    shared: dict[str, Any] = sent.get("TrainingJobDefinition", sent)
    return shared


def channels(sent: dict[str, Any]) -> dict[str, str]:
    return {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in definition(sent)["InputDataConfig"]
    }


# What can be set together, and where each of it has to arrive, in a training job as in a tuning
# job.
MOST = {
    "backend.instance_type=ml.c5.2xlarge": (("ResourceConfig", "InstanceType"), "ml.c5.2xlarge"),
    "backend.instance_count=2": (("ResourceConfig", "InstanceCount"), 2),
    "backend.volume_gb=77": (("ResourceConfig", "VolumeSizeInGB"), 77),
    "backend.kms.volume=arn:aws:kms:us-east-1:123456789012:key/0123": (
        ("ResourceConfig", "VolumeKmsKeyId"),
        "arn:aws:kms:us-east-1:123456789012:key/0123",
    ),
    "backend.keep_alive_minutes=30": (("ResourceConfig", "KeepAlivePeriodInSeconds"), 1800),
    "backend.kms.output=alias/1234": (("OutputDataConfig", "KmsKeyId"), "alias/1234"),
    "backend.max_run_hours=1.5": (("StoppingCondition", "MaxRuntimeInSeconds"), 5400),
    "backend.input_mode=fastfile": (("InputDataConfig", 0, "InputMode"), "FastFile"),
    "backend.retries=4": (("RetryStrategy", "MaximumRetryAttempts"), 4),
    "backend.encrypt_traffic=true": (("EnableInterContainerTrafficEncryption",), True),
    "backend.vpc.subnets=[subnet-0a,subnet-0b]": (
        ("VpcConfig", "Subnets"),
        ["subnet-0a", "subnet-0b"],
    ),
    "backend.vpc.security_groups=[sg-0c]": (("VpcConfig", "SecurityGroupIds"), ["sg-0c"]),
    "backend.environment={WANDB: 'off'}": (("Environment", "WANDB"), "off"),
    "backend.role=SageMakerRole": (("RoleArn",), ROLE),
    "backend.image=2.13.0": (
        ("AlgorithmSpecification", "TrainingImage"),
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker",
    ),
    "backend.prefix=my/lab": (
        ("OutputDataConfig", "S3OutputPath"),
        "s3://breedlab-tests/my/lab/jobs/dogs-1/output",
    ),
    "backend.job_name=dogs-1": (
        ("OutputDataConfig", "S3OutputPath"),
        "s3://breedlab-tests/my/lab/jobs/dogs-1/output",
    ),
}
SPOT = {
    "backend.spot=true": (("EnableManagedSpotTraining",), True),
    "backend.max_wait_hours=10.0": (("StoppingCondition", "MaxWaitTimeInSeconds"), 36000),
    "seed=7": (("CheckpointConfig", "LocalPath"), "/opt/ml/checkpoints"),
}
ISOLATED = {
    "backend.network_isolation=true": (("EnableNetworkIsolation",), True),
    "backend.image=123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1": (
        ("AlgorithmSpecification", "TrainingImage"),
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1",
    ),
}
SETTINGS = [(tuple(together), word) for together in (MOST, SPOT, ISOLATED) for word in together]


@pytest.mark.parametrize("search", [False, True], ids=["training", "tuning"])
@pytest.mark.parametrize(("together", "word"), SETTINGS, ids=[word[:40] for _, word in SETTINGS])
def test_each_setting_arrives(
    together: tuple[str, ...], word: str, search: bool, sent: Sent
) -> None:
    path, expected = {**MOST, **SPOT, **ISOLATED}[word]
    arrived: Any = definition(sent(*together, *(SEARCH if search else [])))
    for key in path:
        arrived = arrived[key]
    assert arrived == expected


def test_trials_have_a_checkpoint_folder_only_where_they_go_on_from_it(sent: Sent) -> None:
    """Every trial would begin by downloading what all those before it left in the folder that they
    share."""
    assert "CheckpointConfig" not in definition(sent(*SEARCH))
    assert "CheckpointConfig" in definition(sent(*SEARCH, "backend.spot=true"))
    assert "CheckpointConfig" in definition(sent())


def test_region_and_bucket_arrive(sent: Sent) -> None:
    s3 = boto3.client("s3", region_name="eu-west-1")
    s3.create_bucket(
        Bucket="dogs-in-europe", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    arrived = definition(
        sent(
            "backend.region=eu-west-1",
            "backend.bucket=dogs-in-europe",
            "backend.max_bill=null",
            *SEARCH,
        )
    )
    assert arrived["StaticHyperParameters"]["sagemaker_region"] == "eu-west-1"
    assert ".dkr.ecr.eu-west-1.amazonaws.com/" in arrived["AlgorithmSpecification"]["TrainingImage"]
    assert arrived["OutputDataConfig"]["S3OutputPath"].startswith(
        "s3://dogs-in-europe/breedlab/jobs/"
    )
    assert channels(arrived)["training"].startswith("s3://dogs-in-europe/breedlab/data/")


def test_every_setting_is_given_to_a_request_here() -> None:
    """A field that is added to the config is asked for on the request that leaves, too."""
    given = set(re.findall(r"backend\.[a-z_.]+(?==)", Path(__file__).read_text()))
    # What is not sent: where it runs, what this side does, and what it is measured by before.
    # A pipeline's steps hold these requests; test_pipelines.py asks for what is its own.
    ours = {
        "name",
        "wait",
        "orchestrate",
        "register_in",
        "limits.trials",
        "limits.parallel",
        "price_per_hour",
        "max_bill",
        "vendor",
    }
    of_other_backends = tuple(f"backend.{name}" for name in BACKENDS.names())
    settings = {
        path
        for path in known_paths()
        if path.startswith("backend.") and not path.startswith(of_other_backends)
    } - {f"backend.{name}" for name in ours}
    leaves = {
        path for path in settings if not any(other.startswith(f"{path}.") for other in settings)
    }
    assert leaves - {"backend.limits"} <= given


@pytest.mark.parametrize("search", [False, True], ids=["training", "tuning"])
def test_unset_what_is_optional_stays_out(search: bool, sent: Sent) -> None:
    arrived = definition(sent(*(SEARCH if search else [])))
    assert {"VpcConfig", "RetryStrategy", "TensorBoardOutputConfig"} & arrived.keys() == set()
    assert arrived["ResourceConfig"].keys() == {"InstanceType", "InstanceCount", "VolumeSizeInGB"}
    assert "KmsKeyId" not in arrived["OutputDataConfig"]
    assert arrived["EnableManagedSpotTraining"] is arrived["EnableNetworkIsolation"] is False
    assert "MaxWaitTimeInSeconds" not in arrived["StoppingCondition"]


def test_only_images_are_streamed(sent: Sent) -> None:
    """The toolkits unpack the source and run the scripts: these have to be there as a job
    starts."""
    modes = {
        each["ChannelName"]: each["InputMode"]
        for each in sent("backend.input_mode=fastfile")["InputDataConfig"]
    }
    assert modes == {"training": "FastFile", "code": "File", "sm_drivers": "File"}
    assert {each["InputMode"] for each in sent()["InputDataConfig"]} == {"File"}


@pytest.mark.parametrize("search", [False, True], ids=["training", "tuning"])
def test_tags_and_name(search: bool, sent: Sent) -> None:
    arrived = sent(
        "backend.tags={team: vision}", "backend.job_name=dogs-2", *(SEARCH if search else [])
    )
    assert {"Key": "team", "Value": "vision"} in arrived["Tags"]
    assert {"Key": "breedlab", "Value": "quickstart"} in arrived["Tags"]
    assert arrived["HyperParameterTuningJobName" if search else "TrainingJobName"] == "dogs-2"
    assert channels(arrived)["training"].startswith("s3://breedlab-tests/breedlab/data/")


def test_spot_waits_twice_as_long_as_it_runs_unless_told(sent: Sent) -> None:
    stopping = sent("backend.spot=true", "backend.max_run_hours=2.0")["StoppingCondition"]
    assert stopping == {"MaxRuntimeInSeconds": 7200, "MaxWaitTimeInSeconds": 14400}


@pytest.mark.parametrize(
    ("image", "instance", "expected"),
    [
        ("auto", "ml.m5.xlarge", "pytorch:2.14-cpu-amzn2023-sagemaker"),
        ("auto", "ml.g5.xlarge", "pytorch:2.14-cu133-amzn2023-sagemaker"),
        ("2.11", "ml.g5.xlarge", "pytorch:2.11-cu130-amzn2023-sagemaker"),
        ("2.10", "ml.g5.xlarge", "pytorch-training:2.10.0-gpu-py313"),
        ("2.8.0", "ml.m5.xlarge", "pytorch-training:2.8.0-cpu-py312"),
    ],
)
def test_images_by_version(
    image: str, instance: str, expected: str, configure: Callable[..., Config]
) -> None:
    config = configure(
        "backend=sagemaker",
        "dry_run=true",
        f"backend.image='{image}'",
        f"backend.instance_type={instance}",
    )
    assert problems(config.backend, "us-east-1") == []
    uri = training_image(config.backend, "us-east-1")
    assert uri == f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{expected}"


def test_names_differ_from_launch_to_launch(cloud: Any, account: Account, here: Path) -> None:
    for _ in range(2):
        main(cloud("backend.wait=false"))
    first, second = (sent["TrainingJobName"] for sent in account.sent("CreateTrainingJob"))
    assert first != second
    assert len(first) <= 32 and first.startswith("quickstart-")


def test_a_training_job_starts_by_the_sdks_scripts(sent: Sent) -> None:
    from sagemaker.train import constants

    arrived = sent()
    assert (
        arrived["AlgorithmSpecification"]["ContainerEntrypoint"]
        == constants.DEFAULT_CONTAINER_ENTRYPOINT
    )
    told, script = arrived["AlgorithmSpecification"]["ContainerArguments"]
    theirs = constants.DEFAULT_CONTAINER_ARGUMENTS
    assert told == theirs[0] == "-c"
    # The same steps as the SDK's; beyond them only what hands SIGTERM on, which test_jobs has a job
    # told.
    assert all(step in script for step in theirs[1].split(" && "))
    assert channels(arrived).keys() == {"training", "code", "sm_drivers"}
    assert arrived["HyperParameters"] == {}
    assert arrived["Environment"]["BREEDLAB_STAGE"] == "run"


def test_a_tuning_job_starts_by_the_toolkit(sent: Sent) -> None:
    shared = definition(sent(*SEARCH))
    assert "ContainerEntrypoint" not in shared["AlgorithmSpecification"]
    assert shared["StaticHyperParameters"]["sagemaker_program"] == "entry/train.py"
    # From a channel: a container behind network isolation downloads nothing itself.
    assert (
        shared["StaticHyperParameters"]["sagemaker_submit_directory"]
        == "/opt/ml/input/data/code/source.tar.gz"
    )
    assert channels(shared)["code"].endswith("/source/source.tar.gz")
    assert shared["Environment"]["BREEDLAB_STAGE"] == "trial"
    assert "sagemaker_torch_distributed_enabled" not in shared["StaticHyperParameters"]


def test_several_instances_of_a_tuning_job_start_by_torchrun(sent: Sent) -> None:
    fixed = definition(sent(*SEARCH, "backend.instance_count=2"))["StaticHyperParameters"]
    assert fixed["sagemaker_torch_distributed_enabled"] == "true"
    assert fixed["sagemaker_instance_type"] == "ml.m5.xlarge"
    assert fixed["sagemaker_mpi_num_of_processes_per_host"] == "1"


@pytest.mark.parametrize(
    ("processes", "count"),
    [("auto", None), ("3", 3)],
    ids=["as many as the container has GPUs", "as told"],
)
@pytest.mark.parametrize(
    "kind", ["ml.g5.12xlarge", "ml.g7e.48xlarge"], ids=["listed", "newer than the SDK's list"]
)
def test_a_process_a_gpu_unless_told(
    processes: str, count: int | None, kind: str, sent: Sent, account: Account
) -> None:
    words = [
        f"backend.instance_type={kind}",
        f"backend.processes={processes}",
        "backend.max_bill=null",
    ]
    shared = definition(sent(*SEARCH, *words))
    fixed = shared["StaticHyperParameters"]
    assert fixed["sagemaker_torch_distributed_enabled"] == "true"
    # Without the number, AWS's toolkit and the SDK's driver count the GPUs in the container.
    assert fixed.get("sagemaker_mpi_num_of_processes_per_host") == (count and str(count))
    assert int(shared["Environment"]["BREEDLAB_GPUS"]) >= 1
    scripts = channels(sent(*words, f"name=scripts{count}"))["sm_drivers"]
    assert json.loads(stored(scripts, "distributed.json"))["process_count_per_node"] == count
    assert "Running Torchrun Driver" in stored(scripts, "sm_train.sh")


def test_tensorboard_output_is_sent_on_demand(sent: Sent) -> None:
    output = sent("backend.tensorboard=true")["TensorBoardOutputConfig"]
    assert output["S3OutputPath"].startswith("s3://breedlab-tests/breedlab/jobs/quickstart-")
    assert re.fullmatch(
        r"/opt/ml/checkpoints/quickstart-\d+-\d+-\w+/tensorboard", output["LocalPath"]
    )


def test_a_file_of_weights_travels_in_a_channel_of_its_own(
    sent: Sent, account: Account, here: Path
) -> None:
    torch.save({"weight": torch.zeros(2)}, here / "mine.pth")
    uri = channels(sent("model.weights=mine.pth"))["weights"]
    assert uri.endswith("/weights/mine.pth")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    assert (
        boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        == (here / "mine.pth").read_bytes()
    )


def stored(folder: str, name: str) -> str:
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    return str(
        boto3.client("s3").get_object(Bucket=bucket, Key=prefix + name)["Body"].read().decode()
    )


def config_of(sent: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = sent["HyperParameterTuningJobConfig"]
    return found


def test_the_search_space_is_translated(sent: Sent) -> None:
    space = (
        "tuner.space={optim.lr: {low: 0.001, high: 0.1, log: true}, optim.momentum: {low: 0.1,"
        " high: 0.9}, data.batch_size: {low: 8, high: 32}, optim.name: [adam, adamw], model.head:"
        " [[16], [32, 8]], trainer.gradient_clip: [null, 1.0]}"
    )
    ranges = config_of(sent(*SEARCH, space))["ParameterRanges"]
    assert ranges["ContinuousParameterRanges"] == [
        {"Name": "optim__lr", "MinValue": "0.001", "MaxValue": "0.1", "ScalingType": "Logarithmic"},
        {"Name": "optim__momentum", "MinValue": "0.1", "MaxValue": "0.9", "ScalingType": "Linear"},
    ]
    assert ranges["IntegerParameterRanges"] == [
        {"Name": "data__batch_size", "MinValue": "8", "MaxValue": "32", "ScalingType": "Linear"}
    ]
    assert ranges["CategoricalParameterRanges"] == [
        {"Name": "optim__name", "Values": ['"adam"', '"adamw"']},
        {"Name": "model__head", "Values": ["[16]", "[32,8]"]},
        {"Name": "trainer__gradient_clip", "Values": ["null", "1.0"]},
    ]


@pytest.mark.parametrize(
    ("given", "strategy", "jobs"),
    [
        (["tuner=random", "tuner.trials=7"], "Random", 7),
        (["tuner=bayesian", "tuner.trials=5"], "Bayesian", 5),
        (["tuner=hyperband", "tuner.trials=9"], "Hyperband", 9),
        # rates; of four batch sizes the images fill none but the smallest
        (["tuner=grid"], "Grid", 4),
    ],
)
def test_strategy_and_number_of_trials(
    given: list[str], strategy: str, jobs: int, sent: Sent
) -> None:
    search = config_of(sent(*given, "tuner.parallel=3", "seed=11"))
    assert search["Strategy"] == strategy
    assert search["ResourceLimits"] == {
        "MaxNumberOfTrainingJobs": jobs,
        "MaxParallelTrainingJobs": 3,
    }
    assert search["RandomSeed"] == 11
    assert search["TrainingJobEarlyStoppingType"] == "Off"
    resource = {"HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": 5}}
    assert search.get("StrategyConfig") == (resource if strategy == "Hyperband" else None)


def test_the_objective_and_its_direction(sent: Sent) -> None:
    arrived = sent(*SEARCH, "monitor.metric=valid/loss", "monitor.mode=min")
    assert config_of(arrived)["HyperParameterTuningJobObjective"] == {
        "Type": "Minimize",
        "MetricName": "valid/loss",
    }
    named = [d["Name"] for d in definition(arrived)["AlgorithmSpecification"]["MetricDefinitions"]]
    ends = ["interval/loss_low", "interval/loss_high"]
    assert named == ["valid/loss", "train/loss", "valid/top1", *ends]


@pytest.mark.parametrize("metric", ["valid/top1", "valid/f1"])
def test_every_metric_is_found_in_what_the_trainer_prints(
    metric: str, sent: Sent, configure: Any, here: Path, capsys: Any
) -> None:
    from breedlab.pipeline.run import run

    definitions = sent(f"monitor.metric={metric}")["AlgorithmSpecification"]["MetricDefinitions"]
    capsys.readouterr()
    words = ["experiment=quickstart", "profiler=none", "trainer.max_epochs=1"]
    run(configure(*words, f"monitor.metric={metric}"), [])
    printed = capsys.readouterr().out
    for wanted in definitions:
        found = re.findall(wanted["Regex"], printed)
        assert len(found) == 1, wanted["Name"]
        assert float(found[0]) >= 0


def test_early_stopping(sent: Sent) -> None:
    arrived = sent(*SEARCH, "tuner.early_stopping=true")
    assert config_of(arrived)["TrainingJobEarlyStoppingType"] == "Auto"


def test_one_job_runs_the_whole_search_in_a_training_job(sent: Sent) -> None:
    arrived = sent(*SEARCH, "backend.trials=one_job")
    assert arrived["HyperParameters"] == {}
    assert arrived["Environment"]["BREEDLAB_STAGE"] == "run"
    assert "TrainingJobName" in arrived
