"""SageMaker Pipelines in the tests' account: definitions are taken or refused as a whole, and
executions go on by themselves, a step at a time, whenever somebody looks.

References are resolved against what the Describe calls of the steps' jobs answer, and nothing else
is. A step whose reference leads nowhere fails, as on AWS, when it is its turn, not before.
"""

from __future__ import annotations

import json
import re
import secrets
import string
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waiting import until

if TYPE_CHECKING:
    from sagemaker_account import Account

ARN = "arn:aws:sagemaker:us-east-1:123456789012"

_CREATES = {
    "Training": ("CreateTrainingJob", "TrainingJobName", "TrainingJob"),
    "Tuning": ("CreateHyperParameterTuningJob", "HyperParameterTuningJobName", "TuningJob"),
}
_STATUS = {"Training": "TrainingJobStatus", "Tuning": "HyperParameterTuningJobStatus"}


class PipelineFails(Exception):
    """A step could not be started."""


class Pipelines:
    """The part of an account that holds pipelines.

    Attributes:
        pipelines: By name, as they were asked for.
        executions: By ARN: status, steps, and the definition that it was started with.
        packages: Versions in the model registry, by group.
    """

    pipelines: dict[str, dict[str, Any]]
    executions: dict[str, dict[str, Any]]
    packages: dict[str, list[dict[str, Any]]]

    def __init__(self) -> None:
        self.pipelines, self.executions, self.packages = {}, {}, {}
        self._answers: dict[str, dict[str, Any]] = {}

    def forget_pipelines(self) -> None:
        for each in (self.pipelines, self.executions, self.packages, self._answers):
            each.clear()  # type: ignore[attr-defined]

    def _CreatePipeline(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name, token = asked["PipelineName"], asked["ClientRequestToken"]
        if token in self._answers:
            return dict(self._answers[token])
        if name in self.pipelines:
            self.fail(
                "ValidationException",
                "Pipeline names must be unique within an AWS account and region. Pipeline with"
                f" name ({name}) already exists.",
            )
        arn = f"{ARN}:pipeline/{name}"
        self.tags[arn] = list(asked.get("Tags", []))
        self.born(name)
        self.pipelines[name] = {**asked, "PipelineArn": arn, "CreationTime": time.time()}
        return self._answers.setdefault(token, {"PipelineArn": arn})

    def _DescribePipeline(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["PipelineName"]
        if name not in self.pipelines or not self.is_found(name):
            self.fail("ResourceNotFound", f"Pipeline '{ARN}:pipeline/{name}' does not exist.")
        kept = ("ClientRequestToken", "Tags")
        found = {key: item for key, item in self.pipelines[name].items() if key not in kept}
        return {**found, "PipelineStatus": "Active"}

    def _DeletePipeline(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._DescribePipeline(asked)
        return {"PipelineArn": self.pipelines.pop(asked["PipelineName"])["PipelineArn"]}

    def _StartPipelineExecution(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        token = asked["ClientRequestToken"]
        if token in self._answers:
            return dict(self._answers[token])
        self._DescribePipeline(asked)
        pipeline = self.pipelines[asked["PipelineName"]]
        identity = "".join(secrets.choice(string.ascii_lowercase) for _ in range(12))
        arn = f"{pipeline['PipelineArn']}/execution/{identity}"
        self.executions[arn] = {
            "PipelineArn": pipeline["PipelineArn"],
            "PipelineExecutionArn": arn,
            "PipelineExecutionStatus": "Executing",
            "CreationTime": time.time(),
            "definition": json.loads(pipeline["PipelineDefinition"]),
            "role": pipeline["RoleArn"],
            "steps": {},
        }
        return self._answers.setdefault(token, {"PipelineExecutionArn": arn})

    def _DescribePipelineExecution(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self._advanced(asked["PipelineExecutionArn"])
        hidden = ("definition", "role", "steps")
        return {key: item for key, item in found.items() if key not in hidden}

    def _ListPipelineExecutions(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._DescribePipeline(asked)
        arn = self.pipelines[asked["PipelineName"]]["PipelineArn"]
        mine = [each for each in self.executions.values() if each["PipelineArn"] == arn]
        listed = [
            {
                "PipelineExecutionArn": each["PipelineExecutionArn"],
                "PipelineExecutionStatus": self._advanced(each["PipelineExecutionArn"])[
                    "PipelineExecutionStatus"
                ],
                "StartTime": each["CreationTime"],
            }
            for each in mine[::-1]
        ]
        return {"PipelineExecutionSummaries": listed[: asked.get("MaxResults", 10)]}

    def _ListPipelineExecutionSteps(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self._advanced(asked["PipelineExecutionArn"])
        steps = [
            {key: item for key, item in step.items() if key != "name"}
            for step in found["steps"].values()
        ]
        order = asked.get("SortOrder", "Descending")
        steps = steps if order == "Ascending" else steps[::-1]
        first = int(asked.get("NextToken", 0))
        more = {"NextToken": str(first + 1)} if first + 1 < len(steps) else {}
        return {"PipelineExecutionSteps": steps[first : first + 1], **more}

    def _StopPipelineExecution(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        execution = self.executions[asked["PipelineExecutionArn"]]
        execution["PipelineExecutionStatus"] = "Stopping"
        for step in execution["steps"].values():
            if step["StepStatus"] == "Executing":
                step["StepStatus"] = "Stopping"
                kind = self._kind(execution, step)
                self._job(kind, step["name"])[_STATUS[kind]] = "Stopping"
        return {"PipelineExecutionArn": asked["PipelineExecutionArn"]}

    def _RetryPipelineExecution(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        """As in dg/run-pipeline.html: one that was stopped is resumed from where it was, one that
        failed from the step that failed."""
        execution = self.executions[asked["PipelineExecutionArn"]]
        if execution["PipelineExecutionStatus"] not in ("Failed", "Stopped"):
            self.fail("ValidationException", "only failed or stopped executions can be retried")
        kept = execution["steps"].items()
        execution["steps"] = {n: s for n, s in kept if s["StepStatus"] == "Succeeded"}
        execution["PipelineExecutionStatus"] = "Executing"
        execution.pop("FailureReason", None)
        return {"PipelineExecutionArn": asked["PipelineExecutionArn"]}

    def _CreateModelPackageGroup(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.packages.setdefault(asked["ModelPackageGroupName"], [])
        return {"ModelPackageGroupArn": f"{ARN}:model-package-group/x"}

    def _DescribeModelPackageGroup(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["ModelPackageGroupName"]
        if name not in self.packages:
            self.fail("ValidationException", f"ModelPackageGroup {name} does not exist.")
        return {"ModelPackageGroupName": name}

    def _CreateModelPackage(self: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        group = asked["ModelPackageGroupName"]
        self._DescribeModelPackageGroup(asked)
        self.packages[group].append(asked)
        return {"ModelPackageArn": f"{ARN}:model-package/{group}/{len(self.packages[group])}"}

    # What Pipelines does by itself.

    def _advanced(self: Any, arn: str) -> dict[str, Any]:
        """Return an execution after whatever it can do by now."""
        if arn not in self.executions:
            self.fail("ResourceNotFound", f"Pipeline execution with ARN {arn} does not exist.")
        execution: dict[str, Any] = self.executions[arn]
        for step in execution["steps"].values():
            self._look_at(execution, step)
        states = [step["StepStatus"] for step in execution["steps"].values()]
        if execution["PipelineExecutionStatus"] == "Stopping":
            if not {"Executing", "Stopping"} & set(states):
                execution["PipelineExecutionStatus"] = "Stopped"
        elif execution["PipelineExecutionStatus"] == "Executing":
            if "Failed" in states or "Stopped" in states:
                execution["PipelineExecutionStatus"] = "Failed"
                reason = "Step failure: One or multiple steps failed."
                execution["FailureReason"] = reason
            elif len(states) == len(execution["definition"]["Steps"]) and set(states) == {
                "Succeeded"
            }:
                execution["PipelineExecutionStatus"] = "Succeeded"
            else:
                self._start_next(execution)
        return execution

    def _look_at(self: Any, execution: dict[str, Any], step: dict[str, Any]) -> None:
        kind = self._kind(execution, step)
        if kind == "RegisterModel" or step["StepStatus"] not in ("Executing", "Stopping"):
            return
        job = self._job(kind, step["name"])
        ended = {"Completed": "Succeeded", "Failed": "Failed", "Stopped": "Stopped"}
        # A job that was stopped by hand fails its step.
        state = ended.get(job[_STATUS[kind]])
        if state == "Stopped" and step["StepStatus"] == "Executing":
            state = "Failed"
        if state:
            step["StepStatus"] = state
            if state == "Failed":
                told = job.get("FailureReason", "job was stopped")
                step["FailureReason"] = f"ClientError: {told}"

    def _start_next(self: Any, execution: dict[str, Any]) -> None:
        steps = execution["steps"]
        done = {name for name, step in steps.items() if step["StepStatus"] == "Succeeded"}
        for wanted in execution["definition"]["Steps"]:
            if wanted["Name"] not in steps and _needs(wanted) <= done:
                self._start_step(execution, wanted)

    def _start_step(self: Any, execution: dict[str, Any], wanted: dict[str, Any]) -> None:
        kind, name = wanted["Type"], wanted["Name"]
        step = {"StepName": name, "StartTime": time.time(), "StepStatus": "Executing"}
        execution["steps"][name] = step
        try:
            asked = self._resolved(execution, wanted["Arguments"])
            if kind == "RegisterModel":
                arn = self._called("CreateModelPackage", asked)["ModelPackageArn"]
                step["Metadata"] = {"RegisterModel": {"Arn": arn}}
                step["StepStatus"] = "Succeeded"
                return
            operation, named, metadata = _CREATES[kind]
            identity = execution["PipelineExecutionArn"].rpartition("/")[2]
            token = "".join(secrets.choice(string.ascii_letters) for _ in range(10))
            step["name"] = f"pipelines-{identity}-{name}-{token}"[: 32 if kind == "Tuning" else 63]
            answer = self._called(operation, {named: step["name"], **asked})
            (arn,) = answer.values()
            step["Metadata"] = {metadata: {"Arn": arn}}
        except Exception as error:
            step |= {"StepStatus": "Failed", "FailureReason": f"ClientError: {error}"}

    def _called(self: Any, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a call as the pipeline's role does, by the same rules as anybody's."""
        from sagemaker_account import refuse_what_aws_refuses

        if operation in self.refuse:
            self.fail(*self.refuse[operation])
        refuse_what_aws_refuses("sagemaker", operation, asked)
        answer: dict[str, Any] = getattr(self, f"_{operation}")(asked)
        return answer

    def _resolved(self: Any, execution: dict[str, Any], value: Any) -> Any:
        if isinstance(value, list):
            return [self._resolved(execution, item) for item in value]
        if not isinstance(value, dict):
            return value
        if list(value) == ["Get"]:
            return self._property(execution, value["Get"])
        if list(value) == ["Std:Join"]:
            join = value["Std:Join"]
            return join["On"].join(str(self._resolved(execution, v)) for v in join["Values"])
        return {name: self._resolved(execution, item) for name, item in value.items()}

    def _property(self: Any, execution: dict[str, Any], reference: str) -> Any:
        kind, name, path = re.fullmatch(r"(Steps)\.([^.]+)\.(.+)", reference).groups()  # type: ignore[union-attr]
        assert kind == "Steps"
        step = execution["steps"][name]
        kind = self._kind(execution, step)
        found = (
            self._DescribeTrainingJob({"TrainingJobName": step["name"]})
            if kind == "Training"
            else self._DescribeHyperParameterTuningJob(
                {"HyperParameterTuningJobName": step["name"]}
            )
        )
        for part in re.findall(r"[^.\[\]']+", path):
            if part not in found:
                raise PipelineFails(f"Unable to resolve {reference}")
            found = found[part]
        return found

    def _kind(self: Any, execution: dict[str, Any], step: dict[str, Any]) -> str:
        steps = execution["definition"]["Steps"]
        return next(str(each["Type"]) for each in steps if each["Name"] == step["StepName"])

    def _job(self: Any, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.training if kind == "Training" else self.tuning)[name]
        return found


def _needs(step: dict[str, Any]) -> set[str]:
    text = json.dumps(step["Arguments"])
    return {*step.get("DependsOn", []), *re.findall(r'"Steps\.([^.]+)\.', text)}


def started(account: Account, step: str) -> str | None:
    """Return the name of the job that a step of the newest execution became; None if of none."""
    with account.lock:
        for execution in list(account.executions.values())[::-1]:
            found = execution["steps"].get(step, {})
            return found.get("name")
    return None


def search_ends(
    account: Account, objectives: tuple[float, ...] = (0.5, 0.75), lr: float = 0.01
) -> str:
    """Have the step of the search come to its end; returns its job."""
    search = until(lambda: started(account, "search"))
    for number, objective in enumerate(objectives):
        values = {"optim__lr": repr(lr * (number + 1)), "data__batch_size": "32"}
        account.add_trial(search, values, objective)
    account.end_tuning(search)
    return str(search)


def training_ends(account: Account, left: Path) -> str:
    """Have the step that trains the best leave a run directory; returns its job."""
    job = str(until(lambda: started(account, "train")))
    from sagemaker_account import leave, say

    leave(left, f"{account.training[job]['CheckpointConfig']['S3Uri']}/{job}", without="trials")
    say(job, "epoch 1/2", "epoch 2/2")
    account.end_training(job)
    return job


def look(account: Account) -> None:
    """Let time pass: executions go on whenever somebody looks."""
    with account.lock:
        for arn in list(account.executions):
            account._DescribePipelineExecution({"PipelineExecutionArn": arn})
