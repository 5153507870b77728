"""The endpoints of the account that tests deploy into, and in front of each what a test puts there
as its container.

As AWS does it: an endpoint is at work for a while after each call, a failed update ends in service
with the old config, and what the container refuses comes back as a ModelError that carries its
status and words. And where it hurts: what was just made is not found for a while, answers get lost,
calls are throttled or denied, a cold container answers 503.
"""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from sagemaker_account import REGION, Account, Refusal, refuse_what_aws_refuses
from werkzeug.wrappers import Request, Response

from breedlab.backends.sagemaker.limits import Call

Container = Callable[[bytes, str, str], tuple[int, bytes, str]]
"""Answers body, content type and accept with status, body and content type."""

_ARN = f"arn:aws:sagemaker:{REGION}:123456789012"


class EndpointAccount(Account):
    """An account that serves.

    Attributes:
        models: Models by name, as they were asked for; likewise `configs` and `endpoints`.
        groups: Of the model registry: the versions of each.
        transforms: Batch jobs by name; each is done once it was looked at some times.
        container: What answers for every endpoint.
        fails: Why the next creation or update fails, None if it does not.
        scaled: Requests to Application Auto Scaling, in order.
        throttled: How many of the next calls of an operation are throttled.
        lost: Operations whose next answer gets lost after AWS acted on the request.
        denied: Operations that the caller may not call; S3's are `S3:PUT` and the like.
        cold: How many of the next invocations find the container still starting.
        unseen_for: How often what was just made is not found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, list[dict[str, Any]]] = {}
        self.transforms: dict[str, dict[str, Any]] = {}
        self.container: Container | None = None
        self.fails: str | None = None
        self.scaled: list[tuple[str, dict[str, Any]]] = []
        self.invoked: list[dict[str, str]] = []
        self.throttled: dict[str, int] = {}
        self.lost: set[str] = set()
        self.denied: set[str] = set()
        self.cold = 0
        self.unseen_for = 0
        self._unseen: dict[str, int] = {}
        self._answers = 0

    def forget(self) -> None:
        """Make it an empty account whose calls all work."""
        for kept in (
            self.requests,
            self.models,
            self.configs,
            self.endpoints,
            self.scaled,
            self.refuse,
            self.calls,
        ):
            kept.clear()
        self.groups.clear()
        self.transforms.clear()
        for kept in (
            self.invoked,
            self.throttled,
            self.lost,
            self.denied,
            self._unseen,
            self.quotas,
            self.prices,
        ):
            kept.clear()
        self.fails, self.cold, self.unseen_for, self.passes = None, 0, 0, "allowed"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        operation = _operation(request)
        if operation in self.denied:
            return _denied(request, operation)(environ, start_response)
        if self.throttled.get(operation, 0) > 0:
            self.throttled[operation] -= 1
            refusal = {"__type": "ThrottlingException", "message": "Rate exceeded"}
            return _json(400, refusal)(environ, start_response)
        if operation in self.lost:
            self.lost.remove(operation)
            list(self._answered(environ, request, start_response))
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        return self._answered(environ, request, start_response)

    def _answered(
        self, environ: dict[str, Any], request: Request, start_response: Any
    ) -> Iterable[bytes]:
        if request.path.startswith("/endpoints/"):
            return self._invoke(request)(environ, start_response)
        target = request.headers.get("X-Amz-Target", "")
        if target.startswith("AnyScaleFrontendService."):
            body = request.get_data()
            operation, parameters = target.partition(".")[2], json.loads(body or b"{}")
            self.scaled.append((operation, parameters))
            try:
                refuse_what_aws_refuses("application-autoscaling", operation, parameters)
            except Refusal as error:
                return _error(400, error.code, {"message": str(error)})(environ, start_response)
            environ["wsgi.input"] = io.BytesIO(body)  # for moto to read again
            if target.endswith(".ListTagsForResource"):  # which moto does not know
                tags = [
                    asked["Tags"]
                    for name, asked in self.scaled
                    if "Tags" in asked and name.startswith("Register")
                ]
                return _json(200, {"Tags": tags[-1] if tags else {}})(environ, start_response)
        return super().__call__(environ, start_response)

    def before(self) -> list[Call]:
        configs = [("CreateEndpointConfig", config) for config in self.configs.values()]
        return [*super().before(), *configs]

    def _invoke(self, request: Request) -> Response:
        _, _, name, kind = request.path.split("/")
        names = (
            "Content-Type",
            "Accept",
            "X-Amzn-SageMaker-Content-Type",
            "X-Amzn-SageMaker-Accept",
        )
        self.invoked.append({key: request.headers[key] for key in names if key in request.headers})
        if name not in self.endpoints or self.endpoints[name]["EndpointStatus"] != "InService":
            return _error(
                400,
                "ValidationError",
                {"Message": f"Endpoint {name} of account 123456789012 not found."},
            )
        assert self.container is not None
        if self.cold > 0:
            self.cold -= 1
            return _error(
                503, "ServiceUnavailable", {"Message": "The container is not ready for requests."}
            )
        if kind == "invocations":
            accept = request.headers.get("Accept", "*/*")
            status, body, answered = self.container(
                request.get_data(), request.headers.get("Content-Type", ""), accept
            )
            if status == 200:
                return Response(body, 200, content_type=answered)
            told = {
                "OriginalStatusCode": status,
                "OriginalMessage": body.decode(),
                "Message": f"Received {status}",
            }
            return _error(424, "ModelError", told)
        return self._invoke_later(name, request)

    def _invoke_later(self, name: str, request: Request) -> Response:
        s3 = boto3.client("s3")
        assert self.container is not None
        bucket, _, key = (
            request.headers["X-Amzn-SageMaker-InputLocation"].removeprefix("s3://").partition("/")
        )
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        kind, accept = (
            request.headers[f"X-Amzn-SageMaker-{name}"] for name in ("Content-Type", "Accept")
        )
        status, answer, _ = self.container(body, kind, accept)
        output = self.configs[self.endpoints[name]["EndpointConfigName"]]["AsyncInferenceConfig"][
            "OutputConfig"
        ]
        self._answers += 1
        places = [
            f"{output[path]}/{self._answers}.out" for path in ("S3OutputPath", "S3FailurePath")
        ]
        bucket, _, key = places[0 if status == 200 else 1].removeprefix("s3://").partition("/")
        s3.put_object(Bucket=bucket, Key=key, Body=answer)
        headers = dict(
            zip(
                ("X-Amzn-SageMaker-OutputLocation", "X-Amzn-SageMaker-FailureLocation"),
                places,
                strict=True,
            )
        )
        return Response(
            json.dumps({"InferenceId": "1"}), 202, headers=headers, content_type="application/json"
        )

    # The API.

    def _CreateTransformJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._seen(self.models, "model", asked["ModelName"])
        job = {**asked, "TransformJobStatus": "InProgress", "_steps": 4}
        return {
            "TransformJobArn": self._make(
                self.transforms, "transform-job", asked["TransformJobName"], job
            )
        }

    def _DescribeTransformJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["TransformJobName"]
        job = self._seen(self.transforms, "transform-job", name)
        shown = {key: value for key, value in job.items() if key not in ("Tags", "_steps")}
        shown |= {"TransformJobArn": f"{_ARN}:transform-job/{name}", "CreationTime": 0}
        job["_steps"] -= 1
        if job["TransformJobStatus"] == "Stopping":
            job["TransformJobStatus"] = "Stopped"
        elif job["TransformJobStatus"] == "InProgress" and job["_steps"] <= 0:
            self._transform(job)
        return shown

    def _StopTransformJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.transforms[asked["TransformJobName"]]["TransformJobStatus"] = "Stopping"
        return {}

    def _transform(self, job: dict[str, Any]) -> None:
        """As AWS does it: a file is a request; one that is refused has no answer, and fails the job
        at its end."""
        s3 = boto3.client("s3")
        assert self.container is not None
        source = job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
        (bucket, _, key), (out, _, to) = (
            uri.removeprefix("s3://").partition("/")
            for uri in (source, job["TransformOutput"]["S3OutputPath"])
        )
        failed = False
        for each in s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            kind, accept = job["TransformInput"]["ContentType"], job["TransformOutput"]["Accept"]
            status, answer, _ = self.container(body, kind, accept)
            failed |= status != 200
            if status == 200:
                name = f"{to.rstrip('/')}/{each['Key'].removeprefix(key)}.out"
                s3.put_object(Bucket=out, Key=name, Body=answer)
        job["TransformJobStatus"] = "Failed" if failed else "Completed"
        if failed:
            job["FailureReason"] = "ClientError: See job logs for more information"

    def _CreateModelPackageGroup(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["ModelPackageGroupName"]
        if name in self.groups:
            raise Refusal("ValidationException", "Model Package Group already exists: " + name)
        self.groups[name] = []
        return {"ModelPackageGroupArn": f"{_ARN}:model-package-group/{name}"}

    def _DescribeModelPackageGroup(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["ModelPackageGroupName"]
        if name not in self.groups:
            raise Refusal(
                "ValidationException",
                f"ModelPackageGroup {_ARN}:model-package-group/{name} does not exist.",
            )
        return {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": f"{_ARN}:model-package-group/{name}",
        }

    def _CreateModelPackage(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        versions = self.groups[self._DescribeModelPackageGroup(asked)["ModelPackageGroupName"]]
        arn = f"{_ARN}:model-package/{asked['ModelPackageGroupName']}/{len(versions) + 1}"
        versions.append({**asked, "ModelPackageArn": arn, "ModelPackageVersion": len(versions) + 1})
        return {"ModelPackageArn": arn}

    def _DescribeModelPackage(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        for versions in self.groups.values():
            for each in versions:
                if each["ModelPackageArn"] == asked["ModelPackageName"]:
                    return each
        raise Refusal(
            "ValidationException", f"ModelPackage {asked['ModelPackageName']} does not exist."
        )

    def _ListModelPackages(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        versions = self.groups[self._DescribeModelPackageGroup(asked)["ModelPackageGroupName"]]
        found = [
            each for each in versions if each["ModelApprovalStatus"] == asked["ModelApprovalStatus"]
        ]
        return {"ModelPackageSummaryList": [{**each, "CreationTime": 0} for each in found[::-1]]}

    def _UpdateModelPackage(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self._DescribeModelPackage({"ModelPackageName": asked["ModelPackageArn"]})
        found["ModelApprovalStatus"] = asked["ModelApprovalStatus"]
        return {"ModelPackageArn": asked["ModelPackageArn"]}

    def _CreateModel(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if package := asked["PrimaryContainer"].get("ModelPackageName"):
            self._DescribeModelPackage({"ModelPackageName": package})
        return {"ModelArn": self._make(self.models, "model", asked["ModelName"], asked)}

    def _CreateEndpointConfig(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        for variant in asked["ProductionVariants"]:
            self._seen(self.models, "model", variant["ModelName"])
        return {
            "EndpointConfigArn": self._make(
                self.configs, "endpoint-config", asked["EndpointConfigName"], asked
            )
        }

    def _CreateEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._seen(self.configs, "endpoint-config", asked["EndpointConfigName"])
        more = {"EndpointStatus": "Creating", "_steps": 2, "CreationTime": time.time()}
        return {
            "EndpointArn": self._make(
                self.endpoints, "endpoint", asked["EndpointName"], {**asked, **more}
            )
        }

    def _make(
        self, things: dict[str, dict[str, Any]], kind: str, name: str, asked: dict[str, Any]
    ) -> str:
        if name in things:
            raise Refusal(
                "ValidationException",
                f'Cannot create already existing {kind.replace("-", " ")} "{name}".',
            )
        things[name] = asked
        self._unseen[f"{kind}/{name}"] = self.unseen_for
        return f"{_ARN}:{kind}/{name}"

    def _seen(self, things: dict[str, dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
        """What stands under a name, once AWS's consistency has come to it."""
        what = "endpoint configuration" if kind == "endpoint-config" else kind
        left = self._unseen.get(f"{kind}/{name}", 0)
        if name not in things or left > 0:
            self._unseen[f"{kind}/{name}"] = left - 1
            raise Refusal("ValidationException", f'Could not find {what} "{_ARN}:{kind}/{name}".')
        return things[name]

    def _ListTags(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"Tags": self._by_arn(asked["ResourceArn"]).get("Tags", [])}

    def _AddTags(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        thing = self._by_arn(asked["ResourceArn"])
        tags = {tag["Key"]: tag["Value"] for tag in (*thing.get("Tags", []), *asked["Tags"])}
        thing["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        return {"Tags": thing["Tags"]}

    def _by_arn(self, arn: str) -> dict[str, Any]:
        kind, _, name = arn.rpartition(":")[2].partition("/")
        return {
            "model": self.models,
            "endpoint-config": self.configs,
            "endpoint": self.endpoints,
            "transform-job": self.transforms,
        }[kind][name]

    def _ListEndpoints(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        keys = ("EndpointName", "CreationTime", "EndpointStatus")
        found = [
            {**{key: one[key] for key in keys}, "LastModifiedTime": 0}
            for one in self.endpoints.values()
        ]
        return {
            "Endpoints": [
                {**one, "EndpointArn": f"{_ARN}:endpoint/{one['EndpointName']}"} for one in found
            ]
        }

    def _UpdateEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint = self._seen(self.endpoints, "endpoint", asked["EndpointName"])
        if endpoint["EndpointStatus"] != "InService":
            raise Refusal("ValidationException", "Cannot update in-progress endpoint.")
        self._seen(self.configs, "endpoint-config", asked["EndpointConfigName"])
        endpoint |= {
            "EndpointStatus": "Updating",
            "_steps": 2,
            "_next": asked["EndpointConfigName"],
        }
        return {"EndpointArn": f"{_ARN}:endpoint/{asked['EndpointName']}"}

    def _DescribeModel(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["ModelName"]
        return self._seen(self.models, "model", name) | {
            "ModelArn": f"{_ARN}:model/{name}",
            "CreationTime": 0,
        }

    def _DescribeEndpointConfig(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["EndpointConfigName"]
        found = self._seen(self.configs, "endpoint-config", name)
        return found | {"EndpointConfigArn": f"{_ARN}:endpoint-config/{name}", "CreationTime": 0}

    def _DescribeEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint = self._seen(self.endpoints, "endpoint", asked["EndpointName"])
        status = endpoint["EndpointStatus"]
        if status in ("Creating", "Updating", "Deleting"):
            endpoint["_steps"] -= 1
            if endpoint["_steps"] == 0:
                self._settle(asked["EndpointName"], endpoint)
        if asked["EndpointName"] not in self.endpoints:
            raise Refusal("ValidationException", 'Could not find endpoint "arn".')
        config = self.configs.get(endpoint["EndpointConfigName"], {"ProductionVariants": []})
        shown = {
            key: value
            for key, value in endpoint.items()
            if not key.startswith("_") and key != "Tags"
        }
        if endpoint["EndpointStatus"] == "Updating":
            shown["PendingDeploymentSummary"] = {"EndpointConfigName": endpoint["_next"]}
        variants = [
            {"VariantName": variant["VariantName"]} for variant in config["ProductionVariants"]
        ]
        about = {"EndpointArn": f"{_ARN}:endpoint/{asked['EndpointName']}", "LastModifiedTime": 0}
        return {**shown, **about, "ProductionVariants": variants}

    def _settle(self, name: str, endpoint: dict[str, Any]) -> None:
        status, reason = endpoint["EndpointStatus"], self.fails
        self.fails = None
        if status == "Deleting":
            del self.endpoints[name]
        elif status == "Creating" and reason:
            endpoint |= {"EndpointStatus": "Failed", "FailureReason": reason}
        else:
            endpoint["EndpointStatus"] = "InService"
            if reason:
                endpoint["FailureReason"] = reason
            elif status == "Updating":
                endpoint["EndpointConfigName"] = endpoint["_next"]

    def _DeleteModel(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._seen(self.models, "model", asked["ModelName"])
        del self.models[asked["ModelName"]]
        return {}

    def _DeleteEndpointConfig(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._seen(self.configs, "endpoint-config", asked["EndpointConfigName"])
        del self.configs[asked["EndpointConfigName"]]
        return {}

    def _DeleteEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._seen(self.endpoints, "endpoint", asked["EndpointName"])
        self.endpoints[asked["EndpointName"]] |= {"EndpointStatus": "Deleting", "_steps": 2}
        return {}

    def _ListModels(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"Models": _listed(self.models, asked, "ModelName", "model")}

    def _ListEndpointConfigs(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {
            "EndpointConfigs": _listed(self.configs, asked, "EndpointConfigName", "endpoint-config")
        }


def _listed(
    things: dict[str, Any], asked: dict[str, Any], name: str, kind: str
) -> list[dict[str, Any]]:
    arn = name.removesuffix("Name") + "Arn"
    found = [each for each in things if asked["NameContains"] in each]
    return [{name: each, arn: f"{_ARN}:{kind}/{each}", "CreationTime": 0} for each in found]


def _operation(request: Request) -> str:
    """What is called: the API's operation, of S3 the method."""
    if target := request.headers.get("X-Amz-Target"):
        return target.rpartition(".")[2]
    if request.path.startswith("/endpoints/"):
        return (
            "InvokeEndpointAsync"
            if request.path.endswith("async-invocations")
            else "InvokeEndpoint"
        )
    if "/operation/" in request.path:
        return request.path.rpartition("/")[2]
    return f"S3:{request.method}"


def _denied(request: Request, operation: str) -> Response:
    text = f"User: arn:aws:iam::123456789012:user/anna is not authorized to perform: {operation}"
    if operation.startswith("S3:"):
        return Response(f"<Error><Code>AccessDenied</Code><Message>{text}</Message></Error>", 403)
    if request.path.startswith("/endpoints/"):
        return _error(403, "AccessDeniedException", {"Message": text})
    return _json(400, {"__type": "AccessDeniedException", "message": text})


def _json(status: int, told: dict[str, Any]) -> Response:
    return Response(json.dumps(told), status, content_type="application/x-amz-json-1.1")


def _error(status: int, kind: str, told: dict[str, Any]) -> Response:
    return Response(
        json.dumps(told),
        status,
        headers={"x-amzn-errortype": kind},
        content_type="application/json",
    )
