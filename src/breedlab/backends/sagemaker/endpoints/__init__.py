"""Endpoints on SageMaker, and what else serves a model there: batch jobs, the model registry."""
