"""Limits that only AWS's documentation or its users state: no model of the API has them, and no
pattern says them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from breedlab.backends.sagemaker.endpoint_limits import (
    burstable_instances_do_not_scale,
    environment_fits,
    guardrails_suit_endpoint,
    package_environment_fits,
    provisioned_is_part_of_all,
    steps_are_part_of_the_fleet,
    transform_job_is_not_too_large,
    update_ends_in_time,
)
from breedlab.backends.sagemaker.limits import Call, Found, training_part, training_root
from breedlab.backends.sagemaker.preflight import LONGEST_RUN, warm_pool_quota
from breedlab.backends.sagemaker.search_limits import (
    enough_combinations,
    parents_have_its_hyperparameters,
    search_suits_strategy,
)
from breedlab.backends.sagemaker.storage_limits import (
    no_key_for_local_disks,
    no_volume_beside_local_disks,
    volume_fits_local_disks,
    volume_key_is_no_alias,
)


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        name: For tests and messages of tests.
        source: Where it is stated.
        says: The documentation's text.
        check: Yields what a call has against it, given the calls before it.
    """

    name: str
    source: str
    says: str
    check: Callable[[Call, Sequence[Call]], Found]


def documented(call: Call, before: Sequence[Call] = ()) -> list[tuple[str, str]]:
    """Return the path and the message of everything in a call that AWS's documentation rules
    out."""
    return [problem for limit in LIMITS for problem in limit.check(call, before)]


def _no_empty_folders(call: Call, before: Sequence[Call]) -> Found:
    def look(value: Any, path: str) -> Found:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from look(item, f"{path}.{name}".lstrip("."))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from look(item, f"{path}[{index}]")
        elif (
            isinstance(value, str)
            and value.startswith("s3://")
            and "//" in value.removeprefix("s3://")
        ):
            yield (
                path,
                f"got {value!r}; expected no '//' in a key, which SageMaker does not download",
            )

    yield from look(call[1], "")


def _no_warm_pool_with_spot(call: Call, before: Sequence[Call]) -> Found:
    definition = training_part(call)
    if definition.get("EnableManagedSpotTraining") and definition.get("ResourceConfig", {}).get(
        "KeepAlivePeriodInSeconds"
    ):
        where = f"{training_root(call)}ResourceConfig.KeepAlivePeriodInSeconds"
        yield where, "expected none with spot instances, which leave no warm pool"


def _isolated_containers_download_nothing(call: Call, before: Sequence[Call]) -> Found:
    definition = training_part(call)
    fixed = {**definition.get("HyperParameters", {}), **definition.get("StaticHyperParameters", {})}
    source = str(fixed.get("sagemaker_submit_directory", "")).strip('"')
    if definition.get("EnableNetworkIsolation") and source.startswith("s3://"):
        where = f"{training_root(call)}StaticHyperParameters.sagemaker_submit_directory"
        yield (
            where,
            (
                f"got {source!r}, which an isolated container cannot download; expected a path in a"
                " channel"
            ),
        )


def _waiting_includes_running(call: Call, before: Sequence[Call]) -> Found:
    stopping = training_part(call).get("StoppingCondition", {})
    runs, waits = stopping.get("MaxRuntimeInSeconds"), stopping.get("MaxWaitTimeInSeconds")
    where = f"{training_root(call)}StoppingCondition.MaxWaitTimeInSeconds"
    if waits is not None and runs is not None and waits < runs:
        yield where, f"got {waits}; expected at least MaxRuntimeInSeconds ({runs})"
    if waits is not None and not training_part(call).get("EnableManagedSpotTraining"):
        yield where, "expected none without EnableManagedSpotTraining"


def _job_ends_in_time(call: Call, before: Sequence[Call]) -> Found:
    stopping = training_part(call).get("StoppingCondition", {})
    if (seconds := stopping.get("MaxRuntimeInSeconds", 0)) > _LONGEST_RUN_S:
        where = f"{training_root(call)}StoppingCondition.MaxRuntimeInSeconds"
        yield where, f"got {seconds}; expected at most {_LONGEST_RUN_S}, 28 days"


def _tags_are_mine(call: Call, before: Sequence[Call]) -> Found:
    keys = [tag.get("Key", "") for tag in call[1].get("Tags", []) if isinstance(tag, Mapping)]
    for index, key in enumerate(keys):
        if key.lower().startswith("aws:"):
            yield (
                f"Tags[{index}].Key",
                f"got {key!r}; expected another beginning, since aws: is Amazon's own",
            )
        if key in keys[:index]:
            yield f"Tags[{index}].Key", f"got {key!r} twice; expected each key once"


_LONGEST_RUN_S = 28 * 24 * 3600
_BOTOCORE = "botocore's model of the API, documentation of "
_GUIDE = "https://docs.aws.amazon.com/sagemaker/latest/dg/"


