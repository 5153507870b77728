"""An account with a role and a bucket, and the words that launch into it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import botocore.session
import pytest
from container_image import build_image
from containers import Container
from filelock import FileLock
from recording import Recorder
from sagemaker.core import common_utils
from sagemaker_account import REGION, ROLE, TRUST, Account, serving
from sagemaker_endpoints import EndpointAccount

from breedlab.backends.sagemaker.permissions import actions, by_command, recorded
from breedlab.data.sample import write_sample

BUCKET = "breedlab-tests"

Words = Callable[..., list[str]]


@pytest.fixture(scope="session", autouse=True)
def _one_loader() -> Iterator[None]:
    """boto3 reads its models of the API, some of them megabytes, once instead of for every
    session."""
    loader = botocore.session.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", lambda *_: loader)
        # The SDK reads the list of all endpoints for the address of each image.
        resolver = functools.cache(common_utils._botocore_resolver)
        patch.setattr(common_utils, "_botocore_resolver", resolver)
        yield


@pytest.fixture(scope="session")
def _recorder() -> Iterator[Recorder]:
    with pytest.MonkeyPatch.context() as patch:
        made = Recorder()
        made.install(patch)
        yield made


@pytest.fixture(autouse=True)
def recorder(_recorder: Recorder) -> Iterator[Recorder]:
    """Notes what our client calls; whatever a test has it call has to be in the policies."""
    _recorder.clear()
    yield _recorder
    known = actions(by_command(recorded(), recorded()))
    assert actions({name for name, _ in _recorder.calls}) <= known, "add them: see permissions.py"


@pytest.fixture(scope="session")
def _server() -> Iterator[Account]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    account = Account()
    with serving(account) as url:
        account.url = url
        yield account


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine on which nobody has ever heard of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nowhere = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def account(_server: Account, no_account: None, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An empty account with a role and a bucket, that this process and its children talk to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", _server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    import urllib.request

    urllib.request.urlopen(
        urllib.request.Request(f"{_server.url}/moto-api/reset", method="POST")
    ).close()
    _server.reset()
    boto3.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument=TRUST)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    _server.calls.clear()
    return _server


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fewest images that make a data set: 14, of 2 classes."""
    root = tmp_path_factory.mktemp("few") / "photos"
    write_sample(root, classes=2, train=3, valid=2, test=2, size=48, seed=2)
    return root


@pytest.fixture
def slight_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """No breedlab in what a launch sends, which takes it half a second to copy and to pack; for
    tests that do not look into it."""

    def nothing(folder: Path) -> None:
        (folder / "src").mkdir(parents=True)

    monkeypatch.setattr("breedlab.backends.submission._copy_breedlab", nothing)


@pytest.fixture
def cloud(words: Words, few: Path) -> Words:
    """The overrides of a small experiment on SageMaker."""

    def make(*more: str) -> list[str]:
        place = ["backend=sagemaker", f"backend.role={ROLE}", f"backend.bucket={BUCKET}"]
        small = [
            "profiler=none",
            f"data.root={few}",
            "backend.instance_type=ml.m5.xlarge",
            "backend.trials=job_each",
        ]
        return words("experiment=quickstart", *small, *place, *more)

    return make


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of the container's environment. BREEDLAB_TEST_IMAGE names one that was made
    before."""
    if made := os.environ.get("BREEDLAB_TEST_IMAGE"):
        return Path(made, "bin")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all the processes that test
    with FileLock(shared / "image.lock"):
        if not (shared / "image" / "ready").exists():
            build_image(shared / "image")
            (shared / "image" / "ready").touch()
    return shared / "image" / "bin"


@pytest.fixture
def container(image: Path, account: Account, tmp_path: Path) -> Iterator[Container]:
    folder = tmp_path / "containers"
    folder.mkdir()
    made = Container(image, folder, account.url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive's content, unpacked."""
    import torch
    from deploying import CLASSES, exported

    torch.manual_seed(1)
    return exported(tmp_path_factory.mktemp("content"), CLASSES)


@pytest.fixture(scope="session")
def model_archive(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a model.tar.gz."""
    from breedlab.serving.archive import write_archive

    path = tmp_path_factory.mktemp("archive") / "model.tar.gz"
    write_archive(path, model_folder)
    return path


@pytest.fixture(scope="session")
def _endpoint_server() -> Iterator[EndpointAccount]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    account = EndpointAccount()
    with serving(account) as url:
        account.url = url
        yield account


@pytest.fixture
def bare_deploy_account(
    _endpoint_server: EndpointAccount,
    no_account: None,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> EndpointAccount:
    """An account with a role and a bucket; its endpoints answer with the archive's handler."""
    import urllib.request

    from deploying import BUCKET, contained

    from breedlab.backends.sagemaker import sending
    from breedlab.backends.sagemaker.endpoints import first_answer, lifecycle
    from breedlab.serving import handler

    account = _endpoint_server
    for name, value in {
        "AWS_ENDPOINT_URL": account.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION,
        "BREEDLAB_INFERENCE_ENV": "/nowhere",
        "BREEDLAB_USER": "anna",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lifecycle, "POLL_S", 0.0)
    monkeypatch.setattr(sending, "PAUSE_S", 0.0)
    monkeypatch.setattr(first_answer, "PATIENCE_S", 0.0)
    urllib.request.urlopen(
        urllib.request.Request(f"{account.url}/moto-api/reset", method="POST")
    ).close()
    account.forget()
    account.container = contained(handler.model_fn(str(model_folder)))
    boto3.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument=TRUST)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    account.calls.clear()
    return account


@pytest.fixture
def deploy_account(
    bare_deploy_account: EndpointAccount, monkeypatch: pytest.MonkeyPatch
) -> EndpointAccount:
    """The same, where the archive is known to be good: trying it takes seconds, and some tests try
    it for all."""
    from breedlab.backends.sagemaker.endpoints import archive_check

    monkeypatch.setattr(
        archive_check, "probe", lambda *_: archive_check.Answer("Akita", 0.5, "known to be good")
    )
    return bare_deploy_account
