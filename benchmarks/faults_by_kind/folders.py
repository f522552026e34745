"""Compact folders: damaged files, edited JSON, and names of all kinds."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from faults_world import RIGHT, WAYS, WRONG, Fault, World, bare, damages, mutated, rewritten, snares, tensors
from hypothesis import HealthCheck, Phase, given, settings

import secateur as sec
from faults_by_kind.endings import Outcome


def folders(root: Path, scale: float) -> Iterator[Outcome]:
    """Damaged files, in every way to load a folder."""
    world, draw = World(root), random.Random(0)
    faults = [*damages(world, draw, max(1, round(60 * scale))), *tensors(world), *snares(world)]
    for fault in faults:
        copy = world.broken(fault)
        for way in WAYS:
            yield f"folder: {fault.kind}", *_judged(world, way, copy, fault.case)
        shutil.rmtree(copy)
    world.close()


def _judged(world: World, way: str, folder: Path, case: str) -> tuple[str, str, str]:
    verdict, said = world.judge(way, folder)
    world.marker.unlink(missing_ok=True)
    return verdict, f"{way}: {case}", said


def edits(root: Path, scale: float) -> Iterator[Outcome]:
    """Mutations of `plan.json` and `config.json`, with new checksums and, as if edited by hand, without any."""
    world = World(root)
    for name, sums in product(("plan.json", "config.json"), (True, False)):
        document = json.loads((world.folder / name).read_text())
        ways = WAYS if sums or name == "plan.json" else ("load",)
        for number, changed in enumerate(mutants(document, max(10, round(600 * scale)))):
            fault = Fault(name, str(number), partial(rewritten, name, changed))
            copy = world.broken(fault if sums else Fault(name, "", partial(bare, fault.apply)))
            for way in ways:
                verdict, case, said = _judged(world, way, copy, json.dumps(changed)[:2000])
                if verdict == WRONG and name == "config.json" and not sums and _same_key(changed, document):
                    verdict = RIGHT  # the weights of the folder, with the config that the user has edited
                yield f"{name} edited" + ("" if sums else ", sums removed"), verdict, case, said
            shutil.rmtree(copy)
    world.close()


def mutants(document: Any, count: int) -> list[Any]:
    """Different mutations of a document, the same in every run."""
    mutants: dict[str, Any] = {}

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(document))
    def draw(changed: Any) -> None:
        mutants.setdefault(json.dumps(changed), changed)

    draw()
    mutants.pop(json.dumps(document), None)
    return list(mutants.values())


def _same_key(changed: Any, document: Any) -> bool:
    return isinstance(changed, dict) and changed.get("secateur") == document["secateur"]


def names(root: Path, scale: float) -> Iterator[Outcome]:
    """Folders whose names have spaces, quotes and letters of all kinds."""
    world = World(root)
    model = sec.load(world.folder)
    for name in (
        "with space",
        "modèle d'été",
        "模型",
        "имя",
        "a.b-c+d",
        'q"u`o',
        "[x] (y) {z} %s $HOME",
        "🎬",
        "é" * 60,
    ):
        place = root / name / name
        sec.save(model, place)
        for way in WAYS:
            verdict, said = world.judge(way, place)
            yield "name of a folder", verdict, f"{way}: {name}", said
    world.close()
