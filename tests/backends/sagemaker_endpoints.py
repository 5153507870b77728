"""The endpoints of the account that tests deploy into, and in front of each what a test puts there as its container.

As AWS does it: an endpoint is at work for a while after each call, a failed update ends in service with the old config,
and what the container refuses comes back as a ModelError that carries its status and words.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from sagemaker_account import REGION, Account, Refusal, refuse_what_aws_refuses
from werkzeug.wrappers import Request, Response

from breedlab.backends.sagemaker.documented_limits import Call

Container = Callable[[bytes, str, str], tuple[int, bytes, str]]
"""Answers body, content type and accept with status, body and content type."""

_ARN = f"arn:aws:sagemaker:{REGION}:123456789012"


class EndpointAccount(Account):
    """An account that serves.

    Attributes:
        models: Models by name, as they were asked for; likewise `configs` and `endpoints`.
        container: What answers for every endpoint.
        fails: Why the next creation or update fails, None if it does not.
        scaled: Requests to Application Auto Scaling, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.container: Container | None = None
        self.fails: str | None = None
        self.scaled: list[tuple[str, dict[str, Any]]] = []
        self.invoked: list[dict[str, str]] = []
        self._answers = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
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
        return super().__call__(environ, start_response)

    def before(self) -> list[Call]:
        return [("CreateEndpointConfig", config) for config in self.configs.values()]

    def _invoke(self, request: Request) -> Response:
        _, _, name, kind = request.path.split("/")
        names = ("Content-Type", "Accept", "X-Amzn-SageMaker-Content-Type", "X-Amzn-SageMaker-Accept")
        self.invoked.append({key: request.headers[key] for key in names if key in request.headers})
        if name not in self.endpoints or self.endpoints[name]["EndpointStatus"] != "InService":
            return _error(400, "ValidationError", {"Message": f"Endpoint {name} of account 123456789012 not found."})
        assert self.container is not None
        if kind == "invocations":
            accept = request.headers.get("Accept", "*/*")
            status, body, answered = self.container(request.get_data(), request.headers.get("Content-Type", ""), accept)
            if status == 200:
                return Response(body, 200, content_type=answered)
            told = {"OriginalStatusCode": status, "OriginalMessage": body.decode(), "Message": f"Received {status}"}
            return _error(424, "ModelError", told)
        return self._invoke_later(name, request)

    def _invoke_later(self, name: str, request: Request) -> Response:
        s3 = boto3.client("s3")
        assert self.container is not None
        bucket, _, key = request.headers["X-Amzn-SageMaker-InputLocation"].removeprefix("s3://").partition("/")
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        kind, accept = (request.headers[f"X-Amzn-SageMaker-{name}"] for name in ("Content-Type", "Accept"))
        status, answer, _ = self.container(body, kind, accept)
        output = self.configs[self.endpoints[name]["EndpointConfigName"]]["AsyncInferenceConfig"]["OutputConfig"]
        self._answers += 1
        places = [f"{output[path]}/{self._answers}.out" for path in ("S3OutputPath", "S3FailurePath")]
        bucket, _, key = places[0 if status == 200 else 1].removeprefix("s3://").partition("/")
        s3.put_object(Bucket=bucket, Key=key, Body=answer)
        headers = dict(
            zip(("X-Amzn-SageMaker-OutputLocation", "X-Amzn-SageMaker-FailureLocation"), places, strict=True)
        )
        return Response(json.dumps({"InferenceId": "1"}), 202, headers=headers, content_type="application/json")

    # The API.

    def _CreateModel(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.models[asked["ModelName"]] = asked
        return {"ModelArn": f"{_ARN}:model/{asked['ModelName']}"}

    def _CreateEndpointConfig(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.configs[asked["EndpointConfigName"]] = asked
        return {"EndpointConfigArn": f"{_ARN}:endpoint-config/{asked['EndpointConfigName']}"}

    def _CreateEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["EndpointName"]
        if name in self.endpoints:
            raise Refusal("ValidationException", f"Cannot create already existing endpoint {name}.")
        self.endpoints[name] = {**asked, "EndpointStatus": "Creating", "_steps": 2}
        return {"EndpointArn": f"{_ARN}:endpoint/{name}"}

    def _UpdateEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint = self.endpoints[asked["EndpointName"]]
        if endpoint["EndpointStatus"] != "InService":
            raise Refusal("ValidationException", "Cannot update in-progress endpoint.")
        endpoint |= {"EndpointStatus": "Updating", "_steps": 2, "_next": asked["EndpointConfigName"]}
        return {"EndpointArn": f"{_ARN}:endpoint/{asked['EndpointName']}"}

    def _DescribeModel(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return _found(self.models, asked["ModelName"], "model") | {"ModelArn": "arn", "CreationTime": 0}

    def _DescribeEndpointConfig(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = _found(self.configs, asked["EndpointConfigName"], "endpoint configuration")
        return found | {"EndpointConfigArn": "arn", "CreationTime": 0}

    def _DescribeEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        endpoint = _found(self.endpoints, asked["EndpointName"], "endpoint")
        status = endpoint["EndpointStatus"]
        if status in ("Creating", "Updating", "Deleting"):
            endpoint["_steps"] -= 1
            if endpoint["_steps"] == 0:
                self._settle(asked["EndpointName"], endpoint)
        if asked["EndpointName"] not in self.endpoints:
            raise Refusal("ValidationException", 'Could not find endpoint "arn".')
        config = self.configs.get(endpoint["EndpointConfigName"], {"ProductionVariants": []})
        shown = {key: value for key, value in endpoint.items() if not key.startswith("_") and key != "Tags"}
        if endpoint["EndpointStatus"] == "Updating":
            shown["PendingDeploymentSummary"] = {"EndpointConfigName": endpoint["_next"]}
        variants = [{"VariantName": variant["VariantName"]} for variant in config["ProductionVariants"]]
        times = {"CreationTime": 0, "LastModifiedTime": 0}
        return {**shown, "EndpointArn": "arn", "ProductionVariants": variants, **times}

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
        del self.models[asked["ModelName"]]
        return {}

    def _DeleteEndpointConfig(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del self.configs[asked["EndpointConfigName"]]
        return {}

    def _DeleteEndpoint(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        _found(self.endpoints, asked["EndpointName"], "endpoint")
        self.endpoints[asked["EndpointName"]] |= {"EndpointStatus": "Deleting", "_steps": 2}
        return {}

    def _ListModels(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"Models": _listed(self.models, asked, "ModelName", "ModelArn")}

    def _ListEndpointConfigs(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"EndpointConfigs": _listed(self.configs, asked, "EndpointConfigName", "EndpointConfigArn")}


def _found(things: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    if name not in things:
        raise Refusal("ValidationException", f'Could not find {what} "{_ARN}:{name}".')
    return things[name]


def _listed(things: dict[str, Any], asked: dict[str, Any], name: str, arn: str) -> list[dict[str, Any]]:
    return [{name: each, arn: "arn", "CreationTime": 0} for each in things if asked["NameContains"] in each]


def _error(status: int, kind: str, told: dict[str, Any]) -> Response:
    return Response(json.dumps(told), status, headers={"x-amzn-errortype": kind}, content_type="application/json")
