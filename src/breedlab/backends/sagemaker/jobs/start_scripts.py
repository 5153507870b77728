"""The scripts that start a training job: SDK v3's own, as its `ModelTrainer` lays them out in the
channel `sm_drivers`.

`sm_train.sh` sets the environment, unpacks the source, installs its requirements and hands over to
a driver: one that runs the entry, or torchrun's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from breedlab.backends.sagemaker.jobs.requests import ARCHIVE, ENTRY


def write_start_scripts(folder: Path, processes: int | None, instances: int) -> None:
    """Write the channel's files into a folder.

    Args:
        folder: To be filled.
        processes: On each instance, None for one a GPU; more than one in all are started by
            torchrun.
        instances: Of the job.
    """
    from sagemaker.core.training.configs import SourceCode
    from sagemaker.core.utils import install_requirements
    from sagemaker.train import templates
    from sagemaker.train.constants import (
        DISTRIBUTED_JSON,
        SM_DRIVERS_LOCAL_PATH,
        SOURCE_CODE_JSON,
        TRAIN_SCRIPT,
    )
    from sagemaker.train.distributed import Torchrun

    shutil.copytree(
        SM_DRIVERS_LOCAL_PATH,
        folder,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy2(str(install_requirements.__file__), folder / "scripts" / "install_requirements.py")
    source = SourceCode(source_dir=ARCHIVE, entry_script=ENTRY, requirements="requirements.txt")
    (folder / SOURCE_CODE_JSON).write_text(json.dumps(source.model_dump()))
    if processes is None or processes * instances > 1:
        torchrun = Torchrun(process_count_per_node=processes)
        distributed = torchrun.model_dump()
        driver = templates.EXEUCTE_DISTRIBUTED_DRIVER.format(
            driver_name=type(torchrun).__name__, driver_script=torchrun.driver_script
        )
    else:
        distributed, driver = {}, templates.EXECUTE_BASIC_SCRIPT_DRIVER
    (folder / DISTRIBUTED_JSON).write_text(json.dumps(distributed))
    script = templates.TRAIN_SCRIPT_TEMPLATE.format(
        working_dir=f"cd /opt/ml/input/data/code \ntar -xzf {ARCHIVE} \n",
        install_requirements=templates.INSTALL_REQUIREMENTS.format(
            requirements_file=source.requirements
        ),
        execute_driver=driver,
    )
    (folder / TRAIN_SCRIPT).write_text(script, newline="\n")
