import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from helpers.pretrained_classifiers import KINDS, LABELS, classifier, processor
from untrain.errors import CheckpointError, FolderError, ModelError, SettingError
from untrain.models.image_processors import read_preparation
from untrain.models.pretrained_classifiers import find_classifier, is_classifier, label_names, save_classifier

X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(X).logits


def found(place: Path | str) -> Any:
    classifier_there = find_classifier(str(place))
    assert classifier_there is not None
    return classifier_there


# ── reading ──


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_saved_gives_the_same_logits(tmp_path: Path, kind: str) -> None:
    """Bit for bit: the library reads it itself, whatever names it once had in files."""
    classifier(kind).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    module, notes = found(tmp_path).read(3)
    assert torch.equal(logits(module), logits(theirs)) and not notes
    assert found(tmp_path).labels == LABELS and found(tmp_path).outputs == 4


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("named", ["", "config.json", "model.safetensors.index.json", "model-00001-of-*.safetensors"])
def test_shards_are_read_by_the_folder_the_index_or_one_of_them(tmp_path: Path, kind: str, named: str) -> None:
    model = classifier(kind)
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    place = next(tmp_path.glob(named)) if named else tmp_path
    assert torch.equal(logits(found(place).read(3)[0]), logits(model))


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "3KB"}], ids=["one", "several"])
def test_variants(tmp_path: Path, shards: dict[str, str]) -> None:
    model = classifier()
    model.half().save_pretrained(tmp_path, variant="fp16", **shards)
    module, notes = found(tmp_path).read(3)
    assert torch.equal(logits(module), logits(model.float()))
    assert "variant fp16" in notes[0] and "F16" in notes[1]
    classifier(seed=1).save_pretrained(tmp_path / "whole")  # into the same folder, it would remove the shards
    shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path)
    assert torch.equal(logits(found(tmp_path).read(3)[0]), logits(classifier(seed=1))), "the whole one comes first"
    named = next(iter(sorted(tmp_path.glob("model.*fp16*"))))
    assert torch.equal(logits(found(named).read(3)[0]), logits(model))
    (tmp_path / "model.safetensors").rename(tmp_path / "model.ema.safetensors")
    with pytest.raises(CheckpointError, match=r"ema, fp16.*name one"):
        found(tmp_path).read(3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_trained_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    classifier().to(dtype).save_pretrained(tmp_path)
    module, notes = found(tmp_path).read(3)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert "float32" in notes[0]
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(module), logits(theirs))
    save_classifier(module, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_pickled_weights_are_read_without_running_them(tmp_path: Path) -> None:
    model = classifier()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(found(tmp_path).read(3)[0]), logits(model))
    assert torch.equal(logits(found(tmp_path / "pytorch_model.bin").read(3)[0]), logits(model))


@pytest.mark.parametrize(
    ("labels", "names"),
    [(3, None), (("a", "b"), ("a", "b")), (("LABEL_0", "b"), ("LABEL_0", "b")), (("0", "1"), ("0", "1"))],
)
def test_names_of_classes(labels: Any, names: Any) -> None:
    assert label_names(classifier(labels=labels).config) == names


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without a config\.json"):
        find_classifier(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(CheckpointError, match="model_type"):
        find_classifier(str(tmp_path))
    classifier().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="images of 3 channels; the data has 1"):
        found(tmp_path).read(1)
    torch.save({}, tmp_path / "other.pt")
    assert find_classifier(str(tmp_path / "other.pt")) is None, "a file of weights alone"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be built"):
        found(tmp_path).read(3)


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    transformers.ViTModel(classifier("vit").config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"classifier\.bias, classifier\.weight missing.*model\.train: true"):
        found(tmp_path).read(3)
    model = classifier()
    state = {name: tensor for name, tensor in model.state_dict().items() if "encoder" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(CheckpointError, match=r"\d+, such as resnet\.encoder") as caught:
        found(tmp_path / "part").read(3)
    assert str(caught.value).count("resnet.encoder") == 3, "three are enough"


def test_an_index_names_files_beside_it_alone(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path, max_shard_size="3KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="elsewhere"):
        found(tmp_path).read(3)


# ── new weights ──


def test_the_same_architecture_with_new_weights(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    first, again, other = (found(tmp_path).new(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(first), logits(again)) and not torch.equal(logits(first), logits(other))
    assert first.config.id2label == dict(enumerate(LABELS))


# ── writing ──


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_transformers_loads(tmp_path: Path, kind: str) -> None:
    model = classifier(kind)
    model.save_pretrained(tmp_path / "in")
    processor(kind).save_pretrained(tmp_path / "in")
    (tmp_path / "in" / "LICENSE").write_text("theirs")
    module = found(tmp_path / "in").read(3)[0].to(memory_format=torch.channels_last)
    prepared = read_preparation(tmp_path / "in", 3)
    save_classifier(module, tmp_path / "out", prepared=prepared, original=tmp_path / "in")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(theirs), logits(model), atol=1e-6), "channels_last is another order of summation"
    assert type(theirs) is type(model) and theirs.config.id2label == dict(enumerate(LABELS))
    names = [sorted(_names(tmp_path / place)) for place in ("in", "out")]
    assert names[0] == names[1], "the names that save_pretrained writes"
    kept, given = (transformers.AutoImageProcessor.from_pretrained(tmp_path / place) for place in ("out", "in"))
    assert kept.to_dict() == given.to_dict()
    assert (tmp_path / "out" / "LICENSE").read_text() == "theirs"
    with pytest.raises(SettingError, match="would be lost"):
        save_classifier(module, tmp_path / "in", original=tmp_path / "in")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("")
    with pytest.raises(FolderError, match="photos"):
        save_classifier(module, tmp_path / "photos")


def test_classes_get_names_where_they_had_none(tmp_path: Path) -> None:
    save_classifier(classifier(labels=3), tmp_path / "a", classes=["x", "y", "z"])
    assert label_names(transformers.AutoConfig.from_pretrained(tmp_path / "a")) == ("x", "y", "z")
    save_classifier(classifier(), tmp_path / "b", classes=["x", "y", "z", "w"])
    assert label_names(transformers.AutoConfig.from_pretrained(tmp_path / "b")) == LABELS
    assert not is_classifier(torch.nn.Linear(2, 2))


def _names(folder: Path) -> list[str]:
    import safetensors

    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        return list(file.keys())
