"""SageMaker's model registry: versions of a model in a group, with their metrics, origin and
approval."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker import limits
from breedlab.backends.sagemaker.endpoints.endpoint import Deployment, container
from breedlab.backends.sagemaker.endpoints.inference_image import SERVING_PYTORCH
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.sending import is_missing, is_there_already, send
from breedlab.backends.sagemaker.session import aws_errors, client, region_flag, split_uri
from breedlab.backends.sagemaker.tags import as_request, own_tags, tag_value
from breedlab.errors import BackendError
from breedlab.files import read_json_if_whole

if TYPE_CHECKING:
    import boto3

APPROVALS = {"pending": "PendingManualApproval", "approved": "Approved", "rejected": "Rejected"}
_CONTENT_TYPES = [
    "image/jpeg",
    "image/png",
    "image/webp",
    "application/x-image",
    "application/json",
]
_ANSWERS = ["application/json", "application/x-npy"]
_MOST_PROPERTIES = 50
_GROUP = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
_PACKAGE = re.compile(
    rf"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{{12}}:model-package/(?P<group>{_GROUP})/(?P<version>\d+)"
)


@dataclass(frozen=True)
class Version:
    """A version in the registry.

    Attributes:
        arn: The model package's.
        group: Its group.
        number: Its number there.
        approval: As AWS has it.
        model: The archive's address in S3.
        image: The container's.
    """

    arn: str
    group: str
    number: int
    approval: str
    model: str
    image: str

    def __str__(self) -> str:
        return f"{self.group}:{self.number}"


def is_group(name: str) -> bool:
    """Return whether AWS takes this for a group's name."""
    return re.fullmatch(_GROUP, name) is not None


def is_reference(text: str) -> bool:
    """Return whether this names a version: GROUP, GROUP:NUMBER or a model package's ARN."""
    return (
        _PACKAGE.fullmatch(text) is not None
        or re.fullmatch(rf"{_GROUP}(:[1-9]\d*)?", text) is not None
    )


def requests(
    deployment: Deployment,
    group: str,
    approval: str,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
) -> list[Request]:
    """Return what registers a model: its group, which may be there already, and the new version.

    Args:
        deployment: Image, archive and instances, as they would be deployed.
        group: The group's name.
        approval: One of `APPROVALS`.
        lineage: Where the model comes from, as its archive says.
        metrics: The run's metrics.json, None for a bare archive.
    """
    experiment = dict(deployment.own_tags).get("breedlab:experiment")
    tags = (*deployment.tags, *own_tags(experiment=experiment))
    parameters: dict[str, Any] = {
        "ModelPackageGroupName": group,
        "ModelApprovalStatus": APPROVALS[approval],
        "InferenceSpecification": {
            "Containers": [
                {
                    **container(deployment),
                    "Framework": "PYTORCH",
                    "FrameworkVersion": SERVING_PYTORCH,
                }
            ],
            "SupportedContentTypes": _CONTENT_TYPES,
            "SupportedResponseMIMETypes": _ANSWERS,
            "SupportedRealtimeInferenceInstanceTypes": [deployment.instance_type],
            **_transform_types(deployment.instance_type),
        },
        # A version of a group has the group's tags and takes none.
        "CustomerMetadataProperties": properties(lineage, metrics),
    }
    if commit := (lineage.get("git") or {}).get("commit"):
        parameters["MetadataProperties"] = {
            "CommitId": str(commit),
            "GeneratedBy": str(lineage.get("run", "breedlab")),
        }
    if metrics is not None:
        uri = metrics_uri(deployment)
        parameters["ModelMetrics"] = {
            "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": uri}}
        }
    own = {"ModelPackageGroupName": group, "Tags": as_request(tags)}
    return [
        Request("CreateModelPackageGroup", own),
        Request("CreateModelPackage", parameters),
    ]


def _transform_types(instance_type: str) -> dict[str, list[str]]:
    """Return the member that says on which instances a batch job runs, which a version may leave
    out; empty for a type that answers only behind endpoints, such as those with ARM processors."""
    types = limits.values_of("sagemaker", "TransformInstanceType")
    return {"SupportedTransformInstanceTypes": [instance_type]} if instance_type in types else {}


