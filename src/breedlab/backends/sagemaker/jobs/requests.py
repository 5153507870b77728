"""The requests: one function makes them for the dry run and for the launch.

They are the API's own, sent by boto3, and not made by SDK v3's `ModelTrainer` and
`HyperparameterTuner`. Those ask STS, IAM and S3 while they build a request, so there would be no
dry run without an account; they invent names of their own; and on the way to a tuning job they lose
what was set: network isolation, encryption between instances, keys of the volumes, warm pools,
torchrun, data channels. What is taken from the SDK is what it knows better: which images there are,
and the scripts that start a training job (`start_scripts`).

A training job runs those scripts. A tuning job has no field for them: there the image's own toolkit
starts the entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breedlab import weight_files
from breedlab.backends.sagemaker import tags
from breedlab.backends.sagemaker.images import gpus, known_gpus
from breedlab.backends.sagemaker.jobs.hyperparameters import encode, sagemaker_name
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import AwsTarget
from breedlab.config import Config, search_space, trial_count
from breedlab.config.cloud import trials_are_jobs
from breedlab.config.space import Choices, Dimension, Range
from breedlab.training.objective import (
    figure_regex,
    figures_of,
    interval_names,
    interval_regexes,
    objective_regex,
)

ENTRY = "entry/train.py"
ARCHIVE = "source.tar.gz"

DATA_FOLDER = "/opt/ml/input/data"
"""Where a job finds its channels, each in a folder of its name."""

CHECKPOINTS = "/opt/ml/checkpoints"

_INPUT_MODES = {"file": "File", "fastfile": "FastFile"}
_STRATEGIES = {"bayesian": "Bayesian", "random": "Random", "grid": "Grid", "hyperband": "Hyperband"}
_SCRIPTS = f"{DATA_FOLDER}/sm_drivers"
# What starts the scripts is the container's first process, which no SIGTERM ends or reaches beyond:
# it hands it on to a process group of its own, stays until all of that has ended, since the
# container ends with it, and exits as it did. All in one line of at most 256 characters: AWS
# matches it against `.*`, which takes no line break.
_START = (
    "trap 'kill -TERM -$!; wait $!; r=$?; while kill -0 -$! 2>/dev/null; do sleep .1; done; exit"
    f" $r' TERM; set -m; chmod +x {_SCRIPTS}/sm_train.sh; {_SCRIPTS}/sm_train.sh & wait $!"
)


_LONGEST_WAIT_S = 28 * 24 * 3600
"""The default wait for spot instances is at most the longest time that a job may run, 28 days."""


@dataclass(frozen=True)
class Experiment:
    """What jobs are made of.

    Attributes:
        config: The experiment.
        place: Where in AWS.
        name: Of its first job, and of its folder in the bucket.
        image: The address of the container image.
        data: The address of the images.
    """

    config: Config
    place: AwsTarget
    name: str
    image: str
    data: str

    def uri(self, *parts: str) -> str:
        """Return an address in the experiment's own folder."""
        return self.place.uri("jobs", self.name, *parts)

    @property
    def searches(self) -> bool:
        """Whether its first job is a tuning job."""
        return each_trial_is_a_job(self.config)

    @property
    def final_name(self) -> str:
        """Of the job that trains the best."""
        return f"{self.name}-final" if self.searches else self.name


def each_trial_is_a_job(config: Config) -> bool:
    """Return whether the search, if there is one, is a tuning job."""
    tuner = config.tuner
    return trials_are_jobs(
        config.backend.trials, tuner.strategy, config.model.freeze, tuner.warm_start
    )


def requests(experiment: Experiment, best: Mapping[str, str] | None = None) -> list[Request]:
    """Return every request of an experiment, in the order in which they are sent.

    Args:
        experiment: What jobs are made of.
        best: The values that the search found, by SageMaker's name; before it ran, None, and
            placeholders are used.
    """
    if not experiment.searches:
        return [training_request(experiment, {})]
    if best is None:
        best = {sagemaker_name(path): f"<best {path}>" for path in search_space(experiment.config)}
    return [tuning_request(experiment), training_request(experiment, best)]


