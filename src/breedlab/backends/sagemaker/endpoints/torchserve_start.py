"""Start AWS's inference stack as its container does, without Docker and without root, bound to this
machine only.

It is run by the Python of the stack's own environment (requirements/inference.txt), which holds no
breedlab: `python torchserve_start.py BASE PORT`, where BASE/model is an archive's content.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any


def main(base: Path, port: int) -> None:
    """Serve BASE/model on loopback until SIGTERM."""
    work = base / "work"
    work.mkdir(parents=True, exist_ok=True)
    local = "http://127.0.0.1"
    # The toolkit listens on 0.0.0.0 and in /opt/ml. TorchServe takes TS_* before what the toolkit
    # writes, and keeps its sockets and its process number in the temporary folder: one for each
    # server.
    os.environ.update(
        SAGEMAKER_BASE_DIR=str(base),
        SAGEMAKER_BIND_TO_PORT=str(port),
        TS_INFERENCE_ADDRESS=f"{local}:{port}",
        TS_MANAGEMENT_ADDRESS=f"{local}:{port}",
        TS_METRICS_ADDRESS=f"{local}:{port + 1}",
        TS_GRPC_INFERENCE_PORT=str(port + 2),
        TS_GRPC_MANAGEMENT_PORT=str(port + 3),
        LOG_LOCATION=str(work / "logs"),
        METRICS_LOCATION=str(work / "logs"),
        TEMP=str(work),
        TMPDIR=str(work),
    )
    os.chdir(work)
    from sagemaker_pytorch_serving_container import serving, torchserve  # type: ignore[import-not-found]

    def process() -> Any:
        """Return this server's own Java process; the toolkit takes any TorchServe on the machine
        for its own, and refuses two."""
        import psutil

        for _ in range(100):
            try:
                return psutil.Process(int((work / ".model_server.pid").read_text("utf-8")))
            except (OSError, ValueError, psutil.Error):
                time.sleep(0.1)
        raise RuntimeError("TorchServe did not start")

    torchserve.TS_CONFIG_FILE = str(work / "sagemaker-ts.properties")
    torchserve._retrieve_ts_server_process = process
    serving.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
