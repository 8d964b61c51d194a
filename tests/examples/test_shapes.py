"""The example of captioned shapes: pictures show what captions say; a run makes whole folders, once, by its seed."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.processes import run_script
from helpers.shapes import ATTRIBUTES, CAPTIONS, EXAMPLE, captions_with
from render import COLOURS, GREYS, MEANINGS, PLACES, SHAPES, caption, render, render_shapes
from untrain.data.captions import read_attributes
from untrain.data.sections import Data
from untrain.data.sources import load
from untrain.diffusion.empty_pipelines import empty_pipeline
from untrain.diffusion.pipelines import load_pipeline

STILL = torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.5]])
"""No jitter, size 1, sharp edges, a background in the middle."""


def drawn(text: str) -> torch.Tensor:
    return render(torch.tensor([CAPTIONS.index(text)]), STILL)[0].double()


def covered(text: str) -> torch.Tensor:
    """How far each pixel is the shape's, from the channel that differs most from the background, [32, 32]."""
    grey = sum(GREYS) / 2
    colour = torch.tensor(COLOURS[MEANINGS[text]["colour"]]).double()
    channel = int((colour - grey).abs().argmax())
    return (drawn(text)[channel] - grey) / (colour[channel] - grey)


class TestPictures:
    @pytest.mark.parametrize(
        ("shape", "area"),
        [
            ("circle", math.pi * 7.5**2),
            ("square", 13.6**2),
            ("triangle", 3 * math.sqrt(3) / 4 * 8.6**2),
            ("cross", 2 * 16.4 * 5.4 - 5.4**2),
        ],
    )
    def test_a_shape_has_its_area(self, shape: str, area: float) -> None:
        """Closed forms. Tolerance 3 %: an edge's coverage is only linear in its distance."""
        assert covered(caption(shape, "white", "in the middle")).sum() == pytest.approx(area, rel=0.03)

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_it_is_where_the_caption_says(self, shape: str, place: str) -> None:
        """The middle of what is coloured lies at the place: within half a pixel, as edges fall between pixels."""
        inside = covered(caption(shape, "blue", place)) > 0.5
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        right, down = PLACES[place]
        assert (columns[0] + columns[-1]).item() / 2 - 15.5 == pytest.approx(right, abs=0.51)
        assert (rows[0] + rows[-1]).item() / 2 - 15.5 == pytest.approx(down, abs=0.51)

    @pytest.mark.parametrize("colour", COLOURS)
    def test_its_centre_has_the_colour_and_its_corner_the_background(self, colour: str) -> None:
        image = drawn(caption("cross", colour, "in the middle"))
        assert image[:, 16, 16].tolist() == list(COLOURS[colour])
        assert image[:, 0, 0].tolist() == [45.0] * 3

    def test_a_circle_has_every_symmetry_and_a_triangle_one(self) -> None:
        circle, triangle = (drawn(caption(shape, "red", "in the middle")) for shape in ("circle", "triangle"))
        assert torch.equal(circle, circle.flip(1))
        assert torch.equal(circle, circle.transpose(1, 2))
        assert torch.equal(triangle, triangle.flip(2))
        assert not torch.equal(triangle, triangle.flip(1))

    def test_no_shape_touches_the_border_however_it_varies(self) -> None:
        extremes = torch.cartesian_prod(*[torch.tensor([0.0, 0.999])] * 4, torch.tensor([0.5]))
        for label in range(len(CAPTIONS)):
            images = render(torch.full((len(extremes),), label), extremes)
            border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
            assert border.unique().tolist() == [45], CAPTIONS[label]

    def test_each_caption_has_as_many_images(self) -> None:
        data = render_shapes("train", 250)
        assert data.labels.bincount(minlength=100).tolist() == [3] * 50 + [2] * 50
        assert len(set(CAPTIONS)) == 100
        assert data.images.shape == (250, 3, 32, 32)
        assert data.images.dtype == torch.uint8

    def test_images_are_the_same_every_time_and_parts_share_none(self) -> None:
        train, test = (render_shapes(part, 200).images for part in ("train", "test"))
        assert torch.equal(train, render_shapes("train", 200).images)
        assert not (train == test).flatten(1).all(1).any()
        assert not (train[:100] == train[100:]).flatten(1).all(1).any(), "two of a caption"

    def test_captions_say_their_attributes(self) -> None:
        circles = captions_with(shape="circle")
        assert len(circles) == 25
        assert all("circle" in text for text in circles)
        assert captions_with(shape="cross", colour="red", place="at the top") == ("a red cross at the top",)
        for text, meaning in MEANINGS.items():
            assert meaning.keys() == ATTRIBUTES.keys()
            assert all(value in text and value in ATTRIBUTES[name] for name, value in meaning.items())


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────