def _version_has_no_tags(call: Call, before: Sequence[Call]) -> Found:
    operation, parameters = call
    if (
        operation == "CreateModelPackage"
        and "ModelPackageGroupName" in parameters
        and "Tags" in parameters
    ):
        yield "Tags", "a version of a model package group takes no tags; expected them on the group"


LIMITS = (
    Limit(
        "no // in a key",
        "https://github.com/aws-samples/generative-ai-on-amazon-sagemaker/pull/242",
        "ClientError: Data download failed: Failed to download data. S3 key: ... has an illegal"
        " char sub-sequence '//'",
        _no_empty_folders,
    ),
    Limit(
        "no key for local disks",
        _BOTOCORE
        + "ResourceConfig.VolumeKmsKeyId; of CreateEndpointConfig.KmsKeyId it says only that the"
        " key does not encrypt instance local storage",
        "You can't request a VolumeKmsKeyId when using an instance type with local storage.",
        no_key_for_local_disks,
    ),
    Limit(
        "a volume's key is no alias",
        _BOTOCORE
        + "ResourceConfig.VolumeKmsKeyId, as OutputDataConfig.KmsKeyId takes aliases, too",
        "The VolumeKmsKeyId can be in any of the following formats: KMS Key ID; Amazon Resource"
        " Name (ARN) of a KMS Key",
        volume_key_is_no_alias,
    ),
    Limit(
        "a volume fits on local disks",
        _BOTOCORE
        + "HyperParameterTuningResourceConfig.VolumeSizeInGB; of ResourceConfig's: available"
        " storage is fixed to the NVMe-type instance's storage capacity",
        "Some instance types have a fixed total local storage size. If you select one of these"
        " instances for training, VolumeSizeInGB cannot be greater than this total size.",
        volume_fits_local_disks,
    ),
    Limit(
        "no warm pool with spot",
        _GUIDE + "train-warm-pools.html",
        "SageMaker Managed Warm Pools cannot be used with spot instances.",
        _no_warm_pool_with_spot,
    ),
    Limit(
        "no volume beside local disks",
        "https://github.com/aws/sagemaker-python-sdk/pull/4828, and volume_size_supported there",
        "this instance family does not support attaching an ebs volume, hence volume size argument"
        " throws a service exception",
        no_volume_beside_local_disks,
    ),
    Limit(
        "enough combinations",
        "https://github.com/aws/amazon-sagemaker-operator-for-k8s/issues/123; of grids "
        + _GUIDE
        + "automatic-model-tuning-how-it-works.html",
        "The total number of hyperparameter combinations for the provided ranges [3.0] must be"
        " equal or greater than the value of MaxNumberOfJobs, [10]. If specified, the value of"
        " MaxNumberOfTrainingJobs should equal the total number of distinct categorical"
        " combinations possible.",
        enough_combinations,
    ),
    Limit(
        "parents have a search's hyperparameters",
        _GUIDE
        + "automatic-model-tuning-warm-start.html;"
        + " https://github.com/aws/amazon-sagemaker-examples/issues/861",
        "The set of tunable plus static HyperParameter names is not the same across current and"
        " parent tuning jobs. The type of each hyperparameter must not change. The objective metric"
        " for the new tuning job must be the same as for all parent jobs.",
        parents_have_its_hyperparameters,
    ),
    Limit(
        "an isolated container downloads nothing",
        _GUIDE + "mkt-algo-model-internet-free.html",
        "the containers can't make any outbound network calls, even to other AWS services such as"
        " Amazon S3",
        _isolated_containers_download_nothing,
    ),
    Limit(
        "waiting includes running",
        _BOTOCORE + "StoppingCondition.MaxWaitTimeInSeconds",
        "It must be equal to or greater than MaxRuntimeInSeconds.",
        _waiting_includes_running,
    ),
    Limit(
        "a job ends in time",
        _BOTOCORE + "StoppingCondition.MaxRuntimeInSeconds",
        "The maximum value is 28 days.",
        _job_ends_in_time,
    ),
    Limit(
        "a search suits its strategy",
        _BOTOCORE
        + "HyperParameterTuningJobConfig; "
        + _GUIDE
        + "automatic-model-tuning-limits.html",
        "TrainingJobEarlyStoppingType must be OFF to use Hyperband; only categorical parameters"
        " with the grid search strategy; 30 hyperparameters that can be searched; 30 values of a"
        " categorical one; logarithmic scaling works only for ranges that have only values greater"
        " than 0; of MaxResource: the maximum value is 20,000 epochs; MinValue, MaxValue: the"
        " minimum and the maximum value; reverse logarithmic scaling works only for ranges that are"
        " entirely within the range 0<=x<1.0",
        search_suits_strategy,
    ),
    Limit(
        "tags are the account's own",
        "https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html; "
        + _BOTOCORE
        + "Tag",
        "The aws: prefix is reserved for AWS use. Tag keys must be unique per resource.",
        _tags_are_mine,
    ),
    Limit(
        "guardrails for real-time and asynchronous endpoints",
        _GUIDE + "deployment-guardrails.html",
        "Deployment guardrails only apply to Asynchronous inference and Real-time inference"
        " endpoint types.",
        guardrails_suit_endpoint,
    ),
    Limit(
        "an update ends in time",
        _BOTOCORE + "BlueGreenUpdatePolicy.MaximumExecutionTimeoutInSeconds, of 28800 at most",
        "Note that the timeout value should be larger than the total waiting time specified in"
        " TerminationWaitInSeconds and WaitIntervalInSeconds.",
        update_ends_in_time,
    ),
    Limit(
        "burstable instances do not scale",
        _GUIDE + "endpoint-auto-scaling-add-console.html",
        "SageMaker doesn't support auto scaling for burstable instances such as T2, because they"
        " already allow for increased capacity under increased workloads.",
        burstable_instances_do_not_scale,
    ),
    Limit(
        "an environment fits",
        _BOTOCORE + "ContainerDefinition.Environment",
        "The maximum length of each key and value in the Environment map is 1024 bytes. The maximum"
        " length of all keys and values in the map, combined, is 32 KB.",
        environment_fits,
    ),
    Limit(
        "a version's environment fits",
        _BOTOCORE + "ModelPackageContainerDefinition.Environment",
        "We support up to 16 entries in the map.",
        package_environment_fits,
    ),
    Limit(
        "a version has its group's tags",
        _BOTOCORE + "CreateModelPackageInput.Tags",
        "If you supply ModelPackageGroupName, your model package belongs to the model group you"
        " specify and uses the tags associated with the model group. In this case, you cannot"
        " supply a tag argument.",
        _version_has_no_tags,
    ),
    Limit(
        "a transform job is not too large",
        _BOTOCORE + "TransformResources.InstanceCount, CreateTransformJobRequest.MaxPayloadInMB",
        "The default value is 1, and the maximum is 100. The value of MaxPayloadInMB cannot be"
        " greater than 100 MB. If you specify the MaxConcurrentTransforms parameter, the value of"
        " (MaxConcurrentTransforms * MaxPayloadInMB) also cannot exceed 100 MB.",
        transform_job_is_not_too_large,
    ),
    Limit(
        "steps are part of the fleet",
        _BOTOCORE + "TrafficRoutingConfig",
        "CanarySize: Value must be less than or equal to 50% of the variant's total instance"
        " count. LinearStepSize: Value must be 10-50% of the variant's total instance count.",
        steps_are_part_of_the_fleet,
    ),
    Limit(
        "provisioned concurrency is part of all",
        _BOTOCORE + "ProductionVariantServerlessConfig.ProvisionedConcurrency",
        "Should be less than or equal to MaxConcurrency.",
        provisioned_is_part_of_all,
    ),
)


