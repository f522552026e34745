"""Files of `torch.export` (.pt2) that were crafted or damaged: nothing in them runs, and no other model comes out.

A file is compared with the model that it was made from by `secateur.verify`; that it differs is a refusal.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from io import BytesIO
from itertools import combinations, product
from pathlib import Path
from typing import TypeAlias
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import torch
from faults_world import REFUSED, RIGHT, WRONG, Opened
from tiny_models import inputs, random_masks, tiny

import secateur as sec
from faults_by_kind.endings import Outcome, ending
from faults_by_kind.folders import mutants
from secateur.deploy.export_facts import KEY

Entries: TypeAlias = dict[str, bytes]
"""Name in the archive -> content."""
Crafted: TypeAlias = Iterator[tuple[str, str, bytes]]
"""The row of the table, the case, and the file."""

PROGRAM = "models/model.json"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
DIFFERENT = "the outputs differ"
EACH = 40
"""Random damages of a kind."""
UNPICKLED = (
    "data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt", "data/weights/weight_0",
    "data/constants/tensor_0", "data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data.pkl", "extra/x.pkl",
    "constants.pkl", "serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt",
    "serialized_exported_program.json", "data/aotinductor/model/model.so", "data/aotinductor/model/model.wrapper.so",
    "models/other.json", "byteorder", "archive_format", ".data/version",
)  # fmt: skip
"""Entries that some version of PyTorch unpickles or loads, and some that it reads as text."""
HEADERS = {"entry": b"PK\x03\x04", "listing": b"PK\x01\x02", "end": b"PK\x05\x06"}
"""How the headers of an archive begin: of an entry, of its line in the list at the end, and of the end."""
FIELDS = {
    ("entry", "compression"): (8, 2), ("entry", "compressed"): (18, 4), ("entry", "size"): (22, 4),
    ("entry", "name"): (26, 2), ("entry", "extra"): (28, 2), ("listing", "flags"): (8, 2),
    ("listing", "compression"): (10, 2), ("listing", "compressed"): (20, 4), ("listing", "size"): (24, 4),
    ("listing", "name"): (28, 2), ("listing", "extra"): (30, 2), ("listing", "offset"): (42, 4),
    ("end", "entries"): (10, 2), ("end", "directory"): (12, 4), ("end", "offset"): (16, 4), ("end", "comment"): (20, 2),
}  # fmt: skip
"""Header and what a field of it claims -> offset and width in bytes."""
SIZES = (0, 1, 2**31, 2**32 - 2, 2**32 - 1)
"""Numbers that a field may claim."""


class Original:
    """A compact model, its file and the archive's entries."""

    def __init__(self, root: Path) -> None:
        self.root, self.outside = root, root / "outside"
        self.marker = self.outside / "a pickle was opened"
        self.outside.mkdir()
        dense = tiny("bert", dtype=torch.float32)
        space = sec.Space(dense, "ffn", "qk", "vo")
        self.model = sec.cut(dense, sec.Plan.of(space, random_masks(space)))
        self.batch = inputs(self.model)
        self.path = root / "model.pt2"
        sec.export(self.model, self.path)
        self.content = self.path.read_bytes()
        with ZipFile(self.path) as archive:
            self.entries: Entries = {name: archive.read(name) for name in archive.namelist()}
        self.folder = next(iter(self.entries)).partition("/")[0]

    def judge(self, content: bytes) -> tuple[str, str]:
        """(verdict, message) of a file with this content."""
        path = self.root / "crafted.pt2"
        path.write_bytes(content)
        verdict, said = ending(lambda: self._compare(path))
        if any(self.outside.iterdir()):
            return WRONG, "something was run or written outside"
        return (REFUSED, said) if said == DIFFERENT else (verdict, said)

    def _compare(self, path: Path) -> str:
        return "" if sec.verify([self.batch], compact=self.model, exported=path).passed else DIFFERENT


def archives(root: Path, scale: float) -> Iterator[Outcome]:
    """Every way to craft a file, and random damages; of all these a part, by the scale."""
    original, draw = Original(root), random.Random(0)
    verdict, said = original.judge(original.content)
    yield "exported file: as written", verdict if verdict == RIGHT else WRONG, "", said
    for way in (_pickles, _slips, _headers, _exchanged, _damaged, _edited):
        for row, case, content in way(original):
            if draw.random() < scale:
                verdict, said = original.judge(content)
                yield f"exported file: {row}", verdict, case, said


def _zipped(entries: Entries, compression: int = ZIP_STORED) -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# Ways to craft a file


