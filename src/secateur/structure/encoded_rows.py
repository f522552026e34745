"""What tasks write in encoded rows beside a model's inputs, and trainings read there."""

from __future__ import annotations

EXAMPLE = "example"
"""Key of a row with the index of the row of the split from which it is made, if one row makes several. A row that
belongs to every example has None. Models do not take it."""

DIGEST = "digest"
"""Key of a row with the digest of an input that it names and does not hold, as an image in a file."""

UNLABELLED = -100
"""The label that the losses of transformers ignore, and with which Trainer pads shorter rows of tokens."""
