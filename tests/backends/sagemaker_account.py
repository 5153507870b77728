"""An AWS account to test against: moto's server, and in front of it what moto lacks or does
differently.

moto ends every job at once, forgets what it was not taught, and has no call to stop a job or to
list a search's trials. Here jobs are kept as they were asked for, every request is recorded as it
arrived, and the test says what becomes of a job. S3, IAM, STS and the logs are moto's.
"""

from __future__ import annotations

import functools
import io
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from sagemaker_pipelines import Pipelines
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from breedlab.backends.sagemaker.judge import refusals
from breedlab.backends.sagemaker.limits import Call

P = ParamSpec("P")
T = TypeVar("T")

ROLE = "arn:aws:iam::123456789012:role/SageMakerRole"
REGION = "us-east-1"

TWO_TRIALS = [
    "tuner=random",
    "tuner.trials=2",
    "backend.job_name=dogs",
    "tuner.space.optim.lr={low: 0.001, high: 0.1, log: true}",
]
"""The overrides of a small search by the name of dogs."""


_SUMMARY = (
    "TrainingJobName",
    "TrainingJobArn",
    "TuningJobName",
    "CreationTime",
    "TrainingStartTime",
    "TrainingEndTime",
    "TrainingJobStatus",
    "TunedHyperParameters",
    "FailureReason",
    "FinalHyperParameterTuningJobObjectiveMetric",
)

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)
"""The trust policy of a role that SageMaker may take on."""

_ROOM = (
    "ml.m5.xlarge",
    "ml.m5.large",
    "ml.c5.xlarge",
    "ml.c5.2xlarge",
    "ml.g5.xlarge",
    "ml.g4dn.xlarge",
)
_KINDS = ("training job usage", "spot training job usage", "endpoint usage")
_QUOTAS = {f"{machine} for {kind}": 100.0 for machine in _ROOM for kind in _KINDS} | {
    "Longest run time for a training job": 432_000.0
}

_OF_A_DEFINITION = ("OutputDataConfig", "CheckpointConfig", "AlgorithmSpecification")


def _at_once(
    method: Callable[Concatenate[Account, P], T],
) -> Callable[Concatenate[Account, P], T]:
    @functools.wraps(method)
    def locked(self: Account, *given: P.args, **named: P.kwargs) -> T:
        with self.lock:
            return method(self, *given, **named)

    return locked