def _pickles(original: Original) -> Crafted:
    """Pickles as new entries, in place of others, and as the weights or constants that a description points to."""
    saved = BytesIO()
    torch.save(Opened(original.marker), saved)
    pickles = {f"protocol {number}": pickle.dumps(Opened(original.marker), number) for number in (0, 2, 4)}
    pickles["torch.save"] = saved.getvalue()
    for name, (kind, content) in product(UNPICKLED, pickles.items()):
        entries = original.entries | {f"{original.folder}/{name}": content}
        yield "a pickle in it", f"{name}, {kind}", _zipped(entries)
    for config, (kind, content) in product(CONFIGS, pickles.items()):
        path = f"{original.folder}/{config}"
        described = json.loads(original.entries[path])
        for payload in list(described["config"].values())[:1]:
            payload |= {"use_pickle": True}
            entry = f"{path.rpartition('/')[0]}/{payload['path_name']}"
            edited = {path: json.dumps(described).encode(), entry: content}
            yield "a pickle in it", f"described by {config}, {kind}", _zipped(original.entries | edited)


def _slips(original: Original) -> Crafted:
    """Names that lead out of the archive, as entries and in descriptions; links; and names that occur twice."""
    outside = str(original.outside / "slipped")
    for name in (
        "../outside/slipped", "../../slipped", outside, f"{original.folder}/../../outside/slipped",
        f"{original.folder}\\..\\..\\outside\\slipped", f"{original.folder}/extra/../../outside/slipped",
        f"//{outside}", f"C:{outside}", "slipped", "/", f"{original.folder}/", f"{original.folder}/\u202eslipped",
        f"{original.folder}/{'x' * 60000}", f"{original.folder}/extra/../{PROGRAM}",
    ):  # fmt: skip
        yield "a name out of it", name[:60], _zipped(original.entries | {name: b"slipped"})
    for config, place in product(CONFIGS, ("../../outside/slipped", outside, "/dev/zero", "../weights/weight_0", "")):
        path = f"{original.folder}/{config}"
        described = json.loads(original.entries[path])
        for payload in list(described["config"].values())[:1]:
            payload["path_name"] = place
            edited = {path: json.dumps(described).encode()}
            yield "a name out of it", f"{config}, {place}", _zipped(original.entries | edited)
    for name in original.entries:
        yield "a link in it", name, _with_link(original.entries, name, "/dev/zero")


def _with_link(entries: Entries, name: str, target: str) -> bytes:
    """The archive with an entry that is a symbolic link."""
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        for other, content in entries.items():
            info = ZipInfo(other)
            info.external_attr = 0o120777 << 16 if other == name else 0
            archive.writestr(info, target if other == name else content)
    return buffer.getvalue()


def _headers(original: Original) -> Crafted:
    """Headers that claim other sizes, places and compressions, and archives that unpack to far more."""
    for compression in (ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA):
        bomb = original.entries | {f"{original.folder}/extra/zeros": bytes(50_000_000)}
        yield "a header that lies", f"50 MB of zeros, compression {compression}", _zipped(bomb, compression)
    yield (
        "a header that lies",
        "100,000 entries",
        _zipped(original.entries | {f"{original.folder}/extra/{number}": b"" for number in range(100_000)}),
    )
    for (header, field), claimed in product(FIELDS, SIZES):
        yield "a header that lies", f"{header}, {field}, {claimed}", _claiming(original.content, header, field, claimed)
    for deep in ("[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '"' + "\\u0000" * 1000 + '"'):
        for name in (PROGRAM, *CONFIGS, f"extra/{KEY}"):
            entries = original.entries | {f"{original.folder}/{name}": deep.encode()}
            yield "JSON that is deep or odd", f"{name}, {deep[:6]}", _zipped(entries)


def _claiming(content: bytes, header: str, field: str, claimed: int) -> bytes:
    """The file with a field of its last header of a kind replaced."""
    offset, width = FIELDS[header, field]
    place = content.rindex(HEADERS[header]) + offset
    return content[:place] + (claimed % 256**width).to_bytes(width, "little") + content[place + width :]


def _exchanged(original: Original) -> Crafted:
    """Two weights of one size exchanged."""
    weights = [name for name in original.entries if "/weight_" in name or "/tensor_" in name]
    for left, right in combinations(weights, 2):
        one, other = original.entries[left], original.entries[right]
        if len(one) == len(other) and one != other:
            yield "two weights exchanged", f"{left}, {right}", _zipped(original.entries | {left: other, right: one})


def _damaged(original: Original) -> Crafted:
    """Cut short and with flipped bits at random places, and without an entry."""
    content, draw = original.content, random.Random(0)
    for length in [0, *(draw.randrange(len(content)) for _ in range(EACH))]:
        yield "cut short", f"at {length}", content[:length]
    for _ in range(2 * EACH):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield "a bit flipped", f"at {place}.{bit}", bytes(flipped)
    for name in original.entries:
        rest = {other: value for other, value in original.entries.items() if other != name}
        yield "an entry missing", name, _zipped(rest)


def _edited(original: Original) -> Crafted:
    """Mutations of the program, of the descriptions of weights and constants, and of our own facts."""
    for name in (PROGRAM, *CONFIGS, f"extra/{KEY}"):
        path = f"{original.folder}/{name}"
        for changed in mutants(json.loads(original.entries[path]), EACH):
            content = json.dumps(changed).encode("utf-8", "surrogatepass")
            yield f"{Path(name).name} edited", json.dumps(changed)[:100], _zipped(original.entries | {path: content})
