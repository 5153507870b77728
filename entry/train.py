"""What SageMaker starts: the experiment in `config.yaml`, with the job's hyperparameters, as
`launch` runs it anywhere.

Hyperparameters come from `SM_HPS`, never from argv, whose types and order differ with who starts
the job.
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "src"))
# AWS's training toolkit keeps a protobuf that smdebug reads in pure Python only.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

from breedlab.backends.sagemaker.jobs import job as jobs  # noqa: E402
from breedlab.backends.sagemaker.jobs import job_files, job_packages, job_secrets  # noqa: E402
from breedlab.config import Config  # noqa: E402
from breedlab.errors import BreedlabError, Terminated  # noqa: E402
from breedlab.pipeline.run import run  # noqa: E402


def read_task() -> tuple[jobs.Job, Config, list[str]]:
    job = jobs.read_job(os.environ)
    tree = jobs.read_config(SOURCE)
    job = replace(job, stage=jobs.stage_of(tree, job))
    return job, *jobs.job_config(tree, job)


def train(job: jobs.Job, config: Config, words: list[str]) -> None:
    job_secrets.resolve(os.environ)
    jobs.refuse_blind_container(os.environ, config)
    job_packages.install_undeclared(SOURCE)
    jobs.follow_starters()
    os.chdir(jobs.work_folder())
    # Goes on where this job stands, if its spot instance was taken back and this is the next.
    copy, is_needed = job.kept(config)
    job_files.restore(copy, job.run)
    trial = job.stage == "trial"
    with job_files.kept_in_step(job.run, copy, is_needed) if job.rank == 0 else nullcontext():
        result = run(config, words, directory=job.run, fit_only=trial)
        if job.rank == 0 and not trial:
            jobs.hand_over(job, result.run)


def main() -> int:
    # A search reads each epoch's objective when it is printed, and as one line.
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
    output = Path(os.environ.get("SM_OUTPUT_DIR", "/opt/ml/output"))
    conceal: Callable[[str], str] = str
    try:
        job, config, words = read_task()
        # AWS keeps a job's failure reason, and shows it to whoever may list jobs
        conceal = config.conceal
        train(job, config, words)
    except Terminated as termination:  # a spot instance is taken back: what was done is saved
        print(termination, file=sys.stderr)
    except BreedlabError as error:
        if not error.reported:  # another process has said why
            print(error, file=sys.stderr)
            jobs.report_failure(output, conceal(str(error)))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        jobs.report_failure(output, conceal(f"{type(error).__name__}: {error}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
