"""What a run will need: memory as it is measured, disk as it is written, and no weights read."""

import json
import math
import shutil

import pytest
import torch

from helpers import tiny_recipes
from helpers.command_line import RECIPE, untrain
from helpers.small_pipelines import stable_diffusion
from helpers.transformer_pipelines import FAMILIES, build, size_of
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.loop import run
from untrain.runs.dry_run import TensorMemory
from untrain.runs.plan import plan_recipe, read_memory
from untrain.runs.recipe import read
from untrain.runs.stages import open_experiment, unlearning

METHODS = {
    "finetune": "{steps: 3}",
    "sfron": "{steps: 2, retain_steps: 2}",
    "scrub": "{steps: 3}",
    "ssd": "{fisher_samples: 64}",
}
WITHIN = 0.10
"""Of what is measured. Both count tensors by the same rules; what differs is what depends on values, and the few
numbers that a loop keeps."""


def write_recipe(folder, **methods):
    text = RECIPE.replace("methods:\n  finetune: {epochs: 1}\n  sfron: {epochs: 1, retain_steps: 2}\n", "methods:\n")
    text += "".join(f"  {name}: {settings}\n" for name, settings in methods.items())
    path = folder / "small.yaml"
    path.write_text(_in_order(text) + f"out: {folder / 'run'}\ndevice: cpu\n")
    return path


def _in_order(text):
    """The methods last."""
    head, rest = text.split("methods:\n")
    size, methods = rest.split("\n", 1)
    return f"{head}{size}\nmethods:\n{methods}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def plan(folder):
    path = write_recipe(folder, **METHODS)
    path.write_text(path.read_text() + "references: 0\n")
    return plan_recipe(read(path)), open_experiment(read(path))


@pytest.mark.parametrize("name", METHODS)
def test_memory_is_what_a_run_of_the_method_takes(plan, name):
    planned, experiment = plan
    stage = next(stage for stage in planned.stages if stage.name == name)
    assert not [guess for guess in stage.guesses if "cannot be tried" in guess]
    method = experiment.recipe.methods[name]
    start = experiment.domain.build(0)
    sets = experiment.domain.sets_for(method, experiment.division)
    problem = unlearning(experiment, start, sets, method)
    memory = TensorMemory(torch.device("cpu"))
    with memory:
        memory.count([*problem.subject.module.parameters(), *problem.subject.module.buffers()])
        done = run(method, problem, Engine(torch.device("cpu")))
    own = stage.peak - stage.memory["models"] - stage.memory["data"]
    assert own == pytest.approx(memory.peak, rel=WITHIN)
    assert stage.steps == done.method.total
    assert stage.memory["weights"] == sum(t.numel() * t.element_size() for t in start.state_dict().values())


def test_adapters_are_planned_as_adapters(folder):
    """Memory as it is measured, with a base in the original's memory; and files of factors alone."""
    path = write_recipe(folder, sfron="{steps: 2, optimizer: {name: adam, lr: 0.01}}")
    path.write_text(path.read_text() + "adapters: {rank: 2}\nreferences: 0\n")
    where = ("--out", str(folder / "adapted"), "--train.steps", "2")
    planned, experiment = plan_recipe(read(path, where)), open_experiment(read(path, where))
    stage = next(stage for stage in planned.stages if stage.name == "sfron")
    start, method = experiment.domain.build(0), experiment.recipe.methods["sfron"]
    learned = planned.trained
    assert stage.memory["gradients"] == 4 * learned and stage.memory["optimizer"] >= 4 * 4 * learned
    assert planned.disk["models' folders"] > 4 * learned
    problem = unlearning(experiment, start, experiment.domain.sets_for(method, experiment.division), method)
    memory = TensorMemory(torch.device("cpu"))
    with memory:
        run(method, problem, Engine(torch.device("cpu")))
    own = stage.peak - stage.memory["models"] - stage.memory["data"]
    assert own == pytest.approx(memory.peak, rel=WITHIN)
    code, _, err = untrain("run", path, *where)
    assert code == 0, err
    there = {path.name: path.stat().st_size for path in (folder / "adapted").glob("*.safetensors")}
    assert there["sfron.safetensors"] < there["original.safetensors"] + 4 * learned
    written = there["sfron.safetensors"] + there["original.safetensors"]
    assert abs(planned.disk["weights"] - written) < 2 * 4000


def test_a_method_that_cannot_train_adapters_is_refused(folder):
    path = write_recipe(folder, **{"shrink-perturb": "{steps: 2}"})
    path.write_text(path.read_text() + "adapters: {rank: 2}\nreferences: 0\n")
    with pytest.raises(SettingError, match="'shrink-perturb' cannot train adapters"):
        plan_recipe(read(path))


def test_passes_are_those_that_are_taken(plan):
    """Two outer steps of SFR-on: a forget and two retain batches each, the Fisher passes of both sets, one batch each
    of what the loop looks at."""
    planned, experiment = plan
    stage = next(stage for stage in planned.stages if stage.name == "finetune")
    assert (stage.steps, stage.backward) == (3, 3)
    forget = experiment.domain.method_sets(experiment.division)["forget"].passes()
    assert stage.forward == 3 + 2 * forget
    stage = next(stage for stage in planned.stages if stage.name == "sfron")
    assert stage.backward == 2 * 3


