"""Compact models in the cache of the hub's client: by name, revision and subfolder, loaded, saved again, loaded again.

The default revision holds another model of the same shapes, so that a revision that is not followed shows.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub.constants
import transformers
from faults_world import LOUD, REFUSED, RIGHT, TRACEBACK, WAYS, WRONG, World, damages, snares
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typer.testing import CliRunner

import secateur as sec
from faults_by_kind.endings import Outcome, ending
from secateur.cli import app
from secateur.surgery.opening import open_model

NAME = "someone/small"
COMMITS = {"main": "0" * 40, "v1": "1" * 40}
SUBFOLDERS = (None, "inner", "inner/most")


@dataclass(frozen=True)
class Place:
    """Where a model lies: its name, what `from_pretrained` is told besides, and the folder of its files."""

    name: str
    options: dict[str, Any]
    files: Path


def _lay(folder: Path, cache: Path, name: str, revision: str, subfolder: str | None = None) -> Path:
    """Lay the files of a folder as the hub's client does: relative links to blobs that are named by their content."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMITS[revision]
    place = snapshot / (subfolder or "")
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        for parent in (blob.parent, place, home / "refs"):
            parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        (place / path.name).symlink_to(os.path.relpath(blob, place))
    (home / "refs" / revision).write_text(COMMITS[revision])
    return place


@contextmanager
def _cache(place: Path) -> Iterator[Path]:
    """An empty cache, from which alone models come."""
    shutil.rmtree(place, ignore_errors=True)
    with mock.patch.object(huggingface_hub.constants, "HF_HUB_CACHE", str(place)):
        yield place


def caches(root: Path, scale: float) -> Iterator[Outcome]:
    """Whole models, pushed models and damaged ones; of the damaged a sample by the scale."""
    world = World(root)
    yield from _whole(world)
    yield from _pushed(world)
    yield from _commands(world)
    yield from _damaged(world, random.Random(0), scale)
    world.close()


# Whole models


def _whole(world: World) -> Iterator[Outcome]:
    for revision, subfolder in product((None, *COMMITS, COMMITS["v1"]), SUBFOLDERS):
        with _cache(world.root / "cache") as cache:
            place = _placed(world, cache, revision, subfolder)
            for (way, load), (kind, save) in product(_loads(place).items(), SAVES.items()):
                verdict, said = ending(partial(_again, world, load, save))
                case = f"{way}, revision {revision}, subfolder {subfolder}, then {kind}"
                yield "a model in the hub's cache, saved again", verdict, case, said


def _placed(world: World, cache: Path, revision: str | None, subfolder: str | None) -> Place:
    """The model under a revision, a branch or a commit, and another model under the other revision."""
    asked = "v1" if revision in ("v1", COMMITS["v1"]) else "main"
    other = "main" if asked == "v1" else "v1"
    files = _lay(world.folder, cache, NAME, asked, subfolder)
    _lay(world.other, cache, NAME, other, subfolder)
    options = {"revision": revision, "subfolder": subfolder}
    return Place(NAME, {key: value for key, value in options.items() if value is not None}, files)


def _loads(place: Place) -> dict[str, Callable[[], PreTrainedModel]]:
    """The ways to load a model, by name or from the folder in the cache."""
    auto = AutoModelForSequenceClassification.from_pretrained
    subfolder = {key: value for key, value in place.options.items() if key == "subfolder"}
    snapshot = place.files.parents[len(Path(subfolder["subfolder"]).parts) - 1] if subfolder else place.files
    loads: dict[str, Callable[[], PreTrainedModel]] = {
        "from_pretrained by name": partial(auto, place.name, **place.options),
        "from_pretrained by name, trusted": partial(auto, place.name, trust_remote_code=True, **place.options),
        "from_pretrained of the snapshot": partial(auto, snapshot, **subfolder),
        "secateur.load of the snapshot": partial(sec.load, place.files),
    }
    if not place.options:
        loads |= {"secateur.load by name": partial(sec.load, place.name)}
        loads |= {"open_model by name": partial(open_model, place.name)}
    return loads


SAVES: dict[str, Callable[[PreTrainedModel, Path], None]] = {
    "save_pretrained": lambda model, folder: model.save_pretrained(folder),
    "secateur.save": sec.save,
}


