from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from helpers import small_pipelines
from untrain.data.samples import Arrays, Source
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.diffusion.latents import MIRRORED, POSTERIOR, Latents, decode, encode, encode_data, latent_shape, load_vae
from untrain.engine import Engine
from untrain.errors import CheckpointError, DataError, ModelError
from untrain.tasks.class_diffusion.task import ClassDiffusion

ENGINE = Engine(torch.device("cpu"))
IMAGES = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


@pytest.fixture(scope="module")
def vae() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return small_pipelines.vae().double()


@pytest.fixture
def source() -> Arrays:
    return Arrays(IMAGES, LABELS, ["a", "b", "c"], [f"record-{i}" for i in range(7)])


def posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """One image at a time, by the definition."""
    means, stds = [], []
    for image in images:
        with torch.no_grad():
            found = vae.encode(image[None].double() / 127.5 - 1).latent_dist
        means.append(found.mean[0] * 0.18215)
        stds.append((found.logvar[0] / 2).exp() * 0.18215)
    return torch.stack(means), torch.stack(stds)


def equal(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)  # float64; only the order of sums differs


# ── encoding ──


def test_latents_are_mean_and_deviation_of_the_posterior(vae: Any, source: Arrays) -> None:
    latents = encode(vae, source, ENGINE, mirrored=True, batch_size=3)
    assert isinstance(latents, Source) and latents.mirrored and latents.shape == (4, 8, 8) and len(latents) == 7
    assert latents.classes == ("a", "b", "c") and latents.ids == source.ids and latents.in_memory
    batch = latents.batch(torch.tensor([6, 0, 3]))
    assert sorted(batch) == ["index", "label", *POSTERIOR, *MIRRORED]
    assert batch["index"].tolist() == [6, 0, 3] and batch["label"].tolist() == [0, 0, 0]
    chosen = IMAGES[[6, 0, 3]]
    for names, images in ((POSTERIOR, chosen), (MIRRORED, chosen.flip(-1))):
        for name, expected in zip(names, posterior(vae, images), strict=True):
            equal(batch[name], expected)
    single = latents[-1]
    assert int(single["index"]) == 6 and single["latent_mean"].shape == (4, 8, 8)
    with pytest.raises(IndexError):
        latents[7]


def test_batches_do_not_matter(vae: Any, source: Arrays) -> None:
    whole, split = (encode(vae, source, ENGINE, batch_size=size).batch(torch.arange(7)) for size in (7, 2))
    assert sorted(whole) == ["index", "label", *POSTERIOR]
    for name in POSTERIOR:
        equal(whole[name], split[name])


def test_pixels_may_be_floating(vae: Any, source: Arrays) -> None:
    floating = Arrays(IMAGES.double() / 127.5 - 1, LABELS)
    a, b = (encode(vae, data, ENGINE).batch(torch.arange(7))["latent_mean"] for data in (source, floating))
    equal(a, b)
    with pytest.raises(DataError, match=r"must be uint8 or in \[−1, 1\]; these reach 2"):
        encode(vae, Arrays(IMAGES.float(), LABELS), ENGINE)


def test_shift_and_scale_are_the_configurations(source: Arrays) -> None:
    plain, shifted = (
        small_pipelines.vae(scaling_factor=scale, shift_factor=shift).double()
        for scale, shift in ((1.0, None), (3.0, 0.5))
    )
    shifted.load_state_dict(plain.state_dict())
    a, b = (encode(each, source, ENGINE).batch(torch.arange(7)) for each in (plain, shifted))
    equal(b["latent_mean"], (a["latent_mean"] - 0.5) * 3)
    equal(b["latent_std"], a["latent_std"] * 3)
    assert torch.equal(decode(shifted, b["latent_mean"]), decode(plain, a["latent_mean"]))


def test_the_vae_stays_as_it_was(vae: Any, source: Arrays) -> None:
    vae.train()
    vae.decoder.eval()
    images = IMAGES.double() / 127.5 - 1
    encode(vae, source, ENGINE)
    encode_data(vae, [(images, LABELS)], ENGINE)
    decode(vae, torch.zeros(1, 4, 8, 8))
    assert vae.encoder.training and not vae.decoder.training
    assert all(parameter.grad is None and parameter.dtype == torch.float64 for parameter in vae.parameters())
    vae.eval()


