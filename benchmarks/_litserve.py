"""LitServe around a model of ours: `python _litserve.py FOLDER PORT BATCH TIMEOUT`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
import torch

from breedlab.data.decode import keep_memory
from breedlab.serving.handler import Model


class Photos(litserve.LitAPI):  # type: ignore[misc]
    """One photo a request, base64 in JSON; scores as a list."""

    def __init__(self, folder: Path, **words: Any) -> None:
        super().__init__(**words)
        self.folder = folder

    def setup(self, device: str) -> None:
        keep_memory()
        self.model = Model(self.folder)

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        return self.model.prepare(base64.b64decode(request["image"]))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, photos: torch.Tensor) -> torch.Tensor:
        return self.model.scores(photos if photos.dim() == 4 else photos[None])

    def encode_response(self, output: torch.Tensor) -> list[Any]:
        found: list[Any] = output.tolist()
        return found


if __name__ == "__main__":
    folder, port, batch, timeout = sys.argv[1:]
    more = {"max_batch_size": int(batch), "batch_timeout": float(timeout)} if int(batch) > 1 else {}
    server = litserve.LitServer(Photos(Path(folder), **more), accelerator="cpu", fast_queue=False)
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
