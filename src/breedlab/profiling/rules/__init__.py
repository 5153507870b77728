"""The profiler's rules: how a run used its machine, and what to do about it.

Named as in Amazon SageMaker Debugger's profiler report. A rule is one class: its thresholds, what
it measures, and what it says. NumPy is imported where it is used, so that a typo and a dry run
still answer at once.
"""

# In the order in which reports list them.
from breedlab.profiling.rules import waiting  # isort: skip
from breedlab.profiling.rules import gpus  # isort: skip
from breedlab.profiling.rules import whole_run  # isort: skip

__all__ = ["gpus", "waiting", "whole_run"]
