"""Law 12: two processes, or micro-batches, equal one process with the same global batch.

Every row of a step counts alike.

Rows are of different lengths, so that no two processes have as many tokens, and their number is none that batches
divide. What is left is noise; SGD lets it stay what it is, where Adam blows up that of a gradient of 0 (key biases).
Cases in parts are of a decoder without biases, which FSDP splits among the processes. The second process has its models
on `meta`, and so no weights of its own.

As a script, both processes: `test_law_12_processes.py FOLDER CASES MODULES...` writes `FOLDER/RANK.safetensors`
for cases joined by commas; the modules have the methods that are not of this package.
"""

import gc
import os
import signal
import sys
import traceback
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for tiny_models, when run as a script
if __name__ == "__main__":
    for module in sys.argv[3:]:
        import_module(module)  # which registers its methods

import torch  # noqa: E402
from quiet import arguments  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_models import METHODS, tiny  # noqa: E402
from two_ranks import in_both, of_script  # noqa: E402

from secateur import methods  # noqa: E402
from secateur.budget.space import Space  # noqa: E402
from secateur.methods.schedules import cubic  # noqa: E402
from secateur.system.parts import own_part  # noqa: E402
from secateur.training import micro_batches  # noqa: E402
from secateur.training.objectives import Hidden, Labels, Logits  # noqa: E402
from secateur.training.trainer import PruningTrainer  # noqa: E402

STEPS, ROWS, BATCH = 10, 43, 8  # an epoch is five batches of 8 rows and one of 3
TOKENS = "ForTokenClassification"
CASES = {name: (name, "random", "ForSequenceClassification") for name in METHODS}
CASES |= {"exact": ("cofi", "random", "ForSequenceClassification")}  # its density held exactly
CASES |= {"refit": ("grain", "random", "ForSequenceClassification")}  # at each removal
CASES |= {"lengths": ("grain", "group_by_length", "ForSequenceClassification"), "tokens": ("grain", "random", TOKENS)}
WRITER = "ForCausalLM"
PARTS = {f"{name} in parts": (name, "random", WRITER) for name in ("grain", "cofi", "magnitude")}
DIES_AFTER = 6
"""Steps after which one of two processes is killed."""
IN_PARTS = ("resumed in parts", "recovered in parts")
"""Results of two processes beside those of the cases."""
HELD = "held"
"""The numbers of weights of both models that a process holds after each step."""
NOISE = 1e-6  # methods and terms keep their own numbers in float32


