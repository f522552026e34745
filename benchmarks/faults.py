"""Counts how faults end: damaged folders, edited JSON, full disks, killed runs, odd data, losses that are not finite.

    OMP_NUM_THREADS=1 python benchmarks/faults.py                 the table of RESULTS.md, about 20 minutes
    OMP_NUM_THREADS=1 python benchmarks/faults.py kills data      some of it
    OMP_NUM_THREADS=1 python benchmarks/faults.py --scale 0.1     a tenth of the cases

Every case ends in one of four ways: refused with one sentence; right, with the same weights and logits (or rows and
labels) as without the fault; WRONG; or with a traceback from our code. Damaged folders are loaded by `sec.load`, by
AutoModel after `import secateur`, by `secateur verify`, and by AutoModel with `trust_remote_code` in a process without
secateur. Errors that transformers or Python raise before our code runs count as refused too. Cases that end WRONG or
with a traceback are printed. The part `disks` needs root, because it mounts disks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import conftest  # noqa: F401  # one thread, offline and quiet, as in the tests
import torch
import typer
from data_world import CASES, outcome, right
from faults_world import (
    REFUSED,
    RIGHT,
    TRACEBACK,
    WAYS,
    WRONG,
    Fault,
    World,
    bare,
    damages,
    mutated,
    one_sentence,
    rewritten,
    snares,
    tensors,
)
from hypothesis import HealthCheck, Phase, given, settings
from safetensors import safe_open
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from test_trainer import QUIET, Breaking, Watch, trainer
from typer.testing import CliRunner

import secateur as sec
from secateur.cli import app
from secateur.run import pipeline, recipe
from secateur.system.errors import UserError
from secateur.training.objectives import Labels

VERDICTS = (REFUSED, RIGHT, WRONG, TRACEBACK)
Outcome = tuple[str, str, str, str]
"""The row of the table, the verdict, the case, and its message."""


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
        for number, changed in enumerate(_mutants(document, max(10, round(600 * scale)))):
            fault = Fault(name, str(number), partial(rewritten, name, changed))
            copy = world.broken(fault if sums else Fault(name, "", partial(bare, fault.apply)))
            for way in ways:
                verdict, case, said = _judged(world, way, copy, json.dumps(changed)[:2000])
                if verdict == WRONG and name == "config.json" and not sums and _same_key(changed, document):
                    verdict = RIGHT  # the weights of the folder, with the config that the user has edited
                yield f"{name} edited" + ("" if sums else ", sums removed"), verdict, case, said
            shutil.rmtree(copy)
    world.close()


def _mutants(document: Any, count: int) -> list[Any]:
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


# Disks


@contextmanager
def _disk(place: Path, kilobytes: int) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)  # models map their files


def _prune(root: Path, run: Path) -> tuple[int, str]:
    """Exit code and stderr of the command."""
    done = CliRunner().invoke(app.app, ["prune", "--recipe", str(root / "recipe.yaml"), "--output", str(run)])
    unexpected = done.exception is not None and not isinstance(done.exception, SystemExit)
    return (1 if unexpected else done.exit_code), done.stderr + (repr(done.exception) if unexpected else "")


def _job(root: Path, **values: Any) -> Path:
    """Do a small run that trains a teacher, without a fault; its folder is what others are compared with."""
    model, data = write_model(root / "encoder"), write_data(root / "data.csv")
    wanted = recipe.make(recipe_values(model, data) | {"training.epochs": 2, "training.checkpoints": 4} | values)
    (root / "recipe.yaml").write_text(wanted.to_yaml(), encoding="utf-8")
    pipeline.run(wanted, root / "whole")
    return root / "whole"


def _same_weights(left: Path, right: Path) -> bool:
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (left, right))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def disks(root: Path, scale: float) -> Iterator[Outcome]:
    """A disk that becomes full in a run, which is then resumed with more space, and a disk that is read-only."""
    if os.geteuid() != 0:
        return
    whole = _job(root)
    for kilobytes in range(4, 400, max(4, round(12 / scale))):
        with _disk(root / "disk", kilobytes) as disk:
            code, said = _prune(root, disk / "run")
            refused = code == 2 and said.splitlines()[-1].startswith("error: ") and "Traceback" not in said
            yield (
                "disk full in a run",
                REFUSED if refused else RIGHT if code == 0 else TRACEBACK,
                f"{kilobytes} kB",
                said,
            )
            subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
            code, said = _prune(root, disk / "run")
            verdict = TRACEBACK if code else RIGHT if _same_weights(whole, disk / "run") else WRONG
            yield "the same run with room again", verdict, f"{kilobytes} kB", said
    yield from _saves(root, whole)
    yield from _read_only(root, whole)


def _saves(root: Path, whole: Path) -> Iterator[Outcome]:
    """`sec.save` over an existing folder, on a disk with little space."""
    model = sec.load(whole / "model")
    with _disk(root / "disk", 1000) as disk:
        sec.save(model, disk / "model")
        before = _content(disk / "model")
        for kilobytes in range(0, 80, 8):
            room = shutil.disk_usage(disk).free
            (disk / "ballast").write_bytes(b" " * max(0, room - 1024 * kilobytes))
            try:
                sec.save(model, disk / "model", card="# Another\n")
                verdict, said = RIGHT, ""
            except UserError as refusal:
                whole_still = _content(disk / "model") == before and sorted(os.listdir(disk)) == ["ballast", "model"]
                verdict, said = (REFUSED if whole_still and one_sentence(str(refusal)) else WRONG), str(refusal)
            except Exception as error:
                verdict, said = TRACEBACK, repr(error)
            yield "disk full while a folder is replaced", verdict, f"{kilobytes} kB", said
            (disk / "ballast").unlink()


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def _read_only(root: Path, whole: Path) -> Iterator[Outcome]:
    """Commands that write, on a disk that is read-only before a run, or in the middle of one."""
    words = {
        "prune": ("prune", "--recipe", root / "recipe.yaml", "--output"),
        "cut": ("cut", root / "whole" / "teacher", "--output"),
        "export": ("export", root / "whole", "--output"),
    }
    with _disk(root / "disk", 100_000) as disk:
        shutil.copytree(whole, disk / "unfinished")
        for name in ("report.json", "report.md", "report.html"):
            (disk / "unfinished" / name).unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for verb, output in product(words, ("run", "unfinished")):
            place = disk / output / "model.pt2" if verb == "export" else disk / output
            done = CliRunner().invoke(app.app, [str(word) for word in (*words[verb], place)])
            refused = done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("error: ")
            said = done.stderr + repr(done.exception)
            yield "disk read-only", REFUSED if refused else TRACEBACK, f"{verb} {output}", said


# Kills


def kills(root: Path, scale: float) -> Iterator[Outcome]:
    """`secateur prune` is killed at a random moment; the same command must then end with the same weights."""
    whole, draw = _job(root), random.Random(0)
    seconds = _seconds(root, root / "timed")
    for number in range(max(1, round(20 * scale))):
        run, moment = root / f"killed {number}", draw.uniform(0, seconds)
        process = _start(root, run)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
        code, said = _prune(root, run)
        litter = [path.name for path in run.glob(".*")] if code == 0 else []
        verdict = TRACEBACK if code else RIGHT if _same_weights(whole, run) and not litter else WRONG
        yield (
            "run killed at a random moment",
            verdict,
            f"{moment:.2f} of {seconds:.2f} s, left {there}",
            f"{litter} {said}",
        )


def _start(root: Path, run: Path) -> subprocess.Popen[bytes]:
    """Start the command in its own process, and return once its folder exists."""
    recipe = root / "recipe.yaml"
    words = [sys.executable, "-m", "secateur", "prune", "--recipe", str(recipe), "--output", str(run)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not run.is_dir():
        time.sleep(0.002)
    return process


def _seconds(root: Path, run: Path) -> float:
    process = _start(root, run)
    started = time.monotonic()
    process.wait()
    return time.monotonic() - started


# Data and training


def data(root: Path, scale: float) -> Iterator[Outcome]:
    """Data files as users have them, which are read, encoded and scored."""
    for number, (name, case) in enumerate(CASES.items()):
        folder = root / str(number)
        folder.mkdir()
        try:
            found = outcome(case, folder)
            verdict, said = (RIGHT if not case.said and right(case, found) else WRONG), "read otherwise"
        except UserError as refusal:
            verdict, said = (REFUSED if case.said and one_sentence(str(refusal)) else WRONG), str(refusal)
        except Exception as error:
            verdict, said = TRACEBACK, repr(error)
        yield f"data of {case.task}", verdict, name, said


def losses(root: Path, scale: float) -> Iterator[Outcome]:
    """A loss or a gradient that is not finite in one step of six: training must stop, name it and keep a checkpoint."""
    cases = product((2, 3, 4, 5, 6), (float("nan"), float("inf")), (False, True), (False, True), (1, 2))
    for number, (step, value, backward, bf16, accumulate) in enumerate(cases):
        folder = root / str(number)
        options = QUIET | {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
        options |= {"bf16": bf16, "gradient_accumulation_steps": accumulate}
        term = Breaking(step * accumulate, value, backward=backward)
        made = trainer(folder, [], Watch(), select=None, objective=[Labels(), term], **options)
        try:
            made.train()
            verdict, said = WRONG, "trained on"
        except UserError as refusal:
            said = str(refusal)
            kept = [path.name for path in folder.iterdir()] == [f"checkpoint-{step - 1}"] and _finite(folder)
            verdict = REFUSED if f"at step {step} of 6" in said and one_sentence(said) and kept else WRONG
        except Exception as error:
            verdict, said = TRACEBACK, repr(error)
        where = "the gradient" if backward else "the loss"
        case = f"step {step}, {value}, {'bf16' if bf16 else 'fp32'}, {accumulate} micro-batches"
        yield f"{where} not finite", verdict, case, said
        shutil.rmtree(folder)


def _finite(folder: Path) -> bool:
    (saved,) = folder.glob("checkpoint-*/model.safetensors")
    with safe_open(saved, "pt") as file:
        return all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118


PARTS: dict[str, Callable[[Path, float], Iterator[Outcome]]] = {
    "folders": folders,
    "edits": edits,
    "names": names,
    "disks": disks,
    "kills": kills,
    "data": data,
    "losses": losses,
}


def _count(name: str, scale: float, counts: dict[str, Counter[str]]) -> None:
    with TemporaryDirectory(prefix="faults ", ignore_cleanup_errors=True) as root:
        for row, verdict, case, said in PARTS[name](Path(root), scale):
            counts.setdefault(row, Counter())[verdict] += 1
            if verdict in (WRONG, TRACEBACK):
                print(f"{verdict}: {row}: {case}\n    {said[-600:]}", file=sys.stderr, flush=True)


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    scale: Annotated[float, typer.Option(help="Of the number of cases.", min=0.001, max=10)] = 1.0,
) -> None:
    """Count how faults end, and print the table."""
    counts: dict[str, Counter[str]] = {}
    with suppress(KeyboardInterrupt):  # the table then has what was counted until then
        for name in parts or PARTS:
            _count(name, scale, counts)
    print(f"| fault | cases | {' | '.join(VERDICTS)} |\n| --- | {' | '.join(['---'] * 5)} |")
    for row, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        print(f"| {row} | {sum(count.values()):,} | {' | '.join(f'{count[verdict]:,}' for verdict in VERDICTS)} |")


if __name__ == "__main__":
    typer.run(main)
