"""Models in parts: what is refused of FSDP, and copies; that parts equal the whole is law 12."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from quiet import arguments
from tiny_models import tiny
from torch import nn

from secateur.system import model_copies, sharding
from secateur.system.compat.sharding_trainer import sharding_of
from secateur.system.errors import UserError
from secateur.training import checks

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
REFUSED = {
    "fsdp_version: 1": {"version": 1},
    "fsdp_cpu_ram_efficient_loading": {"cpu_ram_efficient_loading": True},
    "fsdp_offload_params": {"cpu_offload": True},
    "fsdp_activation_checkpointing": {"activation_checkpointing": True},
    "fsdp_auto_wrap_policy": {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 10},
}


@pytest.fixture(autouse=True)
def own_variables(monkeypatch):
    """TrainingArguments and accelerate's plugin set variables."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_supported_is_refused_by_its_key(tmp_path, key):
    with pytest.raises(UserError, match=f"FSDP with {key} does not fit pruning: "):
        sharding_of(arguments(tmp_path, 1, fsdp=True, fsdp_config={"version": 2, **REFUSED[key]}))


def test_a_launcher_asks_for_parts_and_one_process_has_none(tmp_path, monkeypatch):
    args = arguments(tmp_path, 1)
    assert sharding_of(args) is None
    for name, value in {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "false",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"fsdp_auto_wrap_policy .* TRANSFORMER_BASED_WRAP"):
        sharding_of(args)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "LlamaDecoderLayer")
    assert sharding_of(args) is None
    monkeypatch.setattr(type(args), "world_size", 2)
    made = sharding_of(args)
    assert made == sharding.Sharding(args.device, ("LlamaDecoderLayer",), frees=False)


def test_the_documented_configuration_asks_for_parts(tmp_path, monkeypatch):
    found = re.search(r"```text\n(# fsdp.yaml\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "fsdp.yaml").write_text(found[1], encoding="utf-8")
    config = load_config_from_file(str(tmp_path / "fsdp.yaml"))
    assert config.distributed_type == DistributedType.FSDP
    for key, value in {**config.fsdp_config, "accelerate_use_fsdp": "true"}.items():
        monkeypatch.setenv(key.upper(), str(value))
    args = arguments(tmp_path, 1)
    monkeypatch.setattr(type(args), "world_size", 8)
    assert sharding_of(args) == sharding.Sharding(args.device)


def test_the_documented_manifest_gives_each_pod_its_number_and_the_name_of_the_first():
    found = re.search(r"```text\n(apiVersion.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    service, job = yaml.safe_load_all(found[1])
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] and job["spec"]["completionMode"] == "Indexed"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    words = pod["containers"][0]["args"][0].split()
    options = dict(pairwise(words))
    assert options["--machine_rank"] == "$JOB_COMPLETION_INDEX"
    assert options["--main_process_ip"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert int(options["--num_machines"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    gpus = pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert int(options["--num_processes"]) == gpus * job["spec"]["completions"]


def test_a_model_without_known_layers_is_refused():
    unknown = sharding.Sharding(torch.device("cpu"), ("Unknown",))
    with pytest.raises(UserError, match="LlamaForCausalLM has no layers of the classes Unknown: name their class"):
        unknown.split(tiny("llama", "ForCausalLM"), trained=True)


def test_the_main_process_must_have_the_weights(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    shapes = model_copies.blank_copy(tiny("llama", "ForCausalLM"))
    with pytest.raises(UserError, match="the main process has a model without weights"):
        sharding.ShardedModel(shapes, sharding.Sharding(torch.device("cpu")))


@pytest.mark.parametrize(("refit", "generates", "name"), [(True, False, "refit"), (False, True, "generate")])
def test_what_needs_the_whole_model_is_refused(refit, generates, name):
    checks.check_sharding(None, refit, generates)
    with pytest.raises(UserError, match=f"{name} needs the whole model in each process"):
        checks.check_sharding(sharding.Sharding(torch.device("cpu")), refit, generates)


def test_a_twin_has_the_weights_of_a_model_and_trains_none():
    model = tiny("llama", "ForCausalLM", shape=1)
    twin = model_copies.twin(model)
    pairs = list(zip(twin.parameters(), model.parameters(), strict=True))
    assert all(mine.data_ptr() == its.data_ptr() and not mine.requires_grad for mine, its in pairs)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight and twin.config is model.config
    twin.model.norm.weight = nn.Parameter(torch.zeros(32))
    assert bool(model.model.norm.weight.any()), "its modules are its own"
