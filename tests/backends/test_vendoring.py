"""A job's packages as wheels in its source: found without an index, for the Python of the image."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from deploying import deploy, sent
from sagemaker_endpoints import EndpointAccount

from breedlab.archives import opened
from breedlab.backends.sagemaker.jobs import job_packages
from breedlab.backends.sagemaker.jobs.source import requirements, write_source
from breedlab.backends.sagemaker.vendoring import OPTIONS, WHEELS, closure, collect
from breedlab.cli.deploy import main
from breedlab.config import validate
from breedlab.config.compose import load

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INPUT": "1"}


def installed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--retries",
        "0",
        *words,
    ]
    return subprocess.run(
        pip, capture_output=True, text=True, env={**kept, **NOWHERE, **environment}
    )


def test_all_that_a_requirement_needs_is_installed_without_an_index(tmp_path: Path) -> None:
    lines = [*OPTIONS, f"jinja2=={metadata.version('jinja2')}"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    assert installed(
        "--target", str(tmp_path / "before"), "-r", str(tmp_path / "requirements.txt")
    ).returncode
    collect(tmp_path, [tmp_path / "requirements.txt"], (HERE,))
    assert {wheel.name.split("-")[0].lower() for wheel in (tmp_path / WHEELS).iterdir()} == {
        "jinja2",
        "markupsafe",
    }
    # As both starters do, from wherever they are.
    done = installed("--target", str(tmp_path / "site"), "-r", str(tmp_path / "requirements.txt"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "markupsafe").is_dir() and (tmp_path / "site" / "jinja2").is_dir()


def test_every_package_of_a_job_travels_but_pytorch() -> None:
    config = validate(
        load(["experiment=quickstart", "backend=sagemaker", "dry_run=true", "debugger=default"])
    )
    names = {pin.partition("==")[0] for pin in closure(requirements(config), "3.12")}
    assert {
        "lightning",
        "torchmetrics",
        "pydantic-core",
        "sqlalchemy",
        "timm",
        "huggingface-hub",
        "boto3",
    } <= names
    assert not {
        name
        for name in names
        if name in ("torch", "torchvision", "triton") or name.startswith("nvidia-cu")
    }


def test_a_package_that_is_not_here_is_named() -> None:
    with raises_code("BL400", names=("backend.vendor", "no-such-package")):
        list(closure(["no-such-package"], "3.12"))


def test_the_source_says_where_to_look_only_where_wheels_travel(tmp_path: Path) -> None:
    words = ["experiment=resnet34", "backend=sagemaker", "dry_run=true"]
    for vendor in (False, True):
        folder = tmp_path / str(vendor)
        folder.mkdir()
        write_source(folder, validate(load([*words, f"backend.vendor={str(vendor).lower()}"])))
        assert ("--no-index" in (folder / "requirements.txt").read_text().splitlines()) == vendor


def test_an_isolated_job_may_bring_its_packages_along() -> None:
    words = ["experiment=resnet34", "backend=sagemaker", "dry_run=true", "model.weights=none"]
    words.append("backend.network_isolation=true")
    with raises_code("BL104", names=("backend.network_isolation", "backend.vendor=true")):
        validate(load(words))
    assert validate(load([*words, "backend.vendor=true"])).backend.vendor


def test_our_own_pip_takes_the_repository_that_awss_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    class CodeArtifact:
        def get_authorization_token(self, **asked: str) -> dict[str, str]:
            assert asked == {"domain": "lab", "domainOwner": "123456789012"}
            return {"authorizationToken": "t0ken"}

        def get_repository_endpoint(self, **asked: str) -> dict[str, str]:
            assert asked["repository"] == "pypi" and asked["format"] == "pypi"
            return {
                "repositoryEndpoint": (
                    "https://lab-1.d.codeartifact.eu-west-1.amazonaws.com/pypi/pypi/"
                )
            }

    def client(service: str, **more: Any) -> CodeArtifact:
        assert (service, more) == ("codeartifact", {"region_name": "eu-west-1"})
        return CodeArtifact()

    monkeypatch.setattr(boto3, "client", client)
    arn = "arn:aws:codeartifact:eu-west-1:123456789012:repository/lab/pypi"
    expected = "https://aws:t0ken@lab-1.d.codeartifact.eu-west-1.amazonaws.com/pypi/pypi/simple/"
    assert job_packages.code_artifact_index({"CA_REPOSITORY_ARN": arn}) == expected
    assert job_packages.code_artifact_index({}) is None
    with raises_code("BL400", names=("CA_REPOSITORY_ARN", "'pypi'")):
        job_packages.code_artifact_index({"CA_REPOSITORY_ARN": "pypi"})


@pytest.mark.parametrize(
    ("machine", "python", "tags"),
    [("ml.m5.large", "3.12", ("x86_64", "cp312")), ("ml.c7g.xlarge", "3.12", ("aarch64", "cp312"))],
)
def test_an_isolated_endpoint_gets_its_packages_in_its_archive(
    deploy_account: EndpointAccount,
    model_archive: Path,
    tmp_path: Path,
    machine: str,
    python: str,
    tags: tuple[str, ...],
) -> None:
    words = [
        "--vendor",
        "--network-isolation",
        "--subnet",
        "subnet-0a",
        "--security-group",
        "sg-0a",
    ]
    deploy_account.quotas[f"{machine} for endpoint usage"] = 1
    assert deploy(model_archive, *words, "--instance-type", machine, "--price-per-hour", "1") == 0
    model = sent(deploy_account, "CreateModel")
    assert model["EnableNetworkIsolation"] is True
    bucket, _, key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").partition("/")
    boto3.client("s3").download_file(bucket, key, str(tmp_path / "model.tar.gz"))
    with opened(tmp_path / "model.tar.gz") as content:
        lines = (content / "code" / "requirements.txt").read_text().splitlines()
        assert (
            lines[:2] == list(OPTIONS)
            and f"safetensors=={metadata.version('safetensors')}" in lines
        )
        # For the image's Python and processors, not for those of this machine.
        only = [
            "--only-binary",
            ":all:",
            "--python-version",
            python,
            "--platform",
            f"manylinux_2_34_{tags[0]}",
        ]
        only += [
            word
            for libc in ("2_28", "2_27", "2_17")
            for word in ("--platform", f"manylinux_{libc}_{tags[0]}")
        ]
        only += ["--platform", f"manylinux2014_{tags[0]}", "--target", str(tmp_path / "site")]
        done = installed(*only, "-r", str(content / "code" / "requirements.txt"))
    assert done.returncode == 0, done.stderr
    (library,) = (tmp_path / "site" / "simplejpeg").glob("*.so")
    assert all(tag in library.name.replace("cpython-", "cp") for tag in tags)


def test_flags_of_wheels_that_do_not_go_together() -> None:
    for words, named in (
        (["--network-isolation"], ("endpoint.network_isolation", "endpoint.vendor=true")),
        (
            ["--vendor", "--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/dogs:1"],
            "endpoint.vendor",
        ),
    ):
        with raises_code("BL104", names=named):
            main(["model.tar.gz", *words])
