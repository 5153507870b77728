"""`breedlab deploy` takes settings like everything else, and old flags say how to spell them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codes import exits_with_code, raises_code

from breedlab.cli import help as help_command
from breedlab.cli.deploy import main
from breedlab.config.compose import compose
from breedlab.config.endpoint import Deploying, Endpoint
from breedlab.config.endpoint_compose import load_endpoint
from breedlab.config.problems import paths_of
from breedlab.config.setting import settings
from breedlab.config.yaml_folders import groups
from breedlab.errors import ConfigError

PLAN = "breedlab.backends.sagemaker.endpoints.deploy.plan"


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Endpoint]:
    """Return what a command line asks for, without a model."""
    asked: list[Endpoint] = []
    monkeypatch.setattr(PLAN, lambda endpoint, model: asked.append(endpoint))

    def plan(*argv: str) -> Endpoint:
        assert main(["runs/latest", *argv]) == 0
        return asked[-1]

    return plan


FLAGS = """
--dry-run --name dogs --kind async --min-instances 0 --max-instances 2 --scale-target 2.5
--scale-in-cooldown 0 --role arn:aws:iam::123456789012:role/Team --bucket my-bucket --prefix a/b
--region eu-west-1 --kms-key alias/k --env A=1 --env B=true --env C=a=b --tag cost-center=7
--tag team:name=x --subnet s-1 --subnet s-2 --security-group g-1 --network-isolation --workers 2
--image 123456789012.dkr.ecr.eu-west-1.amazonaws.com/breedlab:v1 --capture 5 --capture-to s3://captures/y
--async-output s3://answers/z --success-topic arn:aws:sns:eu-west-1:1:t --alarm slow --alarm wrong
--traffic linear --step-percent 20 --step-wait 60 --keep-old 120 --price-per-hour 0.2
--startup-timeout 900
"""


def test_old_flags_mean_what_they_did_and_the_notice_spells_the_same_in_settings(
    planned: Callable[..., Endpoint], capsys: Any
) -> None:
    by_flags = planned(*FLAGS.split())
    assert by_flags.environment == {"A": "1", "B": "true", "C": "a=b"}
    assert by_flags.tags == {"cost-center": "7", "team:name": "x"}
    assert (by_flags.subnets, by_flags.alarms) == (["s-1", "s-2"], ["slow", "wrong"])
    assert (by_flags.kind, by_flags.scale_in_cooldown) == ("async", 0)
    notice = "".join(capsys.readouterr())
    assert len(notice.splitlines()) == 1
    words = shlex.split(notice.partition("breedlab deploy ")[2])
    assert {word for word in words if word.startswith("--")} == {"--dry-run", "--region"}
    assert planned(*words[1:]) == by_flags
    assert "next release" not in "".join(capsys.readouterr())


def test_settings_are_composed_from_the_yaml_of_a_kind() -> None:
    serverless = load_endpoint(["endpoint=serverless", "endpoint.memory_mb=2048"]).endpoint
    assert (serverless.kind, serverless.memory_mb) == ("serverless", 2048)
    assert set(groups(of_deploy=True)) == {"endpoint"} and "endpoint" not in groups()
    for kind in groups(of_deploy=True)["endpoint"]:
        tree = compose([f"endpoint={kind}"], "deploy")
        assert sorted(paths_of(tree)) == sorted(one.path for one in settings(Deploying))
        assert Deploying.model_validate(tree) == Deploying(endpoint=Endpoint(kind=kind))


def test_a_kind_of_your_own_is_a_yaml_file(
    planned: Callable[..., Endpoint], tmp_path: Path
) -> None:
    (tmp_path / "endpoint").mkdir()
    (tmp_path / "endpoint" / "team.yaml").write_text(
        "defaults: [realtime, _self_]\nrole: Team\nbucket: team-models\nmax_instances: 3\n"
    )
    asked = planned("--config-dir", str(tmp_path), "endpoint=team", "dry_run=true")
    assert (asked.kind, asked.role, asked.max_instances) == ("realtime", "Team", 3)


def test_all_that_is_wrong_is_told_at_once_with_the_nearest_name() -> None:
    wrong = ["endpoint.nam=dogs", "endpont.role=x", "endpoint.workers=0", "endpoint.capture=200"]
    with pytest.raises(ConfigError) as caught:
        main(["runs/latest", *wrong])
    text = str(caught.value)
    assert text.startswith("endpoint: 4 problems")
    assert "endpoint.nam: unknown name; did you mean endpoint.name?" in text
    assert "endpont.role: unknown name; did you mean endpoint.role?" in text
    assert "endpoint.workers: got 0; expected a number of at least 1" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--instance-typ", "ml.m5.large"], "did you mean endpoint.instance_type?"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--register", "dogs", "--approval", "aproved"], "did you mean approved?"),
    ],
)
def test_a_misspelled_flag_gets_the_nearest_name_and_exit_code_2(
    words: list[str], says: str, capsys: Any
) -> None:
    with exits_with_code(capsys, "BL107", names=says):
        main(["runs/latest", *words])


def test_both_helps_list_every_setting(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    own = capsys.readouterr().out
    assert not ended.value.code and help_command.main(["endpoint"]) == 0
    text = capsys.readouterr().out
    for setting in settings(Endpoint, "endpoint."):
        assert setting.meaning and setting.path in text and setting.path in own


def test_a_setting_of_another_command_is_unknown(tmp_path: Path) -> None:
    with raises_code("BL101", names="optim.lr"):
        main([str(tmp_path), "optim.lr=0.1"])
