"""What this machine and this environment can do, for reports of bugs: read in a second, and never an error.

PyTorch and transformers are not imported, because that alone takes seconds; their versions are those of their metadata.
"""

from __future__ import annotations

import os
import platform
import runpy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secateur.system import machine
from secateur.system.disk import free_bytes, size
from secateur.system.errors import reason_of
from secateur.system.installed import Library, libraries, version_of
from secateur.system.packages import installing
from secateur.system.version import VERSION

VECTORS = ("avx2", "avx512f", "asimd", "sve")
HARDWARE = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"),
}
"""Dtype -> the sets of instructions, of x86 and of ARM, that multiply numbers of it."""
WITHOUT = {
    "bf16": "can be stored; computed by conversion to fp32, slower than fp32, and OpenVINO refuses it",
    "fp16": "can be stored; computed by conversion to fp32, not faster than fp32",
    "int8": "runs without instructions for it: perhaps slower than fp32, which `secateur bench` tells",
}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        group: machine, runtimes, dtypes, versions or disk.
        name: of what was looked at.
        found: what there is.
        note: what that means, or what to do; may be empty.
        numbers: the same for programs, such as bytes.
    """

    group: str
    name: str
    found: str
    note: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


def diagnosis() -> list[Finding]:
    """All findings, by their groups. A part that fails is a finding that says so."""
    parts = (_machine, _gpu, _dtypes, _pytorch, _onnxruntime, _openvino, _versions, _disk)
    return [finding for part in parts for finding in _tried(part)]


def to_dict(findings: list[Finding]) -> dict[str, dict[str, Any]]:
    """Group -> name -> what was found, as plain values."""
    groups: dict[str, dict[str, Any]] = {}
    for finding in findings:
        values = {key: value for key, value in asdict(finding).items() if key in ("found", "note")}
        groups.setdefault(finding.group, {})[finding.name] = values | finding.numbers
    return groups


def shortened(path: Path) -> str:
    """A path as text, in which the home directory is `~`: a report of a bug names nobody."""
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}".removesuffix("/.") if path.is_relative_to(home) else str(path)


def _tried(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a part up to the first error, which is one more."""
    try:
        yield from part()
    except Exception as error:
        yield Finding("failed", part.__name__.strip("_"), "could not be read", reason_of(error))


def _machine() -> Iterator[Finding]:
    yield Finding("machine", "system", platform.platform(), f"Python {platform.python_version()}")
    cpu, memory = machine.processor(), machine.memory()
    vectors = ", ".join(machine.has(cpu.features, *VECTORS)) or ("not known" if cpu.features is None else "no AVX2")
    yield Finding("machine", "processor", cpu.name, vectors, {"features": machine.has(cpu.features, *VECTORS)})
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f"OMP_NUM_THREADS={threads}" if threads else ""
    cores = {"physical": cpu.cores, "usable": cpu.usable}
    yield Finding("machine", "cores", f"{cpu.usable} usable, {cpu.cores or 'unknown'} physical", limit, cores)
    numbers = {"total_bytes": memory.total, "available_bytes": memory.available}
    yield Finding("machine", "memory", size(memory.total), f"{size(memory.available)} available", numbers)


def _gpu() -> Iterator[Finding]:
    built = _cuda_of_pytorch()
    use = f"PyTorch is built for CUDA {built}" if built else "PyTorch is built without CUDA: it does not use them"
    found = machine.gpus()
    for number, gpu in enumerate(found):
        yield Finding("machine", f"GPU {number}", f"{gpu.name}, {gpu.memory}", f"driver {gpu.driver}; {use}")
    if not found:
        yield Finding(
            "machine", "GPU", "none that nvidia-smi lists", f"PyTorch is built for CUDA {built}" * bool(built)
        )


def _dtypes() -> Iterator[Finding]:
    """What the processor does with each dtype."""
    features = machine.processor().features
    yield Finding("dtypes", "fp32", "runs everywhere")
    for dtype, names in HARDWARE.items():
        present = machine.has(features, *names)
        without = WITHOUT[dtype] if features is not None else ""
        found = "in hardware" if present else "not in hardware" if features is not None else "not known"
        yield Finding("dtypes", dtype, found, ", ".join(present) or without, {"instructions": present})


def _pytorch() -> Iterator[Finding]:
    built = _cuda_of_pytorch()
    yield _runtime("pytorch", "torch", "", lambda: f"built for CUDA {built}" if built else "built for CPUs")


def _onnxruntime() -> Iterator[Finding]:
    def providers() -> str:
        import onnxruntime

        return ", ".join(onnxruntime.get_available_providers())

    yield _runtime("onnxruntime", "onnxruntime", "onnx", providers)


def _openvino() -> Iterator[Finding]:
    def devices() -> str:
        import openvino

        core = openvino.Core()
        dtypes = ", ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return f"{', '.join(core.available_devices)}; {dtypes} on the CPU"

    yield _runtime("openvino", "openvino", "openvino", devices)


def _runtime(name: str, package: str, extra: str, describe: Callable[[], str]) -> Finding:
    """A runtime: its version and what it says of itself, or how to install it."""
    version = version_of(package)
    if version is None:
        return Finding("runtimes", name, "not installed", installing(extra) if extra else "")
    try:
        return Finding("runtimes", name, version, describe())
    except Exception as error:
        return Finding("runtimes", name, f"{version}, which does not load", reason_of(error))


def _cuda_of_pytorch() -> str | None:
    """The CUDA that PyTorch is built for, from its file of versions, which is no import of PyTorch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda")


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "secateur", VERSION)
    for library in libraries():
        numbers = {"allowed": library.allowed, "tested": library.tested}
        yield Finding("versions", library.name, library.found or "not installed", _judged(library), numbers)


def _judged(library: Library) -> str:
    """What is to be said of a version."""
    tested = f"tested with {library.tested}"
    if library.found is None:
        return f"{installing(library.extra)}; {tested}" if library.extra else f"is needed; {tested}"
    if not library.fits:
        return f"OUTSIDE of what secateur allows, {library.allowed}; {tested}"
    return "tested" if library.is_tested else ", ".join(filter(None, (library.allowed and "allowed", tested)))


def _disk() -> Iterator[Finding]:
    """The free disk at the caches, at the temporary files, and here, where the folders of runs usually are."""
    for name, folder in _folders().items():
        free = free_bytes(folder)
        where = shortened(folder)
        yield Finding("disk", name, f"{size(free)} free", where, {"free_bytes": free, "folder": where})


def _folders() -> dict[str, Path]:
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    data = os.environ.get("HF_DATASETS_CACHE") or os.path.join(HF_HOME, "datasets")
    caches = {"models of the hub": HF_HUB_CACHE, "data sets of the hub": data, "temporary files": tempfile.gettempdir()}
    return {name: Path(folder).expanduser() for name, folder in caches.items()} | {"this folder": Path.cwd()}
