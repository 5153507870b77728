"""What is refused before it costs anything: all of it at once, and no request has left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import Names, check_code, raises_code
from sagemaker_account import Account

from breedlab.backends.sagemaker import checks
from breedlab.backends.sagemaker.jobs import launch
from breedlab.cli.launch import main
from breedlab.config import Config
from breedlab.errors import BreedlabError

pytestmark = pytest.mark.usefixtures("slight_source")

SEARCH = ["tuner=random", "tuner.trials=3"]

Refused = Callable[..., BreedlabError]


@pytest.fixture
def refused(cloud: Callable[..., list[str]], account: Account, here: Path) -> Refused:
    """Launches what must not leave; gives the error. Nothing was created, nothing uploaded, no
    run begun."""

    def make(*words: str) -> str:
        with pytest.raises(BreedlabError) as raised:
            main(cloud(*words))
        assert account.created() == []
        assert not [
            call for call in account.calls if call.startswith(("PUT", "POST /breedlab-tests"))
        ]
        assert not (here / "runs").exists()
        return raised.value

    return make


@pytest.mark.parametrize(
    ("given", "code", "names"),
    [
        # names that no config path carries
        (
            ["tuner.space.optim.learning_rate=[0.1]"],
            "BL117",
            "tuner.space.optim.learning_rate: ",
        ),
        (["tuner.space.optim.lrr=[0.1]"], "BL117", ("tuner.space.optim.lrr: ", "optim.lr?")),
        # values that their field refuses
        (
            ["tuner.space.optim.lr=[0.1,-1.0]"],
            "BL105",
            ("tuner.space.optim.lr: ", "-1.0", "0"),
        ),
        (
            ["tuner.space.data.augment=[none,twirl]"],
            "BL105",
            ("tuner.space.data.augment: ", "'twirl'"),
        ),
        # a single quote in a value
        (
            ['tuner.space.data.augment=["it\'s"]'],
            "BL105",
            ("tuner.space.data.augment: ", '"it\'s"'),
        ),
        # an objective that the trainer does not log
        (
            ["monitor.metric=valid/accuracy"],
            "BL103",
            ("monitor.metric: ", "'valid/accuracy'", "valid"),
        ),
        # a continuous range in a grid
        (
            ["tuner=grid", "tuner.trials=null", "tuner.space.optim.lr={low: 0.1, high: 0.2}"],
            "BL104",
            ("tuner.space.optim.lr: ", "range", "grid"),
        ),
        # more than the account's usual limits
        (
            ["tuner.trials=751"],
            "BL104",
            ("tuner.trials: ", "751 trials", "750"),
        ),
        (["tuner.parallel=11"], "BL104", ("tuner.parallel: ", "11", "10")),
        (
            ["tuner.space.optim.lr={low: 0.1, high: 0.9, step: 0.2}"],
            "BL104",
            ("tuner.space.optim.lr", "steps"),
        ),
        (["tuner.warm_start=[a,b,c,d,e,f]"], "BL104", ("tuner.warm_start: ", "5")),
        (
            ["tuner=hyperband", "tuner.early_stopping=true"],
            "BL104",
            ("tuner.early_stopping: ", "true"),
        ),
        (
            ["tuner=hyperband", "tuner.max_epochs=30000"],
            "BL411",
            ("tuner.max_epochs: ", "30000", "1", "20000"),
        ),
        (
            ["tuner=random", "tuner.trials=70", "tuner.space={optim: {lr: [0.1, 0.2]}}"],
            "BL411",
            ("tuner.trials: ", "70", "2"),
        ),
        # what belongs to other parts of AWS
        (
            ["backend.role=arn:aws-cn:iam::123456789012:role/r"],
            "BL411",
            ("backend.role: ", "aws-cn"),
        ),
        (
            ["backend.kms.output=arn:aws:kms:eu-west-1:123456789012:key/k"],
            "BL411",
            ("backend.kms.output: ", "eu-west-1", "us-east-1"),
        ),
        # names that S3 and KMS have for nothing of ours
        (["backend.bucket=my..bucket"], "BL103", ("backend.bucket: ", "'my..bucket'")),
        (["backend.bucket=192.168.1.1"], "BL103", ("backend.bucket: ", "'192.168.1.1'")),
        (["backend.bucket=dogs-s3alias"], "BL103", ("backend.bucket: ", "-s3alias")),
        (["backend.prefix=a/../b"], "BL103", ("backend.prefix: ", "'a/../b'")),
        (["backend.kms.output=ours"], "BL103", ("backend.kms.output: ", "'ours'", "alias/dogs")),
        (
            ["backend.kms.output=arn:aws:s3:::dogs"],
            "BL103",
            ("backend.kms.output: ", "'arn:aws:s3:::dogs'", "KMS key"),
        ),
        (["data.root='s3://my dogs/photos'"], "BL104", ("data.root: ", "'s3://my dogs/photos'")),
        (
            ["backend.image='123456789012.dkr.ecr.us-east-1.amazonaws.com/my image:1'"],
            "BL411",
            ("backend.image: ", "my image", "whitespace"),
        ),
        (
            ["data.root=s3://breedlab-tests/a//b"],
            "BL411",
            ("data.root: ", "'s3://breedlab-tests/a//b/'"),
        ),
        # machines that do not go together
        (
            ["backend.instance_type=ml.g4dn.xlarge", "backend.processes=2"],
            "BL411",
            ("backend.processes: ", "2"),
        ),
        (
            ["backend.instance_type=ml.trn1.2xlarge"],
            "BL100",
            ("backend.instance_type: ", "Trainium"),
        ),
        (
            ["backend.image=123456789012.dkr.ecr.us-east-1.amazonaws.com/Mine:1"],
            "BL411",
            ("backend.image: ", "Mine", "uppercase"),
        ),
        (
            ["backend.spot=true", "backend.keep_alive_minutes=5"],
            "BL104",
            ("backend.keep_alive_minutes: ", "0"),
        ),
        (["backend.max_wait_hours=9.0"], "BL104", "backend.max_wait_hours: "),
        (
            ["backend.spot=true", "backend.max_wait_hours=1.0"],
            "BL104",
            ("backend.max_wait_hours: ", "backend.max_run_hours", "4"),
        ),
        (["backend.vpc.subnets=[subnet-0a]"], "BL104", "backend.vpc.security_groups: "),
        (
            ["backend.network_isolation=true"],
            "BL104",
            ("backend.image: ", "'auto'"),
        ),
        (
            ["backend.network_isolation=true", "model.weights=IMAGENET1K_V1"],
            "BL104",
            ("model.weights: ", "IMAGENET1K_V1"),
        ),
        (
            ["backend.environment={SM_HPS: x}"],
            "BL104",
            "backend.environment.SM_HPS: ",
        ),
        (["backend.environment={a-b: x}"], "BL103", ("backend.environment: ", "'a-b'")),
        # images
        (["backend.image=2.13"], "BL103", ("backend.image: ", "2.13")),
        (
            ["backend.image=9.9.9"],
            "BL411",
            ("backend.image: ", "'9.9.9'", "2.6.0"),
        ),
        (["backend.image=2.0.1"], "BL411", ("backend.image: ", "2.0.1", "2.6")),
        (["backend.image=docker.io/me/mine:1"], "BL411", ("backend.image: ", "docker.io", "ECR")),
        (
            ["backend.image=123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1"],
            "BL411",
            ("backend.image: ", "eu-west-1", "us-east-1"),
        ),
        (
            [
                "backend.image=763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
            ],
            "BL411",
            ("backend.image: ", "inference"),
        ),
        (
            [
                "backend.image=763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-ec2"
            ],
            "BL411",
            ("backend.image: ", "toolkit"),
        ),
        (
            [
                "backend.image=763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker",
                "backend.instance_type=ml.g5.xlarge",
            ],
            "BL411",
            ("backend.image: ", "CPU", "backend.instance_type=ml.g5.xlarge"),
        ),
        # the API's own model
        (
            ["backend.instance_type=ml.z9.xlarge"],
            "BL100",
            ("backend.instance_type: ", "'ml.z9.xlarge'"),
        ),
        (["backend.tags={a: 'b!'}"], "BL411", ("backend.tags: ", "'b!'")),
        # the account
        (["backend.role=null"], "BL102", "backend.role: "),
        (["backend.bucket=null"], "BL102", "backend.bucket: "),
        (["backend.role=NoSuchRole"], "BL411", ("backend.role: ", "'NoSuchRole'")),
        (
            ["backend.bucket=no-such-bucket"],
            "BL411",
            ("backend.bucket: ", "'no-such-bucket'", "aws s3 mb"),
        ),
        (
            ["backend.region=eu-west-1"],
            "BL100",
            ("backend.bucket: ", "us-east-1", "eu-west-1"),
        ),
        (["data.root=s3://no-such-bucket/dogs"], "BL411", ("data.root: ", "'no-such-bucket'")),
        (
            ["data.root=s3://breedlab-tests/dogs"],
            "BL411",
            ("data.root: ", "s3://breedlab-tests/dogs/"),
        ),
        (["data.root=s3:/dogs"], "BL104", ("data.root: ", "'s3:/dogs'")),
    ],
)
def test_refused(given: list[str], code: str, names: Names, refused: Refused) -> None:
    check_code(refused(*SEARCH, *given), code, names=names)


def paths(error: BreedlabError) -> list[str]:
    """What each line of a message is about."""
    return [line.split(":")[0].strip() for line in str(error).splitlines()[1:]]


@pytest.fixture
def with_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that has a setup.py."""
    write = launch.write_source

    def added(folder: Path, config: Config) -> None:
        write(folder, config)
        (folder / "setup.py").write_text("")

    monkeypatch.setattr(launch, "write_source", added)


