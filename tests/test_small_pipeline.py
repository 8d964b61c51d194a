"""A small pipeline: its vocabulary, its losses, a training that resumes to the same weights, and what is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from untrain import small_pipeline as module
from untrain.data.samples import Arrays
from untrain.data.shapes import CAPTIONS, captions_with, shapes
from untrain.diffusion.pipelines import load_pipeline
from untrain.diffusion.text import encode_prompts
from untrain.engine import Engine, generator_of
from untrain.errors import CheckpointError, DataError, Diverged, SettingError
from untrain.methods import loop
from untrain.methods.base import Optimizer
from untrain.methods.retrain import Retrain
from untrain.models.checkpoints import state_hash
from untrain.small_pipeline import RECORD, Frame, captioned, small_pipeline, tokenizer_of, write_vocabulary

ENGINE = Engine(torch.device("cpu"))
FEW = Frame(vae_steps=2, vae_batch_size=4)
TRAIN = Retrain(steps=3, optimizer=Optimizer("adam", 1e-3), ema=0.9, max_norm=1.0)
SOURCE = shapes(count=8)


def made(folder: Path, **other: Any) -> Path:
    given = {"source": SOURCE, "frame": FEW, "train": TRAIN, "engine": ENGINE, "batch_size": 4, **other}
    return small_pipeline(folder=folder, **given)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def trained(place: Path) -> Any:
    return load_pipeline(place)


def hashes(place: Path) -> list[str]:
    pipeline = load_pipeline(place)
    return [state_hash(part) for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet)]


class TestVocabulary:
    def test_every_word_is_one_token_and_any_other_text_can_be_written(self) -> None:
        tokenizer = tokenizer_of(CAPTIONS)
        for text in CAPTIONS:
            assert len(tokenizer(text).input_ids) == len(text.split()) + 2, text
        other = "une photo d'été, 3 × 4"
        tokens = tokenizer(other).input_ids
        assert tokenizer.unk_token_id not in tokens[1:-1]
        assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == other.replace(" ", "")

    def test_it_does_not_depend_on_the_order_of_captions(self, tmp_path: Path) -> None:
        for name, texts in (("a", CAPTIONS), ("b", CAPTIONS[::-1])):
            write_vocabulary(texts, tmp_path / name)
        for file in ("vocab.json", "merges.txt"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    def test_a_word_outweighs_position_and_context_in_its_embedding(self, trained: Any) -> None:
        """Captions that differ in one word: at that word their embeddings are more different than alike."""
        found = encode_prompts(trained, captions_with(colour="red", place="on the left"), 32).embeds[1:]
        spread = (found - found.mean(0)).norm(dim=-1).mean(0) / found.norm(dim=-1).mean(0)
        assert spread[:3].max() == 0  # the encoder is causal: "a red" is before the word
        assert spread[3] > 0.5
        assert spread[4:].min() > 0.02  # what follows knows it too

    def test_a_caption_that_is_too_long_is_refused(self, trained: Any) -> None:
        long = Arrays(SOURCE.input[:1], [0], ["a " * 15])
        with pytest.raises(DataError, match="17 tokens and the tokenizer has a window of 16"):
            captioned(trained, long, ENGINE)


class TestTraining:
    def test_diffusers_loads_it_and_it_draws(self, place: Path) -> None:
        from diffusers import StableDiffusionPipeline

        loaded = StableDiffusionPipeline.from_pretrained(place)
        loaded.set_progress_bar_config(disable=True)
        (image,) = loaded(CAPTIONS[0], num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
        assert image.size == (32, 32)

    def test_it_has_cross_attention(self, trained: Any) -> None:
        assert any(".attn2." in name for name, _ in trained.unet.named_parameters())

    def test_latents_have_deviation_one(self, trained: Any) -> None:
        """To the six digits of the scaling factor, which was taken of these very images."""
        means = captioned(trained, SOURCE, ENGINE).batch(torch.arange(8))["latent_mean"]
        assert means.std().item() == pytest.approx(1, abs=1e-3)

    def test_rows_hold_the_captions_of_their_images(self, trained: Any) -> None:
        backwards = Arrays(SOURCE.input, SOURCE.labels.flip(0), SOURCE.classes)
        data = captioned(trained, backwards, ENGINE)
        batch = data.batch(torch.tensor([0, 6]))
        texts = encode_prompts(trained, [CAPTIONS[7], CAPTIONS[1]], 32).embeds
        assert [data.classes[i] for i in batch["label"].tolist()] == [CAPTIONS[7], CAPTIONS[1]]
        assert torch.allclose(batch["prompt"], texts[1:], atol=1e-5)  # one text in a batch of others: rounding
        assert torch.equal(batch["anchor"], batch["prompt"])
        assert torch.allclose(batch["empty"], texts[:1].expand(2, -1, -1), atol=1e-5)

    def test_the_loss_of_the_vae_is_the_formula(self) -> None:
        """An image at a time in float64: mean (x̂ − x)² + kl · mean ½ (μ² + σ² − 1 − log σ²), x̂ decoded of μ + σ ε."""
        torch.manual_seed(0)
        vae = module.new_vae(32).double()
        torch.nn.init.normal_(vae.quant_conv.bias)
        task = module._Reconstruction((8, 8, 8), kl=0.5)
        batch = task.draw(SOURCE.batch(torch.arange(3)), generator_of(0), "retain")
        assert batch["input"].min() >= -1 and batch["input"].max() <= 1 and batch["input"].std() > 0.1
        batch = {name: tensor.double() for name, tensor in batch.items()}
        with torch.no_grad():
            losses = task.loss(vae, batch)
            for i in range(3):
                mean, log = vae.quant_conv(vae.encoder(batch["input"][i : i + 1]))[0].chunk(2)
                latent = mean + (log / 2).exp() * batch["noise"][i]
                error = vae.decoder(vae.post_quant_conv(latent[None]))[0] - batch["input"][i]
                divergence = (mean.square() + log.exp() - 1 - log).mean() / 2
                expected = error.square().mean() + 0.5 * divergence
                assert losses[i].item() == pytest.approx(expected.item(), rel=1e-9)

    def test_the_vae_begins_as_a_shallow_network(self) -> None:
        """Its residual blocks add nothing: without them it gives the same."""
        from diffusers.models.resnet import ResnetBlock2D

        vae = module.new_vae(32).eval()
        blocks = [block for block in vae.modules() if isinstance(block, ResnetBlock2D)]
        x = torch.randn(2, 16, 8, 8, generator=generator_of(0))
        alike = [block for block in blocks if block.conv_shortcut is None and block.in_channels == 16]
        assert alike and all(torch.equal(block(x, None), x) for block in alike)

    def test_training_moves_vae_and_unet_and_never_the_text_encoder(self, trained: Any, tmp_path: Path) -> None:
        longer = load_pipeline(made(tmp_path, train=replace(TRAIN, steps=4), frame=replace(FEW, vae_steps=3)))
        assert state_hash(longer.text_encoder) == state_hash(trained.text_encoder)
        assert state_hash(longer.unet) != state_hash(trained.unet)
        assert state_hash(longer.vae) != state_hash(trained.vae)

    @pytest.mark.parametrize("done", [0, 1, 2, 4, 5])
    def test_a_stopped_training_resumes_to_the_same_weights(
        self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
    ) -> None:
        monkeypatch.setattr(module, "SAVED_EVERY", 0.0)
        step, taken, stops = Retrain.step, [], done < 5

        def stopping(*args: Any) -> dict[str, float]:
            if stops and len(taken) == done:
                raise KeyboardInterrupt
            taken.append(1)
            return step(*args)

        monkeypatch.setattr(Retrain, "step", stopping)
        if stops:
            with pytest.raises(KeyboardInterrupt):
                made(tmp_path)
            assert not list(tmp_path.glob("pipeline-*/" + RECORD))
        stops = False
        resumed = made(tmp_path)
        assert len(taken) == 5
        assert hashes(resumed) == hashes(place)
        assert [path.name for path in tmp_path.iterdir()] == [resumed.name]

    def test_a_folder_without_its_record_is_made_whole(self, place: Path, tmp_path: Path) -> None:
        """As a process leaves it that was killed after it wrote the pipeline."""
        first = made(tmp_path)
        (first / RECORD).unlink()
        assert made(tmp_path) == first
        assert hashes(first) == hashes(place)

    def test_nothing_global_is_drawn(self, tmp_path: Path) -> None:
        before = torch.get_rng_state()
        made(tmp_path)
        assert torch.equal(before, torch.get_rng_state())

    def test_a_loss_that_is_not_finite_names_the_part(self, tmp_path: Path) -> None:
        wild = replace(TRAIN, optimizer=Optimizer("sgd", 1e30), max_norm=None)
        with pytest.raises(Diverged, match="the unet of the small pipeline: retrain"):
            made(tmp_path, train=wild)


class TestKept:
    def test_it_is_trained_once_and_anew_for_other_inputs(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Trained(Exception): ...

        def refuse(*_: Any, **__: Any) -> None:
            raise Trained

        monkeypatch.setattr(module, "run", refuse)
        assert made(place.parent) == place
        others: list[dict[str, Any]] = [
            {"source": shapes(count=8, seed=1)},
            {"seed": 1},
            {"frame": replace(FEW, kl=1.0)},
            {"train": replace(TRAIN, steps=2)},
            {"batch_size": 5},
        ]
        for other in others:
            with pytest.raises(Trained):
                made(place.parent, **other)

    def test_changed_weights_files_and_records_are_refused(self, tmp_path: Path) -> None:
        folder = made(tmp_path)
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        whole = path.read_bytes()
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
        with pytest.raises(CheckpointError, match="not the one that was trained there"):
            made(tmp_path)
        path.write_bytes(whole)
        assert made(tmp_path) == folder
        (folder / "tokenizer" / "more.txt").write_text("more")
        with pytest.raises(CheckpointError, match="not the one that was trained there"):
            made(tmp_path)
        (folder / "tokenizer" / "more.txt").unlink()
        record = json.loads((folder / RECORD).read_text())
        for wrong in (json.dumps(record | {"fingerprint": "0"}), "[]", "{"):
            (folder / RECORD).write_text(wrong)
            with pytest.raises(CheckpointError, match="Remove .* to train it anew"):
                made(tmp_path)

    def test_no_path_of_the_machine_is_kept(self, place: Path) -> None:
        texts = [path.read_text() for path in place.rglob("*.json")]
        assert len(texts) > 5
        assert not any("/tmp" in text or str(place.parent) in text for text in texts)


class TestErrors:
    @pytest.mark.parametrize("shape", [(1, 32, 32), (3, 30, 30), (3, 32, 40)])
    def test_images_that_do_not_fit(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        source = Arrays(torch.zeros(2, *shape, dtype=torch.uint8), [0, 1], ["a", "b"])
        with pytest.raises(DataError, match="square uint8 images"):
            made(tmp_path, source=source)

    def test_settings(self, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match="at least 1"):
            Frame(vae_steps=0)
        with pytest.raises(SettingError, match="drop in"):
            Frame(drop=1.0)
        with pytest.raises(SettingError, match="generators are not trained as classifiers"):
            made(tmp_path, train=Retrain(steps=1))


def test_the_defaults_learn(tmp_path: Path) -> None:
    """Loss of the VAE and of the UNet fall within a few steps of the settings that are recommended."""
    assert module.TRAIN.optimizer is not None
    seen: dict[str, list[float]] = {}
    tasks, original = [], loop.run

    def watched(method: Any, problem: Any, engine: Engine, **kept: Any) -> Any:
        done = original(method, problem, engine, **kept)
        tasks.append(problem.task)
        seen[type(problem.subject.module).__name__] = [record["retain_loss"] for record in done.history]
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run", watched)
        made(
            tmp_path,
            source=shapes(count=100),
            frame=Frame(vae_steps=25, drop=0.25),
            train=replace(module.TRAIN, steps=40),
        )
    for name, losses in seen.items():
        assert sum(losses[-10:]) / 10 < 0.75 * sum(losses[:5]) / 5, name
    assert set(seen) == {"AutoencoderKL", "UNet2DConditionModel"}
    assert (tasks[1].drop, tasks[1].prediction, tasks[1].beta_end) == (0.25, "v_prediction", 0.02)
