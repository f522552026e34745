"""secateur prunes Transformers for a task and hands back smaller, faster, ordinary models.

The public names are imported when they are first used (PEP 562), so that `import secateur` is fast. Besides them there
are the registries, each with a decorator `register` for what is defined outside: `secateur.methods`, `secateur.tasks`,
`secateur.architectures`, `secateur.terms` and `secateur.runtimes`.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.system.moved import install, moved_names
from secateur.system.on_import import after_import
from secateur.system.version import VERSION as __version__

if TYPE_CHECKING:
    from secateur import methods as methods
    from secateur import tasks as tasks
    from secateur.budget.parameters import Parameters as Parameters
    from secateur.budget.space import Space as Space
    from secateur.budget.uniform import UniformParameters as UniformParameters
    from secateur.budget.units import Units as Units
    from secateur.deploy import runtimes as runtimes
    from secateur.deploy.export import Exported as Exported
    from secateur.deploy.export import export as export
    from secateur.deploy.hub_layout import ExportedFolder as ExportedFolder
    from secateur.deploy.hub_layout import export_folder as export_folder
    from secateur.deploy.publish import Published as Published
    from secateur.deploy.publish import publish as publish
    from secateur.deploy.seq2seq.folder import Seq2SeqFolder as Seq2SeqFolder
    from secateur.deploy.seq2seq.folder import export_seq2seq as export_seq2seq
    from secateur.deploy.seq2seq.folder import open_seq2seq as open_seq2seq
    from secateur.deploy.verification import Verification as Verification
    from secateur.deploy.verify import verify as verify
    from secateur.measure.bench import Measurement as Measurement
    from secateur.measure.bench import measure as measure
    from secateur.measure.benchmark import benchmark as benchmark
    from secateur.measure.latency_sweep import LatencyTable as LatencyTable
    from secateur.measure.latency_sweep import measure_latency as measure_latency
    from secateur.measure.sensitivity import Sensitivity as Sensitivity
    from secateur.measure.sensitivity import sensitivity as sensitivity
    from secateur.methods.cofi import Cofi as Cofi
    from secateur.methods.fisher import Fisher as Fisher
    from secateur.methods.grain import Grain as Grain
    from secateur.methods.magnitude import Magnitude as Magnitude
    from secateur.methods.method import Method as Method
    from secateur.methods.michel import Michel as Michel
    from secateur.methods.movement import Movement as Movement
    from secateur.methods.obs import Obs as Obs
    from secateur.methods.random import Random as Random
    from secateur.methods.rounds import CoarseRound as CoarseRound
    from secateur.methods.schedules import Schedule as Schedule
    from secateur.methods.schedules import constant as constant
    from secateur.methods.schedules import cubic as cubic
    from secateur.methods.schedules import exponential as exponential
    from secateur.methods.schedules import linear as linear
    from secateur.methods.subset import Subset as Subset
    from secateur.methods.voita import Voita as Voita
    from secateur.run.new_model import new_model as new_model
    from secateur.run.prune_call import PruneResult as PruneResult
    from secateur.run.prune_call import prune as prune
    from secateur.structure import architectures as architectures
    from secateur.structure.plan import Plan as Plan
    from secateur.surgery.checkpoint import load as load
    from secateur.surgery.checkpoint import save as save
    from secateur.surgery.compensation import compensate as compensate
    from secateur.surgery.cut import cut as cut
    from secateur.surgery.factorisation import factorise as factorise
    from secateur.surgery.masking import attach as attach
    from secateur.surgery.masking import attached as attached
    from secateur.surgery.quantisation import quantise_embeddings as quantise_embeddings
    from secateur.surgery.stock import plain as plain
    from secateur.surgery.vocabulary.pruning import cut_vocabulary as cut_vocabulary
    from secateur.system.errors import UserError as UserError
    from secateur.training import terms as terms
    from secateur.training.objectives import Contrastive as Contrastive
    from secateur.training.objectives import Embedding as Embedding
    from secateur.training.objectives import Hidden as Hidden
    from secateur.training.objectives import Labels as Labels
    from secateur.training.objectives import Logits as Logits
    from secateur.training.objectives import MarginMSE as MarginMSE
    from secateur.training.objectives import Similarity as Similarity
    from secateur.training.objectives import Step as Step
    from secateur.training.objectives import Term as Term
    from secateur.training.trainer import PruningTrainer as PruningTrainer

_MODULE_OF = {
    "CoarseRound": "methods.rounds",
    "Cofi": "methods.cofi",
    "Contrastive": "training.objectives",
    "Embedding": "training.objectives",
    "Exported": "deploy.export",
    "ExportedFolder": "deploy.hub_layout",
    "Fisher": "methods.fisher",
    "Grain": "methods.grain",
    "Hidden": "training.objectives",
    "Labels": "training.objectives",
    "LatencyTable": "measure.latency_sweep",
    "Logits": "training.objectives",
    "Magnitude": "methods.magnitude",
    "MarginMSE": "training.objectives",
    "Measurement": "measure.bench",
    "Method": "methods.method",
    "Michel": "methods.michel",
    "Movement": "methods.movement",
    "Obs": "methods.obs",
    "Parameters": "budget.parameters",
    "Plan": "structure.plan",
    "Published": "deploy.publish",
    "PruneResult": "run.prune_call",
    "PruningTrainer": "training.trainer",
    "Random": "methods.random",
    "Schedule": "methods.schedules",
    "Sensitivity": "measure.sensitivity",
    "Seq2SeqFolder": "deploy.seq2seq.folder",
    "Similarity": "training.objectives",
    "Space": "budget.space",
    "Step": "training.objectives",
    "Subset": "methods.subset",
    "Term": "training.objectives",
    "UniformParameters": "budget.uniform",
    "Units": "budget.units",
    "UserError": "system.errors",
    "Verification": "deploy.verification",
    "Voita": "methods.voita",
    "attach": "surgery.masking",
    "attached": "surgery.masking",
    "benchmark": "measure.benchmark",
    "compensate": "surgery.compensation",
    "constant": "methods.schedules",
    "cubic": "methods.schedules",
    "cut": "surgery.cut",
    "cut_vocabulary": "surgery.vocabulary.pruning",
    "exponential": "methods.schedules",
    "export": "deploy.export",
    "export_folder": "deploy.hub_layout",
    "export_seq2seq": "deploy.seq2seq.folder",
    "factorise": "surgery.factorisation",
    "linear": "methods.schedules",
    "load": "surgery.checkpoint",
    "measure": "measure.bench",
    "measure_latency": "measure.latency_sweep",
    "new_model": "run.new_model",
    "open_seq2seq": "deploy.seq2seq.folder",
    "plain": "surgery.stock",
    "prune": "run.prune_call",
    "publish": "deploy.publish",
    "quantise_embeddings": "surgery.quantisation",
    "save": "surgery.checkpoint",
    "sensitivity": "measure.sensitivity",
    "verify": "deploy.verify",
}
"""Public name -> the module that defines it, within this package; `if TYPE_CHECKING` says the same to type checkers."""
_REGISTRIES = ("architectures", "methods", "runtimes", "tasks", "terms")

__all__ = ["__version__", *_MODULE_OF, *_REGISTRIES]

_moved = moved_names(
    __name__,
    {
        "contest": "secateur.measure.benchmark:benchmark",
        "register": "secateur.surgery.auto_classes:register",
    },
    frames=2,
)


def __getattr__(name: str) -> Any:
    if name in _REGISTRIES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        return _moved(name)
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_compact_classes() -> None:
    from secateur.surgery.auto_classes import register

    register()


install()
after_import("transformers.models.auto.modeling_auto", _register_compact_classes)
# oneDNN caches code for 1,024 shapes by default, 0.3 MB each, and reads this at its first use. Batches of many lengths
# times layers of many widths are more: a BERT-base cut to a different width in every layer, in 16 lengths, has 3,500
# (RESULTS.md).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
# PyTorch keeps descriptions of 1,024 of these shapes in a second cache, which takes as much memory and saves no time.
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
