"""Create an endpoint, or update an existing one to a new model; the answer to one real image
decides, and a failure is undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import VERBOSE
from breedlab.backends.sagemaker.endpoints import endpoint as endpoints
from breedlab.backends.sagemaker.endpoints.archive_check import Answer, read_answer
from breedlab.backends.sagemaker.endpoints.autoscaling import Scaled, scale
from breedlab.backends.sagemaker.endpoints.creation import Creation
from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
from breedlab.backends.sagemaker.endpoints.first_answer import first_answer
from breedlab.backends.sagemaker.endpoints.invoke import invoke, invoke_async
from breedlab.backends.sagemaker.endpoints.lifecycle import MOVING, describe, last_log_lines, wait
from breedlab.backends.sagemaker.endpoints.ownership import refuse_foreign
from breedlab.backends.sagemaker.sending import is_denied, patiently
from breedlab.backends.sagemaker.session import aws_errors, client, region_flag, split_uri
from breedlab.backends.sagemaker.tags import as_request
from breedlab.backends.sagemaker.upload import encryption, upload_archive
from breedlab.commands import command
from breedlab.console import note, stage, warn
from breedlab.errors import BackendError, BreedlabError

if TYPE_CHECKING:
    import boto3


class RolloutFailed(BackendError):
    """A rollout failed and was undone; the message says what is left."""

    code = "BL409"


class NotAsked(BackendError):
    """The endpoint is in service, but the credentials may not ask it whether it answers."""

    code = "BL410"


class RolloutInterrupted(BreedlabError):
    """Ctrl-C while AWS is changing an endpoint; the message says how to come back to it."""

    code = "BL406"

    exit_code = 130


@dataclass(frozen=True)
class Before:
    """What an endpoint was before it was touched.

    Attributes:
        config: The name of its config.
        variant: The name of its variant.
        instance_type: None for a serverless one.
        scaled: How it scaled.
    """

    config: str
    variant: str
    instance_type: str | None
    scaled: Scaled


class Rollout:
    """One deployment into one account.

    Args:
        account: The session.
        deployment: The endpoint's target state.
        classes: The model's classes.
        image: Bytes of the image that decides.
        replaces: The endpoint that may be updated no matter who made it.
    """

    def __init__(
        self,
        account: boto3.Session,
        deployment: Deployment,
        classes: tuple[str, ...],
        image: bytes,
        replaces: str | None = None,
    ) -> None:
        self.account, self.deployment, self.classes, self.image = (
            account,
            deployment,
            classes,
            image,
        )
        self.sagemaker = client(account, "sagemaker")
        self._creation = Creation(account, deployment)
        self._replaces = replaces
        region = region_flag(account.region_name)
        self._how_to_delete = f"{command('deploy', '--delete', deployment.name)}{region}"

    def find(self) -> str | None:
        """Return the endpoint's status, None if there is none.

        Raises:
            BackendError: If it belongs to someone else, or its state does not allow an update.
        """
        with aws_errors(f"endpoint {self.deployment.name}"):
            described = describe(self.sagemaker, self.deployment.name)
            if described is None:
                return None
            status, name = described["EndpointStatus"], self.deployment.name
            if self._creation.on_its_way(described):
                return str(status)
            refuse_foreign(self.sagemaker, described, self._replaces)
        if status in MOVING:
            raise BackendError(
                f"endpoint {name}: is {status}, but not by this command; try again once it is"
                " InService"
            )
        if status != "InService":
            raise BackendError(
                f"endpoint {name}: is {status}"
                f" ({described.get('FailureReason', 'no reason given')}); remove it first:"
                f" {self._how_to_delete}"
            )
        return str(status)

    def run(self, archive: Path) -> Answer:
        """Upload, create or update, wait, test, and set up autoscaling.

        Raises:
            BackendError: If the endpoint does not come up or does not answer; by then it is gone,
                or as it was.
            RolloutInterrupted: After Ctrl-C, once a request was sent that AWS carries out.
        """
        status = self.find()
        stage("Endpoint")
        before = self._before() if status is not None else None
        # begun by an earlier call of this command, so it is ours to undo
        if status is not None and before is None:
            self._creation.adopt()
        if before is not None:
            self.deployment = replace(self.deployment, variant=before.variant)
        upload_archive(self.account, archive, self.deployment.model, self.deployment.kms_key)
        try:
            answer = self._roll_out(status, before)
        except KeyboardInterrupt as error:
            raise RolloutInterrupted(
                f"interrupted; AWS keeps working on endpoint {self.deployment.name}. The same"
                f" command follows it again, and {self._how_to_delete} removes it"
            ) from error
        if before is not None:
            self._tag()
        try:
            self._scale(before)
        except BackendError as error:
            raise BackendError(
                f"endpoint {self.deployment.name}: is in service with the new model, but"
                f" autoscaling failed: {error}"
            ) from error
        if isinstance(answer, BreedlabError):
            raise NotAsked(
                f"endpoint {self.deployment.name}: is in service and billed, but your"
                f" credentials may not test it: {answer}\nNothing was undone. With the missing"
                " permission (sagemaker:InvokeEndpoint, and for an asynchronous one, its files in"
                f" S3), the same command tests it; {self._how_to_delete} removes it"
            ) from answer
        return answer

    def _roll_out(self, status: str | None, before: Before | None) -> Answer | BreedlabError:
        """Send what is needed, wait for it, and return what the endpoint answered; undo it if it
        does not answer."""
        try:
            if before is None or before.config != self.deployment.versioned:
                if status not in MOVING:
                    self._send(before)
                self._wait()
                self._refuse_rolled_back()
            else:
                note(f"endpoint {self.deployment.name}: already has this model and these settings")
                self._wait()
            return self._ask_if_allowed()
        except BreedlabError as error:
            undone = self._undo(before)
            raise RolloutFailed(f"{error}\n{undone}") from error

    def _ask_if_allowed(self) -> Answer | BreedlabError:
        """Return the answer, or the error that only says what the caller's credentials may not
        do."""
        try:
            return self._ask()
        except BreedlabError as error:
            if is_denied(error):
                return error
            raise error.reworded(f"{error}{self._log_hint()}") from error

    def _before(self) -> Before | None:
        with aws_errors():
            described = describe(self.sagemaker, self.deployment.name)
            assert described is not None
            name = described["EndpointConfigName"]
            variants = self.sagemaker.describe_endpoint_config(EndpointConfigName=name)[
                "ProductionVariants"
            ]
            if described["EndpointStatus"] == "Creating":
                return None
            if len(variants) != 1:
                raise BackendError(
                    f"endpoint {self.deployment.name}: has {len(variants)} variants;"
                    f" {command('deploy')} updates those with one"
                )
            if self.deployment.kind == "serverless" and "InstanceType" in variants[0]:
                # "You cannot convert your instance-based, real-time endpoint to a serverless
                # endpoint": the guide.
                raise BackendError(
                    f"endpoint=serverless: endpoint {self.deployment.name} runs on instances, and"
                    " AWS cannot turn it into a serverless one; use another endpoint.name, or"
                    " delete it first"
                )
            variant = variants[0]["VariantName"]
            scaled = Scaled.of(self.account, replace(self.deployment, variant=variant))
        return Before(name, variant, variants[0].get("InstanceType"), scaled)

    def _send(self, before: Before | None) -> None:
        retain = False
        if before is not None and before.scaled.targets:
            retain = (
                self.deployment.scaling.active
                and before.instance_type == self.deployment.instance_type
            )
            # AWS refuses to change the machine under one that scales
            before.scaled.remove(self.account)
        for request in endpoints.requests(
            self.deployment, exists=before is not None, retain=retain
        ):
            self._creation.send(request)

    def _wait(self) -> None:
        """Wait until AWS is done with it, whether it succeeds or fails."""
        name = self.deployment.name
        with aws_errors(name):
            described = wait(self.sagemaker, name, self._has_begun)
        if described is None or described["EndpointStatus"] != "InService":
            reason = (described or {}).get("FailureReason", "no reason given")
            status = described["EndpointStatus"] if described else "gone"
            raise BackendError(f"endpoint {name}: {status}: {reason}{self._log_hint()}")

    def _has_begun(self, described: dict[str, Any] | None) -> bool:
        return _config_of(described) == self.deployment.versioned

    def _refuse_rolled_back(self) -> None:
        with aws_errors():
            described = describe(self.sagemaker, self.deployment.name) or {}
        if described.get("EndpointConfigName") != self.deployment.versioned:
            reason = described.get("FailureReason", "an alarm, or instances that did not start")
            raise BackendError(
                f"endpoint {self.deployment.name}: AWS rolled back to the old model"
                f" ({reason}){self._log_hint()}"
            )

    def _ask(self) -> Answer:
        """Return the answer to one image: `/ping` may be healthy without a model."""
        note(f"endpoint {self.deployment.name}: in service; testing it with one image")
        where = f"endpoint {self.deployment.name}"
        runtime, name = client(self.account, "sagemaker-runtime"), self.deployment.name
        if self.deployment.kind != "async":
            return read_answer(
                self.classes,
                *first_answer(lambda: invoke(runtime, name, self.image, VERBOSE)),
                where,
            )
        s3 = client(self.account, "s3")
        uri = self.deployment.place.uri("endpoints", name, "probe.image")
        bucket, key = split_uri(uri)
        with aws_errors(uri):
            s3.put_object(
                Bucket=bucket, Key=key, Body=self.image, **encryption(self.deployment.kms_key)
            )
        return read_answer(
            self.classes,
            *first_answer(lambda: invoke_async(runtime, s3, name, uri, VERBOSE)),
            where,
        )

    def _tag(self) -> None:
        """Have an endpoint that was updated say what it serves now, and whose it is."""
        name, tags = self.deployment.name, (*self.deployment.tags, *self.deployment.own_tags)
        try:
            with aws_errors(f"tags of endpoint {name}"):
                described = describe(self.sagemaker, name)
                if described is not None:
                    self.sagemaker.add_tags(
                        ResourceArn=described["EndpointArn"], Tags=as_request(tags)
                    )
        except BreedlabError as error:
            warn(f"endpoint {name}: kept its old tags: {error}")

    def _scale(self, before: Before | None) -> None:
        if scale(self.account, self.deployment):
            scaling = self.deployment.scaling
            note(f"scales from {scaling.least} to {scaling.most} instances")
        elif before is not None:
            before.scaled.remove(self.account)

    def _undo(self, before: Before | None) -> str:
        """Roll back, and return how that ended, as text."""
        name = self.deployment.name
        try:
            with aws_errors(name):
                if before is not None and before.config != self.deployment.versioned:
                    self._go_back(before)
                elif before is not None:
                    return f"it was left as it was; {self._how_to_delete} removes it"
                self._creation.undo()
        except BreedlabError as error:
            return f"undoing it also failed: {error}\ncheck it; {self._how_to_delete} removes it"
        if before is not None:
            return f"the endpoint still answers with its previous model ({before.config})"
        return "everything created for it was deleted; nothing remains that costs anything"

    def _go_back(self, before: Before) -> None:
        described = describe(self.sagemaker, self.deployment.name)
        if described and described["EndpointStatus"] in MOVING:
            described = wait(self.sagemaker, self.deployment.name)
        if described and described["EndpointConfigName"] != before.config:
            warn(f"rolling back to {before.config}")
            back = {"EndpointName": self.deployment.name, "EndpointConfigName": before.config}
            patiently(lambda: self.sagemaker.update_endpoint(**back))
            after = wait(
                self.sagemaker, self.deployment.name, lambda d: _config_of(d) == before.config
            )
            if after is None or (after["EndpointStatus"], after["EndpointConfigName"]) != (
                "InService",
                before.config,
            ):
                raise BackendError(
                    f"endpoint {self.deployment.name}: did not return to {before.config}"
                )
        before.scaled.restore(self.account)

    def _log_hint(self) -> str:
        lines = last_log_lines(self.account, self.deployment.name)
        group = f"\nits log is in CloudWatch: /aws/sagemaker/Endpoints/{self.deployment.name}"
        return "".join(f"\n  {line}" for line in lines) + group


def _config_of(described: dict[str, Any] | None) -> str | None:
    return None if described is None else str(described["EndpointConfigName"])
