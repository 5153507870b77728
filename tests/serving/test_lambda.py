"""What our container image starts, and the Lambda function in front of it, through boto3 and
SageMaker's own path."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import preloaded
import pytest
import torch
import urllib3
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    ReadTimeoutError,
)
from PIL import Image
from test_fetch import Host, says
from test_guard import running
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from breedlab.evaluation.novelty import fit, threshold_of
from breedlab.models.classifier import Classifier
from breedlab.models.novelty import NEAREST
from breedlab.serving.archive import write_folder
from breedlab.serving.fetch import Fetcher
from breedlab.serving.model import Model
from breedlab.serving.protocol import settings
from breedlab.serving.server import make_app
from breedlab.training.context import TrainingContext
from breedlab.training.inference import features as features_of

ROOT = Path(__file__).resolve().parents[2]


class Gate:
    """SageMaker's door: `POST /endpoints/dogs/invocations` goes on to a container, whose refusals
    come back wrapped."""

    def __init__(self) -> None:
        self.container = ""
        self.failure: tuple[int, str] | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if self.failure is not None:
            return _error(*self.failure, {"Message": "secret of the account"})
        assert request.path == "/endpoints/dogs/invocations"
        headers = {name: request.headers[name] for name in ("Content-Type", "Accept")}
        url = f"{self.container}/invocations"
        answer = urllib3.request(
            "POST", url, body=request.get_data(), headers=headers, retries=False
        )
        if answer.status == 200:
            return Response(answer.data, 200, content_type=answer.headers["content-type"])
        told = {
            "OriginalStatusCode": answer.status,
            "OriginalMessage": answer.data.decode(),
            "Message": "Received",
        }
        return _error(424, "ModelError", told)


def _error(status: int, kind: str, told: dict[str, Any]) -> Response:
    return Response(
        json.dumps(told), status, headers={"x-amzn-errortype": kind}, content_type=_JSON
    )


_JSON = "application/json"


@pytest.fixture(scope="module")
def server_url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `docker/serve` starts, told that this folder is /opt/ml/model; only what the image
    installs is to be had."""
    port = _free_port()
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(_ONLY_WHAT_IS_INSTALLED)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(hook), str(ROOT / "src")]),
        "BREEDLAB_HOME": str(ROOT),
        "BREEDLAB_MODEL": str(folder),
        "BREEDLAB_HOST": "127.0.0.1",
        "SAGEMAKER_BIND_TO_PORT": str(port),
    }
    command = [str(ROOT / "docker" / "serve"), "serve"]
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with preloaded.FreshPopen(command, env=environment, **piped) as process:
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if "listening on" in line:
                break
        else:
            pytest.fail("".join(shown))
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
        reader.join()


_ONLY_WHAT_IS_INSTALLED = f"""
import re, sys
from importlib.metadata import packages_distributions
PINNED = set(re.findall(r"^([a-z0-9-]+)==", open({str(ROOT / "docker" / "requirements.txt")!r}).read(), re.MULTILINE))
OURS = {{"breedlab", "sitecustomize"}}
ABSENT = {{
    package
    for package, names in packages_distributions().items()
    if package not in OURS and not {{re.sub("[-_.]+", "-", name).lower() for name in names}} & PINNED
}}
assert "lightning" in ABSENT and "torch" not in ABSENT
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
"""  # noqa: E501


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    server = make_server("127.0.0.1", 0, gate, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "ENDPOINT": "dogs",
    }.items():
        monkeypatch.setenv(name, value)
    yield gate
    server.shutdown()
    thread.join()


