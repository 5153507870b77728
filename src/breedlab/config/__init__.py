"""The typed config and its rules; the only reader of conf/."""

from breedlab.config.schema import Config
from breedlab.config.validate import replace, search_space, trial_count, validate

__all__ = ["Config", "replace", "search_space", "trial_count", "validate"]
