"""Amazon SageMaker: training and tuning jobs, their files in S3, and endpoints."""
