"""Run in a new process by law 4: load saved folders and compare them with the outputs recorded by the saving process.

`load_elsewhere.py CASES WAY...`: CASES is JSON, a list of {folder, auto, ways, again}; beside each folder lies
`FOLDER.safetensors` with the state, the inputs and the outputs before saving. Prints JSON: `way folder` ->
what differs, "" if nothing does, for those of the ways that a case names. Unless `again` is false, what is loaded is
saved, loaded and compared once more.
"""

import json
import sys
from inspect import signature
from itertools import chain
from pathlib import Path

WAYS = {
    "load": lambda auto, folder: secateur.load(folder),
    "auto": lambda auto, folder: auto.from_pretrained(folder),
    "trusted": lambda auto, folder: auto.from_pretrained(folder, trust_remote_code=True),
    "encoder": lambda auto, folder: transformers.AutoModel.from_pretrained(folder),
    "trusted-encoder": lambda auto, folder: transformers.AutoModel.from_pretrained(folder, trust_remote_code=True),
    "new-head": lambda auto, folder: auto.from_pretrained(folder),
    "trusted-new-head": lambda auto, folder: auto.from_pretrained(folder, trust_remote_code=True),
}


def source(batch):
    """The inputs of the encoder of a generating model."""
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def align(model):
    """Copy every tensor: mapped ones lie at odd addresses, where sums take another order."""
    for tensor in chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def compare(model, known) -> str:
    """The first difference between a loaded model and the tensors written before, "" if there is none."""
    state = {f"state.{name}": value for name, value in model.state_dict().items()}
    if set(state) != {name for name in known if name.startswith("state.")}:
        return "other keys"
    batch = {name.removeprefix("input."): value for name, value in known.items() if name.startswith("input.")}
    align(model)
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True)
    said = {f"output.{name}": value for name, value in found.items() if isinstance(value, torch.Tensor)}
    states = [state for name, states in found.items() if name.endswith("hidden_states") for state in states]
    said |= {f"output.hidden.{layer}": value for layer, value in enumerate(states)}
    if model.can_generate():
        said["output.written"] = model.generate(**source(batch), max_new_tokens=4, num_beams=2)
    for name, value in (state | said).items():
        if value.dtype != known[name].dtype or not torch.equal(value, known[name]):
            return f"{name} differs"
    return "in training mode" if model.training else ""


def compare_encoder(model, known) -> str:
    """The first difference between a model's hidden states, with another head or without one, and those before."""
    batch = {name.removeprefix("input."): value for name, value in known.items() if name.startswith("input.")}
    taken = signature(model.forward).parameters
    align(model)
    with torch.no_grad():
        found = model(**{n: v for n, v in batch.items() if n in taken}, output_hidden_states=True)
    states = [state for name, states in found.items() if name.endswith("hidden_states") for state in states]
    for layer, state in enumerate(states):
        if not torch.equal(state, known[f"output.hidden.{layer}"]):
            return f"hidden states {layer} differ"
    return "in training mode" if model.training else "" if states else "no hidden states"


def check(way: str, auto, folder: Path, saves_again: bool) -> str:
    """Load, compare, save again as transformers does, load that, compare."""
    known = load_file(f"{folder}.safetensors")
    try:
        model = WAYS[way](auto, folder)
        again = folder.with_name(f"{folder.name}-{way}-again")
        saves_again &= way != "auto"  # the same class as by `load`: no need to save that again
        if saves_again:
            model.save_pretrained(again)
        compared = compare if way in ("load", "auto", "trusted") else compare_encoder
        wrong = compared(model, known)
        if wrong or not saves_again:
            return wrong
        wrong = compared(WAYS["load" if way == "encoder" else way](auto, again), known)
        return f"saved again: {wrong}" if wrong else ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def remembered(imports):
    """The function that finds the imports of a file, but of a text only once: every folder has the same code."""
    found = {}

    def of(path):
        if (text := Path(path).read_text(encoding="utf-8")) not in found:
            found[text] = imports(path)
        return found[text]

    return of


def refuse(auto, folder: Path) -> str:
    """Without secateur and without trust the folder must not load: not even partly."""
    try:
        auto.from_pretrained(folder, trust_remote_code=False)
    except (RuntimeError, ValueError, OSError):
        return ""
    return "loaded as a stock model"


if __name__ == "__main__":
    ways = sys.argv[2:]
    if "trusted" in ways:
        sys.modules["secateur"] = None  # as if it were not installed
    else:
        import secateur
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import dynamic_module_utils

    dynamic_module_utils.get_imports = remembered(dynamic_module_utils.get_imports)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = {}
    for case in json.loads(Path(sys.argv[1]).read_text()):
        auto, folder = getattr(transformers, case["auto"]), Path(case["folder"])
        for way in (way for way in ways if way in case["ways"]):
            wrong = refuse(auto, folder) if way == "neither" else check(way, auto, folder, case.get("again", True))
            report[f"{way} {folder.name}"] = wrong
    print(json.dumps(report))
