"""An AWS Lambda function in front of an endpoint: a photo, or its address, in; its label and score out.

Runtime Python 3.11 or newer, handler `lambda_handler.handler`, environment variable ENDPOINT. It needs nothing but
boto3, which is there, and the rights of lambda_policy.json. The event is API Gateway's, a function URL's, or the
plain body of one: `{"image": "<base64>"}`, or `{"url": "https://..."}` where the model was exported with
serving.allow_urls.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from functools import cache
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ACCEPT = "application/json; verbose=1"
JSON = "application/json"


def handler(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    """Asks the endpoint; answers as API Gateway expects it, whoever called."""
    try:
        body, kind = _request(event)
    except ValueError as error:
        return _answer(400, {"error": str(error)})
    try:
        response = _runtime().invoke_endpoint(
            EndpointName=os.environ["ENDPOINT"], Body=body, ContentType=kind, Accept=ACCEPT
        )
    except ClientError as error:
        return _refusal(error)
    except BotoCoreError as error:
        print(f"{type(error).__name__}: {error}")
        return _answer(502, {"error": "the endpoint cannot be reached"})
    predictions = json.loads(response["Body"].read())["predictions"]
    labels = [_label(prediction) for prediction in predictions]
    return _answer(200, labels[0] if len(labels) == 1 else {"photos": labels})


@cache
def _runtime() -> Any:
    """The client, kept while the function is warm."""
    return boto3.client("sagemaker-runtime")


def _request(event: dict[str, Any]) -> tuple[bytes, str]:
    """What is sent to the endpoint, and its content type.

    Raises:
        ValueError: In words for the caller.
    """
    if "body" not in event:  # called directly
        if not ("image" in event or "url" in event):
            raise ValueError('expected {"image": "<base64>"}, {"url": "https://..."}, or a request with a body')
        return json.dumps(event).encode(), JSON
    content = event["body"] or ""
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    kind = headers.get("content-type", JSON)
    if not event.get("isBase64Encoded"):
        return content.encode(), kind
    try:
        return base64.b64decode(content, validate=True), kind
    except binascii.Error as error:
        raise ValueError(f"the body is not base64 ({error})") from error


def _label(prediction: dict[str, Any]) -> dict[str, Any]:
    best = prediction["top"][0]
    return {"label": best["class"], "score": best["probability"], "top": prediction["top"]}


def _refusal(error: ClientError) -> dict[str, Any]:
    """What the model refused is the caller's to mend; the rest is told in the log."""
    response: Any = error.response
    status = int(response.get("OriginalStatusCode", 0))
    if 400 <= status < 500:
        try:
            return _answer(status, {"error": json.loads(response["OriginalMessage"])["error"]})
        except (ValueError, LookupError, TypeError):
            pass
    print(f"{response['Error'].get('Code')}: {response['Error'].get('Message')}")
    if response["Error"].get("Code") in ("ThrottlingException", "ServiceUnavailable", "ModelNotReadyException"):
        return _answer(503, {"error": "the endpoint is busy; try again in a second"}, {"Retry-After": "1"})
    return _answer(502, {"error": "the endpoint failed"})


def _answer(status: int, tree: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {"statusCode": status, "headers": {"Content-Type": JSON, **(headers or {})}, "body": json.dumps(tree)}
