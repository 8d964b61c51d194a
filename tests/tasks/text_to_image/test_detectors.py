"""Classifiers as detectors against counts by hand; the score of a tiny random CLIP against its own forward pass."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.foreign_code import change, plant
from untrain.diffusion.features import classifier_features
from untrain.errors import CheckpointError, DataError, UnknownName
from untrain.models.checkpoints import state_hash
from untrain.tasks.text_to_image.detectors import Classifier, hub_classifier, load_clip

LABELS = ("tench, Tinca tinca", "crane", "crane, machine", "church", "chain saw", "golf ball", "parachute")


class Reader(nn.Module):
    """Its logits are the image's first pixels."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(classes, classes, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x):
        return self.linear(x.flatten(1)[:, : self.linear.in_features])


def classifier(labels=LABELS, outputs=None, name="reader"):
    return Classifier(classifier_features(Reader(outputs or len(labels)), lambda x: x.float() / 10, name), labels)


def ranked(*orders):
    """Images whose classes are of this order, best first."""
    images = torch.zeros(len(orders), 3, 4, 4, dtype=torch.uint8)
    for image, order in zip(images, orders):
        for place, c in enumerate(order):
            image[0].view(-1)[c] = 100 - 10 * place
    return images


class TestClassifier:
    def test_the_first_and_the_five_first(self):
        images = ranked((3, 0, 1, 2, 4, 5, 6), (0, 1, 2, 4, 3, 5, 6), (0, 1, 2, 4, 5, 3, 6))
        found = classifier().look(images, ["church"] * 3)
        assert [(sighting.seen, sighting.top5) for sighting in found] == [(True, True), (False, True), (False, False)]

    def test_what_is_told_are_the_five_best_with_their_probabilities(self):
        (sighting,) = classifier().look(ranked((3, 0, 1, 2, 4, 5, 6)), ["church"])
        assert [each["label"] for each in sighting.detections] == [LABELS[c] for c in (3, 0, 1, 2, 4)]
        logits = torch.tensor([10.0 - place for place in range(7)], dtype=torch.float64)
        expected = logits.softmax(0)[:5].tolist()
        assert [each["score"] for each in sighting.detections] == pytest.approx(expected, rel=1e-12)

    def test_up_to_five_labels_have_no_five_best(self):
        five = classifier(LABELS[:5])
        (sighting,) = five.look(ranked((3, 0, 1, 2, 4)), ["church"])
        assert sighting.seen and sighting.top5 is None and len(sighting.detections) == 5

    def test_an_image_that_is_asked_about_nothing(self):
        (sighting,) = classifier().look(ranked((3, 0, 1, 2, 4, 5, 6)), [None])
        assert not sighting.seen and sighting.top5 is None and sighting.detections[0]["label"] == "church"

    def test_one_of_several_names_is_enough_and_others_are_guessed(self):
        assert classifier().look(ranked((0, 1, 2, 3, 4, 5, 6)), ["Tinca tinca"])[0].seen
        with pytest.raises(UnknownName, match="called 'churhc'. Did you mean 'church'"):
            classifier().check(["crane", None, "churhc"])
        classifier().check(["crane", None])

    def test_batches_change_nothing(self):
        images, wanted = ranked(*[(c, *(d for d in range(7) if d != c)) for c in (3, 0, 6, 3, 5)]), ["church"] * 5
        whole = classifier()
        parts = Classifier(whole.features, LABELS, batch_size=2)
        assert whole.look(images, wanted) == parts.look(images, wanted)
        assert whole.look(images[:0], []) == []

    def test_what_it_is(self):
        eye = classifier()
        assert (eye.name, eye.kind, eye.threshold) == ("reader", "classifier", None)
        assert eye.hash == state_hash(eye.features.network)

    def test_what_does_not_fit(self):
        with pytest.raises(DataError, match="1 images and 2 wanted labels"):
            classifier().look(ranked((0,)), ["church"] * 2)
        with pytest.raises(DataError, match="tells 9 classes apart, and has 7 labels"):
            classifier(outputs=9).look(ranked((0,)), ["church"])


# Of transformers.


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A random ResNet of three classes for images of 16 pixels."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("resnet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
            id2label={0: "tench, Tinca tinca", 1: "church", 2: "golf ball"},
        )  # fmt: skip
        ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 16}, crop_pct=1.0).save_pretrained(folder)
    return folder