class Account(Pipelines):
    """Takes requests over HTTP and keeps them.

    Attributes:
        requests: Every SageMaker request that arrived: operation and parameters.
        training: Training jobs by name, as `describe_training_job` tells them.
        tuning: Tuning jobs by name, as `describe_hyper_parameter_tuning_job` tells them.
        refuse: Error code and message by operation, for calls that are to be refused.
        tags: By ARN.
        lose: How often the answer to an operation is lost after AWS took the request.
        throttle: How often an operation is told to come back later.
        quotas: By name, beside those of an account that has room.
        prices: By region, type and use, what AWS's price list has beside nothing.
        passes: What IAM decides on iam:PassRole.
        simulated: What IAM was asked to decide.
        lock: Held while a request changes the account, so that a thread of the test sees no half of
            a change.
        lag: Seconds for which nothing that was created is found: AWS is consistent eventually.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.training: dict[str, dict[str, Any]] = {}
        self.tuning: dict[str, dict[str, Any]] = {}
        self.refuse: dict[str, tuple[str, str]] = {}
        self.tags: dict[str, list[dict[str, str]]] = {}
        self.lose: dict[str, int] = {}
        self.throttle: dict[str, int] = {}
        self.lag = 0.0
        self.quotas: dict[str, float] = {}
        self.prices: dict[tuple[str, ...], list[float]] = {}
        self.passes = "allowed"
        self.simulated: list[dict[str, str]] = []
        self._born: dict[str, float] = {}
        self.calls: list[str] = []
        self.lock = threading.RLock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.url = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        target = request.headers.get("X-Amz-Target", "")
        if target.endswith(".GetProducts"):
            return self._GetProducts(json.loads(request.get_data()))(environ, start_response)
        if target.endswith(".ListServiceQuotas"):
            return self._ListServiceQuotas()(environ, start_response)
        if "SimulatePrincipalPolicy" in (asked := _form(request)).get("Action", ""):
            return self._SimulatePrincipalPolicy(asked)(environ, start_response)
        if not target.startswith("SageMaker."):
            self.calls.append(f"{request.method} {request.path}")
            return self._moto(environ, start_response)
        operation = target.partition(".")[2]
        parameters = json.loads(request.get_data() or b"{}")
        self.requests.append((operation, parameters))
        try:
            if operation in self.refuse:
                raise Refusal(*self.refuse[operation])
            if _once(self.throttle, operation):
                raise Refusal("ThrottlingException", "Rate exceeded")
            refuse_what_aws_refuses("sagemaker", operation, parameters, self.before())
            with self.lock:
                answer = json.dumps(getattr(self, f"_{operation}")(parameters))
            response = Response(answer, 200, content_type="application/x-amz-json-1.1")
        except Refusal as error:
            body = json.dumps({"__type": error.code, "message": str(error)})
            response = Response(body, 400, content_type="application/x-amz-json-1.1")
        if response.status_code == 200 and _once(self.lose, operation):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # as a network does
        return response(environ, start_response)

    def reset(self) -> None:
        """Forgets everything."""
        kept = (
            self.requests,
            self.calls,
            self.training,
            self.tuning,
            self.refuse,
            self.tags,
            self.lose,
            self.throttle,
        )
        for each in (*kept, self._born):
            each.clear()  # type: ignore[attr-defined]
        self.lag = 0.0
        self.passes = "allowed"
        self.quotas.clear()
        self.prices.clear()
        self.simulated.clear()
        self.forget_pipelines()

    def born(self, name: str) -> None:
        """Has the time until something is found begin."""
        self._born[name] = time.monotonic()

    def is_found(self, name: str) -> bool:
        """Whether all of AWS has heard of something by now."""
        return time.monotonic() - self._born.get(name, -1e9) >= self.lag

    def fail(self, code: str, message: str) -> None:
        """Refuses the call that is being answered."""
        raise Refusal(code, message)

    def before(self) -> list[Call]:
        """What was created earlier, as far as later requests have to suit it."""
        return [("CreateHyperParameterTuningJob", job) for job in self.tuning.values()]

    def sent(self, operation: str) -> list[dict[str, Any]]:
        """The parameters of every request of an operation."""
        return [parameters for name, parameters in self.requests if name == operation]

    def created(self) -> list[str]:
        """What was asked to be created, in order."""
        return [name for name, _ in self.requests if name.startswith("Create")]

    # What moto lacks beside SageMaker.

    def _GetProducts(self, asked: dict[str, Any]) -> Response:  # noqa: N802
        if "GetProducts" in self.refuse:
            return _refused(*self.refuse["GetProducts"])
        wanted = tuple(each["Value"] for each in asked["Filters"])
        dimensions = [
            {"pricePerUnit": {"USD": f"{price:.10f}"}} for price in self.prices.get(wanted, ())
        ]
        terms = {"OnDemand": {"term": {"priceDimensions": dict(enumerate(dimensions))}}}
        products = [json.dumps({"product": {}, "terms": terms})] if dimensions else []
        body = {"FormatVersion": "aws_v1", "PriceList": products}
        return Response(json.dumps(body), 200, content_type="application/x-amz-json-1.1")

    def _ListServiceQuotas(self) -> Response:  # noqa: N802
        if "ListServiceQuotas" in self.refuse:
            return _refused(*self.refuse["ListServiceQuotas"])
        listed = [
            {"QuotaName": name, "Value": value}
            for name, value in {**_QUOTAS, **self.quotas}.items()
        ]
        return Response(
            json.dumps({"Quotas": listed}), 200, content_type="application/x-amz-json-1.1"
        )

    def _SimulatePrincipalPolicy(self, asked: dict[str, str]) -> Response:  # noqa: N802
        if "SimulatePrincipalPolicy" in self.refuse:
            code, message = self.refuse["SimulatePrincipalPolicy"]
            error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return Response(f"<ErrorResponse>{error}</ErrorResponse>", 403, content_type="text/xml")
        self.simulated.append(asked)
        whole = f"<EvalActionName>iam:PassRole</EvalActionName><EvalDecision>{self.passes}</EvalDecision>"  # noqa: E501
        for tag in (
            "member",
            "EvaluationResults",
            "SimulatePrincipalPolicyResult",
            "SimulatePrincipalPolicyResponse",
        ):
            whole = f"<{tag}>{whole}</{tag}>"
        return Response(whole, 200, content_type="text/xml")

    # What a test makes of a job.

    @_at_once
    def end_training(self, name: str, status: str = "Completed", **fields: Any) -> None:
        written = self.training[name].get("OutputDataConfig", {}).get("S3OutputPath")
        artifacts = {"S3ModelArtifacts": f"{written}/{name}/output/model.tar.gz"}
        if status == "Completed":
            self.training[name]["ModelArtifacts"] = artifacts
        self.training[name] |= {
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            "TrainingEndTime": _now(),
            **fields,
        }

    @_at_once
    def end_tuning(self, name: str, status: str = "Completed") -> None:
        job = self.tuning[name]
        job |= {"HyperParameterTuningJobStatus": status, "HyperParameterTuningEndTime": _now()}
        maximize = (
            job["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["Type"]
            == "Maximize"
        )
        done = [
            trial
            for trial in self.trials(name)
            if "FinalHyperParameterTuningJobObjectiveMetric" in trial
        ]
        if done:
            pick = max if maximize else min
            job["BestTrainingJob"] = pick(
                done,
                key=lambda trial: trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"],
            )

    @_at_once
    def add_trial(
        self,
        tuning: str,
        values: dict[str, str],
        objective: float | None,
        status: str = "Completed",
        **fields: Any,
    ) -> str:
        """A training job of a tuning job; returns its name."""
        number = len(self.trials(tuning)) + 1
        name = f"{tuning}-{number:03}-0123abcd"
        definition = self.tuning[tuning]["TrainingJobDefinition"]
        self.training[name] = {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:123456789012:training-job/{name}",
            "TuningJobArn": self.tuning[tuning]["HyperParameterTuningJobArn"],
            "HyperParameters": {**definition["StaticHyperParameters"], **values},
            "TunedHyperParameters": values,
            "TrainingJobStatus": status,
            "SecondaryStatus": status,
            "CreationTime": _now(number),
            "TrainingStartTime": _now(number),
            "TrainingEndTime": _now(number + 7),
            **{key: definition[key] for key in _OF_A_DEFINITION if key in definition},
            **fields,
        }
        self.tags[self.training[name]["TrainingJobArn"]] = self.tags[
            self.tuning[tuning]["HyperParameterTuningJobArn"]
        ]
        if objective is not None:
            metric = self.tuning[tuning]["HyperParameterTuningJobConfig"][
                "HyperParameterTuningJobObjective"
            ]["MetricName"]
            self.training[name]["FinalHyperParameterTuningJobObjectiveMetric"] = {
                "MetricName": metric,
                "Value": objective,
            }
        return name

    def trials(self, tuning: str) -> list[dict[str, Any]]:
        arn = self.tuning[tuning]["HyperParameterTuningJobArn"]
        return [job for job in self.training.values() if job.get("TuningJobArn") == arn]

    # The API.

    def _CreateTrainingJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["TrainingJobName"]
        _refuse_twice(name, self.training)
        arn = f"arn:aws:sagemaker:{REGION}:123456789012:training-job/{name}"
        kept = {key: value for key, value in asked.items() if key != "Tags"}
        self.tags[arn] = list(asked.get("Tags", []))
        self.born(name)
        self.training[name] = {
            **kept,
            "TrainingJobArn": arn,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "CreationTime": _now(),
        }
        return {"TrainingJobArn": arn}

    def _CreateHyperParameterTuningJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["HyperParameterTuningJobName"]
        _refuse_twice(name, self.tuning)
        for parent in asked.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
            self._DescribeHyperParameterTuningJob(parent)  # which AWS must know
        arn = f"arn:aws:sagemaker:{REGION}:123456789012:hyper-parameter-tuning-job/{name}"
        self.tags[arn] = list(asked.get("Tags", []))
        self.born(name)
        self.tuning[name] = {
            **{key: value for key, value in asked.items() if key != "Tags"},
            "HyperParameterTuningJobArn": arn,
            "HyperParameterTuningJobStatus": "InProgress",
            "CreationTime": _now(),
            "TrainingJobStatusCounters": {},
            "ObjectiveStatusCounters": {},
        }
        return {"HyperParameterTuningJobArn": arn}

    def _DescribeTrainingJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["TrainingJobName"]
        if name not in self.training or not self.is_found(name):
            raise Refusal("ValidationException", "Requested resource not found.")
        return self.training[name]

    def _DescribeHyperParameterTuningJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["HyperParameterTuningJobName"]
        if name not in self.tuning or not self.is_found(name):
            raise Refusal(
                "ResourceNotFound", "Amazon SageMaker can't find a tuning job with that name."
            )
        job = self.tuning[name]
        counts = {
            "Completed": 0,
            "InProgress": 0,
            "RetryableError": 0,
            "NonRetryableError": 0,
            "Stopped": 0,
        }
        for trial in self.trials(name):
            status = trial["TrainingJobStatus"]
            counts[
                {"Failed": "NonRetryableError", "Stopping": "InProgress"}.get(status, status)
            ] += 1
        return {**job, "TrainingJobStatusCounters": counts}

    def _ListTrainingJobsForHyperParameterTuningJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self.trials(asked["HyperParameterTuningJobName"])
        first, size = int(asked.get("NextToken", 0)), min(int(asked.get("MaxResults", 10)), 100)
        page = [
            {key: job[key] for key in _SUMMARY if key in job} for job in found[first : first + size]
        ]
        more = {"NextToken": str(first + size)} if first + size < len(found) else {}
        return {"TrainingJobSummaries": page, **more}

    def _ListTags(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"Tags": self.tags.get(asked["ResourceArn"], [])}

    def _AddTags(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        new = {tag["Key"] for tag in asked["Tags"]}
        old = [tag for tag in self.tags.get(asked["ResourceArn"], []) if tag["Key"] not in new]
        self.tags[asked["ResourceArn"]] = [*old, *asked["Tags"]]
        return {"Tags": self.tags[asked["ResourceArn"]]}

    def _Search(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        kind = asked["Resource"]
        jobs = {
            "TrainingJob": self.training,
            "HyperParameterTuningJob": self.tuning,
            "Pipeline": self.pipelines,
        }[kind]
        wanted = asked["SearchExpression"]["Filters"]
        assert all(
            each["Operator"] == "Exists" and each["Name"].startswith("Tags.") for each in wanted
        )
        found = []
        for name, job in jobs.items():
            tags = self.tags.get(job[f"{kind}Arn"], [])
            keys = {tag["Key"] for tag in tags}
            if self.is_found(name) and all(
                each["Name"].removeprefix("Tags.") in keys for each in wanted
            ):
                whole = (
                    job
                    if kind != "HyperParameterTuningJob"
                    else self._DescribeHyperParameterTuningJob({f"{kind}Name": name})
                )
                found.append({kind: {**whole, "Tags": tags}})
        first, size = int(asked.get("NextToken", 0)), min(int(asked.get("MaxResults", 10)), 100)
        more = {"NextToken": str(first + size)} if first + size < len(found) else {}
        return {"Results": found[first : first + size], **more}

    def _StopTrainingJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.training[asked["TrainingJobName"]] |= {
            "TrainingJobStatus": "Stopping",
            "SecondaryStatus": "Stopping",
        }
        return {}

    def _StopHyperParameterTuningJob(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.tuning[asked["HyperParameterTuningJobName"]]["HyperParameterTuningJobStatus"] = (
            "Stopping"
        )
        return {}


def _form(request: Request) -> dict[str, str]:
    """The fields of a call to IAM or STS; the body stays as it was for whoever reads it next."""
    if request.mimetype != "application/x-www-form-urlencoded":
        return {}
    body = request.get_data()
    request.environ["wsgi.input"] = io.BytesIO(body)
    return dict(urllib.parse.parse_qsl(body.decode()))


def _refused(code: str, message: str) -> Response:
    body = json.dumps({"__type": code, "message": message})
    return Response(body, 400, content_type="application/x-amz-json-1.1")


class Refusal(Exception):
    """What AWS answers to a request that it does not take."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def refuse_what_aws_refuses(
    service: str, operation: str, parameters: dict[str, Any], before: Sequence[Call] = ()
) -> None:
    """Raises what AWS answers to a request that its model or its documentation does not allow."""
    found = refusals(service, operation, parameters, before)
    if found:
        told = "; ".join(
            f"Value at '{path}' failed to satisfy constraint: {message}" for path, message in found
        )
        raise Refusal("ValidationException", f"{len(found)} validation error detected: {told}")