def training_request(experiment: Experiment, values: Mapping[str, Any]) -> Request:
    """Return the request for a training job that SDK v3's scripts start.

    Args:
        experiment: What jobs are made of.
        values: What differs from the config, by SageMaker's name; in a pipeline, references.
    """
    config, backend = experiment.config, experiment.config.backend
    parameters = {
        "TrainingJobName": experiment.final_name,
        "AlgorithmSpecification": {
            "TrainingImage": experiment.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(config),
            "ContainerEntrypoint": ["/bin/bash"],
            "ContainerArguments": ["-c", _START],
        },
        "HyperParameters": dict(values),
        **_shared(experiment, "final" if experiment.searches else "run"),
        "Tags": run_tags(experiment),
    }
    parameters["InputDataConfig"].append(_channel("sm_drivers", experiment.uri("sm_drivers") + "/"))
    if backend.tensorboard:
        parameters["TensorBoardOutputConfig"] = {
            "S3OutputPath": experiment.uri("tensorboard"),
            "LocalPath": f"{CHECKPOINTS}/{experiment.final_name}/tensorboard",
        }
    return Request("CreateTrainingJob", parameters)


def tuning_request(experiment: Experiment) -> Request:
    """Return the request for a tuning job, whose training jobs the image's toolkit starts."""
    config, tuner = experiment.config, experiment.config.tuner
    fixed = {
        "sagemaker_program": ENTRY,
        # From a channel, not from S3: the toolkit would download that, which an isolated container
        # cannot.
        "sagemaker_submit_directory": f"{DATA_FOLDER}/code/{ARCHIVE}",
        "sagemaker_region": experiment.place.region,
    }
    if processes(config) != 1 or config.backend.instance_count > 1:
        # Tuning jobs have no other way to ask for torchrun: it is a hyperparameter of the toolkit.
        fixed |= {
            "sagemaker_torch_distributed_enabled": "true",
            "sagemaker_instance_type": config.backend.instance_type,
        }
        if (count := processes(config)) is not None:
            # The toolkit's only name for it, no matter what starts the processes; without it, it
            # counts the GPUs.
            fixed["sagemaker_mpi_num_of_processes_per_host"] = str(count)
    search: dict[str, Any] = {
        "Strategy": _STRATEGIES[tuner.strategy],
        "HyperParameterTuningJobObjective": {
            "Type": "Maximize" if config.monitor.mode == "max" else "Minimize",
            "MetricName": config.monitor.metric,
        },
        "ResourceLimits": {
            "MaxNumberOfTrainingJobs": trial_count(config),
            "MaxParallelTrainingJobs": min(tuner.parallel, trial_count(config)),
        },
        "ParameterRanges": parameter_ranges(config),
        "TrainingJobEarlyStoppingType": "Auto" if tuner.early_stopping else "Off",
        "RandomSeed": config.seed % 2**31,
    }
    if tuner.strategy == "hyperband":
        # A resource is an epoch: each prints the objective once.
        search["StrategyConfig"] = {
            "HyperbandStrategyConfig": {"MinResource": 1, "MaxResource": tuner.max_epochs},
        }
    parameters: dict[str, Any] = {
        "HyperParameterTuningJobName": experiment.name,
        "HyperParameterTuningJobConfig": search,
        "TrainingJobDefinition": {
            "StaticHyperParameters": fixed,
            "AlgorithmSpecification": {
                "TrainingImage": experiment.image,
                "TrainingInputMode": "File",
                "MetricDefinitions": metric_definitions(config),
            },
            **_shared(experiment, "trial"),
        },
        "Tags": run_tags(experiment),
    }
    if tuner.warm_start:
        parameters["WarmStartConfig"] = {
            "ParentHyperParameterTuningJobs": [
                {"HyperParameterTuningJobName": name} for name in tuner.warm_start
            ],
            # The other type requires exactly the same image, data and ranges, and refuses what a
            # user is likely to have.
            "WarmStartType": "TransferLearning",
        }
    return Request("CreateHyperParameterTuningJob", parameters)


def metric_definitions(config: Config) -> list[dict[str, str]]:
    """Return what SageMaker reads from the log: the objective, the other metrics, and the ends of
    the objective's interval, which a log has if it is known."""
    objective = config.monitor.metric
    ends = zip(interval_names(objective), interval_regexes(objective), strict=True)
    others = [name for name in figures_of(config.data) if name != objective]
    return [
        {"Name": objective, "Regex": objective_regex(objective)},
        *({"Name": name, "Regex": figure_regex(name)} for name in others),
        *({"Name": name, "Regex": regex} for name, regex in ends),
    ]