@pytest.fixture
def function(gate: Gate) -> ModuleType:
    """The file as Lambda imports it: alone."""
    spec = importlib.util.spec_from_file_location(
        "lambda_handler", ROOT / "entry" / "lambda_handler.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(answer: dict[str, Any]) -> Any:
    assert answer["headers"]["Content-Type"] == "application/json"
    return json.loads(answer["body"])


def test_the_image_answers_on_sagemakers_contract(
    server_url: str, folder: Path, image: bytes
) -> None:
    assert urllib3.request("GET", f"{server_url}/ping").status == 200
    headers = {"Content-Type": "image/jpeg"}
    answer = urllib3.request("POST", f"{server_url}/invocations", body=image, headers=headers)
    model = Model(folder)
    np.testing.assert_allclose(
        answer.json(), model.scores(model.prepare(image)[None]), rtol=1e-3, atol=1e-4
    )


def test_the_image_installs_what_serving_imports_and_copies_what_is_there() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    pinned = set(
        re.findall(
            r"^([a-z0-9-]+)==", (ROOT / "docker" / "requirements.txt").read_text(), re.MULTILINE
        )
    )
    wanted = {
        line
        for line in (ROOT / "docker" / "requirements.in").read_text().splitlines()
        if line[0] != "#"
    }
    assert wanted <= pinned


def test_a_image_gets_its_label_and_score_from_the_local_server(
    gate: Gate, function: ModuleType, server_url: str, folder: Path, image: bytes
) -> None:
    gate.container = server_url
    model = Model(folder)
    best = model.scores(model.prepare(image)[None]).softmax(1)[0].max(0)
    encoded = base64.b64encode(image).decode()
    gateway = {"body": encoded, "isBase64Encoded": True, "headers": {"Content-Type": "image/jpeg"}}
    function_url = {
        "body": json.dumps({"image": encoded}),
        "headers": {"content-type": "application/json"},
    }
    balancer = {
        "body": encoded,
        "isBase64Encoded": True,
        "multiValueHeaders": {"content-type": ["image/jpeg"]},
        "requestContext": {"elb": {"targetGroupArn": "arn"}},
    }
    untyped = {"body": encoded, "isBase64Encoded": True, "headers": None}
    parsed = {"body": {"image": encoded}}
    direct = {"image": encoded}
    for event in (
        gateway,
        function_url,
        balancer,
        untyped,
        parsed,
        direct,
        {"body": json.dumps(direct)},
    ):
        answer = function.handler(event)
        assert answer["statusCode"] == 200, answer
        assert told(answer)["label"] == model.classes[int(best.indices)]
        assert told(answer)["score"] == pytest.approx(float(best.values), rel=1e-3)
        assert len(told(answer)["top"]) >= 2
    several = {
        "body": json.dumps([{"image": encoded}] * 2),
        "headers": {"content-type": "application/json"},
    }
    assert [each["label"] for each in told(function.handler(several))["photos"]] == [
        told(answer)["label"]
    ] * 2


def test_one_bad_image_of_several_is_told_beside_the_others(
    gate: Gate, function: ModuleType, server_url: str, image: bytes
) -> None:
    gate.container = server_url
    items = [{"image": base64.b64encode(image).decode()}, {"image": "eA=="}]
    for event in ({"body": json.dumps(items)}, items):
        answer = function.handler(event)
        assert answer["statusCode"] == 200
        good, bad = told(answer)["photos"]
        assert good["label"] and set(bad) == {"error", "code"}
        assert bad["code"] == "BL208" and "image 2 of 2" in bad["error"]


class _Runtime:
    """Answers, or fails, as it is told."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def invoke_endpoint(self, **_: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return {"Body": io.BytesIO(self.outcome)}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (b"words", 502),
        (b"[[1, 2]]", 502),
        (b'{"predictions": [{"top": []}]}', 502),
        (b'{"predictions": [3]}', 502),
        (ReadTimeoutError(endpoint_url="https://a"), 504),
        (ConnectTimeoutError(endpoint_url="https://a"), 504),
        (NoCredentialsError(), 502),
        (ConnectionResetError("secret"), 502),
        (RuntimeError("secret"), 500),
        (ClientError({"Error": {}, "OriginalStatusCode": "x"}, "InvokeEndpoint"), 502),  # type: ignore[typeddict-item]
    ],
)
def test_whatever_an_endpoint_does_is_a_status_and_json(
    gate: Gate, function: ModuleType, monkeypatch: pytest.MonkeyPatch, outcome: Any, status: int
) -> None:
    monkeypatch.setattr(function, "_runtime", lambda: _Runtime(outcome))
    answer = function.handler({"image": "eA=="})
    assert answer["statusCode"] == status and told(answer)["error"]
    assert "secret" not in answer["body"]


def test_without_its_endpoint_it_says_so(
    gate: Gate, function: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENDPOINT")
    answer = function.handler({"image": "eA=="})
    assert answer["statusCode"] == 500 and "no endpoint" in told(answer)["error"]


def test_a_image_of_another_kind_is_told_to_be_unknown_and_one_of_the_classes_is_not(
    gate: Gate,
    function: ModuleType,
    context: TrainingContext,
    classifier: Classifier,
    image: bytes,
    tmp_path: Path,
) -> None:
    config, folder = context.config, tmp_path / "content"
    train, valid = (
        features_of(context, classifier, config, split, torch.arange(len(images)))
        for split, images in context.report.images.splits.items()
        if split != "test"
    )
    novelty = fit(NEAREST, train, context.data(config).labels("train"))
    unknown = {"method": NEAREST, "width": novelty.width, "row": False}
    unknown |= threshold_of(novelty.distance(valid))
    folder.mkdir()
    answers = {"unknown": unknown}
    write_folder(folder, classifier, context.evaluation, context.classes, {}, answers=answers)
    novelty.write(folder)
    stripes = io.BytesIO()
    pixels = np.where(np.indices((96, 96))[1] % 24 < 12, 255, 0).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").save(stripes, "PNG")
    with running(settings(make_app(Model(folder)))) as port:
        gate.container = f"http://127.0.0.1:{port}"
        items = [{"image": base64.b64encode(one).decode()} for one in (stripes.getvalue(), image)]
        stranger, own = (told(function.handler(item)) for item in items)
        both = told(function.handler(items))["photos"]
    assert stranger["unknown"] is True and stranger["stranger_than"] > 0.95 and stranger["label"]
    assert own["unknown"] is False and own["stranger_than"] < stranger["stranger_than"]
    assert [each["unknown"] for each in both] == [True, False]


@pytest.fixture(scope="module")
def fetching(
    tmp_path_factory: pytest.TempPathFactory, classifier: Classifier, context: TrainingContext
) -> Path:
    """The same model, exported with `serving.allow_urls=[photos.example]`."""
    made = tmp_path_factory.mktemp("fetching")
    words = {"run": "test"}
    write_folder(made, classifier, context.evaluation, context.classes, words, ("photos.example",))
    return made


def test_a_image_by_its_url_gets_its_label_and_score_where_the_model_allows_it(
    gate: Gate, function: ModuleType, fetching: Path, image: bytes
) -> None:
    """The local server as it is, but that the internet lies on loopback."""
    internet = Host(says(image))
    model = Model(fetching)
    best = model.scores(model.prepare(image)[None]).softmax(1)[0].max(0)
    model.fetch = Fetcher(model.fetch.allowed, resolve=internet.resolve, connect=internet.connect)
    with running(settings(make_app(model))) as port:
        gate.container = f"http://127.0.0.1:{port}"
        wanted = {"url": "http://photos.example/dogs/a.jpg"}
        headers = {"content-type": "application/json"}
        for event in (wanted, {"body": json.dumps(wanted), "headers": headers}):
            answer = function.handler(event)
            assert answer["statusCode"] == 200, answer
            assert told(answer)["label"] == model.classes[int(best.indices)]
            assert told(answer)["score"] == pytest.approx(float(best.values), rel=1e-3)
        assert [asked.splitlines()[0] for asked in internet.asked] == [
            "GET /dogs/a.jpg HTTP/1.1"
        ] * 2
        other = function.handler({"url": "http://elsewhere.example/a.jpg"})
        assert other["statusCode"] == 403 and told(other)["code"] == "BL503"
        assert len(internet.asked) == 2
    internet.close()


@pytest.mark.parametrize(
    ("event", "status", "text"),
    [
        ({}, 400, "expected"),
        ({"body": None}, 400, "empty"),
        ({"body": ""}, 400, "empty"),
        ({"body": "", "isBase64Encoded": True}, 400, "empty"),
        ({"body": 3}, 400, "not a string"),
        ({"body": "é", "isBase64Encoded": True}, 400, "not base64"),
        ({"body": "{", "headers": None}, 400, "not JSON"),
        ({"body": "{}", "headers": "words"}, 400, "expected"),
        ({"body": "{}", "headers": {"content-type": ["a", "b"]}}, 415, "not read"),
        ({"body": "{}", "headers": {"content-type": "a\r\nb"}}, 400, "content type"),
        ({"body": "{}", "headers": {"content-type": "é"}}, 400, "content type"),
        ({"body": "\ud800"}, 400, "not JSON"),
        ({"body": "x" * 6_000_001}, 413, "larger"),
        ({"version": "2.0", "requestContext": {"http": {"method": "GET"}}}, 400, "expected"),
        (None, 400, "expected"),
        ([], 400, "expected"),
        ("words", 400, "expected"),
        ({"image": 3}, 400, "expected"),
        ({"body": "%%%", "isBase64Encoded": True}, 400, "not base64"),
        (
            {
                "body": "bm8gcGhvdG8=",
                "isBase64Encoded": True,
                "headers": {"content-type": "image/png"},
            },
            400,
            "image",
        ),
        ({"body": "a,b", "headers": {"Content-Type": "text/csv"}}, 415, "text/csv"),
        ({"url": "http://127.0.0.1/x.jpg"}, 400, "URL"),
    ],
)
def test_what_the_model_refuses_is_told_with_its_own_words(
    gate: Gate, function: ModuleType, server_url: str, event: dict[str, Any], status: int, text: str
) -> None:
    gate.container = server_url
    answer = function.handler(event)
    assert answer["statusCode"] == status
    assert text.lower() in told(answer)["error"].lower()


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        ((400, "ValidationError"), 502),
        ((503, "ServiceUnavailable"), 503),
        ((500, "InternalFailure"), 502),
    ],
)
def test_what_fails_behind_it_is_told_without_its_secrets(
    gate: Gate, function: ModuleType, failure: tuple[int, str], status: int
) -> None:
    gate.failure = failure
    answer = function.handler({"image": "eA=="})
    assert answer["statusCode"] == status
    assert "secret" not in answer["body"]


def test_the_policy_allows_one_endpoint_and_its_log_and_nothing_else() -> None:
    policy = json.loads((ROOT / "entry" / "lambda_policy.json").read_text())
    allowed = {}
    for statement in policy["Statement"]:
        actions = (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        )
        assert statement["Effect"] == "Allow" and "*" not in "".join(actions)
        allowed |= dict.fromkeys(actions, statement["Resource"])
    assert set(allowed) == {"sagemaker:InvokeEndpoint", "logs:CreateLogStream", "logs:PutLogEvents"}
    assert allowed["sagemaker:InvokeEndpoint"].endswith(":endpoint/ENDPOINT")
    assert allowed["logs:PutLogEvents"].endswith(":log-group:/aws/lambda/FUNCTION:*")