@pytest.mark.usefixtures("with_setup")
def test_everything_is_told_at_once(refused: Refused) -> None:
    """By the account, of the image, of the source, and by the API's own model."""
    wrong = ["backend.role=NoSuchRole", "backend.bucket=no-such-bucket", "backend.image=1.0.0"]
    error = refused(*SEARCH, *wrong, "backend.instance_type=ml.z9.xlarge", "backend.tags={a: 'b!'}")
    told = ["backend.role", "backend.bucket", "backend.image", "backend.price_per_hour", "setup.py"]
    told += ["backend.instance_type", "backend.tags"]
    assert list(dict.fromkeys(paths(error))) == told


def test_an_image_is_told_beside_what_the_config_refuses(refused: Refused) -> None:
    wrong = [
        "backend.role=null",
        "tuner.space.optim.lr=[-1.0]",
        "tuner.parallel=11",
        "backend.image=1.0.0",
    ]
    error = refused(*SEARCH, *wrong)
    assert set(paths(error)) == {
        "backend.role",
        "tuner.space.optim.lr",
        "tuner.parallel",
        "backend.image",
    }


@pytest.mark.usefixtures("with_setup")
def test_a_setup_py_in_the_source(refused: Refused) -> None:
    check_code(refused(), "BL411", names="setup.py: ")


