"""What SageMaker's PyTorch container imports: the handler that the archive carries beside this file."""

from breedlab.serving.handler import input_fn, model_fn, output_fn, predict_fn

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]