def _again(world: World, load: Callable[[], PreTrainedModel], save: Callable[[PreTrainedModel, Path], None]) -> str:
    """What is wrong with a model, or with what is saved of it and loaded in every way."""
    model, whole = load().eval(), sec.load(world.folder)
    if world.same(model)[0] != RIGHT:
        return "another model"
    if getattr(model, "plan", None) != whole.plan:
        return "the plan is lost"
    again = world.root / "again"
    shutil.rmtree(again, ignore_errors=True)
    save(model, again)
    ended = {way: world.judge(way, again) for way in WAYS}
    wrong = [f"{way}: {said}" for way, (verdict, said) in ended.items() if verdict != RIGHT]
    return f"saved again, {wrong[0]}" if wrong else ""


def _pushed(world: World) -> Iterator[Outcome]:
    """Models that are uploaded while they are saved, and loaded by their name."""
    for source, push in product(("load", "auto", "cut again"), ("save_pretrained", "push_to_hub")):
        with _cache(world.root / "cache") as cache:
            verdict, said = ending(partial(_upload, world, cache, source, push))
            yield "a model pushed to the hub", verdict, f"from {source}, by {push}", said


def _upload(world: World, cache: Path, source: str, push: str) -> str:
    """What is wrong with a model that was uploaded."""
    folder = shutil.copytree(world.folder, world.root / "pushed", dirs_exist_ok=True)
    auto = AutoModelForSequenceClassification
    model: Any = auto.from_pretrained(folder) if source == "auto" else sec.load(folder)
    if source == "cut again":
        model.save_pretrained(folder)
        model = sec.load(folder)

    def upload(self: Any, working_dir: Any, *args: Any, **kwargs: Any) -> None:
        _lay(Path(working_dir), cache, NAME, "main")

    patches: list[tuple[Any, str, Any]] = [(transformers.PreTrainedModel, "_upload_modified_files", upload)]
    for module in (transformers.modeling_utils, transformers.utils.hub):
        patches += [(module, "hf_api", _Hub), (module, "create_and_tag_model_card", mock.MagicMock())]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        if push == "push_to_hub":
            model.push_to_hub(NAME)
        else:
            model.save_pretrained(world.root / "saved", push_to_hub=True, repo_id=NAME)
    return _again(world, partial(sec.load, NAME), sec.save)


class _Hub:
    """The calls of the hub's client that make a repository."""

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        return mock.MagicMock(repo_id=repo_id)


def _commands(world: World) -> Iterator[Outcome]:
    for command, extra in (
        ("verify", ()),
        ("inspect", ()),
        ("bench", ("--shape", "1x8", "--repeats", "2", "--no-memory")),
    ):
        with _cache(world.root / "cache") as cache:
            _lay(world.folder, cache, NAME, "main")
            done = CliRunner().invoke(app.app, [command, NAME, *extra])
            sentence = done.exit_code == 2 and done.stderr.startswith("error: ")
            verdict = RIGHT if done.exit_code == 0 else REFUSED if sentence else TRACEBACK
            yield "a command by a name on the hub", verdict, command, done.stderr + repr(done.exception)


# Damaged models


def _damaged(world: World, draw: random.Random, scale: float) -> Iterator[Outcome]:
    """Files of the cache cut short, with flipped bits, missing, exchanged or linked elsewhere.

    What `from_pretrained` takes by a name is as the hub's client has checked it: the other ways check the sums.
    """
    for fault in [*damages(world, draw, 4), *snares(world)]:
        if draw.random() >= scale:
            continue
        copy = world.broken(fault)
        with _cache(world.root / "cache") as cache:
            place = Place(NAME, {}, _lay_damaged(copy, cache))
            checked = {way: load for way, load in _loads(place).items() if "from_pretrained by name" not in way}
            for way, load in checked.items():
                verdict, said = _ended(world, load)
                world.marker.unlink(missing_ok=True)
                yield "a damaged model in the hub's cache", verdict, f"{way}: {fault.kind}, {fault.case}", said
        shutil.rmtree(copy)


def _lay_damaged(folder: Path, cache: Path) -> Path:
    """As `_lay`, with the links of the folder as they are."""
    place = _lay(folder, cache, NAME, "main") if any(folder.iterdir()) else cache
    for path in folder.iterdir():
        if path.is_symlink():
            (place / path.name).unlink(missing_ok=True)
            (place / path.name).symlink_to(os.readlink(path))
    return place


def _ended(world: World, load: Callable[[], PreTrainedModel]) -> tuple[str, str]:
    """(verdict, message) of a damaged model; what transformers raises in its own words is a refusal."""
    try:
        model = load()
    except (sec.UserError, *LOUD) as refusal:
        verdict, said = REFUSED, str(refusal)
    except Exception as error:
        verdict, said = TRACEBACK, repr(error)
    else:
        verdict, said = world.same(model.eval())
    return (WRONG, "a pickle was opened") if world.marker.exists() else (verdict, said)
