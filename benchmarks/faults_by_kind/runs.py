"""Runs of the command: disks that are full or read-only, and processes that are killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG, one_sentence
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from typer.testing import CliRunner

import secateur as sec
from faults_by_kind.endings import Outcome
from secateur.cli import app
from secateur.run import pipeline, recipe
from secateur.system.errors import UserError

SHORT = {"training.epochs": 2, "training.checkpoints": 4, "distillation.check_teacher": False}
"""A run of a teacher that is hardly trained."""


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


def job(root: Path, **values: Any) -> Path:
    """Do a small run that trains a teacher, without a fault; its folder is what others are compared with."""
    model, data = write_model(root / "encoder"), write_data(root / "data.csv")
    wanted = recipe.make(recipe_values(model, data) | SHORT | values)
    (root / "recipe.yaml").write_text(wanted.to_yaml(), encoding="utf-8")
    pipeline.run(wanted, root / "whole")
    return root / "whole"


def same_weights(left: Path, right: Path) -> bool:
    """Whether two runs have ended with the same weights."""
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (left, right))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def disks(root: Path, scale: float) -> Iterator[Outcome]:
    """A disk that becomes full in a run, which is then resumed with more space, and a disk that is read-only."""
    if os.geteuid() != 0:
        return
    whole = job(root)
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
            verdict = TRACEBACK if code else RIGHT if same_weights(whole, disk / "run") else WRONG
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
    whole, draw = job(root), random.Random(0)
    seconds = seconds_of(root, root / "timed")
    for number in range(max(1, round(20 * scale))):
        run, moment = root / f"killed {number}", draw.uniform(0, seconds)
        process = start(root, run)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = sorted(path.name for path in run.iterdir()) if run.is_dir() else []
        code, said = _prune(root, run)
        litter = [path.name for path in run.glob(".*")] if code == 0 else []
        verdict = TRACEBACK if code else RIGHT if same_weights(whole, run) and not litter else WRONG
        yield (
            "run killed at a random moment",
            verdict,
            f"{moment:.2f} of {seconds:.2f} s, left {there}",
            f"{litter} {said}",
        )


def start(root: Path, run: Path) -> subprocess.Popen[bytes]:
    """Start the command in its own process, and return once its folder exists."""
    recipe = root / "recipe.yaml"
    words = [sys.executable, "-m", "secateur", "prune", "--recipe", str(recipe), "--output", str(run)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not run.is_dir():
        time.sleep(0.002)
    return process


def seconds_of(root: Path, run: Path) -> float:
    """How long the command takes, from when its folder exists."""
    process = start(root, run)
    started = time.monotonic()
    process.wait()
    return time.monotonic() - started
