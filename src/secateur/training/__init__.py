"""The trainer under masks, the terms of its loss, and what it reads and keeps."""

from secateur.system.moved import moved_names

__getattr__ = moved_names(
    __name__,
    {
        "PruningTrainer": "secateur.training.trainer:PruningTrainer",
    },
)