@contextmanager
def serving(account: Account) -> Iterator[str]:
    """The account behind a URL on this machine."""
    server = make_server("127.0.0.1", 0, account, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


def leave(folder: Path, address: str, *, without: str = "") -> None:
    """Put a folder's files, without those of one folder in it, where SageMaker would have synced
    them to.

    A client takes longer to make than to send a file with.
    """
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] != without:
            key = f"{prefix}/{name.as_posix()}"
            s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def say(job: str, *lines: str) -> None:
    """What a training job's first instance prints, where SageMaker puts it."""
    group, stream = "/aws/sagemaker/TrainingJobs", f"{job}/algo-1-123"
    logs = boto3.client("logs")
    for make in (
        lambda: logs.create_log_group(logGroupName=group),
        lambda: logs.create_log_stream(logGroupName=group, logStreamName=stream),
    ):
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            make()
    events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def _refuse_twice(name: str, jobs: dict[str, Any]) -> None:
    if name in jobs:
        raise Refusal(
            "ResourceInUse", f"Job name must be unique within an AWS account and region: {name}"
        )


def _once(left: dict[str, int], operation: str) -> bool:
    """Whether it is this operation's turn, which is counted."""
    if not left.get(operation):
        return False
    left[operation] -= 1
    return True


def _now(later: float = 0) -> float:
    return datetime.now(UTC).timestamp() + later