def properties(lineage: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> dict[str, str]:
    """Return lineage and metrics as AWS takes them: short texts by short names, 50 at most."""
    flat = dict(_leaves("metrics", ((metrics or {}).get("test") or {}).get("metrics") or {}))
    flat |= dict(_leaves("lineage", lineage))
    texts = {name: tag_value(str(value)).strip() for name, value in flat.items()}
    properties = [(name, text) for name, text in texts.items() if text]
    return dict(properties[:_MOST_PROPERTIES])


def metrics_uri(deployment: Deployment) -> str:
    """Return the address of a version's metrics, next to its archive."""
    return f"{deployment.model.rpartition('/')[0]}/metrics.json"


def register(account: boto3.Session, requests: list[Request]) -> Version:
    """Register a model whose archive is in S3.

    Args:
        account: The session.
        requests: What `requests` made.

    Raises:
        BackendError: If AWS refuses.
    """
    group, package = requests
    ensure_group(account, group)
    with aws_errors(f"a version of {group.name}"):
        arn = str(send(account, package)["ModelPackageArn"])
    return find(account, arn, approved=False)


def ensure_group(account: boto3.Session, group: Request) -> None:
    """Create a group, if it is not there yet.

    Raises:
        BackendError: If AWS refuses.
    """
    from botocore.exceptions import ClientError

    with aws_errors(f"model package group {group.name}"):
        try:
            client(account, "sagemaker").describe_model_package_group(
                ModelPackageGroupName=group.name
            )
        except ClientError as error:
            if not (is_missing(error) or "does not exist" in str(error)):
                raise
            try:
                send(account, group)
            except ClientError as twice:
                # a colleague's, or the answer to our first attempt got lost
                if not is_there_already(twice):
                    raise


def find(account: boto3.Session, reference: str, approved: bool = True) -> Version:
    """Return a version: of a group alone the newest that is approved.

    Args:
        account: The session.
        reference: GROUP, GROUP:NUMBER, or a model package's ARN.
        approved: Whether it has to be approved.

    Raises:
        BackendError: If there is none, or it is not approved.
    """
    sagemaker = client(account, "sagemaker")
    group, _, number = reference.partition(":")
    with aws_errors(f"--from-registry {reference}"):
        if reference.startswith("arn:"):
            arn = reference
        elif number:
            arn = _arn(account, group, number)
        else:
            page = sagemaker.list_model_packages(
                ModelPackageGroupName=group,
                ModelApprovalStatus="Approved",
                SortBy="CreationTime",
                SortOrder="Descending",
                MaxResults=1,
            )
            if not page["ModelPackageSummaryList"]:
                raise BackendError(
                    f"--from-registry {group}: has no approved version in {account.region_name};"
                    f" approve one, or name it: --from-registry {group}:1"
                )
            arn = page["ModelPackageSummaryList"][0]["ModelPackageArn"]
        described = sagemaker.describe_model_package(ModelPackageName=arn)
    version = _version(described)
    if approved and version.approval != "Approved":
        raise BackendError(
            f"--from-registry {reference}: version {version} is {version.approval}; approve it"
            f" first: aws sagemaker update-model-package{region_flag(account.region_name)}"
            f" --model-package-arn {version.arn} --model-approval-status Approved"
        )
    return version


def download(account: boto3.Session, version: Version, folder: Path) -> Path:
    """Write a version's archive into a folder."""
    bucket, key = split_uri(version.model)
    archive = folder / "model.tar.gz"
    with aws_errors(version.model):
        client(account, "s3").download_file(bucket, key, str(archive))
    return archive


def metrics_of(run: Path) -> dict[str, Any] | None:
    """Return a run's metrics; None for a bare archive."""
    tree: dict[str, Any] | None = read_json_if_whole(run / "metrics.json") if run.is_dir() else None
    return tree


def upload_metrics(
    account: boto3.Session, deployment: Deployment, metrics: Mapping[str, Any]
) -> None:
    """Write metrics next to the archive, where the registry's pages read them."""
    from breedlab.backends.sagemaker.upload import encryption

    uri = metrics_uri(deployment)
    bucket, key = split_uri(uri)
    with aws_errors(uri):
        body = json.dumps(metrics).encode()
        client(account, "s3").put_object(
            Bucket=bucket, Key=key, Body=body, **encryption(deployment.kms_key)
        )


def _arn(account: boto3.Session, group: str, number: str) -> str:
    partition, owner = _owner(account)
    return f"arn:{partition}:sagemaker:{account.region_name}:{owner}:model-package/{group}/{number}"


def _owner(account: boto3.Session) -> tuple[str, str]:
    identity = client(account, "sts").get_caller_identity()
    return str(identity["Arn"]).split(":")[1], str(identity["Account"])


def _version(described: Mapping[str, Any]) -> Version:
    arn = str(described["ModelPackageArn"])
    match = _PACKAGE.fullmatch(arn)
    containers = described.get("InferenceSpecification", {}).get("Containers", [])
    if match is None or len(containers) != 1 or "ModelDataUrl" not in containers[0]:
        raise BackendError(
            f"--from-registry: {arn} holds no model registered by breedlab; name another version"
        )
    return Version(
        arn=arn,
        group=match["group"],
        number=int(match["version"]),
        approval=str(described.get("ModelApprovalStatus", "not approved")),
        model=containers[0]["ModelDataUrl"],
        image=containers[0]["Image"],
    )


def _leaves(path: str, tree: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the plain values of a tree by their paths, lists left out."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{path}.{tag_value(str(key))}"[:128]
        if isinstance(value, Mapping):
            leaves += _leaves(name, value)
        elif value is not None and not isinstance(value, list | tuple):
            leaves.append((name, f"{value:.6g}" if isinstance(value, float) else value))
    return leaves
