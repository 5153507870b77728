"""The judge of requests: Java's own matcher, botocore's model, and AWS's documentation."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from breedlab.backends.sagemaker import java_pattern
from breedlab.backends.sagemaker.documented_limits import (
    LIMITS,
    documented,
    notices,
)
from breedlab.backends.sagemaker.limits import violations, with_stand_ins
from breedlab.backends.sagemaker.storage_limits import LOCAL_GB, has_local_storage

SERVICES = (
    "sagemaker",
    "sagemaker-runtime",
    "application-autoscaling",
    "iam",
    "sts",
    "logs",
    "service-quotas",
)

TEXTS = [
    "",
    "a",
    "A-1",
    "a b",
    "a\nb",
    "a\n",
    "\n",
    "a\r\n",
    "a\rb",
    "a\u0085b",
    "a\u2028b",
    "a\u2029",
    "\t",
    "a\x0bb",
    *(
        "é",
        "e\u0301",
        "٣",
        "日本",
        "a\u00a0b",
        "\U0001f600",
        "x" * 33,
        "x" * 300,
        "12",
        "1.2.3",
        "a_b",
        "a/b//c",
        "-a",
    ),
    "s3://bucket/key",
    "s3://bucket",
    "s3:///",
    "s3://b/k\n",
    "https://x",
    "arn:aws:iam::123456789012:role/My-Role",
    "arn:aws:iam::12345678901:role/x",
    "ml.m5.large",
    "sha256:0",
    "subnet-0a",
    "sg-0a",
    "key=value",
    "a@b.c",
    "$",
    "^",
    "<role>",
    "{}",
    "'",
    '"',
    "\\",
    "[a]",
    "10.0.0.1",
    "~",
    "\x7f",
    "\x00",
    "AWS",
    "aws:x",
    "  ",
    "_x",
    "a:b",
    "7e",
]


def patterns() -> list[str]:
    from botocore.loaders import Loader

    found: set[str] = set()
    for service in SERVICES:
        shapes = Loader().load_service_model(service, "service-2")["shapes"].values()
        found |= {shape["pattern"] for shape in shapes if "pattern" in shape}
    return sorted(found)


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java, whose matcher AWS's is")
def test_patterns_match_what_java_says_they_match() -> None:
    every = patterns()
    assert len(every) > 250
    pairs = [(pattern, text) for pattern in every for text in TEXTS]
    lines = "".join(f"{b64encode(each.encode()).decode()}\n" for pair in pairs for each in pair)
    source = Path(__file__).with_name("Matches.java")
    java = subprocess.run(
        ["java", str(source)], input=lines, capture_output=True, text=True, check=True
    )
    expected = [line == "1" for line in java.stdout.split()]
    assert len(expected) == len(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = [java_pattern.matches(pattern, text) for pattern, text in pairs]
    wrong = [
        pair
        for pair, java_says, we_say in zip(pairs, expected, ours, strict=True)
        if java_says != we_say
    ]
    assert wrong == []


@pytest.mark.parametrize("end", ["\n", "\r", "\u0085", "\u2028", "\u2029"])
def test_a_dot_takes_no_line_break(end: str) -> None:
    assert java_pattern.matches(".*", "set -m; wait")
    assert not java_pattern.matches(".*", f"set -m{end}wait")
    assert not java_pattern.matches(".*", f"wait{end}")
    assert java_pattern.matches(r"[\S\s]*", f"set -m{end}wait")


def training(**more: Any) -> dict[str, Any]:
    """The smallest training job that AWS takes."""
    return {
        "TrainingJobName": "dogs",
        "AlgorithmSpecification": {
            "TrainingInputMode": "File",
            "TrainingImage": "1.dkr.ecr.x.amazonaws.com/a:1",
        },
        "RoleArn": "arn:aws:iam::123456789012:role/Role",
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "ResourceConfig": {"InstanceType": "ml.c5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **more,
    }


def paths(request: dict[str, Any]) -> list[str]:
    return [path for path, _ in violations("sagemaker", "CreateTrainingJob", request)]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({}, None),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingInputMode": "File",
                    "ContainerArguments": ["-c", "a\nb"],
                }
            },
            "[1]",
        ),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingInputMode": "File",
                    "ContainerArguments": ["x" * 257],
                }
            },
            "[0]",
        ),
        ({"AlgorithmSpecification": {"TrainingInputMode": "Files"}}, "TrainingInputMode"),
        ({"HyperParameters": {"a": "one\ntwo"}}, "HyperParameters.a"),
        ({"HyperParameters": {"a\nb": "1"}}, "HyperParameters.a\nb"),
        ({"HyperParameters": {"a": 1}}, "HyperParameters.a"),
        ({"Environment": {"A": "one\ntwo"}}, None),
        ({"Environment": {"A-B": "1"}}, "Environment.A-B"),
        ({"Environment": {f"A{n}": "1" for n in range(101)}}, "Environment"),
        ({"Tags": [{"Key": "a", "Value": "é 1"}]}, None),
        ({"Tags": [{"Key": "a", "Value": "b!"}]}, "Tags[0].Value"),
        ({"Tags": [{"Key": f"a{n}", "Value": ""} for n in range(51)]}, "Tags"),
        ({"TrainingJobName": "dogs\n"}, "TrainingJobName"),
        (
            {"StoppingCondition": {"MaxRuntimeInSeconds": 0}},
            "StoppingCondition.MaxRuntimeInSeconds",
        ),
        ({"EnableNetworkIsolation": "yes"}, "EnableNetworkIsolation"),
        ({"InputDataConfig": []}, "InputDataConfig"),
        ({"VpcConfig": {"Subnets": [], "SecurityGroupIds": ["sg-0"]}}, "VpcConfig.Subnets"),
        ({"Color": "red"}, "Color"),
    ],
)
def test_a_request_is_judged_shape_by_shape(more: dict[str, Any], path: str | None) -> None:
    found = paths(training(**more))
    assert found == [] if path is None else found and all(each.endswith(path) for each in found)


def test_what_a_dry_run_does_not_know_hides_nothing_beside_it() -> None:
    request = training(
        RoleArn="Role",
        OutputDataConfig={"S3OutputPath": "s3://<bucket>/out\n"},
        HyperParameters={"optim__lr": "<best optim.lr>"},
    )
    assert paths(with_stand_ins(request)) == ["OutputDataConfig.S3OutputPath"]
    assert paths(with_stand_ins(training(RoleArn="<role>"))) == []
    assert paths(with_stand_ins(training(RoleArn="my role"))) == ["RoleArn"]


def tuning(definition: dict[str, Any] | None = None, **search: Any) -> dict[str, Any]:
    return {"HyperParameterTuningJobConfig": search, "TrainingJobDefinition": definition or {}}


def resources(kind: str, **more: Any) -> dict[str, Any]:
    return {"ResourceConfig": {"InstanceType": kind, **more}}


SERVERLESS = (
    "CreateEndpointConfig",
    {"EndpointConfigName": "c", "ProductionVariants": [{"ServerlessConfig": {}}]},
)
REAL_TIME = (
    "CreateEndpointConfig",
    {"EndpointConfigName": "c", "ProductionVariants": [{"InstanceType": "ml.m5.large"}]},
)
UPDATE = (
    "UpdateEndpoint",
    {"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": {"x": 1}},
)
VOLUME = {"VolumeSizeInGB": 5}
CATEGORIES = [{"Name": "a", "Values": [str(n) for n in range(31)]}]

FULL = {f"N{n:02}": "x" * 1021 for n in range(32)}
"""32 KB of names and values."""
SIXTEEN = {f"N{n}": "x" for n in range(16)}


def rollout(
    percent: int, wait: int, keep: int, kind: str = "LINEAR", size: str = "LinearStepSize"
) -> dict[str, Any]:
    """A new config that takes over in steps."""
    step = {"Type": "CAPACITY_PERCENT", "Value": percent}
    routing = {"Type": kind, "WaitIntervalInSeconds": wait, size: step}
    policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": keep}
    return {"EndpointName": "dogs", "DeploymentConfig": {"BlueGreenUpdatePolicy": policy}}


PARENT: dict[str, Any] = {"HyperParameterTuningJobName": "old"}

BREAKS: list[tuple[str, Any, list[Any], str]] = [
    (
        "no // in a key",
        ("CreateTrainingJob", training(CheckpointConfig={"S3Uri": "s3://b/a//c"})),
        [],
        "S3Uri",
    ),
    (
        "no // in a key",
        ("CreateModel", {"PrimaryContainer": {"ModelDataUrl": "s3://b//m.tar.gz"}}),
        [],
        "DataUrl",
    ),
    (
        "no key for local disks",
        ("CreateTrainingJob", training(**resources("ml.g5.xlarge", VolumeKmsKeyId="k"))),
        [],
        "ResourceConfig.VolumeKmsKeyId",
    ),
    (
        "no key for local disks",
        ("CreateHyperParameterTuningJob", tuning(resources("ml.p4d.24xlarge", VolumeKmsKeyId="k"))),
        [],
        "TrainingJobDefinition.ResourceConfig.VolumeKmsKeyId",
    ),
    (
        "a volume's key is no alias",
        ("CreateTrainingJob", training(**resources("ml.m5.xlarge", VolumeKmsKeyId="alias/dogs"))),
        [],
        "ResourceConfig.VolumeKmsKeyId",
    ),
    (
        "a volume's key is no alias",
        (
            "CreateHyperParameterTuningJob",
            tuning(resources("ml.m5.xlarge", VolumeKmsKeyId="arn:aws:kms:r:1:alias/dogs")),
        ),
        [],
        "TrainingJobDefinition.ResourceConfig.VolumeKmsKeyId",
    ),
    (
        "a volume fits on local disks",
        ("CreateTrainingJob", training(**resources("ml.g5.xlarge", VolumeSizeInGB=251))),
        [],
        "ResourceConfig.VolumeSizeInGB",
    ),
    (
        "a volume fits on local disks",
        ("CreateHyperParameterTuningJob", tuning(resources("ml.r5d.large", VolumeSizeInGB=76))),
        [],
        "TrainingJobDefinition.ResourceConfig.VolumeSizeInGB",
    ),
    (
        "burstable instances do not scale",
        ("RegisterScalableTarget", {"MaxCapacity": 3}),
        [("CreateEndpointConfig", {"ProductionVariants": [{"InstanceType": "ml.t2.medium"}]})],
        "InstanceType",
    ),
    (
        "an environment fits",
        ("CreateModel", {"PrimaryContainer": {"Environment": {"A": "ü" * 513}}}),
        [],
        "Environment.A",
    ),
    (
        "an environment fits",
        ("CreateModel", {"PrimaryContainer": {"Environment": FULL | {"ONE": "x"}}}),
        [],
        "PrimaryContainer.Environment",
    ),
    (
        "a version's environment fits",
        (
            "CreateModelPackage",
            {"InferenceSpecification": {"Containers": [{"Environment": SIXTEEN | {"ONE": "x"}}]}},
        ),
        [],
        "Containers[0].Environment",
    ),
    (
        "no volume beside local disks",
        (
            "CreateEndpointConfig",
            {
                "ProductionVariants": [
                    {"InstanceType": "ml.m5.large"},
                    {"InstanceType": "ml.g5.xlarge", **VOLUME},
                ]
            },
        ),
        [],
        "ProductionVariants[1].VolumeSizeInGB",
    ),
    (
        "enough combinations",
        (
            "CreateHyperParameterTuningJob",
            tuning(
                Strategy="Random",
                ParameterRanges={
                    "CategoricalParameterRanges": [{"Name": "a", "Values": ["1", "2"]}],
                    "IntegerParameterRanges": [{"Name": "b", "MinValue": "1", "MaxValue": "3"}],
                },
                ResourceLimits={"MaxNumberOfTrainingJobs": 7, "MaxParallelTrainingJobs": 1},
            ),
        ),
        [],
        "MaxNumberOfTrainingJobs",
    ),
    (
        "a search suits its strategy",
        (
            "CreateHyperParameterTuningJob",
            tuning(
                Strategy="Random",
                ParameterRanges={
                    "ContinuousParameterRanges": [
                        {
                            "Name": "a",
                            "MinValue": "0.0",
                            "MaxValue": "1",
                            "ScalingType": "Logarithmic",
                        }
                    ]
                },
            ),
        ),
        [],
        "MinValue",
    ),
    (
        "no warm pool with spot",
        (
            "CreateTrainingJob",
            training(
                EnableManagedSpotTraining=True,
                **resources("ml.m5.large", KeepAlivePeriodInSeconds=60),
            ),
        ),
        [],
        "KeepAlivePeriodInSeconds",
    ),
    (
        "an isolated container downloads nothing",
        (
            "CreateHyperParameterTuningJob",
            tuning(
                {
                    "EnableNetworkIsolation": True,
                    "StaticHyperParameters": {"sagemaker_submit_directory": "s3://b/source.tar.gz"},
                }
            ),
        ),
        [],
        "sagemaker_submit_directory",
    ),
    (
        "waiting includes running",
        (
            "CreateTrainingJob",
            training(
                EnableManagedSpotTraining=True,
                StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 59},
            ),
        ),
        [],
        "MaxWaitTimeInSeconds",
    ),
    (
        "a search suits its strategy",
        (
            "CreateHyperParameterTuningJob",
            tuning(Strategy="Hyperband", TrainingJobEarlyStoppingType="Auto"),
        ),
        [],
        "TrainingJobEarlyStoppingType",
    ),
    (
        "a search suits its strategy",
        (
            "CreateHyperParameterTuningJob",
            tuning(Strategy="Grid", ParameterRanges={"ContinuousParameterRanges": [{"Name": "a"}]}),
        ),
        [],
        "ContinuousParameterRanges",
    ),
    (
        "a search suits its strategy",
        (
            "CreateHyperParameterTuningJob",
            tuning(Strategy="Grid", ParameterRanges={"CategoricalParameterRanges": CATEGORIES}),
        ),
        [],
        "Values",
    ),
    (
        "tags are the account's own",
        ("CreateModel", {"Tags": [{"Key": "aws:x", "Value": ""}]}),
        [],
        "Key",
    ),
    (
        "tags are the account's own",
        ("CreateModel", {"Tags": [{"Key": "a"}, {"Key": "a"}]}),
        [],
        "Tags[1].Key",
    ),
    (
        "guardrails for real-time and asynchronous endpoints",
        UPDATE,
        [SERVERLESS],
        "DeploymentConfig",
    ),
    (
        "an update ends in time",
        ("UpdateEndpoint", rollout(10, 3600, 0)),
        [],
        "WaitIntervalInSeconds",
    ),
    (
        "parents have a search's hyperparameters",
        (
            "CreateHyperParameterTuningJob",
            tuning({"StaticHyperParameters": {"a": "1", "b": "2"}})
            | {"WarmStartConfig": {"ParentHyperParameterTuningJobs": [PARENT]}},
        ),
        [
            (
                "CreateHyperParameterTuningJob",
                PARENT | tuning({"StaticHyperParameters": {"a": "3", "_own": "4"}}),
            )
        ],
        "ParentHyperParameterTuningJobs[0]",
    ),
    (
        "a job ends in time",
        (
            "CreateTrainingJob",
            training(StoppingCondition={"MaxRuntimeInSeconds": 28 * 24 * 3600 + 1}),
        ),
        [],
        "MaxRuntimeInSeconds",
    ),
    (
        "a transform job is not too large",
        ("CreateTransformJob", {"MaxPayloadInMB": 26, "MaxConcurrentTransforms": 4}),
        [],
        "MaxPayloadInMB",
    ),
    (
        "a transform job is not too large",
        ("CreateTransformJob", {"TransformResources": {"InstanceCount": 101}}),
        [],
        "TransformResources.InstanceCount",
    ),
    (
        "steps are part of the fleet",
        ("UpdateEndpoint", rollout(9, 0, 0)),
        [],
        "LinearStepSize.Value",
    ),
    (
        "steps are part of the fleet",
        ("UpdateEndpoint", rollout(51, 0, 0, "CANARY", "CanarySize")),
        [],
        "CanarySize.Value",
    ),
    (
        "provisioned concurrency is part of all",
        (
            "CreateEndpointConfig",
            {
                "ProductionVariants": [
                    {"ServerlessConfig": {"MaxConcurrency": 2, "ProvisionedConcurrency": 3}}
                ]
            },
        ),
        [],
        "ServerlessConfig.ProvisionedConcurrency",
    ),
    (
        "enough combinations",
        (
            "CreateHyperParameterTuningJob",
            tuning(
                Strategy="Grid",
                ParameterRanges={"CategoricalParameterRanges": [{"Name": "a", "Values": ["1"]}] * 2}
                | {"IntegerParameterRanges": []},
                ResourceLimits={"MaxNumberOfTrainingJobs": 0, "MaxParallelTrainingJobs": 1},
            ),
        ),
        [],
        "MaxNumberOfTrainingJobs",
    ),
    *(
        (
            "a search suits its strategy",
            (
                "CreateHyperParameterTuningJob",
                tuning(
                    Strategy="Random",
                    ParameterRanges={f"{kind}ParameterRanges": [{"Name": "a", **ends}]},
                ),
            ),
            [],
            f"{kind}ParameterRanges[0].MinValue",
        )
        for kind, ends in (
            ("Integer", {"MinValue": "3", "MaxValue": "3"}),
            ("Continuous", {"MinValue": "0.2", "MaxValue": "0.1", "ScalingType": "Linear"}),
            (
                "Continuous",
                {"MinValue": "0.1", "MaxValue": "1.0", "ScalingType": "ReverseLogarithmic"},
            ),
        )
    ),
    (
        "a search suits its strategy",
        (
            "CreateHyperParameterTuningJob",
            tuning(
                Strategy="Hyperband",
                StrategyConfig={"HyperbandStrategyConfig": {"MinResource": 2, "MaxResource": 2}},
            ),
        ),
        [],
        "MaxResource",
    ),
    (
        "a version has its group's tags",
        ("CreateModelPackage", {"ModelPackageGroupName": "a", "Tags": []}),
        [],
        "Tags",
    ),
]


@pytest.mark.parametrize(
    ("name", "call", "before", "path"),
    BREAKS,
    ids=[f"{each[0]} {n}" for n, each in enumerate(BREAKS)],
)
def test_a_documented_limit_is_broken(name: str, call: Any, before: list[Any], path: str) -> None:
    (limit,) = [limit for limit in LIMITS if limit.name == name]
    assert limit.source and limit.says
    ((where, _),) = documented(call, before)
    assert where.endswith(path)
    assert [found for found, _ in limit.check(call, before)] == [where]


def test_every_documented_limit_is_broken_here() -> None:
    assert {name for name, *_ in BREAKS} == {limit.name for limit in LIMITS}


@pytest.mark.parametrize(
    ("call", "before"),
    [
        (("CreateTrainingJob", training(**resources("ml.c5.xlarge", VolumeKmsKeyId="k"))), []),
        (("CreateTrainingJob", training(CheckpointConfig={"S3Uri": "s3://b/a/c/"})), []),
        (("CreateTrainingJob", training(**resources("ml.g5.xlarge", VolumeSizeInGB=250))), []),
        (("CreateTrainingJob", training(**resources("ml.m5.xlarge", VolumeSizeInGB=9000))), []),
        (("CreateModel", {"PrimaryContainer": {"Environment": FULL}}), []),
        (
            (
                "CreateModelPackage",
                {"InferenceSpecification": {"Containers": [{"Environment": SIXTEEN}]}},
            ),
            [],
        ),
        (("RegisterScalableTarget", {"MaxCapacity": 3}), [REAL_TIME]),
        (
            (
                "CreateEndpointConfig",
                {"KmsKeyId": "k", "ProductionVariants": [{"InstanceType": "ml.g5.xlarge"}]},
            ),
            [],
        ),
        (
            (
                "CreateEndpointConfig",
                {"ProductionVariants": [{"InstanceType": "ml.m5.large", **VOLUME}]},
            ),
            [],
        ),
        (("CreateHyperParameterTuningJob", tuning(Strategy="Hyperband", StrategyConfig={})), []),
        (UPDATE, [REAL_TIME]),
        (("UpdateEndpoint", rollout(10, 3000, 1700)), []),
    ],
)
def test_what_the_documentation_allows(call: Any, before: list[Any]) -> None:
    assert documented(call, before) == []


def test_which_types_have_disks_of_their_own() -> None:
    own = "g4dn g5 g6 g6e p3dn p4d p4de p5 p5e p5en p6-b200 trn1 c5d m5d r5d c6gd r7gd"
    other = "c4 c5 c5n c6i c7i m4 m5 m6i m7i p2 p3 r5 r7i t3 inf2 c6gn"
    assert all(has_local_storage(f"ml.{family}.xlarge") for family in own.split())
    assert not any(has_local_storage(f"ml.{family}.xlarge") for family in other.split())


def test_the_sdk_knows_the_same_types_with_disks_of_their_own() -> None:
    """It takes some that it has not heard of for types that need a volume; the others agree."""
    from botocore.loaders import Loader
    from sagemaker.core.common_utils import volume_size_supported

    shapes = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    types = {
        *shapes["TrainingInstanceType"]["enum"],
        *shapes["ProductionVariantInstanceType"]["enum"],
    }
    differ = {each for each in types if has_local_storage(each) == volume_size_supported(each)}
    assert {each.split(".")[1] for each in differ} <= {"p6-b300", "p6e-gb200", "g7"}


def test_ec2_knows_the_same_disks_of_the_same_size() -> None:
    """moto carries what EC2's DescribeInstanceTypes answers."""
    from botocore.loaders import Loader
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    shapes = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    shape_of_each_use = ("TrainingInstanceType", "ProductionVariantInstanceType")
    types = {each for name in shape_of_each_use for each in shapes[name]["enum"]}
    disks = {
        each: INSTANCE_TYPES[each.removeprefix("ml.")].get("InstanceStorageInfo", {})
        for each in types
        if each.removeprefix("ml.") in INSTANCE_TYPES
    }
    assert len(disks) > 150
    assert {each for each in disks if disks[each]} == set(filter(has_local_storage, disks))
    sizes = {each: disk["TotalSizeInGB"] for each, disk in disks.items() if disk}
    assert {each: sizes[each] for each in LOCAL_GB} == LOCAL_GB
    trained = {each for each in sizes if each in shapes["TrainingInstanceType"]["enum"]}
    assert {each for each in trained - LOCAL_GB.keys() if "trn" not in each} == set()


