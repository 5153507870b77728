"""Every instance type that the API knows: it gets an image that starts on it, or a sentence that
says why not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.loaders import Loader
from codes import raises_code

from breedlab.backends.sagemaker import images
from breedlab.backends.sagemaker.endpoints.inference_image import inference_image
from breedlab.config import validate
from breedlab.config.backend import Backend
from breedlab.config.compose import load
from breedlab.errors import BackendError

VARIANT = "ProductionVariantInstanceType"


def types(shape: str) -> list[str]:
    found: list[str] = Loader().load_service_model("sagemaker", "service-2")["shapes"][shape][
        "enum"
    ]
    return found


def family(instance_type: str) -> str:
    return instance_type.split(".")[1]


def backend(**more: Any) -> Backend:
    tree = load(["experiment=resnet34", "backend=sagemaker", "dry_run=true"])
    tree["backend"] |= more
    return validate(tree).backend


@pytest.fixture(scope="module")
def training() -> dict[str, str]:
    """What each type trains in, or why it does not."""
    some = backend()
    found = {}
    for each in types("TrainingInstanceType"):
        one = some.model_copy(update={"instance_type": each})
        problems = images.problems(one, "us-east-1")
        found[each] = problems[0].message if problems else images.training_image(one, "us-east-1")
    return found


def test_every_training_type_has_an_image_or_a_reason(training: dict[str, str]) -> None:
    refused = {family(each) for each, text in training.items() if ".dkr.ecr." not in text}
    assert refused == {"trn1", "trn1n", "trn2", "p2", "p3", "p3dn", "p6e-gb200"}
    for each, image in training.items():
        if family(each) not in refused:
            assert ("-cu" in image) == bool(re.match(r"(g|p)\d", family(each))), each


@pytest.mark.parametrize(
    ("instance_type", "named"),
    [
        ("ml.trn1.2xlarge", "Trainium"),
        ("ml.p2.xlarge", "K80"),
        ("ml.p3.2xlarge", "backend.image=2.7.1"),
        ("ml.p6e-gb200.36xlarge", "ARM"),
        ("ml.c7g.xlarge", "ARM"),  # the SDK raises when it is asked for its image
    ],
)
def test_why_a_type_is_refused(instance_type: str, named: str) -> None:
    (problem,) = images.problems(backend(instance_type=instance_type), "us-east-1")
    assert problem.path == "backend.instance_type" and named in problem.message


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("cn-north-1", "cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "us-gov-west-1.amazonaws.com"),
        ("us-iso-east-1", "us-iso-east-1.c2s.ic.gov"),
        ("ap-south-2", "ap-south-2.amazonaws.com"),
    ],
)
def test_auto_is_the_newest_image_that_a_region_has(region: str, host: str) -> None:
    """The newest of all is not in China, nor where the government is."""
    from sagemaker.core import image_uris

    chosen = images.training_image(backend(), region)
    assert f".dkr.ecr.{host}/pytorch:2." in chosen and images.problems(backend(), region) == []
    version = re.search(r":(2\.\d+)-", chosen)
    assert version
    listed = image_uris.config_for_framework("pytorch-amzn2023")["training"]["versions"]
    there = [each for each, entry in listed.items() if region in entry["registries"]]
    assert version[1] == max(there, key=lambda each: int(each.split(".")[1]))
    own = backend(image=chosen.replace("pytorch:", "mine:"))
    assert images.problems(own, region) == []


def test_a_version_that_a_region_has_not_is_refused_with_the_one_it_has() -> None:
    (problem,) = images.problems(backend(image="2.14.0"), "cn-north-1")
    assert "no image of PyTorch 2.14 in cn-north-1; give auto, which is" in problem.message
    (problem,) = images.problems(backend(), "mars-north-1")
    assert problem.message.endswith("in mars-north-1; give an image's URI")


def test_blackwell_gpus_need_the_kernels_of_pytorch_2_7() -> None:
    for image, fits in (("2.6.0", False), ("2.7.1", True), ("auto", True)):
        found = images.problems(backend(instance_type="ml.g7e.2xlarge", image=image), "us-east-1")
        assert (found == []) == fits
        assert fits or "has NVIDIA Blackwell GPUs, for which 2.6, the PyTorch" in found[0].message
    with raises_code("BL400", names=("ml.g7e.2xlarge", "such as ml.")):
        inference_image("ml.g7e.2xlarge", "us-east-1")
    assert "2.6.0-gpu" in inference_image("ml.g6e.xlarge", "us-east-1")


def test_what_a_refusal_advises_works() -> None:
    older = backend(instance_type="ml.p3.2xlarge", image="2.7.1")
    assert images.problems(older, "us-east-1") == []
    own = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:arm64"
    assert (
        images.problems(backend(instance_type="ml.p6e-gb200.36xlarge", image=own), "us-east-1")
        == []
    )


def test_every_endpoint_type_has_an_image_for_its_processor_or_a_reason() -> None:
    refused = set()
    for each in types(VARIANT):
        try:
            image = inference_image(each, "us-east-1")
        except BackendError as error:
            assert str(error).startswith(f"endpoint.instance_type: {each} has")
            refused.add(family(each))
        else:
            assert ("arm64" in image) == (
                re.fullmatch(r"[a-z]\d+g[a-z]*", family(each)) is not None
            ), each
            assert ("-gpu-" in image) == (re.match(r"(g|p)\d", family(each)) is not None), each
    blackwell = {"g7", "g7e", "p6-b200", "p6-b300"} & set(map(family, types(VARIANT)))
    others = {"inf1", "inf2", "trn1", "trn1n", "trn2", "dl1", "p2", "p6e-gb200"}
    assert blackwell and refused == others | blackwell


def test_ec2_knows_as_many_gpus() -> None:
    """moto carries what EC2's DescribeInstanceTypes answers."""
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    every = {*types("TrainingInstanceType"), *types(VARIANT), *types("TransformInstanceType")}
    described = {each: INSTANCE_TYPES.get(each.removeprefix("ml.")) for each in every}
    gpus = {
        each: sum(gpu["Count"] for gpu in found.get("GpuInfo", {}).get("Gpus", []))
        for each, found in described.items()
        if found is not None
    }
    assert sum(count > 0 for count in gpus.values()) > 50
    assert {each: images.known_gpus(each) for each in gpus} == gpus
    unknown = {each for each in every if images.known_gpus(each) is None}
    assert unknown == {"ml.p6e-gb200.36xlarge"}


def test_more_processes_than_gpus_are_refused_on_the_default_type() -> None:
    chosen = backend(instance_type=Backend().instance_type, processes=2)
    (problem,) = images.problems(chosen, "us-east-1")
    assert problem.path == "backend.processes" and "has 1 GPU" in problem.message
