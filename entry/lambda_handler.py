"""An AWS Lambda function in front of an endpoint: an image, or its address, in; its label and score
out.

Runtime Python 3.11 or newer, handler `lambda_handler.handler`, environment variable ENDPOINT. It
needs nothing but boto3, which is there, and the rights of lambda_policy.json. The event is API
Gateway's, a function URL's, or the plain body of one: `{"image": "<base64>"}`, or `{"url":
"https://..."}` where the model was exported with serving.allow_urls.
"""

from __future__ import annotations

import base64
import json
import os
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

ACCEPT = "application/json; verbose=1"
JSON = "application/json"
MAX_BYTES = 6_000_000
"""Of a body, as the endpoint has it."""
_ALSO = ("set", "unknown", "stranger_than")
"""What an answer may say beside label and score."""


def handler(event: Any, context: Any = None) -> dict[str, Any]:
    """Ask the endpoint; answer as API Gateway expects it, whoever called and whatever happens."""
    try:
        return _answered(event)
    # An unhandled one is API Gateway's 502 without a word, and Lambda may send it again.
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return _answer(500, {"error": "the function failed; its log says more"})


def _answered(event: Any) -> dict[str, Any]:
    try:
        body, kind = _request(event)
    except ValueError as error:
        return _answer(400, {"error": str(error)})
    if len(body) > MAX_BYTES:
        return _answer(
            413,
            {"error": f"the body is larger than the {MAX_BYTES:,} bytes that the endpoint takes"},
        )
    if not (endpoint := os.environ.get("ENDPOINT")):
        print("the environment variable ENDPOINT is not set")
        return _answer(500, {"error": "the function names no endpoint"})
    try:
        response = _runtime().invoke_endpoint(
            EndpointName=endpoint, Body=body, ContentType=kind, Accept=ACCEPT
        )
        content = response["Body"].read()
    except ClientError as error:
        return _refusal(error)
    except (ReadTimeoutError, ConnectTimeoutError) as error:
        print(f"{type(error).__name__}: {error}")
        return _answer(504, {"error": "the endpoint did not answer in time; try again"})
    except (BotoCoreError, OSError) as error:
        print(f"{type(error).__name__}: {error}")
        return _answer(502, {"error": "the endpoint cannot be reached"})
    try:
        tree = json.loads(content)
        labels = [_label(prediction, tree["classes"]) for prediction in tree["predictions"]]
    except (ValueError, LookupError, TypeError) as error:
        print(
            f"the endpoint's answer cannot be read ({type(error).__name__}: {error}):"
            f" {content[:200]!r}"
        )
        return _answer(502, {"error": "the endpoint does not answer as breedlab's do"})
    return _answer(200, labels[0] if len(labels) == 1 else {"photos": labels})


@cache
def _runtime() -> Any:
    """Return the client, kept while the function is warm."""
    # A SageMaker endpoint itself gives up after a minute.
    return boto3.client("sagemaker-runtime", config=Config(connect_timeout=5, read_timeout=60))


def _request(event: Any) -> tuple[bytes, str]:
    """Return what is sent to the endpoint, and its content type.

    Raises:
        ValueError: In words for the caller.
    """
    expected = 'expected {"image": "<base64>"}, {"url": "https://..."}, or a request with a body'
    if not isinstance(event, dict):
        if isinstance(event, list) and event:  # called directly with several
            return json.dumps(event).encode(), JSON
        raise ValueError(expected)
    if "body" not in event:
        if "image" in event or "url" in event:  # called directly
            return json.dumps(event).encode(), JSON
        raise ValueError(expected)
    content = event["body"]
    if isinstance(content, dict | list):  # a test event, or a gateway that has parsed it
        return json.dumps(content).encode(), JSON
    if content is None or content == "":
        raise ValueError(f"the body is empty; {expected}, such as an image or JSON")
    if not isinstance(content, str):
        raise ValueError(f"the body is not a string; {expected}")
    kind = _content_type(event)
    if not event.get("isBase64Encoded"):
        return content.encode("utf-8", "surrogatepass"), kind
    try:
        return base64.b64decode(content, validate=True), kind
    except ValueError as error:
        raise ValueError(f"the body is not base64 ({error})") from error


def _content_type(event: dict[str, Any]) -> str:
    """Of API Gateway's two formats, a function URL and a load balancer, which has its headers in
    either."""
    merged: dict[str, Any] = {}
    for field in ("multiValueHeaders", "headers"):
        headers = event.get(field)
        merged |= (
            {str(name).lower(): value for name, value in headers.items()}
            if isinstance(headers, dict)
            else {}
        )
    kind = merged.get("content-type")
    if isinstance(kind, list):
        kind = kind[-1] if kind else None
    if not isinstance(kind, str) or not kind.strip():
        return "application/octet-stream" if event.get("isBase64Encoded") else JSON
    if not kind.isascii() or not kind.isprintable() or len(kind) > 1024:  # as InvokeEndpoint has it
        raise ValueError(
            "the content type is not one; send image/jpeg, application/json or the like"
        )
    return kind.strip()


def _label(prediction: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """Return what is answered of an image: its label and score, or those that a multi-label model
    gives it, of which there may be none."""
    if "error" in prediction:  # one bad image of several
        return _error(prediction)
    top, also = prediction["top"], {name: prediction[name] for name in _ALSO if name in prediction}
    if "labels" in prediction:
        probability = dict(zip(classes, prediction["probabilities"], strict=True))
        scores = [probability[name] for name in prediction["labels"]]
        return {"labels": prediction["labels"], "scores": scores, "top": top, **also}
    return {"label": top[0]["class"], "score": top[0]["probability"], "top": top, **also}


def _error(tree: dict[str, Any]) -> dict[str, str]:
    """Return what the model says is wrong, with its code if it gives one."""
    code = {"code": str(tree["code"])} if "code" in tree else {}
    return {"error": str(tree["error"]), **code}


def _refusal(error: ClientError) -> dict[str, Any]:
    """Return a response for an error: the caller can fix what the model refused; the log has the
    rest."""
    response: Any = error.response
    status = response.get("OriginalStatusCode")
    status = status if isinstance(status, int) else 0
    if 400 <= status < 500:
        try:
            return _answer(status, _error(json.loads(response["OriginalMessage"])))
        except (ValueError, LookupError, TypeError):
            pass
    details = response.get("Error") or {}
    print(f"{details.get('Code')}: {details.get('Message')}")
    if details.get("Code") in (
        "ThrottlingException",
        "ServiceUnavailable",
        "ModelNotReadyException",
    ):
        return _answer(
            503, {"error": "the endpoint is busy; try again in a second"}, {"Retry-After": "1"}
        )
    return _answer(502, {"error": "the endpoint failed"})


def _answer(
    status: int, tree: dict[str, Any], headers: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"Content-Type": JSON, **(headers or {})},
        "body": json.dumps(tree),
    }