@pytest.mark.parametrize("number", [1, 3])
def test_processes_share_the_work(vae: Any, source: Arrays, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each computes its own part, and the parts in order of process are the whole."""
    parts: list[list[Tensor]] = [[], []]
    seen: list[int] = []
    for process in range(number):
        engine = Engine(torch.device("cpu"), process=process, num_processes=number)

        def gather(values: Tensor) -> Tensor:
            parts[0 if values.ndim > 1 else 1].append(values)
            seen.append(len(values))
            return (source.input.new_zeros(7, *values.shape[1:])).to(values.dtype)

        monkeypatch.setattr(engine, "gather", gather)
        encode(vae, source, engine, batch_size=2)
    expected = encode(vae, source, ENGINE).batch(torch.arange(7))
    equal(torch.cat(parts[0])[:, 0], expected["latent_mean"])
    assert torch.cat(parts[1]).tolist() == list(range(7))
    assert max(seen) == -(-7 // number)


def test_a_process_without_images_computes_nothing(vae: Any) -> None:
    source = Arrays(IMAGES[:1], LABELS[:1])
    engine = Engine(torch.device("cpu"), process=0, num_processes=2)
    gathered: list[Tensor] = []

    def gather(values: Tensor) -> Tensor:
        gathered.append(values)
        return torch.zeros(1, *values.shape[1:], dtype=values.dtype)

    engine.gather = gather  # type: ignore[method-assign]
    encode(vae, source, engine)
    assert [list(values.shape) for values in gathered] == [[0, 2, 4, 8, 8], [0]]


# ── as a source ──


def test_views_keep_their_numbers(vae: Any, source: Arrays) -> None:
    view = Subset(source, [5, 2])
    latents = encode(vae, view, ENGINE)
    assert latents.batch(torch.tensor([0, 1]))["index"].tolist() == [5, 2]
    assert latents.labels.tolist() == [2, 2] and latents.ids == ("record-5", "record-2")
    again = Subset(encode(vae, source, ENGINE), [5, 2]).batch(torch.tensor([0, 1]))
    equal(again["latent_mean"], latents.batch(torch.tensor([0, 1]))["latent_mean"])
    assert again["index"].tolist() == [5, 2]
    chosen = encode(vae, source, ENGINE).select(torch.tensor([5, 2]))
    assert chosen.batch(torch.tensor([1]))["index"].tolist() == [1] and chosen.ids == latents.ids
    equal(chosen.batch(torch.arange(2))["latent_mean"], again["latent_mean"])


def test_the_hash_is_of_images_and_vae(vae: Any, source: Arrays) -> None:
    first = encode(vae, source, ENGINE)
    assert first.fingerprint() == encode(vae, source, ENGINE, batch_size=2).fingerprint()
    others = [
        encode(vae, source, ENGINE, mirrored=True),
        encode(vae, Arrays(255 - IMAGES, LABELS, ["a", "b", "c"]), ENGINE),
        first.select(torch.tensor([5, 2])),
        first.select(torch.tensor([2, 5])),
        Latents(torch.zeros(2, 2, 4, 8, 8), torch.tensor([0, 1])),
        Latents(torch.ones(2, 2, 4, 8, 8), torch.tensor([0, 1])),
    ]
    hashes = {latents.fingerprint() for latents in (first, *others)}
    assert len(hashes) == 1 + len(others)
    weight = vae.encoder.conv_in.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    assert encode(vae, source, ENGINE).fingerprint() not in hashes
    with torch.no_grad():
        weight.copy_(before)


def test_moved_twice_it_is_one_copy(vae: Any, source: Arrays) -> None:
    latents = encode(vae, source, ENGINE)
    assert latents.to("cpu") is latents
    moved = latents.to("meta")
    assert moved is latents.to("meta") and moved.to("cpu") is latents
    assert moved.batch(torch.tensor([0]))["latent_mean"].device.type == "meta"
    assert moved.fingerprint() == latents.fingerprint()


def test_the_task_draws_from_them(vae: Any, source: Arrays) -> None:
    """Latents of mirror images are drawn where a mirrored pixel image would have been."""
    latents = encode(vae, source, ENGINE, mirrored=True)
    stream = Stream(latents, "forget", ENGINE, batch_size=7)
    batch = stream.batch(0, ClassDiffusion(flip=True), "train")
    assert batch["input"].shape == (7, 4, 8, 8) and torch.equal(batch["label"], LABELS[batch["index"]])
    own = latents.batch(batch["index"])
    distances = [(batch["input"] - own[mean]).abs() / own[std] for mean, std in (POSTERIOR, MIRRORED)]
    near = torch.stack([(distance < 5).flatten(1).all(1) for distance in distances])  # within five deviations
    assert bool(near.any(0).all())


def test_shapes_that_are_not_latents() -> None:
    with pytest.raises(DataError, match=r"latents must be \[N, 2 or 4, C, h, w\]; they are \[2, 3, 4, 8, 8\]"):
        Latents(torch.zeros(2, 3, 4, 8, 8), torch.tensor([0, 1]))


# ── data of a user ──


def test_ready_batches_stay_ready_batches(vae: Any) -> None:
    images = IMAGES.double() / 127.5 - 1
    batches = encode_data(vae, [(IMAGES[:4], LABELS[:4]), {"input": images[4:], "label": LABELS[4:]}], ENGINE)
    assert [len(batch["label"]) for batch in batches] == [4, 3]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(7))
    equal(torch.cat([batch["latent_mean"] for batch in batches]), posterior(vae, IMAGES)[0])
    assert all("input" not in batch for batch in batches)
    stream = Stream(batches, "forget", ENGINE)
    assert stream.batch(1, ClassDiffusion(), "forget")["input"].shape == (3, 4, 8, 8)


class Records(Dataset[dict[str, Any]]):
    """A data set with names of its own."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": IMAGES[i], "class": int(LABELS[i]), "index": 10 + i}


