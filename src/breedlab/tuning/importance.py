"""Which of the searched paths decide whether a trial is a good one."""

from __future__ import annotations

import warnings
from pathlib import Path

from breedlab.tuning.storage import storage_url


def importances(run: Path) -> dict[str, float]:
    """Return each path's importance for a trial being among the better ones, as shares, by Optuna's
    PED-ANOVA.

    Empty without a study, or where it has too few trials to tell. Source: Watanabe et al.,
    "PED-ANOVA", arXiv 2304.10255.

    Args:
        run: A run directory with its `study.db`.
    """
    if not (run / "study.db").is_file():
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            study = optuna.load_study(study_name=None, storage=storage_url(run))
            # fANOVA would need scikit-learn
            judge = optuna.importance.PedAnovaImportanceEvaluator()
            shares = optuna.importance.get_param_importances(study, evaluator=judge)
        except Exception:  # a study that cannot be judged must not end a run or a report
            return {}
    return {path: float(share) for path, share in shares.items() if share == share}