FEW = ("--count", "200", "--vae-steps", "2")


def run_here(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> None:
    """Runs the script in this process."""
    import make

    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(out), *FEW, "--steps", "2", *words])
    make.main()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shapes")
    run_script(EXAMPLE / "make.py", place, "--out", place / "out", *FEW, "--steps", "2")
    return place / "out"


@pytest.fixture(scope="module")
def pipeline(out: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(out / "pipeline-0")


class TestFolders:
    def test_the_images_are_data_with_captions_and_attributes(self, out: Path) -> None:
        train, test = (load("captions", part, path=out / "images") for part in ("train", "test"))
        assert (len(train), len(test)) == (200, 50)
        assert train.classes == test.classes == CAPTIONS
        for part, source in (("train", train), ("test", test)):
            data = render_shapes(part, len(source))
            assert torch.equal(source.batch(torch.arange(len(source)))["input"], data.images)
            assert torch.equal(source.labels, data.labels)
        section = Data("captions", path=str(out / "images"))
        assert read_attributes(section, CAPTIONS, list(ATTRIBUTES)) == MEANINGS

    def test_datasets_reads_the_images(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        datasets.disable_progress_bars()
        found = datasets.load_dataset("imagefolder", data_dir=str(out / "images"), cache_dir=str(tmp_path))
        assert {part: len(rows) for part, rows in found.items()} == {"train": 200, "test": 50}
        row = found["train"][7]
        assert row["text"] == CAPTIONS[7]
        assert {name: row[name] for name in ATTRIBUTES} == MEANINGS[CAPTIONS[7]]
        assert np.array_equal(np.array(row["image"]), np.array(Image.open(out / "images/train/00007.png")))

    def test_diffusers_loads_the_pipeline_and_it_draws(self, pipeline: Any) -> None:
        pipeline.set_progress_bar_config(disable=True)
        (image,) = pipeline(CAPTIONS[0], num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
        assert image.size == (32, 32)
        assert any(".attn2." in name for name, _ in pipeline.unet.named_parameters()), "cross-attention"

    def test_latents_have_deviation_one(self, pipeline: Any) -> None:
        """To the six digits of the scaling factor, which was taken of these very images."""
        images = render_shapes("train", 200).images.float() / 127.5 - 1
        with torch.no_grad():
            means = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
        assert means.std().item() == pytest.approx(1, abs=1e-3)

    def test_every_word_is_one_token_and_any_other_text_can_be_written(self, pipeline: Any) -> None:
        tokenizer = pipeline.tokenizer
        for text in CAPTIONS:
            assert len(tokenizer(text).input_ids) == len(text.split()) + 2, text
        other = "une photo d'été, 3 × 4"
        tokens = tokenizer(other).input_ids
        assert tokenizer.unk_token_id not in tokens[1:-1]
        assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == other.replace(" ", "")

    def test_a_word_outweighs_position_and_context_in_its_embedding(self, pipeline: Any) -> None:
        """Captions that differ in one word: at that word their embeddings are more different than alike."""
        texts = list(captions_with(colour="red", place="on the left"))
        with torch.no_grad():
            found, _ = pipeline.encode_prompt(texts, "cpu", 1, False)
        spread = (found - found.mean(0)).norm(dim=-1).mean(0) / found.norm(dim=-1).mean(0)
        assert spread[:3].max() < 1e-6, "the encoder is causal: 'a red' is before the word; float32 rounding"
        assert spread[3] > 0.5
        assert spread[4:].min() > 0.02, "what follows knows it too"

    def test_nothing_tells_of_the_machine(self, out: Path) -> None:
        texts = [path.read_text() for path in out.rglob("*.json*")]
        assert len(texts) > 7
        assert not any(str(out.parent) in text or "/tmp" in text for text in texts)


class TestRuns:
    def test_a_seed_gives_the_same_bytes_and_another_seed_another_pipeline(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_here(monkeypatch, tmp_path / "again")
        assert contents(tmp_path / "again") == contents(out)
        images = contents(out / "images")
        run_here(monkeypatch, tmp_path / "again", "--seed", "1")
        assert contents(tmp_path / "again/images") == images
        first, other = (contents(tmp_path / "again" / name) for name in ("pipeline-0", "pipeline-1"))
        assert first.keys() == other.keys()
        weights = [name for name in first if name.endswith(".safetensors")]
        assert len(weights) == 3
        assert all(first[name] != other[name] for name in weights)

    def test_what_is_there_is_left(
        self, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        run_here(monkeypatch, out)
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
        assert "step" not in capsys.readouterr().out

    @pytest.mark.parametrize(("words", "name"), [(("--count", "100"), "images"), (("--vae-steps", "3"), "pipeline-0")])
    def test_what_was_made_otherwise_is_refused(
        self, out: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], name: str
    ) -> None:
        before = contents(out)
        with pytest.raises(SystemExit, match=f"{name} was not made with"):
            run_here(monkeypatch, out, *words)
        assert contents(out) == before

    def test_a_stopped_run_leaves_nothing_half_made(self, tmp_path: Path) -> None:
        """Stopped by Ctrl-C in the training, when the images are there."""
        line = [sys.executable, str(EXAMPLE / "make.py"), "--out", str(tmp_path), *FEW, "--steps", "1000000"]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("VAE: step 2 of 2"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert [path.name for path in tmp_path.iterdir()] == ["images"]
        assert json.loads((tmp_path / "images/made.json").read_text()) == {"count": 200}


class TestTraining:
    def test_the_vae_begins_as_a_shallow_network(self) -> None:
        """Its residual blocks add nothing: without them it gives the same."""
        from diffusers.models.resnet import ResnetBlock2D

        from parts import build_vae

        blocks = [block for block in build_vae(32).eval().modules() if isinstance(block, ResnetBlock2D)]
        x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        alike = [block for block in blocks if block.conv_shortcut is None and block.in_channels == 16]
        assert alike
        assert all(torch.equal(block(x, None), x) for block in alike)

    def test_the_loss_of_the_vae_is_the_formula(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An image at a time in float64, with a weight of the divergence that can be seen."""
        import make
        from parts import build_vae

        torch.manual_seed(0)
        vae: Any = build_vae(32).double()
        torch.nn.init.normal_(vae.quant_conv.bias)
        monkeypatch.setattr(make, "KL", 0.5)
        images = render_shapes("train", 3).images.double() / 127.5 - 1
        expected = 0.0
        with torch.no_grad():
            found = make.reconstruction_loss(vae, images, torch.Generator().manual_seed(1))
            noise = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(1))
            for x, epsilon in zip(images, noise.double(), strict=True):
                mean, log = vae.quant_conv(vae.encoder(x[None]))[0].chunk(2)
                decoded = vae.decoder(vae.post_quant_conv((mean + (log / 2).exp() * epsilon)[None]))[0]
                divergence = (mean.square() + log.exp() - 1 - log).mean() / 2
                expected += float((decoded - x).square().mean() + 0.5 * divergence) / 3
        assert found.item() == pytest.approx(expected, rel=1e-9)

    def test_averages_are_weighted_by_how_late_they_are(self) -> None:
        """Against Σ_i d^(k−i) θ_i / Σ_i d^(k−i) over the steps, summed in float64; float32 rounds at 1e-7."""
        from make import descend

        torch.manual_seed(0)
        model, seen = torch.nn.Linear(3, 1), []
        x = torch.randn(8, 3)

        def loss() -> torch.Tensor:
            seen.append(model.weight.detach().double().clone())
            return (model(x) - 1).square().mean()

        descend("line", model, loss, 5, 0.1)
        last, seen[:] = model.weight.detach().double().clone(), []
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        descend("line", model, loss, 5, 0.1, ema=0.7)
        after = [*seen[1:], last]
        shares = torch.tensor([0.7 ** (4 - i) for i in range(5)]).double()
        expected = sum(share * weight for share, weight in zip(shares, after, strict=True)) / shares.sum()
        assert torch.allclose(model.weight.detach().double(), expected, atol=1e-6)

    def test_losses_fall_within_a_few_steps(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Of the VAE and of the UNet, with the rates of a full run."""
        import make

        losses: dict[str, list[float]] = {}
        original = make.descend

        def watched(name: str, model: Any, loss: Any, *rest: Any) -> None:
            def noted() -> torch.Tensor:
                value = loss()
                losses.setdefault(name, []).append(value.item())
                return value

            original(name, model, noted, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(make, "descend", watched)
            make.train_pipeline(render_shapes("train", 100), seed=0, vae_steps=25, steps=40)
        assert losses.keys() == {"VAE", "UNet"}
        for name, values in losses.items():
            assert sum(values[-10:]) / 10 < 0.75 * sum(values[:5]) / 5, name


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of each training; the folder of images and pipeline."""
    out = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, out, "--flow")
    return out


class TestFlow:
    def test_diffusers_loads_the_pipeline_and_it_draws(self, flow: Path) -> None:
        from diffusers import StableDiffusion3Pipeline

        assert sorted(path.name for path in flow.iterdir()) == ["flow-0", "images"]
        pipeline = StableDiffusion3Pipeline.from_pretrained(flow / "flow-0", text_encoder_3=None, tokenizer_3=None)
        pipeline.set_progress_bar_config(disable=True)
        (image,) = pipeline(CAPTIONS[0], num_inference_steps=1, generator=torch.Generator().manual_seed(0)).images
        assert image.size == (32, 32)
        made = json.loads((flow / "flow-0/made.json").read_text())
        assert made == {"count": 200, "seed": 0, "steps": 2, "vae_steps": 2}

    def test_untrain_reads_what_was_saved_without_t5(self, flow: Path) -> None:
        for read in (load_pipeline, empty_pipeline):
            assert read(flow / "flow-0").text_encoder_3 is None

    def test_one_zero_stands_for_all(self) -> None:
        """What the transformer gives, and its gradient, with one token that counts as 256 and with 256; in float64."""
        from make import Repeated
        from parts import WINDOW, build_flow_pipeline

        pipeline: Any = build_flow_pipeline(CAPTIONS, 32, 0)
        network = pipeline.transformer.double()
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            prompts, _, pooled, _ = pipeline.encode_prompt(list(CAPTIONS[:2]), None, None, "cpu")
        assert prompts.shape[1] == WINDOW + 256
        assert not prompts[:, WINDOW:].any()
        x, t = torch.randn(2, 8, 8, 8).double(), torch.tensor([10.0, 900.0])

        def call(tokens: torch.Tensor) -> list[torch.Tensor]:
            told = {"encoder_hidden_states": tokens.double(), "pooled_projections": pooled.double()}
            velocity = network(hidden_states=x, timestep=t, **told).sample
            weights = [weight for weight in network.parameters() if weight.requires_grad]
            return [velocity, *torch.autograd.grad(velocity.square().sum(), weights)]

        expected = call(prompts)
        with Repeated(256):
            found = call(prompts[:, : WINDOW + 1])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
        assert not torch.allclose(call(prompts[:, : WINDOW + 1])[0], expected[0], atol=1e-3), "it counts"

    def test_the_velocity_is_learned_within_a_few_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import make

        losses: list[float] = []
        original = make.descend

        def watched(name: str, model: Any, loss: Any, *rest: Any) -> None:
            def noted() -> torch.Tensor:
                value = loss()
                losses.extend([value.item()] if name == "transformer" else [])
                return value

            original(name, model, noted, *rest)

        monkeypatch.setattr(make, "descend", watched)
        make.train_flow_pipeline(render_shapes("train", 100), seed=0, vae_steps=2, steps=40)
        assert len(losses) == 40
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
