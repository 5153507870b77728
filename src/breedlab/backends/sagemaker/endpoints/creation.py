"""What a deployment creates: sent so that a lost answer does no harm, noted before it is sent,
deleted if it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
from breedlab.backends.sagemaker.endpoints.lifecycle import MOVING, describe, remove_endpoint
from breedlab.backends.sagemaker.endpoints.ownership import remove
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.sending import is_missing, is_there_already, patiently, send
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.backends.sagemaker.tags import ENDPOINT, read_tags
from breedlab.errors import BackendError, BreedlabError, NotOurs

if TYPE_CHECKING:
    import boto3


@dataclass(frozen=True)
class Resource:
    """A model, an endpoint config or an endpoint.

    Attributes:
        kind: As boto3's methods name it.
        key: The field that holds its name.
        name: Its name.
    """

    kind: str
    key: str
    name: str

    @property
    def arn_key(self) -> str:
        return self.key.removesuffix("Name") + "Arn"

    def __str__(self) -> str:
        return f"{self.kind.replace('_', ' ')} {self.name}"


class Creation:
    """What one deployment creates in an account.

    Args:
        account: The session.
        deployment: The endpoint's target state.
    """

    def __init__(self, account: boto3.Session, deployment: Deployment) -> None:
        self.account, self.deployment = account, deployment
        self.sagemaker = client(account, "sagemaker")
        self._made: list[Resource] = []

    def resources(self) -> dict[str, Resource]:
        """Return what there is to create, by the operation that does."""
        version = self.deployment.versioned
        return {
            "CreateModel": Resource("model", "ModelName", version),
            "CreateEndpointConfig": Resource("endpoint_config", "EndpointConfigName", version),
            "CreateEndpoint": Resource("endpoint", "EndpointName", self.deployment.name),
        }

    def adopt(self) -> None:
        """Adopt what an earlier call of the same command created."""
        self._made = list(self.resources().values())

    def send(self, request: Request) -> None:
        """Send a request; a model or config of this version that already exists is this very one.

        Raises:
            BackendError: If AWS refuses, or the name is taken by something that breedlab did not
                create.
        """
        with aws_errors(self.deployment.name):
            resource = self.resources().get(request.operation)
            if resource is None:
                self._send_update(request)
            elif resource.kind == "endpoint" or not self._is_there(resource):
                self._send_create(resource, request)

    def undo(self) -> None:
        """Delete what was created; all deletions are tried, even after one is refused.

        Raises:
            BackendError: Naming what is left.
        """
        failures: list[str] = []
        for resource in reversed(self._made):
            try:
                with aws_errors(str(resource)):
                    self._delete(resource)
            except BreedlabError as error:
                failures.append(f"{resource} was not deleted: {error}")
        self._made.clear()
        if failures:
            raise BackendError("\n".join(failures))

    def _send_create(self, resource: Resource, request: Request) -> None:
        from botocore import exceptions as aws

        # before it is sent: AWS may act on a request whose answer gets lost
        self._made.append(resource)
        try:
            send(self.account, request)
        except aws.ClientError as error:
            if is_there_already(error) and self._is_ours(resource):
                return  # boto3 asked again after a lost answer
            self._made.remove(resource)
            raise
        except (aws.HTTPClientError, aws.ConnectionError):
            if not self._is_ours(resource):
                raise

    def _send_update(self, request: Request) -> None:
        from botocore import exceptions as aws

        try:
            send(self.account, request)
        except (aws.ClientError, aws.HTTPClientError, aws.ConnectionError):
            described = describe(self.sagemaker, self.deployment.name)
            if described is None or not self.on_its_way(described):
                raise

    def on_its_way(self, described: dict[str, Any]) -> bool:
        """Return whether an endpoint is working on this very deployment."""
        names = (
            [described["EndpointConfigName"]] if described["EndpointStatus"] == "Creating" else []
        )
        names.append(described.get("PendingDeploymentSummary", {}).get("EndpointConfigName"))
        return described["EndpointStatus"] in MOVING and self.deployment.versioned in names

    def _is_there(self, resource: Resource) -> bool:
        """Return whether it was created before; raise if someone else did."""
        arn = self._arn(resource)
        if arn is None:
            return False
        if read_tags(self.sagemaker, arn).get(ENDPOINT) == self.deployment.name:
            return True
        raise NotOurs(
            f"{resource}: already exists and has no tag {ENDPOINT}={self.deployment.name}, so"
            " breedlab did not create it; use another endpoint.name, or delete it"
        )

    def _is_ours(self, resource: Resource) -> bool:
        """Return whether the resource of this name is the one that was just sent."""
        if resource.kind != "endpoint":
            arn = self._arn(resource)
            return (
                arn is not None
                and read_tags(self.sagemaker, arn).get(ENDPOINT) == self.deployment.name
            )
        described = describe(self.sagemaker, resource.name)
        return (
            described is not None and described["EndpointConfigName"] == self.deployment.versioned
        )

    def _arn(self, resource: Resource) -> str | None:
        from botocore.exceptions import ClientError

        look = getattr(self.sagemaker, f"describe_{resource.kind}")
        try:
            described = patiently(lambda: look(**{resource.key: resource.name}), missing=False)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return str(described[resource.arn_key])

    def _delete(self, resource: Resource) -> None:
        if resource.kind != "endpoint":
            remove(self.sagemaker, resource.kind, {resource.key: resource.name})
        elif self._is_ours(resource):
            remove_endpoint(self.sagemaker, resource.name)