@pytest.mark.parametrize("operation", ["CreateTrainingJob", "CreateHyperParameterTuningJob"])
def test_a_run_of_more_than_five_days_says_that_the_quota_is_less(operation: str) -> None:
    def told(hours: int, enough: tuple[str, ...] = ()) -> list[str]:
        definition = {**training(), "StoppingCondition": {"MaxRuntimeInSeconds": hours * 3600}}
        search = operation == "CreateHyperParameterTuningJob"
        given = {"TrainingJobDefinition": definition} if search else definition
        return notices((operation, given), enough)

    quota = "Longest run time for a training job"
    assert told(120) == []
    (notice,) = told(121)
    assert "backend.max_run_hours: 121 " in notice and f"'{quota}'" in notice
    assert told(121, (quota,)) == []


def test_a_warm_pool_says_that_its_quota_is_none() -> None:
    (notice,) = notices(
        ("CreateTrainingJob", training(**resources("ml.c5.xlarge", KeepAlivePeriodInSeconds=60)))
    )
    assert "'ml.c5.xlarge for training warm pool usage'" in notice
    assert notices(("CreateTrainingJob", training())) == []


def test_nothing_is_said_of_a_quota_that_was_seen_to_be_enough() -> None:
    kept = training(**resources("ml.c5.xlarge", KeepAlivePeriodInSeconds=60))
    assert notices(("CreateTrainingJob", kept), {"ml.c5.xlarge for training warm pool usage"}) == []
