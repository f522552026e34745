"""A whole run: recipes, the stages of the pipeline, run folders and density sweeps."""
