"""What is refused before it costs anything: all of it at once, and no request has left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from sagemaker_account import Account

from breedlab.backends.sagemaker import checks
from breedlab.backends.sagemaker.jobs import launch
from breedlab.cli.launch import main
from breedlab.config import Config
from breedlab.errors import BreedlabError

SEARCH = ["tuner=random", "tuner.trials=3"]

Refused = Callable[..., str]


@pytest.fixture
def refused(cloud: Callable[..., list[str]], account: Account, here: Path) -> Refused:
    """Launches what must not leave; gives the message. Nothing was created, nothing uploaded, no
    run begun."""

    def make(*words: str) -> str:
        with pytest.raises(BreedlabError) as raised:
            main(cloud(*words))
        assert account.created() == []
        assert not [
            call for call in account.calls if call.startswith(("PUT", "POST /breedlab-tests"))
        ]
        assert not (here / "runs").exists()
        return str(raised.value)

    return make


@pytest.mark.parametrize(
    ("given", "says"),
    [
        # names that no config path carries
        (
            ["tuner.space.optim.learning_rate=[0.1]"],
            "tuner.space.optim.learning_rate: is not a config path",
        ),
        (["tuner.space.optim.lrr=[0.1]"], "did you mean optim.lr?"),
        # values that their field refuses
        (
            ["tuner.space.optim.lr=[0.1,-1.0]"],
            "tuner.space.optim.lr: got -1.0; expected a number greater than 0",
        ),
        (
            ["tuner.space.data.augment=[none,twirl]"],
            "tuner.space.data.augment: got 'twirl'; expected one of",
        ),
        # a single quote in a value
        (
            ['tuner.space.data.augment=["it\'s"]'],
            'tuner.space.data.augment: got "it\'s"; expected one of',
        ),
        # an objective that the trainer does not log
        (
            ["monitor.metric=valid/accuracy"],
            "monitor.metric: got 'valid/accuracy'; expected one of valid/loss",
        ),
        # a continuous range in a grid
        (
            ["tuner=grid", "tuner.trials=null", "tuner.space.optim.lr={low: 0.1, high: 0.2}"],
            "is a continuous range",
        ),
        # more than the account's usual limits
        (
            ["tuner.trials=751"],
            "tuner.trials: got 751 trials; expected at most 750, the account's limit",
        ),
        (["tuner.parallel=11"], "tuner.parallel: got 11; expected at most 10, the account's limit"),
        (
            ["tuner.space.optim.lr={low: 0.1, high: 0.9, step: 0.2}"],
            "SageMaker's ranges have no steps",
        ),
        (["tuner.warm_start=[a,b,c,d,e,f]"], "tuner.warm_start: has 6 parents; expected at most 5"),
        (
            ["tuner=hyperband", "tuner.early_stopping=true"],
            "tuner.early_stopping: got true; expected false",
        ),
        (
            ["tuner=hyperband", "tuner.max_epochs=30000"],
            "tuner.max_epochs: got 30000; expected more than 1 and at most 20000",
        ),
        (
            ["tuner=random", "tuner.trials=70", "tuner.space={optim: {lr: [0.1, 0.2]}}"],
            "the number of combinations",
        ),
        # what belongs to other parts of AWS
        (
            ["backend.role=arn:aws-cn:iam::123456789012:role/r"],
            "role/r is of aws-cn; expected aws",
        ),
        (
            ["backend.kms.output=arn:aws:kms:eu-west-1:123456789012:key/k"],
            "is a key of eu-west-1; expected one of us-east-1",
        ),
        # names that S3 and KMS have for nothing of ours
        (["backend.bucket=my..bucket"], "backend.bucket: got 'my..bucket'"),
        (["backend.bucket=192.168.1.1"], "backend.bucket: got '192.168.1.1'"),
        (["backend.bucket=dogs-s3alias"], "such as -s3alias"),
        (["backend.prefix=a/../b"], "backend.prefix: got 'a/../b'"),
        (["backend.kms.output=ours"], "its alias, such as alias/dogs"),
        (["backend.kms.output=arn:aws:s3:::dogs"], "the ID of a KMS key"),
        (["data.root='s3://my dogs/photos'"], "data.root: got 's3://my dogs/photos'; expected"),
        (
            ["backend.image='123456789012.dkr.ecr.us-east-1.amazonaws.com/my image:1'"],
            "contains whitespace",
        ),
        (
            ["data.root=s3://breedlab-tests/a//b"],
            "data.root: got 's3://breedlab-tests/a//b/'; expected no '//'",
        ),
        # machines that do not go together
        (
            ["backend.instance_type=ml.g4dn.xlarge", "backend.processes=2"],
            "backend.processes: got 2; ml.g4dn.xlarge has",
        ),
        (
            ["backend.instance_type=ml.trn1.2xlarge"],
            "backend.instance_type: ml.trn1.2xlarge has AWS Trainium",
        ),
        (
            ["backend.image=123456789012.dkr.ecr.us-east-1.amazonaws.com/Mine:1"],
            "has uppercase letters in its repository",
        ),
        (
            ["backend.spot=true", "backend.keep_alive_minutes=5"],
            "backend.keep_alive_minutes: expected 0",
        ),
        (["backend.max_wait_hours=9.0"], "backend.max_wait_hours: expected null"),
        (
            ["backend.spot=true", "backend.max_wait_hours=1.0"],
            "expected at least backend.max_run_hours (4)",
        ),
        (["backend.vpc.subnets=[subnet-0a]"], "backend.vpc.security_groups: is empty"),
        (
            ["backend.network_isolation=true"],
            "backend.image: got 'auto'; expected the URI of an image",
        ),
        (
            ["backend.network_isolation=true", "model.weights=IMAGENET1K_V1"],
            "model.weights: IMAGENET1K_V1 would be downloaded",
        ),
        (
            ["backend.environment={SM_HPS: x}"],
            "backend.environment.SM_HPS: is set by the job itself",
        ),
        (["backend.environment={a-b: x}"], "backend.environment: got 'a-b'; expected a name"),
        # images
        (["backend.image=2.13"], "backend.image: got 2.13; expected all three parts of a version"),
        (
            ["backend.image=9.9.9"],
            "backend.image: got '9.9.9'; expected auto, an image's URI, or one of 2.6.0",
        ),
        (["backend.image=2.0.1"], "PyTorch 2.0.1 is too old; expected 2.6 or newer"),
        (["backend.image=docker.io/me/mine:1"], "docker.io/me/mine:1 is not in Amazon ECR"),
        (
            ["backend.image=123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1"],
            "is in eu-west-1; expected an image in the jobs' region, us-east-1",
        ),
        (
            [
                "backend.image=763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
            ],
            "is an inference image",
        ),
        (
            [
                "backend.image=763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-ec2"
            ],
            "lacks the SageMaker toolkit",
        ),
        (
            [
                "backend.image=763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.13-cpu-amzn2023-sagemaker",
                "backend.instance_type=ml.g5.xlarge",
            ],
            "is a CPU image, but backend.instance_type=ml.g5.xlarge has GPUs",
        ),
        # the API's own model
        (
            ["backend.instance_type=ml.z9.xlarge"],
            "backend.instance_type: got 'ml.z9.xlarge', which the installed boto3",
        ),
        (["backend.tags={a: 'b!'}"], "backend.tags: got 'b!'; expected"),
        # the account
        (["backend.role=null"], "backend.role: has no value; a launch needs"),
        (["backend.bucket=null"], "backend.bucket: has no value; a launch needs"),
        (["backend.role=NoSuchRole"], "backend.role: the account has no role 'NoSuchRole'"),
        (
            ["backend.bucket=no-such-bucket"],
            "backend.bucket: no bucket 'no-such-bucket'; create it: aws s3 mb",
        ),
        (
            ["backend.region=eu-west-1"],
            "backend.bucket: 'breedlab-tests' is in us-east-1; expected a bucket in eu-west-1",
        ),
        (["data.root=s3://no-such-bucket/dogs"], "data.root: no bucket 'no-such-bucket'"),
        (
            ["data.root=s3://breedlab-tests/dogs"],
            "data.root: no images found under s3://breedlab-tests/dogs/",
        ),
        (["data.root=s3:/dogs"], "data.root: got 's3:/dogs'; expected s3://bucket/folder"),
    ],
)
def test_refused(given: list[str], says: str, refused: Refused) -> None:
    assert says in refused(*SEARCH, *given)


def paths(message: str) -> list[str]:
    """What each line of a message is about."""
    return [line.split(":")[0].strip() for line in message.splitlines()[1:]]


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
    message = refused(
        *SEARCH, *wrong, "backend.instance_type=ml.z9.xlarge", "backend.tags={a: 'b!'}"
    )
    told = ["backend.role", "backend.bucket", "backend.image", "backend.price_per_hour", "setup.py"]
    told += ["backend.instance_type", "backend.tags"]
    assert list(dict.fromkeys(paths(message))) == told


def test_an_image_is_told_beside_what_the_config_refuses(refused: Refused) -> None:
    wrong = [
        "backend.role=null",
        "tuner.space.optim.lr=[-1.0]",
        "tuner.parallel=11",
        "backend.image=1.0.0",
    ]
    message = refused(*SEARCH, *wrong)
    assert set(paths(message)) == {
        "backend.role",
        "tuner.space.optim.lr",
        "tuner.parallel",
        "backend.image",
    }


@pytest.mark.usefixtures("with_setup")
def test_a_setup_py_in_the_source(refused: Refused) -> None:
    assert "setup.py: in the source makes SageMaker's toolkit install it" in refused()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "optim.lr",
            "0.1",
            "optim.lr: is not a valid hyperparameter name; expected letters, digits and '_'",
        ),
        (
            "optim__lr",
            "it's",
            "optim__lr: \"it's\" has a single quote, which ends the shell's quotes",
        ),
        ("optim__lr", "1" * 2501, "optim__lr: is 2501 characters long; expected at most 2500"),
    ],
)
def test_hyperparameters_that_kill_a_job_at_its_start(
    name: str, value: str, says: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = launch.job_requests

    def doctored(*given: Any) -> Any:
        made = make(*given)
        made[-1].parameters["HyperParameters"][name] = value
        return made

    monkeypatch.setattr(launch, "job_requests", doctored)
    assert says in refused()


def test_an_objective_that_its_regex_does_not_find(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        checks, "metric_definitions", lambda _: [{"Name": "valid/top1", "Regex": "accuracy: (.*)"}]
    )
    assert "monitor.metric: valid/top1 is not what the trainer prints" in refused(*SEARCH)


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
    message = refused("backend.image=1.0.0")
    assert "AWS: no credentials found; set them with `aws configure`" in message
    assert "backend.image" in message


def test_without_a_region(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "backend.region: has no value; a launch needs a region" in refused()


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