def test_disk_is_what_is_written(folder):
    path = write_recipe(folder, sfron="{steps: 2, optimizer: {name: sgd, lr: 0.01}}")
    planned = plan_recipe(read(path, ["--out", str(folder / "whole"), "--train.steps", "2"]))
    code, _, err = untrain("run", path, "--out", folder / "whole", "--train.steps", "2")
    assert code == 0, err
    there = {path.name: path.stat().st_size for path in (folder / "whole").glob("*.safetensors")}
    masks = sum(size for name, size in there.items() if ".mask." in name)
    weights = sum(there.values()) - masks
    notes = 3 * 8000  # what each file says of how it was made
    assert planned.disk["weights"] <= weights + 3 * 2000
    assert weights - planned.disk["weights"] < notes
    assert 0 < masks and abs(masks - planned.disk["masks"]) < 4000


def test_a_pipeline_is_planned_without_its_weights(tmp_path):
    pipeline = stable_diffusion(tmp_path).to(torch.float32)
    pipeline.save_pretrained(tmp_path / "pipe")
    for weights in (tmp_path / "pipe").glob("*/*.safetensors"):
        weights.unlink()
    path = tmp_path / "text.yaml"
    path.write_text(
        f"name: text\ntask: text-to-image\nmodel: {{checkpoint: {tmp_path / 'pipe'}}}\n"
        "concepts: {forget: [circle], retain: [square], images: {count: 4, sampler: {steps: 2, guidance_scale: 2.0}}}\n"
        "generation: {sampler: {steps: 2, guidance_scale: 2.0}, samples: 3}\nbatch_size: 2\n"
        "detection: {detector: nudity}\n"
        "methods:\n  sfron: {steps: 2}\n  esd: {steps: 2, sampler: {steps: 4, guidance_scale: 2.0}}\n"
        f"out: {tmp_path / 'run'}\n"
    )
    code, out, err = untrain("plan", path, "--json")
    assert code == 0, err
    found = json.loads(out)
    unet = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    assert found["parameters"] == unet
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert set(stages) == {"sfron", "esd", "evaluate"}
    assert stages["sfron"]["memory"]["weights"] >= 4 * unet == stages["sfron"]["memory"]["gradients"]
    assert not [guess for stage in stages.values() for guess in stage["guesses"] if "cannot be tried" in guess]
    assert found["images"] == {"measures": 3 * 2 * 3, "samples": 8}
    assert stages["evaluate"]["forward"] == math.ceil(18 / 256) * 2
    code, _, err = untrain("plan", path, "--references", "1")
    assert code == 1 and "references: a pipeline can be retrained only on the captioned images" in err
    assert not (tmp_path / "run").exists()
    shutil.rmtree(tmp_path / "pipe" / "vae")
    code, _, err = untrain("plan", path)
    assert code == 1 and "vae" in err


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_around_transformers_are_planned(family, tmp_path):
    """Their text encoders are asked for shapes alone, T5 and Gemma with a mask of the tokens that count too."""
    pipeline = build(FAMILIES[family], tmp_path).to(torch.float32)
    pipeline.save_pretrained(tmp_path / "pipe")
    path = tmp_path / "text.yaml"
    size, way = size_of(pipeline), "{steps: 3, guidance_scale: 2.0}"
    path.write_text(
        f"task: text-to-image\nmodel: {{checkpoint: {tmp_path / 'pipe'}}}\n"
        f"concepts: {{forget: [circle], retain: [square], images: {{count: 2, image_size: {size}}}}}\nbatch_size: 2\n"
        f"generation: {{samples: 1, sampler: {way}}}\ndetection: {{detector: nudity}}\n"
        "adapters: {rank: 2, base: bf16}\n"
        f"methods:\n  sfron: {{steps: 2}}\n  leco: {{steps: 2, sampler: {way}}}\nout: {tmp_path / 'run'}\n"
    )
    stages = {stage.name: stage for stage in plan_recipe(read(path)).stages}
    assert list(stages) == ["sfron", "leco", "evaluate"]
    assert not [guess for stage in stages.values() for guess in stage.guesses if "cannot be tried" in guess]
    weights = sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    learned = stages["sfron"].memory["gradients"]
    assert learned and stages["sfron"].memory["weights"] == pytest.approx(2 * weights + learned, rel=WITHIN)


def test_a_generator_and_its_judge_are_planned(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipes.RECIPE + f"references: 0\nout: {tmp_path / 'run'}\n")
    planned = plan_recipe(read(path))
    stages = {stage.name: stage for stage in planned.stages}
    assert list(stages) == ["original", "sfron", "judge", "evaluate"]
    assert not [guess for stage in planned.stages for guess in stage.guesses if "cannot be tried" in guess]
    assert stages["original"].memory["copies"] > stages["sfron"].memory["copies"]  # the average of its weights
    assert planned.images == {"measures": 2 * 10 * 10, "samples": 0}
    assert stages["evaluate"].forward == 3 and stages["evaluate"].memory["activations"]


def test_a_card_is_too_small_or_not(plan, folder):
    path = write_recipe(folder, finetune="{steps: 3}")
    for size, verdict in (("100KB", "too large"), ("80GB", "fits")):
        code, out, err = untrain("plan", path, "--memory", size)
        assert code == 0, err
        assert verdict in out and "guesses:" in out
    assert not (folder / "run" / "finetune.safetensors").exists()


def test_sizes_of_memory():
    assert [read_memory(text) for text in ("24GB", "1.5 GiB", "800mb")] == [24 * 10**9, 3 * 2**29, 8 * 10**8]
    for wrong in ("24", "GB", "-1GB", "infGB", "24 apples"):
        with pytest.raises(SettingError, match="--memory"):
            read_memory(wrong)
