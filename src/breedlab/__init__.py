"""breedlab: from a folder of labelled images to a model that answers, from one config."""

__version__ = "0.1.0"
