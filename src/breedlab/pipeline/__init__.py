"""The main job: its plan, its run directory, its stages and how it goes on after a stop."""
