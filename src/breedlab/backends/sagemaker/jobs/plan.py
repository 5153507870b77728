"""What `dry_run=true` prints of a SageMaker experiment: its requests to the letter, with no account
to send them to."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from breedlab.backends.sagemaker import checks, images
from breedlab.backends.sagemaker.documented_limits import notices
from breedlab.backends.sagemaker.jobs.hyperparameters import sagemaker_name
from breedlab.backends.sagemaker.jobs.job_logging import logger_problems, tracked
from breedlab.backends.sagemaker.jobs.job_secrets import definition_problems, without_secrets
from breedlab.backends.sagemaker.jobs.launch import planned_requests
from breedlab.backends.sagemaker.jobs.pipeline import is_pipeline
from breedlab.backends.sagemaker.jobs.requests import (
    Experiment,
    each_trial_is_a_job,
    metric_definitions,
)
from breedlab.backends.sagemaker.jobs.requests import requests as job_requests
from breedlab.backends.sagemaker.jobs.source import write_source
from breedlab.backends.sagemaker.prices import bill_problems, largest_bill
from breedlab.backends.sagemaker.session import needed, planned, require_extra
from breedlab.backends.submission import new_name
from breedlab.config import Config, search_space, trial_count
from breedlab.config.problems import error_from
from breedlab.config.space import Choices
from breedlab.pipeline.plan import describe_dimension, describe_task, find_images, suited
from breedlab.training.objective import epoch_line, figures_of


def plan(config: Config) -> str:
    """Return the plan as text.

    Raises:
        ConfigError: For what AWS would refuse, as far as that is known without asking it.
        DataError: If the data folder is there and cannot be used.
    """
    require_extra()
    config = without_secrets(tracked(config))
    place = planned(config.backend)
    in_s3 = config.data.root.startswith("s3://")
    found_images = None if in_s3 else find_images(config)
    config, notes = suited(config, found_images)
    experiment = Experiment(
        config,
        place,
        new_name(config, datetime.now()),
        images.training_image(config.backend, place.region),
        config.data.root if in_s3 else place.uri("data", "<fingerprint>"),
    )
    requests = planned_requests(experiment)
    problems = checks.offline_problems(config, place.region)
    problems += definition_problems(config)
    problems += [*logger_problems(config), *checks.request_problems(requests, experiment)]
    if problems:
        raise error_from(problems, "backend=sagemaker", "BL411")
    lines = [
        f"experiment {config.name} on SageMaker (dry run: nothing is started)",
        "",
        *describe_task(config, found_images),
        *notes,
        "",
        *_jobs(experiment),
        "",
        *_bills(experiment),
        "",
        *_search(experiment),
        *_source(config),
        "",
    ]
    for number, request in enumerate(requests, 1):
        lines += [
            f"request {number}: {request.operation}",
            json.dumps(_readable(request.parameters), indent=2),
            "",
        ]
    return "\n".join(lines + list(_needs(experiment)))


def _readable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as they are printed: a pipeline's definition, which is sent as one text,
    as what it holds."""
    definition = parameters.get("PipelineDefinition")
    more = {} if definition is None else {"PipelineDefinition": json.loads(definition)}
    return {**parameters, **more}


def _jobs(experiment: Experiment) -> Iterator[str]:
    config, backend = experiment.config, experiment.config.backend
    spot = ", spot" if backend.spot else ""
    machine = f"{backend.instance_count} x {backend.instance_type}{spot}"
    yield f"machines  {machine}, {backend.volume_gb} GB, {experiment.image}"
    yield "jobs"
    count = trial_count(config)
    if experiment.searches:
        at_once = (
            f"{config.tuner.parallel} at a time" if config.tuner.parallel > 1 else "one at a time"
        )
        yield (
            f"  1. tuning job {experiment.name}: {count} training jobs of {config.tuner.max_epochs}"
            f" epochs, {config.tuner.strategy}, {at_once}"
        )
        best = f"trains the best for {config.trainer.max_epochs} epochs, tests"
        yield f"  2. training job {experiment.final_name}: {best}"
    elif config.tuner.strategy != "none":
        yield (
            f"  1. training job {experiment.name}: all {count} trials of {config.tuner.max_epochs}"
            f" epochs over one activation cache, then the best for {config.trainer.max_epochs}"
            " epochs, tests"
        )
    else:
        yield f"  1. training job {experiment.name}: {config.trainer.max_epochs} epochs, tests"
    yield f"each job runs for at most {backend.max_run_hours:g} hours"
    if is_pipeline(config):
        group = backend.register_in
        version = f", and registers the model in {group}, to be approved" if group else ""
        ties = ", and picks the first of tied trials" if experiment.searches else ""
        yield (
            f"the pipeline {experiment.name} starts each as a step{version}; AWS names its"
            f" jobs{ties}"
        )


