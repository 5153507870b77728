"""What AWS takes for a pipeline's definition, by its own SDK and by what it is known to refuse."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from test_dry_run import requests_in

from breedlab.backends.sagemaker.judge import refusals
from breedlab.backends.sagemaker.pipeline_definition import properties
from breedlab.cli.launch import main

Definition = dict[str, Any]


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Definition:
    """The definition that a dry run prints: search, training, registering."""
    import io
    from contextlib import redirect_stdout

    place = ["backend.region=us-east-1", "backend.bucket=dogs-bucket"]
    role = "backend.role=arn:aws:iam::123456789012:role/SageMakerRole"
    words = ["experiment=resnet34_hpo", "backend=sagemaker", "dry_run=true", *place, role]
    words += ["backend.trials=job_each", "backend.orchestrate=pipeline", "backend.register_in=dogs"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(tmp_path_factory.mktemp("plan"))
        assert main(words) == 0
    sent = dict(requests_in(out.getvalue()))
    assert list(sent) == ["CreateModelPackageGroup", "CreatePipeline", "StartPipelineExecution"]
    found: Definition = sent["CreatePipeline"]["PipelineDefinition"]
    return found


def refused(definition: Definition) -> list[str]:
    request = {
        "PipelineName": "dogs",
        "PipelineDefinition": json.dumps(definition),
        "ClientRequestToken": "0" * 32,
        "RoleArn": "arn:aws:iam::123456789012:role/SageMakerRole",
    }
    return [f"{path}: {text}" for path, text in refusals("sagemaker", "CreatePipeline", request)]


def test_what_we_send_is_taken(definition: Definition) -> None:
    assert refused(definition) == []


def test_the_sdks_own_pipeline_writes_the_same(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDK v3's `Pipeline`, given steps of the same types, arguments, and references."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # which the SDK asks for when imported
    pytest.importorskip("sagemaker.mlops")
    from unittest.mock import MagicMock

    from sagemaker.core.workflow.functions import Join
    from sagemaker.core.workflow.properties import Properties
    from sagemaker.mlops.workflow.pipeline import Pipeline
    from sagemaker.mlops.workflow.steps import Step, StepTypeEnum

    class Made(Step):  # type: ignore[misc]
        def __init__(self, name: str, kind: Any, shape: str, arguments: dict[str, Any]) -> None:
            super().__init__(name, step_type=kind)
            self._arguments = arguments
            self._properties = Properties(step_name=name, step=self, shape_name=shape)

        @property
        def arguments(self) -> dict[str, Any]:
            return self._arguments

        @property
        def properties(self) -> Any:
            return self._properties

    search, train, register = (copy.deepcopy(step["Arguments"]) for step in definition["Steps"])
    tuning = Made("search", StepTypeEnum.TUNING, "DescribeHyperParameterTuningJobResponse", search)
    best = tuning.properties.BestTrainingJob.TunedHyperParameters
    train["HyperParameters"] = {
        name: Join(on="", values=[best[name]]) for name in train["HyperParameters"]
    }
    training = Made("train", StepTypeEnum.TRAINING, "DescribeTrainingJobResponse", train)
    (container,) = register["InferenceSpecification"]["Containers"]
    container["ModelDataUrl"] = training.properties.ModelArtifacts.S3ModelArtifacts
    statistics = register["ModelMetrics"]["ModelQuality"]["Statistics"]
    folder, _, file = statistics["S3Uri"]["Std:Join"]["Values"]
    statistics["S3Uri"] = Join(on="/", values=[folder, training.properties.TrainingJobName, file])
    version = Made("register", StepTypeEnum.REGISTER_MODEL, "DescribeModelPackageOutput", register)
    made = json.loads(
        Pipeline(
            name="dogs",
            steps=[tuning, training, version],
            pipeline_experiment_config=None,
            sagemaker_session=MagicMock(),
        ).definition()
    )
    unset = ("PipelineExperimentConfig", "MlflowConfig")
    assert {name: made.pop(name) for name in unset} == dict.fromkeys(unset)
    assert made == definition


LR = "Steps.1.Arguments.HyperParameters.lr"
WRITTEN = "Steps.1.Arguments.OutputDataConfig.S3OutputPath"
MACHINE = "Steps.1.Arguments.ResourceConfig"


def get(reference: str) -> dict[str, str]:
    return {"Get": reference}


def best(path: str) -> dict[str, str]:
    return get(f"Steps.search.BestTrainingJob.{path}")


def join(*values: Any) -> dict[str, Any]:
    return {"Std:Join": {"On": "/", "Values": list(values)}}


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("Version", "2021-01-01", "expected '2020-12-01'"),
        ("Description", "ours", "is not a field of a pipeline definition"),
        ("Steps.1.Name", "train the best", "1 to 64 letters"),
        ("Steps.1.Name", "x" * 65, "1 to 64 letters"),
        ("Steps.1.Name", "search", "expected each name once"),
        ("Steps.1.Type", "Trainning", "expected one of Training, Tuning"),
        ("Steps.1.DependsOn", ["serach"], "expected a step of the definition"),
        ("Steps.0.DependsOn", ["train"], "depend on each other"),
        ("Steps.1.Argumnets", {}, "is not a field of a step"),
        ("Steps.1.Arguments.TrainingJobName", "dogs", "AWS gives it"),
        ("Steps.0.Arguments.HyperParameterTuningJobName", "dogs", "AWS gives it"),
        ("Steps.1.Arguments.ExperimentConfig", {}, "AWS gives it"),
        ("Steps.2.Arguments.CertifyForMarketplace", False, "AWS gives it"),
        ("Steps.2.Arguments.Tags", [{"Key": "a", "Value": "b"}], "takes no tags"),
        ("Steps.2.Arguments.ModelPackageGroupName", "dog breeds", "dog breeds"),
        ("Steps.0.Arguments.HyperParameterTuningJobConfig.Strategy", "Best", "got 'Best'"),
        ("Steps.1.Arguments.StoppingCondition.MaxRuntimeInSeconds", 0, "at least 1"),
        (f"{MACHINE}.VolumeSizeInGB", get("Parameters.GB"), "not among Parameters"),
        (f"{MACHINE}.InstanceCount", best("TrainingJobName"), "expected a whole number"),
        ("Steps.1.Arguments.RoleArn", "SageMakerRole", "got 'SageMakerRole'"),
        (
            "Steps.1.Arguments.AlgorithmSpecification.ContainerArguments",
            ["a\nb"],
            "it has a line break",
        ),
        (WRITTEN, "s3://b//x", "expected no '//'"),
        (WRITTEN, join("s3://b/", get("Execution.PipelineExecutionId")), "expected no '//'"),
        (WRITTEN, {"Std:Join": {"Value": []}}, "expected On and Values"),
        (WRITTEN, join({"a": 1}), "can join only strings, numbers"),
        (WRITTEN, get("Execution.Id"), "not a property of an execution"),
        (LR, best("TunedHyperParameters['lr']"), "does not vary"),
        (LR, best("TunedHyperParameters"), "not a single value"),
        (LR, best("TunedHyperParameters[optim__lr]"), "not written as"),
        (LR, get("Steps.search.BestTraining.TrainingJobName"), "not in the response"),
        (LR, get("Steps.look.BestTrainingJob.TrainingJobName"), "not a step of the"),
        (LR, get("Steps.train.TrainingJobName"), "the step itself"),
    ],
)
def test_what_aws_would_refuse_is_refused(
    definition: Definition, place: str, value: Any, says: str
) -> None:
    broken = copy.deepcopy(definition)
    *parents, last = place.split(".")
    node: Any = broken
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    node[last] = value
    assert any(says in text for text in refused(broken)), refused(broken)


def test_a_definition_that_is_too_large_for_a_request_is_refused(definition: Definition) -> None:
    large = copy.deepcopy(definition)
    large["Steps"][1]["Arguments"]["Environment"] = {f"V{n}": "x" * 500 for n in range(100)}
    large["Steps"][0]["Arguments"]["TrainingJobDefinition"]["Environment"] = {
        f"V{n}": "x" * 500 for n in range(100)
    }
    assert any("expected fewer than 102400" in text for text in refused(large))


@pytest.mark.parametrize("path", ["A..B", ".A", "A['b'", "A[b]", "A.['b']", "A B", "['a']B"])
def test_a_reference_is_read_as_aws_writes_it(path: str) -> None:
    assert properties("TrainingJobSummaries[0].TrainingJobName") == [
        "TrainingJobSummaries", 0, "TrainingJobName",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r".+"):
        properties(path)
