"""Compact folders, ways to damage them, and a judge of what is loaded from the damaged folders.

`tests/test_hard_use.py` uses a few of each, `benchmarks/faults.py` thousands.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_world import tokenizer
from tiny_models import inputs, random_masks, tiny
from typer.testing import CliRunner

import secateur as sec
from secateur.budget.space import Space
from secateur.cli import app
from secateur.structure.plan import Plan
from secateur.surgery.compact import SUMS
from secateur.system.errors import UserError

REFUSED, RIGHT, WRONG, TRACEBACK = "refused", "right", "WRONG", "traceback"
WAYS = ("load", "auto", "verify", "trusted")
# How AutoModel refuses, in our words or its own; what it raises before our code has a say is its own in any kind.
LOUD = (OSError, ValueError, RuntimeError, ImportError, StrictDataclassError)
SOURCE = str(Path(sec.__file__).parent)


@dataclass(frozen=True)
class Fault:
    """One way to damage a folder: the row of the table, the case, and the function that damages a folder."""

    kind: str
    case: str
    apply: Callable[[Path], object]


class World:
    """Two compact models of one shape, `model`, which is damaged, and `other`, and a judge of damaged copies."""

    def __init__(self, root):
        self.root, self.folder, self.other = root, root / "model", root / "other"
        self.marker = root / "a pickle was opened"
        for seed, folder in enumerate((self.folder, self.other)):
            dense = tiny("bert", seed=seed, dtype=torch.float32)
            space = Space(dense, "ffn", "qk", "vo")
            small = sec.cut(dense, Plan.of(space, random_masks(space)))
            sec.save(small, folder, tokenizer=tokenizer(), card="# A card\n")
        self.names = sorted(path.name for path in self.folder.iterdir())
        model = sec.load(self.folder)
        self.batch, self.state = inputs(model), {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            self.logits = model(**self.batch).logits
        known = {f"state.{name}": value for name, value in self.state.items()} | {"logits": self.logits}
        save_file(known | {f"input.{name}": value for name, value in self.batch.items()}, root / "known.safetensors")
        self.copies, self.elsewhere = 0, None

    def broken(self, fault):
        """A copy of the folder with a fault."""
        self.copies += 1
        copy = shutil.copytree(self.folder, self.root / f"copy {self.copies}")
        fault.apply(copy)
        return copy

    def judge(self, way, folder):
        """(verdict, message) of a folder that is loaded in one of `WAYS`."""
        verdict, said = getattr(self, way)(folder)
        return (WRONG, "a pickle was opened") if self.marker.exists() else (verdict, said)

    def load(self, folder):
        try:
            model = sec.load(folder)
        except UserError as refusal:
            return (REFUSED if "\n" not in str(refusal) else TRACEBACK), str(refusal)
        except Exception as error:
            return TRACEBACK, repr(error)
        return self.same(model)

    def auto(self, folder):
        try:
            model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        except Exception as error:
            clear = isinstance(error, LOUD) or not any(
                SOURCE in frame.filename for frame in traceback.extract_tb(error.__traceback__)
            )
            return (REFUSED if clear else TRACEBACK), repr(error)
        return self.same(model.eval())

    def verify(self, folder):
        done = CliRunner().invoke(app.app, ["verify", str(folder)])
        if done.exit_code == 0:
            return self.load(folder)
        sentence = done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
        return (REFUSED if sentence else TRACEBACK), done.stderr or repr(done.exception)

    def trusted(self, folder):
        """With the folder's own code, in a process that cannot import secateur."""
        if self.elsewhere is None:
            script = Path(__file__).parent / "trusted_elsewhere.py"
            quiet = os.environ | {"HF_MODULES_CACHE": str(self.root / "modules"), "HF_HUB_OFFLINE": "1"}
            self.elsewhere = subprocess.Popen(
                [sys.executable, script, self.root / "known.safetensors"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=quiet | {"OMP_NUM_THREADS": "1"},
            )
        self.elsewhere.stdin.write(json.dumps(str(folder)) + "\n")
        self.elsewhere.stdin.flush()
        return tuple(json.loads(self.elsewhere.stdout.readline()))

    def same(self, model):
        state = model.state_dict()
        with torch.no_grad():
            logits = model(**self.batch).logits
        same = set(state) == set(self.state) and all(torch.equal(state[name], self.state[name]) for name in state)
        return (RIGHT if same and torch.allclose(logits, self.logits, atol=1e-6) else WRONG), "another model"

    def close(self):
        if self.elsewhere is not None:
            self.elsewhere.stdin.close()
            self.elsewhere.wait()
            self.elsewhere.stdout.close()


# Bytes


def write(name, content, folder):
    (folder / name).write_bytes(content)


def damages(world, draw, each):
    """Every file cut short and with flipped bits (`each` at random places), missing, and another's."""
    for name in world.names:
        whole = (world.folder / name).read_bytes()
        for length in [0, *(draw.randrange(len(whole)) for _ in range(each))]:
            yield Fault("cut short", f"{name} at {length}", partial(write, name, whole[:length]))
        for _ in range(each):
            place, bit = draw.randrange(len(whole)), draw.randrange(8)
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            yield Fault("a bit flipped", f"{name} at {place}.{bit}", partial(write, name, bytes(flipped)))
        yield Fault("missing", name, lambda folder, name=name: (folder / name).unlink())
        other = (world.other / name).read_bytes()
        yield Fault("a file of another model", name, partial(write, name, other))
    for left, right in combinations(world.names, 2):
        yield Fault("two files exchanged", f"{left}, {right}", partial(exchange, left, right))


def exchange(left, right, folder):
    one, two = (folder / left).read_bytes(), (folder / right).read_bytes()
    write(left, two, folder)
    write(right, one, folder)


def tensors(world):
    """Tensors of one shape exchanged, one gone, one of the other model."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (world.folder, world.other))
    for left, right in combinations(ours, 2):
        if ours[left].shape == ours[right].shape and not torch.equal(ours[left], ours[right]):
            changed = ours | {left: ours[right], right: ours[left]}
            yield Fault("two tensors exchanged", f"{left}, {right}", partial(weights, changed))
    for name in ours:
        rest = {key: value for key, value in ours.items() if key != name}
        yield Fault("a tensor missing", name, partial(weights, rest))
        if not torch.equal(ours[name], theirs[name]):
            yield Fault("a tensor of another model", name, partial(weights, ours | {name: theirs[name]}))


def weights(state, folder):
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"})


# What leads elsewhere


class Opened:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def snares(world):
    """Pickles, links and names in JSON that lead to the other model, with sums and without."""
    other, outside = world.other, "../other/model.safetensors"
    poison = pickle.dumps(Opened(world.marker))
    for name in ("pytorch_model.bin", "model.pkl", "training_args.bin", "adapter_model.bin"):
        yield Fault("a pickle beside", name, partial(write, name, poison))
        yield Fault("a pickle in place of weights", name, partial(replaced, name, poison))
    for name in ("config.json", "plan.json", "model.safetensors", SUMS):
        yield Fault("a link out of the folder", name, partial(linked, name, other / name))
        if name != SUMS:
            alone = partial(bare, partial(linked, name, other / name))
            yield Fault("a link out of the folder", f"{name}, no sums", alone)
    for target in ("/dev/zero", "/dev/null", "/nowhere", "."):
        for name in ("plan.json", "model.safetensors"):
            yield Fault("a link out of the folder", f"{name} to {target}", partial(bare, partial(linked, name, target)))
    for place in (outside, str(other / "model.safetensors"), "..", "/etc/passwd"):
        yield Fault("a name out of the folder", f"index, {place}", partial(bare, partial(indexed, place)))
        named = partial(configured, {"transformers_weights": place})
        yield Fault("a name out of the folder", f"transformers_weights, {place}", partial(bare, named))
        line = f"{'0' * 64}  {place}\n".encode()
        yield Fault("a name out of the folder", f"{SUMS}, {place}", partial(write, SUMS, line))


def replaced(name, content, folder):
    (folder / "model.safetensors").unlink()
    bare(partial(write, name, content), folder)


def linked(name, target, folder):
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def indexed(place, folder):
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, place)}
    write("model.safetensors.index.json", json.dumps(index).encode(), folder)


def configured(values, folder):
    write("config.json", json.dumps(json.loads((folder / "config.json").read_text()) | values).encode(), folder)


def bare(apply, folder):
    """A fault in a folder without sums, as there were before, or with sums that its user has removed."""
    (folder / SUMS).unlink(missing_ok=True)
    apply(folder)


# JSON, by hypothesis

GONE = object()
WORDS = st.sampled_from(
    ["", "bert", "roberta", "relu", "gelu", "float16", "zero", "identity", "../x", "hidden", "\u0000"]
)
ODD = st.sampled_from(
    [0, 1, -1, 2, 3, 4, 8, 10**6, 10**13, 2**63, 10**400, 0.5, 1e-12, 1e308, float("nan"), float("inf")]
)
VALUES = st.recursive(
    st.none() | st.booleans() | ODD | st.integers(-3, 70) | st.floats() | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(document, path=()):
    """The path of every value in a document."""
    yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield from places(value, (*path, key))


def mutated(document):
    """A strategy: the document with one or two values replaced, dropped, moved by one, copied over another or added."""
    at = st.sampled_from(list(places(document)))
    change = st.tuples(at, st.sampled_from(["replace", "drop", "nudge", "copy", "add"]), VALUES, at)
    return st.lists(change, min_size=1, max_size=2).map(partial(edited, document))


def edited(document, changes):
    for path, action, value, other in changes:
        holder = {"": json.loads(json.dumps(document))}
        document = edit(holder, ("", *path), action, value, other)[""]
    return document


def edit(holder, path, action, value, other):
    """A holder of a document after one change; one that an earlier change has made impossible changes nothing."""
    *inside, last = path
    place = holder
    try:
        for key in inside:
            place = place[key]
        old = place[last]
        if action == "drop":
            del place[last]
        elif action == "nudge":
            place[last] = (
                old + 1 if isinstance(old, int | float) else old[::-1] if isinstance(old, str | list) else value
            )
        elif action == "copy":
            source = holder[""]
            for key in other:
                source = source[key]
            place[last] = json.loads(json.dumps(source))
        elif action == "add" and isinstance(old, dict):
            old["added"] = value
        else:
            place[last] = value
    except (LookupError, TypeError):
        pass
    return holder if "" in holder else {"": None}


def rewritten(name, document, folder):
    write(name, json.dumps(document).encode("utf-8", "surrogatepass"), folder)


def one_sentence(text):
    return "\n" not in text and re.search(r"[:;,(]", text) is not None
