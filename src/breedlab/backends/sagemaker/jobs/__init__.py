"""Training and tuning jobs: their requests, launch, following, and what they leave."""