@pytest.mark.parametrize("kind", ["tensors", "view", "own", "source"])
def test_a_data_set_becomes_a_source(kind: str, vae: Any, source: Arrays) -> None:
    tensors = TensorDataset(IMAGES, LABELS)
    data, numbers = {
        "tensors": (tensors, list(range(7))),
        "view": (TorchSubset(tensors, [6, 1]), [6, 1]),
        "own": (Records(), list(range(10, 17))),
        "source": (source, list(range(7))),
    }[kind]
    names = {"image": "input", "class": "label"}
    latents = encode_data(vae, data, ENGINE, mirrored=True, batch_size=3, names=names)
    assert isinstance(latents, Latents) and latents.mirrored
    batch = latents.batch(torch.arange(len(numbers)))
    assert batch["index"].tolist() == numbers
    positions = [number % 10 if kind == "own" else number for number in numbers]
    assert torch.equal(batch["label"], LABELS[positions])
    equal(batch["latent_mean"], posterior(vae, IMAGES[positions])[0])
    equal(batch["mirrored_std"], posterior(vae, IMAGES[positions].flip(-1))[1])


def test_data_that_cannot_be_encoded(vae: Any) -> None:
    with pytest.raises(DataError, match=r"needs 'input' and 'label', not \['class', 'index', 'input'\]: map names"):
        encode_data(vae, Records(), ENGINE)
    with pytest.raises(DataError, match="the photos set gives"):
        encode_data(vae, [3], ENGINE, name="photos")
    with pytest.raises(DataError, match=r"images are 15×16 pixels, and the VAE makes them 2 times smaller"):
        encode_data(vae, [(IMAGES[..., :15], LABELS)], ENGINE)


# ── decoding ──


def test_decoding_gives_pixels(vae: Any) -> None:
    latents = 10 * torch.randn(5, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    images = decode(vae, latents, batch_size=2, advance=lambda: calls.append(1))
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.uint8 and len(calls) == 3
    with torch.no_grad():
        values = vae.decode(latents / 0.18215).sample
    expected = (values.clamp(-1, 1) + 1) / 2 * 255
    assert (images - expected).abs().max() < 0.501  # the nearest whole number
    assert decode(vae, latents[:0]).shape == (0, 3, 16, 16)
    with pytest.raises(ModelError, match="gives images that are not finite"):
        decode(vae, latents * torch.nan)
    with pytest.raises(ModelError, match=r"decodes latents \[B, 4, h, w\], not \[5, 2, 8, 8\]"):
        decode(vae, latents[:, :2])


# ── reading a VAE ──


def test_a_vae_is_found_alone_and_in_a_pipeline(vae: Any, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "alone")
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    for place in ("alone", "pipeline", "pipeline/vae"):
        found = load_vae(tmp_path / place)
        assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())
        assert all(torch.equal(found.state_dict()[key], value.float()) for key, value in vae.state_dict().items())
    assert latent_shape(vae, (3, 16, 32)) == (4, 8, 16)


def test_where_there_is_no_vae(vae: Any, tmp_path: Path) -> None:
    assert load_vae(None) is None and load_vae(tmp_path) is None
    with pytest.raises(CheckpointError, match="holds no AutoencoderKL: give the folder of one, or of a pipeline"):
        load_vae(tmp_path, required=True)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_vae(tmp_path / "nothing")
    vae.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="the VAE in .* cannot be read"):
        load_vae(tmp_path)


# ── what does not fit ──


def test_images_that_do_not_fit(vae: Any) -> None:
    with pytest.raises(DataError, match="images are 17×16 pixels, and the VAE makes them 2 times smaller: .*multiples"):
        encode(vae, Arrays(torch.zeros(2, 3, 16, 17), [0, 1]), ENGINE)
    with pytest.raises(DataError, match=r"takes images of 3 channels, not of shape \[1, 16, 16\]"):
        encode(vae, Arrays(torch.zeros(2, 1, 16, 16), [0, 1]), ENGINE)


def test_what_is_not_a_vae(source: Arrays) -> None:
    from diffusers import AutoencoderKL

    for call in (lambda: encode(nn.Linear(2, 2), source, ENGINE), lambda: encode_data(nn.Linear(2, 2), [], ENGINE)):
        with pytest.raises(ModelError, match="Linear is not a VAE of diffusers"):
            call()
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    odd = AutoencoderKL(**blocks, block_out_channels=(8,), norm_num_groups=4, latents_mean=[0.0] * 4)
    with pytest.raises(ModelError, match="channel by channel"):
        encode(odd, source, ENGINE)


def test_too_many_latents_are_refused_before_the_work(
    vae: Any, source: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_memory(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr("untrain.diffusion.latents.torch.empty", no_memory)
    with pytest.raises(DataError, match="the latents of 7 images take 0.0 GiB, for which there is no memory"):
        encode(vae, source, ENGINE)
