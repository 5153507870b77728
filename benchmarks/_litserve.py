"""LitServe around a model of ours: `python _litserve.py FOLDER PORT WORKERS THREADS BATCH TIMEOUT
DECODER`.

As LitServe's own example of an image classifier does it: a batch's images on as many threads as the
worker has cores, by Pillow and torchvision.
"""

from __future__ import annotations

import base64
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import litserve
import torch
from _peers import usual_image

from breedlab.data.decode import keep_memory
from breedlab.serving.model import Model


class Images(litserve.LitAPI):  # type: ignore[misc]
    """One image a request, base64 in JSON; scores as a list."""

    def __init__(self, folder: Path, threads: int, decoder: str, **words: Any) -> None:
        super().__init__(**words)
        self.folder, self.threads, self.decoder = folder, threads, decoder

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.threads)
        self.model = Model(self.folder)
        self.pool = ThreadPoolExecutor(self.threads)
        self.image = usual_image()
        if self.decoder == "ours":
            keep_memory()
            self.image = self.model.prepare

    def decode_request(self, request: dict[str, str]) -> str:
        return request["image"]

    def batch(self, inputs: list[str]) -> torch.Tensor:
        return torch.stack(list(self.pool.map(self._prepare, inputs)))

    def predict(self, images: torch.Tensor | str) -> torch.Tensor:
        return self.model.scores(self._prepare(images)[None] if isinstance(images, str) else images)

    def encode_response(self, output: torch.Tensor) -> list[Any]:
        found: list[Any] = output.tolist()
        return found

    def _prepare(self, image: str) -> torch.Tensor:
        prepared: torch.Tensor = self.image(base64.b64decode(image))
        return prepared


if __name__ == "__main__":
    folder, port, workers, threads, batch, timeout, decoder = sys.argv[1:]
    more = {"max_batch_size": int(batch), "batch_timeout": float(timeout)} if int(batch) > 1 else {}
    api = Images(Path(folder), int(threads), decoder, **more)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(workers), fast_queue=False
    )
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