class TestHubClassifier:
    def test_it_says_what_the_model_says_of_its_own_processors_images(self, resnet):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model, processor = (
            kind.from_pretrained(resnet) for kind in (AutoModelForImageClassification, AutoImageProcessor)
        )
        images = noise(4, (20, 20))
        pictures = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
        with torch.no_grad():
            chances = model.eval()(**processor(images=pictures, return_tensors="pt")).logits.double().softmax(1)
        eye = hub_classifier(str(resnet))
        assert list(eye.labels) == ["tench, Tinca tinca", "church", "golf ball"]
        found = eye.look(images, ["Tinca tinca"] * 4)
        assert [sighting.seen for sighting in found] == (chances.argmax(1) == 0).tolist()
        told = [{each["label"]: each["score"] for each in sighting.detections} for sighting in found]
        assert [[each[label] for label in eye.labels] for each in told] == [
            pytest.approx(row, abs=1e-5) for row in chances.tolist()
        ]

    def test_a_head_that_nobody_trained_is_refused(self, resnet, tmp_path):
        """As of a folder that holds the trunk alone; the library would draw the head at random."""
        from safetensors.torch import load_file, save_file

        for path in resnet.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        weights = load_file(tmp_path / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
        save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match="2 weights are missing, such as classifier"):
            hub_classifier(str(tmp_path))
        with pytest.raises(CheckpointError, match="cannot be loaded as AutoModelForImageClassification"):
            hub_classifier(str(tmp_path / "missing"))

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    def test_a_folder_that_brings_code_is_refused(self, resnet, tmp_path, name):
        folder = shutil.copytree(resnet, tmp_path / "resnet")
        kinds = {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M", "AutoImageProcessor": "evil.P"}
        change(folder / name, model_type="evil", image_processor_type="Evil", auto_map=kinds)
        mark = plant(folder / "evil.py")
        with pytest.raises(CheckpointError, match=f"{name}: auto_map"):
            hub_classifier(str(folder))
        assert not mark.exists()


# CLIP.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random CLIP of letters, with a window of 12 and images of 16 pixels."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=12).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**common, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    picture = {**common, "image_size": 16, "patch_size": 4}
    with torch.random.fork_rng():
        torch.manual_seed(7)  # of those whose cosines have both signs
        config = CLIPConfig(text_config={**text, "pad_token_id": 1}, vision_config=picture, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_a_clip_that_brings_code_is_refused(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "clip")
    kinds = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", None]}
    change(folder / name, model_type="evil", auto_map=kinds)
    mark = plant(folder / "evil.py")
    with pytest.raises(CheckpointError, match=f"{name}: auto_map"):
        load_clip(str(folder))
    assert not mark.exists()


@pytest.fixture(scope="module")
def clip(saved):
    return load_clip(str(saved))


def noise(count, size=(16, 16)):
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


TEXTS = ("a cat", "dogs", "a cat", "tree", "house", "dogs")


def one_by_one(clip, images, texts):
    """100 · cos of each pair, alone, as the model's own forward pass has it before its temperature."""
    values = []
    for image, text in zip(images, texts, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        given = clip.pictures(images=picture, return_tensors="pt")
        with torch.no_grad():
            out = clip.model(**clip.tokenizer(text, return_tensors="pt"), **given)
        values.append(100 * (out.logits_per_image / clip.model.logit_scale.exp()).item())
    return torch.tensor(values, dtype=torch.float64)


class TestClip:
    @pytest.mark.parametrize("size", [(16, 16), (40, 24)])
    def test_the_score_is_the_models_own_cosine_kept_above_zero(self, clip, size):
        """1e-4 of 100: the reference is float32."""
        images = noise(len(TEXTS), size)
        cosines = one_by_one(clip, images, TEXTS)
        assert cosines.min() < -1 and cosines.max() > 1, "both signs are there"
        assert torch.allclose(clip.score(images, TEXTS), cosines.clamp_min(0), atol=1e-4)

    def test_batches_and_order_change_nothing(self, clip):
        images = noise(len(TEXTS))
        whole = clip.score(images, TEXTS)
        assert torch.allclose(clip.score(images, TEXTS, batch_size=1), whole, atol=1e-4)
        assert torch.allclose(clip.score(images.flip(0), TEXTS[::-1]).flip(0), whole, atol=1e-4)
        assert clip.score(images[:0], ()).shape == (0,)

    def test_long_texts_are_refused_and_not_cut(self, clip):
        long = "abcdefghijk"  # 11 letters, a beginning and an end: one token too many
        clip.check(["abcdefghij"])
        with pytest.raises(DataError, match=r"1 of 2 prompts are longer than the 12 tokens.*has 13: 'abcdefghijk'"):
            clip.check(["a cat", long, "a cat", long])
        with pytest.raises(DataError, match="longer than the 12 tokens"):
            clip.score(noise(1), [long])

    def test_modes_are_put_back(self, clip):
        clip.model.train()
        clip.score(noise(1), ["a cat"])
        assert clip.model.training and clip.model.text_model.training
        clip.model.eval()

    def test_what_is_no_clip(self, clip, saved, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be loaded as CLIPModel.*CLIPImageProcessor, CLIPTokenizer"):
            load_clip(str(tmp_path))
        for path in saved.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        from safetensors.torch import load_file, save_file

        weights = load_file(tmp_path / "model.safetensors")
        del weights["visual_projection.weight"]
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match="1 weights are missing, such as visual_projection.weight"):
            load_clip(str(tmp_path))
        with pytest.raises(DataError, match="2 images and 1 texts"):
            clip.score(noise(2), ["a cat"])