def parameter_ranges(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Return the search space in SageMaker's form."""
    ranges: dict[str, list[dict[str, Any]]] = {}
    for path, dimension in search_space(config).items():
        kind, described = _range(dimension)
        ranges.setdefault(f"{kind}ParameterRanges", []).append(
            {"Name": sagemaker_name(path), **described}
        )
    return ranges


def processes(config: Config) -> int | None:
    """Return how many processes train on each instance; None for as many as the container finds
    GPUs."""
    if config.backend.processes != "auto":
        return config.backend.processes
    # Types newer than all lists, too: what a container counts is right for all of them.
    return 1 if known_gpus(config.backend.instance_type) in (0, 1) else None


def weights_file(config: Config) -> Path | None:
    """Return the file of weights that a job needs besides its images, if the config names one."""
    path = Path(weight_files.file_of(config.model.weights))
    return path if path.name.endswith(weight_files.ENDINGS) or path.is_file() else None


def _range(dimension: Dimension) -> tuple[str, dict[str, Any]]:
    if isinstance(dimension, Choices):
        return "Categorical", {"Values": [encode(value) for value in dimension.values]}
    assert isinstance(dimension, Range)
    scaling = "Logarithmic" if dimension.log else "Linear"
    ends = {
        "MinValue": encode(dimension.low),
        "MaxValue": encode(dimension.high),
        "ScalingType": scaling,
    }
    return ("Integer" if dimension.integer else "Continuous"), ends


def _shared(experiment: Experiment, stage: str) -> dict[str, Any]:
    """Return what a training job's request and a tuning job's training definition share."""
    config, backend, place = experiment.config, experiment.config.backend, experiment.place
    channels = [
        _channel("training", experiment.data.rstrip("/") + "/", _INPUT_MODES[backend.input_mode]),
        _channel("code", experiment.uri("source", ARCHIVE)),
    ]
    if file := weights_file(config):
        channels.append(_channel("weights", experiment.uri("weights", file.name)))
    resources: dict[str, Any] = {
        "InstanceType": backend.instance_type,
        "InstanceCount": backend.instance_count,
        "VolumeSizeInGB": backend.volume_gb,
    }
    if backend.kms.volume:
        resources["VolumeKmsKeyId"] = backend.kms.volume
    if backend.keep_alive_minutes:
        resources["KeepAlivePeriodInSeconds"] = 60 * backend.keep_alive_minutes
    output = {"S3OutputPath": experiment.uri("output")}
    if backend.kms.output:
        output["KmsKeyId"] = backend.kms.output
    seconds = math.ceil(backend.max_run_hours * 3600)
    stopping = {"MaxRuntimeInSeconds": seconds}
    if backend.spot:
        waiting = backend.max_wait_hours
        longest = max(seconds, min(2 * seconds, _LONGEST_WAIT_S))
        stopping["MaxWaitTimeInSeconds"] = longest if waiting is None else math.ceil(waiting * 3600)
    shared: dict[str, Any] = {
        "RoleArn": place.role,
        "InputDataConfig": channels,
        "OutputDataConfig": output,
        "ResourceConfig": resources,
        "StoppingCondition": stopping,
        "EnableNetworkIsolation": backend.network_isolation,
        "EnableInterContainerTrafficEncryption": backend.encrypt_traffic,
        "EnableManagedSpotTraining": backend.spot,
        "Environment": {
            "BREEDLAB_STAGE": stage,
            **_expected_gpus(backend.instance_type),
            **backend.environment,
        },
    }
    # A trial that is not taken back continues from nothing, and would begin by downloading what
    # those before it left.
    if stage != "trial" or backend.spot:
        address = experiment.uri("final" if stage == "final" else "checkpoints")
        shared["CheckpointConfig"] = {"S3Uri": address, "LocalPath": CHECKPOINTS}
    if backend.vpc.subnets:
        shared["VpcConfig"] = {
            "Subnets": backend.vpc.subnets,
            "SecurityGroupIds": backend.vpc.security_groups,
        }
    if backend.retries:
        shared["RetryStrategy"] = {"MaximumRetryAttempts": backend.retries}
    return shared


def _expected_gpus(instance_type: str) -> dict[str, str]:
    """Return the variable by which a job knows that its container has to see GPUs."""
    return {"BREEDLAB_GPUS": str(count)} if (count := gpus(instance_type)) else {}


def _channel(name: str, uri: str, mode: str = "File") -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def run_tags(experiment: Experiment) -> list[dict[str, str]]:
    """Return the tags of everything that an experiment creates."""
    config = experiment.config
    own = tags.own_tags(run=experiment.name, experiment=config.name)
    return tags.as_request((*config.backend.tags.items(), (tags.OLD, config.name), *own))
