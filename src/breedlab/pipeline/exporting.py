"""The archive of a run: its network, the engine that answers, and what it says besides scores."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from breedlab.config import Config
from breedlab.console import console, note
from breedlab.pipeline import rundir
from breedlab.registry import ENGINES

if TYPE_CHECKING:
    from breedlab.data.module import ImageData
    from breedlab.pipeline.final_test import FinalTest
    from breedlab.training.context import TrainingContext

_COMPARED = 8
"""Validation images on which the archive's network is compared with the trained one."""


def export(
    directory: Path,
    classifier: Any,
    context: TrainingContext,
    config: Config,
    data: ImageData,
    metrics: dict[str, Any],
    tested: FinalTest,
) -> dict[str, Any]:
    """Write the run's model.tar.gz; return its engine and the measurements behind the choice.

    `tested` holds what the test has computed on validation already.
    """
    from breedlab.pipeline import trust
    from breedlab.reporting.summary import engines_table
    from breedlab.serving.archive import record_answers, record_engine, write_archive, write_folder
    from breedlab.serving.engine_selection import select
    from breedlab.serving.fetch import allowed_from
    from breedlab.serving.fidelity import refuse_another_network

    pedigree = {
        **rundir.lineage(directory),
        "run": directory.name,
        "test": metrics["test"]["metrics"],
        "most_frequent_class": metrics["test"].get("most_frequent_class"),
    }
    pedigree["test_intervals"] = {
        name: [*span] for name, span in metrics["test"]["intervals"].items()
    }
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as name:
        folder = Path(name)
        allowed = allowed_from(config.serving.allow_urls)
        answers, novelty = trust.answers_of(
            classifier,
            context,
            config,
            data,
            tested.decisions,
            tested.valid_features,
        )
        write_folder(
            folder,
            classifier,
            context.evaluation,
            context.classes,
            pedigree,
            allowed,
            config.plugins,
            answers,
        )
        if novelty is not None:
            novelty.write(folder)
        dataset = data.dataset("valid")
        few = range(min(_COMPARED, len(dataset)))
        images = torch.stack([dataset[0, index][0] for index in few])
        refuse_another_network(folder, classifier, images, tested.checkpoint)
        selection = select(
            folder,
            config.serving,
            data,
            device=context.device,
            seed=config.seed,
            refit=tested.refit,
        )
        for candidate in selection.candidates:
            candidate.objection = config.conceal(candidate.objection)
        measured = selection.as_dict()
        engine = ENGINES.made(selection.choice.engine, config.serving)
        record_engine(folder, selection.choice, measured, engine.model_dump(mode="json"))
        answers, measured["answers"] = trust.settle(
            folder, answers, data, context.device, tested.held_out
        )
        record_answers(folder, answers)
        write_archive(directory / "model.tar.gz", folder)
    if selection.candidates:
        console.print(engines_table(measured))
    for text in trust.in_words(measured["answers"]):
        note(text)
    note(f"the model answers with {selection.choice}")
    return measured
