"""The stages of the pipeline, each a thin program: `python -m stages.<stage>`."""
