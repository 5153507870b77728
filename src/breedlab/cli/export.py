"""`breedlab export`: a model as files that other programs run without breedlab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab import extras, hardware
from breedlab.archives import opened
from breedlab.cli.parser import Parser
from breedlab.cli.plugins import without_plugins
from breedlab.config.plugins import load_plugins_of
from breedlab.console import progress
from breedlab.errors import ServingError

if TYPE_CHECKING:
    from breedlab.serving.model import Model

_FORMS = {
    "onnx": ("FILE", "ONNX; needs the onnx extra"),
    "torch": ("FILE", "PyTorch's exported program (.pt2), for torch.export.load"),
    "timm": (
        "FOLDER",
        "config.json, model.safetensors, and README.md, as timm and the Hub have it",
    ),
    "card": ("FILE", "a model card (Markdown): metrics with intervals, data, preprocessing"),
}


def main(argv: list[str]) -> int:
    """Write a model in each of the forms that are asked for.

    Raises:
        BreedlabError: If the model is not there, an extra is missing, or the network does not fit
            the form.
    """
    parser = command_parser()
    args = parser.parse_args(without_plugins(argv))
    outputs = {name: path for name in _FORMS if (path := getattr(args, name)) is not None}
    if not outputs:
        parser.error(f"expected at least one of {', '.join(f'--{name}' for name in _FORMS)}")
    if "onnx" in outputs:
        extras.require("onnx", "--onnx")
    for path in outputs.values():
        if not path.absolute().parent.is_dir():
            raise ServingError(f"{path}: its folder does not exist; create it first")
        if path.is_dir() and path is not outputs.get("timm"):
            raise ServingError(f"{path}: is a folder; expected the name of a file")
    load_plugins_of(args.model)
    with opened(args.model) as folder:
        with progress("loading the model", aside=True):
            import torch

            from breedlab.serving.engine_kinds import EAGER
            from breedlab.serving.model import Model

            hardware.heed()
            model = Model(folder, torch.device("cpu"), EAGER)
        for name, path in outputs.items():
            with progress(f"writing {path.name}", aside=True):
                _writers()[name](model, path)
            print(path)
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "export",
        "MODEL|RUN --onnx FILE | --torch FILE | --timm FOLDER | --card FILE",
        description=(
            "Write a model for other programs. ONNX and .pt2 take uint8 RGB images (n, 3, side,\n"
            "side), resized and cropped as their metadata says, and hold normalization, class\n"
            "names, and temperature."
        ),
        examples=("runs/latest --onnx model.onnx",),
        plugins=True,
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL|RUN", help="a model.tar.gz, or a run directory"
    )
    for name, (kind, meaning) in _FORMS.items():
        parser.add_argument(f"--{name}", type=Path, metavar=kind, help=meaning)
    return parser


def _writers() -> dict[str, Callable[[Model, Path], None]]:
    from breedlab.files import atomic_open
    from breedlab.serving.model_card import model_card
    from breedlab.serving.portable import write_onnx, write_program
    from breedlab.serving.timm_folder import write_timm_folder

    def write_card(model: Model, file: Path) -> None:
        with atomic_open(file) as out:
            out.write(model_card(model).encode())

    return {
        "onnx": write_onnx,
        "torch": write_program,
        "timm": write_timm_folder,
        "card": write_card,
    }