def _bills(experiment: Experiment) -> Iterator[str]:
    config, backend, region = experiment.config, experiment.config.backend, experiment.place.region
    count = trial_count(config)
    yield "largest bill"
    if count:
        for way, text in (
            (
                "job_each",
                "every trial starts a container and computes the frozen part's activations",
            ),
            ("one_job", "one container start and one set of activations for all trials"),
        ):
            mark = "*" if each_trial_is_a_job(config) == (way == "job_each") else " "
            bill = largest_bill(backend, region, count, way == "job_each")
            yield f" {mark} backend.trials={way:9} {bill}: {text}"
    else:
        yield f"   {largest_bill(backend, region, 0, False)}"
    yield (
        f"   {largest_bill(backend, region, count, False).source}; storage and traffic are extra"
    )
    for problem in bill_problems(backend, region, count, each_trial_is_a_job(config)):
        yield f"   a launch would refuse this: {problem.path}: {problem.message}"
    if backend.spot:
        yield "   this is the on-demand price; spot usually costs less and never more"


def _search(experiment: Experiment) -> Iterator[str]:
    config = experiment.config
    space = search_space(config) if config.tuner.strategy != "none" else {}
    if space:
        yield "hyperparameters"
        rows: list[tuple[str, ...]] = [("name", "config path", "type", "range")]
        for path, dimension in space.items():
            kind = "categorical"
            if not isinstance(dimension, Choices):
                kind = "integer" if dimension.integer else "continuous"
            rows.append((sagemaker_name(path), path, kind, describe_dimension(dimension)))
        if not experiment.searches:  # one job searches by itself, and knows its own names only
            rows = [row[1:] for row in rows]
        *columns, _ = zip(*rows, strict=True)
        widths = [max(map(len, column)) for column in columns]
        for row in rows:
            yield "  " + "  ".join(
                [*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]
            )
        yield ""
    metric = config.monitor.metric
    regex = next(d["Regex"] for d in metric_definitions(config) if d["Name"] == metric)
    epochs = config.tuner.max_epochs if experiment.searches else config.trainer.max_epochs
    line = epoch_line(
        min(3, epochs), epochs, dict.fromkeys(figures_of(config.data), 0.6123), metric, 0.8125
    )
    match = re.search(regex, line)
    assert match, "checks.objective_problems has made sure"
    yield f"objective {metric}, {config.monitor.mode}"
    yield f"  regex   {regex}"
    yield f"  finds   {match[1]} in {line!r}"
    yield ""


def _source(config: Config, most: int = 3) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_source(folder, config)
        sizes = {
            path.relative_to(folder): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }
    yield (
        f"source archive: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB before compression"
    )
    for top in sorted({path.parts[0] for path in sizes}):
        inside = sorted(path for path in sizes if path.parts[0] == top)
        total = sum(sizes[path] for path in inside)
        if inside == [Path(top)]:
            yield f"  {top}  {total:,} bytes"
        else:
            names = ", ".join("/".join(path.parts[1:]) for path in inside[:most])
            more = f" and {len(inside) - most} more" if len(inside) > most else ""
            yield f"  {top}/  {len(inside)} files, {total:,} bytes: {names}{more}"


def _needs(experiment: Experiment) -> Iterator[str]:
    yield "a launch will need"
    yield "  credentials: `aws configure`, `aws sso login` or AWS_PROFILE"
    yield from (f"  {text}" for text in needed(experiment.place))
    calls = [(request.operation, request.parameters) for request in job_requests(experiment)]
    quotas = dict.fromkeys(text for call in calls for text in notices(call))
    yield from (f"  {text}" for text in quotas)