_USUAL_LONGEST_RUN = 432_000
"""Seconds: the default of that quota (general reference, "Amazon SageMaker AI endpoints and
quotas")."""


def notices(call: Call, enough: Collection[str] = ()) -> list[str]:
    """Return what may make a call fail but cannot be checked from here, with the way to make sure.

    Args:
        call: The call.
        enough: The quotas that were looked at and are large enough.
    """
    return [*_long_run(call, enough), *_warm_pool(call, enough)]


def _long_run(call: Call, enough: Collection[str]) -> list[str]:
    seconds = training_part(call).get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 0)
    if seconds <= _USUAL_LONGEST_RUN or LONGEST_RUN in enough:
        return []
    return [
        f"backend.max_run_hours: {seconds / 3600:g} hours are more than the"
        f" {_USUAL_LONGEST_RUN // 3600} of an account until you raise it: request '{LONGEST_RUN}'"
        " under Service Quotas"
    ]


def _warm_pool(call: Call, enough: Collection[str]) -> list[str]:
    resources = training_part(call).get("ResourceConfig", {})
    if not resources.get("KeepAlivePeriodInSeconds"):
        return []
    if call[0] == "CreateHyperParameterTuningJob":
        # "The server always sets KeepAlivePeriodInSeconds to nil":
        # aws-controllers-k8s/sagemaker-controller, pull 176.
        return [
            "backend.keep_alive_minutes: with backend.trials=job_each no instance stays warm"
            " between trials"
        ]
    # "The default resource limit for warm pools is 0" (dg/train-warm-pools.html, Resource limits).
    quota = warm_pool_quota(str(resources.get("InstanceType")))
    if quota in enough:
        return []
    return [
        f"an account's quota of warm pools is 0 until you raise it: request '{quota}' under Service"
        " Quotas, or set backend.keep_alive_minutes=0"
    ]
