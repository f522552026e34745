"""The diagnosis: what it concludes from a processor and from versions, and that what is missing is no error."""

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from secateur.measure import doctor
from secateur.system import installed, machine
from secateur.system.tested_versions import TESTED

PINNED = dict(
    line.split("==")
    for line in (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)


def found():
    return {(one.group, one.name): one for one in doctor.diagnosis()}


def test_the_tested_versions_are_those_of_the_constraints():
    assert {name: PINNED[name] for name in TESTED} == TESTED


@pytest.mark.parametrize(
    ("line", "in_hardware"),
    [
        ("flags : avx2 fma", set()),
        ("flags : avx2 avx512f avx512_vnni", {"int8"}),
        ("flags : avx2 avx512f avx512_bf16 amx_bf16 amx_int8 avx512_fp16", {"bf16", "fp16", "int8"}),
        ("Features : asimd bf16 asimddp", {"bf16", "int8"}),
    ],
)
def test_dtypes_follow_from_the_instructions_of_the_processor(monkeypatch, tmp_path, line, in_hardware):
    (tmp_path / "cpuinfo").write_text(f"model name : A processor\n{line}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    lines = {name: one for (group, name), one in found().items() if group == "dtypes"}
    assert {name for name, one in lines.items() if one.found == "in hardware"} == in_hardware
    assert all("fp32" in lines[dtype].note for dtype in {"bf16", "fp16", "int8"} - in_hardware)


VERSIONS = {
    "version 2": ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    "version 1": (
        *(f"memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")),
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize("names", VERSIONS.values(), ids=VERSIONS)
def test_the_memory_is_that_of_the_container_where_it_has_less(names, monkeypatch, tmp_path):
    limit, used, parts, key = names
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    for name, text in ((limit, "1000\n"), (used, "700\n"), (parts, f"anon 500\n{key} 50\n")):
        (tmp_path / name).write_text(text)
    assert machine.memory() == machine.Memory(1000, 350)
    (tmp_path / limit).write_text(f"{2**63 - 4096}\n" if "memory/" in limit else "max\n")
    assert machine.memory().total > 1000 and machine.memory().available > 350


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_the_usable_cores_are_those_of_the_container_where_it_has_fewer(files, cores, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert machine.processor().usable == cores


def test_a_version_outside_of_the_range_is_pointed_out(monkeypatch):
    versions = {"torch": "2.5.1+cu124", "transformers": "5.23.0", "datasets": "1.0"}
    monkeypatch.setattr(installed, "version_of", versions.get)
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.6", "onnx; extra == 'onnx'", "datasets"])
    lines = {name: one.note for (group, name), one in found().items() if group == "versions"}
    assert lines["torch"] == f"OUTSIDE of what secateur allows, >=2.6; tested with {TESTED['torch']}"
    assert lines["transformers"] == "tested" and lines["datasets"].startswith("tested with")
    assert lines["onnx"].startswith("pip install onnx onnxruntime; tested")


def test_nothing_that_is_missing_or_broken_is_an_error(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise RuntimeError("not on this system")

    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(machine.subprocess, "run", fail)
    monkeypatch.setattr(machine.psutil, "virtual_memory", fail)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # its import fails
    monkeypatch.setattr(metadata, "requires", fail)
    lines = found()
    assert lines["failed", "machine"].note == lines["failed", "gpu"].note == "not on this system"
    assert lines["dtypes", "bf16"].found == "not known"
    assert "does not load" in lines["runtimes", "onnxruntime"].found
    assert ("disk", "this folder") in lines


def test_a_report_names_no_home_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert doctor.shortened(tmp_path / "runs" / "x") == "~/runs/x"
    assert doctor.shortened(tmp_path) == "~"
    assert doctor.shortened(Path("/elsewhere")) == "/elsewhere"
