"""Translation on disk and small: digits in words in the other order, and untrained models that write them."""

import json

import numpy as np

WORDS = ("null", "eins", "zwei", "drei", "vier")
SIZES = {"layers": 2, "heads": 2, "width": 16, "ffn": 24, "dropout": 0.0, "vocabulary": 40, "max_length": 40}


def write_digits(path, rows, source="source", target="target"):
    """A jsonl of digits and their names in the other order, of 1 to 5 words; the same rows every time."""
    draw = np.random.default_rng(rows)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            digits = draw.integers(len(WORDS), size=draw.integers(1, 6))
            names = " ".join(WORDS[digit] for digit in reversed(digits))
            file.write(json.dumps({source: " ".join(map(str, digits)), target: names}) + "\n")
    return str(path)


def write_splits(folder):
    """24 rows to train on and 7 to validate on; the folder as a string."""
    for split, rows in (("train", 24), ("validation", 7)):
        write_digits(folder / f"{split}.jsonl", rows)
    return str(folder)