def examples(head):
    """Rows of 3 to 9 tokens; labels of rows, or of tokens, some of which do not count."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(ROWS):
        ids = torch.randint(5, 50, (3 + 5 * number % 7,), generator=generator)
        labels = {TOKENS: ids % 2, WRITER: ids.clone()}.get(head, ids[0] % 2)
        if labels.dim():
            labels[: number % 3] = -100
        rows.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return rows


def collate(rows):
    blank = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        name: pad(column, batch_first=True, padding_value=blank[name]) if column[0].dim() else torch.stack(column)
        for name, column in columns.items()
    }


class Watched(PruningTrainer):
    """Records the masks after every step, the number of parameters of the model, and that of this process alone."""

    dies = False

    def step_taken(self):
        if self.dies and self.state.global_step > DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        super().step_taken()
        self.kept = [*getattr(self, "kept", []), self.method.eval().masks().detach().clone()]
        self.sizes = [*getattr(self, "sizes", []), sum(p.numel() for p in self.model_wrapped.parameters())]
        held = [own_part(p).numel() for model in (self.model, self.loss.teacher) for p in model.parameters()]
        self.held = [*getattr(self, "held", []), sum(held)]


def without_models(case):
    """Whether this process has the shapes of the models of a case alone."""
    return case in PARTS and os.environ.get("RANK") == "1"


def trained(folder, case, *, batch=BATCH, accumulate=1, resume=None, seed=1, save="no", dies=False):
    """A trainer after ten steps of a method: `batch` rows of a process in each micro-batch."""
    name, order, head = (CASES | PARTS)[case]
    torch.manual_seed(0)
    with torch.device("meta") if without_models(case) else nullcontext():
        student, teacher = (tiny("llama" if case in PARTS else "bert", head, seed=number) for number in (seed, 2))
    space, schedule = Space(student, "ffn", "qk", "vo"), cubic(1.0, 0.4, begin=0.2, end=0.7)
    options = {"constraint": "exact"} if case == "exact" else {}
    method = methods.METHODS.get(name)(space, schedule, **options).double()
    objective = [Labels(), Logits(temperature=4.0), Hidden(layers="every 1")]
    for term in objective:
        term.bind(student, teacher)
        term.double()
    args = arguments(
        folder,
        STEPS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=0.5,
        warmup_steps=1,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy=save,
        save_steps=1,
        train_sampling_strategy=order,
        data_seed=3,
        **own_arguments(case),
    )
    trainer = Watched(
        student,
        method=method,
        teacher=teacher,
        objective=objective,
        args=args,
        train_dataset=examples(head),
        eval_dataset=examples(head),
        data_collator=collate,
        shrink=True,
        refit=case == "refit",
        select="loss" if case == "magnitude in parts" else None,
    )
    trainer.dies = dies
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def own_arguments(case):
    """The optimizer of a case, and whether processes split the model."""
    if case not in PARTS:
        return {"learning_rate": 0.05, "optim": "sgd"}
    evaluated = {"eval_strategy": "steps", "eval_steps": 3} if case == "magnitude in parts" else {}
    split = {"fsdp": True, "fsdp_config": {"version": 2}} if "WORLD_SIZE" in os.environ else {}
    return {"learning_rate": 0.01, "optim": "adamw_torch_fused", **evaluated, **split}


def recovered(folder, batch=BATCH):
    """The weights of a decoder after three steps without a method, of which the last two are averaged."""
    args = arguments(folder, 3, per_device_train_batch_size=batch, data_seed=3, **own_arguments("grain in parts"))
    student, rows = tiny("llama", WRITER, seed=1), examples(WRITER)
    PruningTrainer(student, args=args, train_dataset=rows, data_collator=collate, average=0.5).train()
    return student.state_dict()


def result(trainer):
    """Every number that a training ends with, its masks at every step, its plan, its losses and its sizes."""
    found = {"masks": torch.stack(trainer.kept)}
    blank = [own.is_meta for model in (trainer.model, trainer.teacher) for own in model.parameters()]
    if any(blank):
        assert all(blank)
    else:
        found["plan"] = trainer.method.plan(0.4).masks
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("loss", "loss_labels", "loss_logits", "loss_hidden", "grad_norm"):
        found[f"log.{name}"] = torch.tensor([entry[name] for entry in logs])
    for name in ("model", "method", "terms"):
        state = getattr(trainer, name).state_dict()
        found |= {f"{name}.{key}": value.detach().clone() for key, value in state.items() if not value.is_meta}
    found |= {f"moments.{number}": own.products / own.count for number, own in enumerate(trainer.refit.moments)}
    own = trainer.moments()["model"]
    found |= {f"moments.model.{name}.{key}": value for name, state in own.items() for key, value in state.items()}
    return found | {"sizes": torch.tensor(trainer.sizes), HELD: torch.tensor(trainer.held)}


def process(folder, cases):
    """The results of one of two processes; with all cases those of accumulation and of a resumed run, too."""
    everything = set(cases) == set(CASES | PARTS)
    status = ended(lambda: dying(folder)) if everything else 0  # first, as connections do not outlive a fork
    found = {case: result(trained(folder, case, batch=BATCH // 2)) for case in cases}
    if everything:
        found |= accumulated_and_resumed(folder) | after_a_death(folder, status)
    return {f"{case}/{name}": value.contiguous() for case, values in found.items() for name, value in values.items()}


def accumulated_and_resumed(folder):
    found = {}
    found["accumulated"] = result(trained(folder, "tokens", batch=BATCH // 4, accumulate=2))
    whole = trained(folder / "saved", "lengths", batch=BATCH // 2, save="steps")
    assert sorted(path.name for path in (folder / "saved").iterdir()) == sorted(
        f"checkpoint-{step + 1}" for step in range(STEPS)
    )
    last = str(folder / "saved" / "checkpoint-8")  # in the second epoch, after cuts
    found["saved"] = result(whole)
    found["resumed"] = result(trained(folder, "lengths", batch=BATCH // 2, seed=4, resume=last))
    return found


def dying(folder):
    """Train in parts until the second process is killed."""
    trained(folder / "killed", "grain in parts", batch=BATCH // 2, save="steps", dies=os.environ["RANK"] == "1")


def after_a_death(folder, status):
    """Results of a run in parts that lost one process, and was started again; and of a recovery in parts.

    Args:
        status: with which this process ended.
    """
    last = str(folder / "killed" / f"checkpoint-{DIES_AFTER}")
    resumed = result(trained(folder, "grain in parts", batch=BATCH // 2, seed=4, resume=last))
    return {
        "resumed in parts": resumed | {"status": torch.tensor(status)},
        "recovered in parts": recovered(folder, BATCH // 2),
    }


def ended(work):
    """How a fork that worked has ended: its exit status, or, below 0, the signal. It has connections of its own."""
    child = os.fork()
    if child == 0:
        os.environ["MASTER_PORT"] = os.environ["OTHER_PORT"]
        try:
            work()
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def selected_cases(items):
    """The cases of the tests of this file that will run; all, if some of these tests are of no case."""
    own = [item for item in items if item.path == Path(__file__)]
    cases = {item.callspec.params.get("case") if hasattr(item, "callspec") else None for item in own}
    return list(CASES | PARTS) if None in cases else sorted(cases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """In which both processes write."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(request, folder):
    """For each of two processes: case -> its results."""
    found = []
    cases = ",".join(selected_cases(request.session.items))
    others = {kind.__module__ for kind in methods.METHODS.all().values() if not kind.__module__.startswith("secateur.")}
    for numbers in of_script(__file__, folder, cases, *sorted(others)):
        cases = {}
        for name, value in numbers.items():
            case, _, own = name.partition("/")
            cases.setdefault(case, {})[own] = value
        found.append(cases)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A function: case -> the results of one process that takes the rows of a step at once."""
    return cache(lambda case: result(trained(tmp_path_factory.mktemp(case), case)))


def distance(mine, theirs):
    """The largest difference, relative to values above 1."""
    return float(((mine - theirs) / theirs.abs().clamp(min=1)).abs().max())


def assert_close(mine, theirs):
    assert mine.keys() == theirs.keys()
    mine = {name: value for name, value in mine.items() if name != HELD}
    assert torch.equal(mine["plan"] > 0, theirs["plan"] > 0) and torch.equal(mine["sizes"], theirs["sizes"])
    far = {name: distance(mine[name], theirs[name]) for name in mine if mine[name].is_floating_point()}
    assert {name: apart for name, apart in far.items() if apart > NOISE} == {}


def test_both_processes_have_the_same_bits(ranks):
    first, second = ranks
    assert first.keys() == second.keys() == {*CASES, *PARTS, "accumulated", "saved", *IN_PARTS, "resumed"}
    for case, values in first.items():
        other = second[case]
        assert {name for name in other if not torch.equal(values[name], other[name])} <= {"status", HELD}, case
        of_main = ("moments.model", "model.", "plan") if case in {*PARTS, *IN_PARTS} else ()
        assert all(name.startswith(of_main) for name in values.keys() - other.keys()), case


@pytest.mark.parametrize("case", PARTS)
def test_each_process_holds_a_part_of_both_models(ranks, alone, case):
    """About half of them, whose cut is that of the whole; `result` has found no weights in the second afterwards."""
    whole, mine, theirs = alone(case)[HELD], *(one[case][HELD] for one in ranks)
    assert "plan" in ranks[0][case] and "plan" not in ranks[1][case]
    assert torch.equal(mine + theirs, whole)
    assert (mine / whole).max() < 0.55 and (theirs / whole).max() < 0.55


@pytest.mark.parametrize("case", CASES | PARTS)
def test_two_processes_equal_one(ranks, alone, case):
    assert len(alone(case)["masks"].unique(dim=0)) > 2
    assert_close(ranks[0][case], alone(case))


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_equal_one_batch(alone, case, tmp_path):
    assert_close(result(trained(tmp_path, case, batch=BATCH // 4, accumulate=4)), alone(case))


def test_micro_batches_in_two_processes_equal_one_batch(ranks, alone):
    assert_close(ranks[0]["accumulated"], alone("tokens"))


def test_means_of_means_would_be_another_result(alone, tmp_path, monkeypatch):
    """The law can fail: averaging the means of micro-batches differs by a thousand times the rounding error."""
    whole = alone("tokens")
    monkeypatch.setattr(micro_batches, "shares", lambda batches, *others: [None] * len(batches))
    parts = result(trained(tmp_path, "tokens", batch=BATCH // 4, accumulate=4))
    assert float((parts["log.loss_hidden"] - whole["log.loss_hidden"]).abs().max()) > 1000 * NOISE


def test_two_processes_resume_where_they_stopped(ranks):
    """Law 8 for two processes: both restore the order of rows and the shapes of a model that was cut."""
    whole, resumed = ranks[0]["saved"], ranks[0]["resumed"]
    assert whole["sizes"].unique().numel() > 1
    weights = [name for name in whole if name.startswith(("model.", "method.", "terms.", "plan"))]
    assert [name for name in weights if not torch.equal(whole[name], resumed[name])] == []


def test_a_run_in_parts_goes_on_after_the_death_of_a_process(ranks):
    """Both are started again, and resume from the last checkpoint, which is whole."""
    whole, resumed = ranks[0]["grain in parts"], ranks[0]["resumed in parts"]
    assert [int(one["resumed in parts"]["status"]) for one in ranks] == [1, -signal.SIGKILL]
    weights = [name for name in whole if name.startswith(("model.", "method.", "terms.", "plan", "moments."))]
    assert [name for name in weights if not torch.equal(whole[name], resumed[name])] == []


def test_one_process_resumes_from_a_checkpoint_of_parts(ranks, alone, folder, tmp_path):
    last = str(folder / "killed" / f"checkpoint-{DIES_AFTER}")
    resumed = result(trained(tmp_path, "grain in parts", seed=4, resume=last))
    whole = alone("grain in parts")
    assert {name for name in resumed if name.startswith("moments.")} == {n for n in whole if n.startswith("moments.")}
    weights = [name for name in resumed if name.startswith(("model.", "plan", "moments."))]
    assert max(distance(whole[name], resumed[name]) for name in weights) < NOISE


def test_a_recovery_in_parts_equals_that_of_one_process(ranks, tmp_path):
    whole, parts = recovered(tmp_path), ranks[0]["recovered in parts"]
    assert max(distance(value, parts[name]) for name, value in whole.items()) < 10 * NOISE  # of a loss in float32


if __name__ == "__main__":
    gc.freeze()
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    in_both(lambda: save_file(process(place, sys.argv[2].split(",")), place / f"{os.environ['RANK']}.safetensors"))