@pytest.mark.parametrize(
    ("name", "value", "names"),
    [
        ("optim.lr", "0.1", ("optim.lr: ", "'_'")),
        ("optim__lr", "it's", ("optim__lr: ", "it's", "single quote")),
        ("optim__lr", "1" * 2501, ("optim__lr: ", "2501", "2500")),
    ],
)
def test_hyperparameters_that_kill_a_job_at_its_start(
    name: str, value: str, names: Names, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = launch.job_requests

    def doctored(*given: Any) -> Any:
        made = make(*given)
        made[-1].parameters["HyperParameters"][name] = value
        return made

    monkeypatch.setattr(launch, "job_requests", doctored)
    check_code(refused(), "BL411", names=names)


def test_an_objective_that_its_regex_does_not_find(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        checks, "metric_definitions", lambda _: [{"Name": "valid/top1", "Regex": "accuracy: (.*)"}]
    )
    check_code(refused(*SEARCH), "BL411", names=("monitor.metric: ", "valid/top1"))


def test_a_name_that_is_taken(cloud: Any, account: Account, here: Path) -> None:
    words = cloud("backend.job_name=mine", "backend.wait=false")
    main(words)
    account.calls.clear()
    with raises_code("BL411", names=("backend.job_name", "'mine'")):
        main(words)
    assert account.created() == ["CreateTrainingJob"]
    assert not [call for call in account.calls if call.startswith("PUT")]


def test_without_credentials(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refused("backend.image=1.0.0")
    check_code(error, "BL411", names=("AWS: ", "aws configure", "backend.image: "))


def test_without_a_region(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    check_code(refused(), "BL411", names="backend.region: ")


def test_without_a_network(
    cloud: Any, account: Account, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with raises_code("BL411", names="127.0.0.1:9"):
        main(cloud())


def test_what_aws_refuses_is_one_message(cloud: Any, account: Account, here: Path) -> None:
    account.refuse["CreateTrainingJob"] = (
        "ResourceLimitExceeded",
        "The account-level service limit is 0 Instances.",
    )
    with raises_code("BL400", names=("service limit is 0 Instances", "Service Quotas")):
        main(cloud())
    assert not (here / "runs").exists()


def test_images_in_s3_stay_with_the_backend_that_reads_them(words: Any, here: Path) -> None:
    with raises_code("BL104", names=("data.root", "s3://b/dogs", "backend=sagemaker")):
        main(words("experiment=quickstart", "data.root=s3://b/dogs"))


def test_a_bucket_that_is_not_mine(cloud: Any, account: Account, here: Path) -> None:
    # the account is up, so what follows is about the name
    assert boto3.client("s3").list_buckets()["Buckets"]
    with raises_code("BL103", names=("backend.bucket", "'s3://mine'")):
        main(cloud("backend.bucket='s3://mine'"))
    assert account.created() == []
