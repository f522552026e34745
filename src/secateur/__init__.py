"""secateur prunes Transformers for a task and hands back smaller, faster, ordinary models."""

from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.budget.units import Units
from secateur.deploy.export import Exported, export
from secateur.deploy.verify import Verification, verify
from secateur.measure.bench import Measurement, measure
from secateur.measure.benchmark import benchmark
from secateur.measure.benchmark import benchmark as contest
from secateur.measure.latency_sweep import LatencyTable, measure_latency
from secateur.measure.sensitivity import Sensitivity, sensitivity
from secateur.methods.cofi import Cofi
from secateur.methods.grain import Grain
from secateur.methods.magnitude import Magnitude
from secateur.methods.method import Method
from secateur.methods.michel import Michel
from secateur.methods.movement import Movement
from secateur.methods.random import Random
from secateur.methods.schedules import Schedule, constant, cubic, exponential, linear
from secateur.methods.subset import Subset
from secateur.methods.voita import Voita
from secateur.run.new_model import new_model
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, register, save
from secateur.surgery.cut import cut, factorise
from secateur.surgery.masking import attach, attached
from secateur.surgery.stock import plain
from secateur.system.errors import UserError
from secateur.system.moved import install
from secateur.training.objectives import Hidden, Labels, Logits, Step, Term
from secateur.training.trainer import PruningTrainer

__version__ = "0.2.0"

__all__ = [
    "Cofi",
    "Exported",
    "Grain",
    "Hidden",
    "Labels",
    "LatencyTable",
    "Logits",
    "Magnitude",
    "Measurement",
    "Method",
    "Michel",
    "Movement",
    "Parameters",
    "Plan",
    "PruningTrainer",
    "Random",
    "Schedule",
    "Sensitivity",
    "Space",
    "Step",
    "Subset",
    "Term",
    "Units",
    "UserError",
    "Verification",
    "Voita",
    "attach",
    "attached",
    "benchmark",
    "constant",
    "contest",
    "cubic",
    "cut",
    "exponential",
    "export",
    "factorise",
    "linear",
    "load",
    "measure",
    "measure_latency",
    "new_model",
    "plain",
    "register",
    "save",
    "sensitivity",
    "verify",
]

register()
install()
