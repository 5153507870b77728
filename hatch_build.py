"""A hook of hatchling: metadata that depends on where a package is built."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class HomeOfTheProject(MetadataHookInterface):
    """Add the URLs of the GitHub repository whose workflow builds the package, and point the
    README's links there: a package index shows it without the files beside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = Path(self.root, "README.md").read_text("utf-8")
        repository = os.environ.get("GITHUB_REPOSITORY")
        if repository:
            home = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
            metadata["urls"] = {
                "Homepage": home,
                "Documentation": f"{home}/tree/main/docs",
                "Changelog": f"{home}/blob/main/CHANGELOG.md",
                "Issues": f"{home}/issues",
            }
            readme = re.sub(r"(!\[[^]]*\])\((?!https?:|#)", rf"\1({home}/raw/main/", readme)
            readme = re.sub(r"(?<=\])\((?!https?:|#)", f"({home}/blob/main/", readme)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
