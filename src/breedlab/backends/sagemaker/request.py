"""One call of an AWS API: a dry run prints it, the pre-flight checks it, a launch sends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One call of an AWS API, SageMaker's unless another is named."""

    operation: str
    parameters: dict[str, Any]
    service: str = "sagemaker"

    @property
    def name(self) -> str:
        """The name of the job, pipeline, or group that it is about."""
        return str(self.parameters[_NAMED[self.operation]])


_NAMED = {
    "CreateTrainingJob": "TrainingJobName",
    "CreateHyperParameterTuningJob": "HyperParameterTuningJobName",
    "CreatePipeline": "PipelineName",
    "StartPipelineExecution": "PipelineName",
    "CreateModelPackageGroup": "ModelPackageGroupName",
}
