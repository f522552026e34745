"""Cases of labels: what the head of a model calls its outputs, what the data writes for a class, and `--labels`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from faults_by_kind.exact_models import CLASS_NAMES

HEADS = ("names", "capitals", "none", "digits", "stars", "other names", "other task")
"""What the config of the model calls its outputs; "digits" are sorted as text."""
FORMS = ("names", "ClassLabel", "integers", "digits", "codes", "from one", "decimals", "booleans", "marks", "columns")
"""What the data writes for a class, as JSON but for `ClassLabel`, which parquet holds."""
IN_CSV = " in csv"
CSV_FORMS = tuple(form + IN_CSV for form in ("names", "integers", "codes", "from one"))
ALONE = {"decimals": "classification", "booleans": "classification", "marks": "multilabel", "columns": "multilabel"}
ALONE |= dict.fromkeys(CSV_FORMS, "classification")
"""Forms that only one task can read."""
ABSENT = ("", "validation", "training", "everywhere")
"""The splits in which one of the classes does not occur."""
ABSENT_CLASS = 1
OPTIONS = ("", "stated", "reversed", "one missing", "one twice", "one more")
"""What `--labels` names."""
COUNTS = {"classification": (2, 3, 5, 11), "multilabel": (2, 3, 5), "tokens": (2, 3, 5)}
NAMED = ("names", "capitals")


@dataclass(frozen=True)
class Case:
    """A head, data for it, and an option."""

    task: str
    count: int
    head: str
    form: str
    absent: str
    option: str

    def __str__(self) -> str:
        absent = f", class {ABSENT_CLASS} absent ({self.absent})" if self.absent else ""
        option = f", --labels {self.option}" if self.option else ""
        return f"{self.task}, {self.count} outputs called {self.head}, labels as {self.form}{absent}{option}"

    # The head

    @cached_property
    def outputs(self) -> list[int]:
        """The output of each class."""
        numbers = list(range(self.count))
        if self.head == "digits":
            return [sorted(map(str, numbers)).index(str(number)) for number in numbers]
        return random.Random(self.count).sample(numbers, self.count)

    @property
    def by_output(self) -> list[int]:
        """The class of each output."""
        return sorted(range(self.count), key=self.outputs.__getitem__)

    @cached_property
    def names(self) -> list[str] | None:
        """The names of the outputs."""
        name: dict[str, Callable[[int], str]] = {
            "names": lambda one: CLASS_NAMES[one],
            "capitals": lambda one: CLASS_NAMES[one].upper(),
            "digits": str,
            "stars": lambda one: f"{one + 1} stars",
            "other names": lambda one: f"kind {'abcdefghijk'[one]}",
        }
        return [name[self.head](one) for one in self.by_output] if self.head in name else None

    @property
    def numbered(self) -> bool:
        """Whether the outputs have no names but their numbers."""
        return self.names is None or self.names == [str(number) for number in range(self.count)]

    # The data

    @property
    def value(self) -> str:
        """What the data writes for a class, in any file."""
        return self.form.removesuffix(IN_CSV)

    def number(self, one: int) -> int:
        """A class as an integer from 0: its output, unless the head's own numbers are in another order."""
        return one if self.head == "digits" else self.outputs[one]

    def label(self, one: int) -> Any:
        """A class as the data writes it."""
        number = self.number(one)
        return {
            "integers": number,
            "digits": str(number),
            "codes": f"{number:03}",
            "from one": 1 + (one if self.head == "stars" else number),
            "decimals": float(number),
            "booleans": number == 1,
        }.get(self.value, CLASS_NAMES[one])

    @property
    def order(self) -> list[int]:
        """The classes as the data orders them: as the outputs, where only that says which output is which."""
        return self.by_output if self.numbered else list(range(self.count))

    @property
    def labels_option(self) -> list[str]:
        """What `--labels` names."""
        stated = [str(label).removesuffix(".0") for label in map(self.label, self.by_output)]
        return {
            "": [],
            "stated": stated,
            "reversed": stated[::-1],
            "one missing": stated[1:],
            "one twice": [*stated, stated[0]],
            "one more": [*stated, "further"],
        }[self.option]

    # What must happen

    @property
    def possible(self) -> bool:
        """Whether the case can be written, and has one right outcome."""
        by_name = self.value in ("names", "ClassLabel")
        if ALONE.get(self.form, self.task) != self.task or (self.form == "booleans" and self.count > 2):
            return False
        if self.head == "other task" and self.task == "tokens":
            return False
        if self.option == "reversed" and not (self.head in NAMED and by_name):
            return False  # nothing contradicts the user
        if self.option == "stated" and self.form in ("booleans", "marks", "columns"):
            return False
        if self.absent in ("", "validation"):
            return True
        # The numbers of fewer classes may be those of another head, and a single class is refused anyway.
        plain = by_name or (self.value == "integers" and self.head != "stars")
        return self.count > 2 and plain and not self.option

    @property
    def settled(self) -> bool:
        """Whether data, head and option say together which output each label is."""
        if self.absent == "training" or self.option not in ("", "stated") or self.head == "other task":
            return False
        return self.option == "stated" or self._settled_by_data()

    def _settled_by_data(self) -> bool:
        if self.value == "names":
            return self.head in NAMED
        if self.value in ("ClassLabel", "columns"):
            return self.head in NAMED or self.numbered
        if self.value in ("integers", "digits", "marks"):
            there = [one for one in range(self.count) if not (self.absent and one == ABSENT_CLASS)]
            complete = self.absent != "everywhere" or max(map(self.number, there)) + 1 == self.count
            return self.head == "digits" or complete
        return (self.value == "from one" and self.head == "stars") or (self.value == "booleans" and self.numbered)


def cases() -> Iterator[Case]:
    """All of them."""
    for task, counts in COUNTS.items():
        for values in product(counts, HEADS, (*FORMS, *CSV_FORMS), ABSENT, OPTIONS):
            case = Case(task, *values)
            if case.possible:
                yield case
