"""Trainings for tests: short, on the CPU, and without a word."""

from transformers import TrainingArguments


def arguments(folder, steps: int, **others) -> TrainingArguments:
    """`steps` quiet steps of 4 rows on the CPU, without logs and checkpoints; `others` go before."""
    options = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
    }
    return TrainingArguments(str(folder), **(options | others))
