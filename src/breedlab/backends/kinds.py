"""Where an experiment can run.

Another built-in backend is one file in this folder, `NAME.py`, that registers its class, and one
YAML, `conf/backend/NAME.yaml`: the YAML is how the file is found.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from breedlab.config.backend import S3_EXAMPLE
from breedlab.config.problems import Problem
from breedlab.config.section import Section
from breedlab.config.yaml_folders import config_folder
from breedlab.errors import BackendError
from breedlab.registry import BACKENDS

if TYPE_CHECKING:
    from breedlab.backends.base import Backend


class BackendKind(Section):
    """A place to run.

    Attributes:
        scheme: How addresses of images begin that it reads from elsewhere, such as `s3`; empty
            where it reads folders only.
        address_example: Such an address, as a message shows it.
        here: Whether it trains on this machine, with what is installed here.
        same_paths: Whether paths of the config may mean the same files there as here.
        endpoint_settings: The class of its own settings of an endpoint, which are at
            `endpoint.NAME` for `breedlab deploy`; None for none.
        aws: Whether it needs the settings of `backend` that are AWS's, and searches by tuning jobs.
    """

    scheme: ClassVar[str] = ""
    address_example: ClassVar[str] = ""
    here: ClassVar[bool] = False
    aws: ClassVar[bool] = False
    same_paths: ClassVar[bool] = False
    endpoint_settings: ClassVar[type[Section] | None] = None

    @abstractmethod
    def build(self) -> Backend:
        """Return what plans and submits experiments there."""

    @classmethod
    def problems(cls, section: Mapping[str, Any]) -> list[Problem]:
        """Return what it refuses of the config's section `backend`, beyond types and ranges."""
        return []


@BACKENDS.register("local")
class Local(BackendKind):
    """This machine, in this process."""

    here: ClassVar[bool] = True

    def build(self) -> Backend:
        from breedlab.backends.local import LocalBackend

        return LocalBackend()


@BACKENDS.register("sagemaker")
class SageMaker(BackendKind):
    """Jobs in an AWS account."""

    scheme: ClassVar[str] = "s3"
    address_example: ClassVar[str] = S3_EXAMPLE
    aws: ClassVar[bool] = True

    def build(self) -> Backend:
        from breedlab.backends.sagemaker.backend import SageMakerBackend

        return SageMakerBackend()

    @classmethod
    def problems(cls, section: Mapping[str, Any]) -> list[Problem]:
        from breedlab.config.backend import Backend as Settings
        from breedlab.config.components import section_of
        from breedlab.config.schema import schema

        kind = section_of(schema().model_fields["backend"].annotation)
        assert kind is not None and issubclass(kind, Settings)
        try:
            model = kind.model_validate(section)
        except ValueError:
            return []  # which is reported with the rest of the config
        from breedlab.backends.sagemaker import images
        from breedlab.backends.sagemaker.session import planned

        try:
            return images.problems(model, planned(model).region)
        except (BackendError, ImportError):
            return []  # without the extra, which is asked for once the rest is in order


def _register_files() -> None:
    """Import the files of the built-in backends whose classes are not in this one."""
    for yaml in sorted(config_folder().glob("backend/*.yaml")):
        module = f"{__package__}.{yaml.stem}"
        if yaml.stem not in ("local", "sagemaker") and find_spec(module):
            import_module(module)


_register_files()
