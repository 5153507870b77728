"""SageMaker's endpoints, as `breedlab deploy` manages them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from breedlab.backends.operations import Endpoints
from breedlab.backends.sagemaker.session import require_extra
from breedlab.config.endpoint import Endpoint


class SageMakerEndpoints(Endpoints):
    """Endpoints of an AWS account, and the model registry that they are deployed from."""

    def name_of(self, endpoint: Endpoint, model: Path | None, version: str | None) -> str:
        from breedlab.backends.sagemaker.endpoints.deployment import name_of
        from breedlab.backends.sagemaker.endpoints.endpoint import default_name

        if version is None:
            return name_of(endpoint, model)
        # GROUP, GROUP:VERSION, or the ARN of a model package, which ends in GROUP/VERSION
        group = (version.split("/")[1:2] or [version])[0].partition(":")[0]
        return endpoint.name or default_name(group)

    def problems(self, group: str | None, version: str | None) -> Iterator[str]:
        from breedlab.backends.sagemaker.endpoints.registry import is_group, is_reference

        if group is not None and not is_group(group):
            yield f"--register: got {group!r}; expected up to 63 letters, digits and '-'"
        if version is not None and not is_reference(version):
            yield (
                f"--from-registry: got {version!r}; expected GROUP, GROUP:VERSION or the ARN of a"
                " model package"
            )

    def plan(self, endpoint: Endpoint, model: Path) -> None:
        require_extra()
        from breedlab.backends.sagemaker.endpoints import deploy

        deploy.plan(endpoint, model)

    def deploy(self, endpoint: Endpoint, model: Path) -> None:
        require_extra()
        from breedlab.backends.sagemaker.endpoints import deploy

        deploy.deploy(endpoint, model)

    def deploy_version(self, endpoint: Endpoint, version: str) -> None:
        require_extra()
        from breedlab.backends.sagemaker.endpoints import deploy, registering

        name = self.name_of(endpoint, None, version)
        endpoint = endpoint.model_copy(update={"name": name})
        with registering.taken(endpoint, version) as (suited, model, package):
            deploy.deploy(suited, model, package)

    def register(
        self, endpoint: Endpoint, model: Path, group: str, approval: str, *, dry_run: bool
    ) -> None:
        require_extra()
        from breedlab.backends.sagemaker.endpoints import registering

        registering.register(endpoint, model, group, approval, dry_run)

    def delete(self, name: str, where: str | None) -> None:
        require_extra()
        from breedlab.backends.sagemaker.endpoints import deploy

        deploy.delete(name, where)

    def show_all(self, where: str | None) -> None:
        require_extra()
        from breedlab.backends.sagemaker.endpoints import deploy

        deploy.show_all(where)
