"""`account`, `batch`, and `deploy` reach a stranger's backend by the seam, and say which backend
does not offer what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from codes import exits_with_code, raises_code
from strangers import Write

from breedlab.cli import account, batch, deploy
from breedlab.cli import help as help_command
from breedlab.errors import BackendError

SOURCE = '''
from typing import Annotated

from pydantic import Field

from breedlab.backends.base import Backend
from breedlab.backends.kinds import BackendKind
from breedlab.backends.operations import Account, BatchJobs, Endpoints
from breedlab.config.section import Section
from breedlab.registry import BACKENDS


class Trees(Section):
    """Where the orchard answers."""

    replicas: Annotated[int, Field(ge=1, le=9)] = 1
    """Trees that answer."""


@BACKENDS.register("orchard")
class Orchard(BackendKind):
    """A cluster that does everything."""

    endpoint_settings = Trees

    season: str = "autumn"
    """When it answers."""

    def build(self):
        return OrchardBackend()


class OrchardBackend(Backend):
    def plan(self, config, resume):
        return "nothing"

    def submit(self, config, overrides, resume):
        raise NotImplementedError

    def account(self):
        return OrchardAccount()

    def batch_jobs(self):
        return OrchardJobs()

    def endpoints(self):
        return OrchardEndpoints()


class OrchardAccount(Account):
    def policies(self, request):
        return {"quota": {"run": request.config.name, "reads": list(request.reads)}}

    def template(self, request):
        return {"orchard": request.config.name}

    def how_to_create(self):
        return "orchard create"


class OrchardJobs(BatchJobs):
    def problems(self, source, target):
        for address in (source, target):
            if not address.startswith("orchard://"):
                yield f"{address}: expected orchard://..."

    def name_of(self, model):
        return "apples"

    def plan(self, request):
        print("plan", request.source, request.target, request.instances)

    def start(self, request):
        print("start", request.endpoint.name)
        return ""

    def follow(self, name, where):
        return "orchard://answers"

    def stop(self, name, where):
        return ""


class OrchardEndpoints(Endpoints):
    def name_of(self, endpoint, model, version):
        return endpoint.name or "apples"

    def problems(self, group, version):
        yield from ()

    def plan(self, endpoint, model):
        print("plan", endpoint.max_instances, endpoint.orchard.replicas, model)

    def deploy(self, endpoint, model):
        print("deploy", model)

    def deploy_version(self, endpoint, version):
        print("deploy", version)

    def register(self, endpoint, model, group, approval, *, dry_run):
        print("register", group)

    def delete(self, name, where):
        print("delete", name)

    def show_all(self, where):
        print("all")
'''

YAML = """# @package _global_
defaults: [local@backend, _self_]
plugins: [my_orchard]
backend:
  name: orchard
"""


@pytest.fixture
def orchard(package: Write, here: Path) -> str:
    """The override that names a package with a backend that offers everything."""
    return package(SOURCE, "my_orchard")


def test_an_account_is_the_backends(orchard: str, here: Path, capsys: Any) -> None:
    (here / "configs" / "backend").mkdir(parents=True)
    (here / "configs" / "backend" / "orchard.yaml").write_text(YAML)
    words = ["--config-dir", "configs", "--read", "orchard://in", "backend=orchard"]
    assert account.main(["policies", *words, "--only", "quota"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "resnet34", "reads": ["orchard://in"]}


def test_a_batch_job_is_the_backends(orchard: str, capsys: Any) -> None:
    words = [orchard, "--backend", "orchard", "runs/1", "orchard://in", "orchard://out"]
    assert batch.main([*words, "--instances", "3", "--dry-run"]) == 0
    assert capsys.readouterr().out == "plan orchard://in orchard://out 3\n"
    assert batch.main([*words, "--name", "pears", "--no-wait"]) == 0
    assert "--follow pears --backend orchard" in capsys.readouterr().out
    assert batch.main([orchard, "--backend", "orchard", "--follow", "pears"]) == 0
    assert "answers are in orchard://answers/" in capsys.readouterr().out
    with exits_with_code(capsys, "BL107", names=("s3://bucket/in", "orchard://")):
        batch.main([orchard, "--backend", "orchard", "runs/1", "s3://bucket/in", "orchard://out"])


def test_endpoints_are_the_backends(orchard: str, capsys: Any) -> None:
    named = [orchard, "--backend", "orchard"]
    own = ["endpoint.max_instances=4", "endpoint.orchard.replicas=3"]
    assert deploy.main([*named, "runs/1", *own, "--dry-run"]) == 0
    assert deploy.main([*named, "runs/1"]) == 0
    assert deploy.main([*named, "--delete", "apples"]) == 0
    assert capsys.readouterr().out == "plan 4 3 runs/1\ndeploy runs/1\ndelete apples\n"


@pytest.mark.parametrize(
    ("word", "code", "named"),
    [
        ("endpoint.orchard.replicas=30", "BL103", ("endpoint.orchard.replicas", "30", "9")),
        ("endpoint.orchard.replica=3", "BL101", "did you mean endpoint.orchard.replicas?"),
    ],
)
def test_a_backends_own_settings_of_an_endpoint_are_checked(
    orchard: str, word: str, code: str, named: Any
) -> None:
    with raises_code(code, names=named):
        deploy.main([orchard, "--backend", "orchard", "runs/1", word])


def test_help_tells_a_backends_own_settings(orchard: str, capsys: Any) -> None:
    assert help_command.main([orchard, "endpoint.orchard.replicas", "backend.orchard"]) == 0
    told = capsys.readouterr().out
    assert "Trees that answer." in told and "at most 9" in told
    assert "backend.orchard.season" in told and "When it answers." in told
    with pytest.raises(SystemExit):
        deploy.main(["--help", orchard])
    assert "endpoint.orchard.replicas" in capsys.readouterr().out


def test_a_backend_with_the_name_of_an_endpoints_setting_is_refused(package: Write) -> None:
    named = package(SOURCE.replace('"orchard"', '"workers"'), "my_orchard")
    with raises_code("BL108", names=("endpoint.workers", "my_orchard")):
        deploy.main([named, "runs/1", "--backend", "workers"])


def test_a_backend_that_offers_nothing_says_so_by_name(here: Path) -> None:
    for command, words, operation in (
        (account, ["policies", "backend=local"], "policies of an account"),
        (batch, ["--backend", "local", "m", "s3://b/in", "s3://b/out"], "batch jobs"),
        (deploy, ["--backend", "local", "m"], "endpoints to deploy to"),
    ):
        with pytest.raises(BackendError) as refusal:
            command.main(words)
        expected = f"backend local: does not offer {operation}; expected sagemaker"
        assert str(refusal.value) == expected
