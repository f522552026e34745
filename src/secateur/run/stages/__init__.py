"""The stages of a run, one file each, and the check before them; `run/pipeline.py` says in which order they come."""
