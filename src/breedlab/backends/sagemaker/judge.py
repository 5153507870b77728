"""Everything that AWS is known to refuse in a call: by its API's model, by its documentation, and
inside the definition of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from breedlab.backends.sagemaker import pipeline_definition
from breedlab.backends.sagemaker.documented_limits import documented
from breedlab.backends.sagemaker.limits import Call, violations


def refusals(
    service: str, operation: str, parameters: Mapping[str, Any], before: Sequence[Call] = ()
) -> list[tuple[str, str]]:
    """Return the path and the message of everything that AWS would refuse in a call.

    Args:
        service: Such as `sagemaker`.
        operation: The call.
        parameters: Its parameters, without placeholders.
        before: The calls that were made before it.
    """
    problems = violations(service, operation, parameters)
    problems += documented((operation, parameters), before)
    if operation in ("CreatePipeline", "UpdatePipeline") and "PipelineDefinition" in parameters:
        problems += pipeline_definition.refusals(str(parameters["PipelineDefinition"]), before)
    return problems
