"""The main job: its plan, its run directory, its stages, and how it resumes after a stop."""
