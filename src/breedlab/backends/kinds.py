"""Where an experiment can run."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from breedlab.config.section import Section
from breedlab.registry import BACKENDS

if TYPE_CHECKING:
    from breedlab.backends import Backend


class BackendKind(Section):
    """A place to run."""

    @abstractmethod
    def build(self) -> Backend:
        """Return what plans and runs an experiment there: an object with the methods of
        `breedlab.backends.Backend`."""


@BACKENDS.register("local")
class Local(BackendKind):
    """This machine, in this process."""

    def build(self) -> Backend:
        from breedlab.backends.local import LocalBackend

        return LocalBackend()


@BACKENDS.register("sagemaker")
class SageMaker(BackendKind):
    """Jobs in an AWS account."""

    def build(self) -> Backend:
        from breedlab.backends.sagemaker.jobs.launch import SageMakerBackend

        return SageMakerBackend()
