"""Sets of generated images: each depends on seed, class and number alone; files are whole, resumed, or refused."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import sampling_in_processes
from helpers.processes import run_in_processes
from untrain.diffusion.denoisers import build_denoiser
from untrain.diffusion.images import (
    ImageSet,
    grid,
    number_images,
    to_uint8,
    write_folder,
    write_grid,
    write_npz,
)
from untrain.engine import Engine, generator_of
from untrain.errors import DataError, FolderError, ModelError, SettingError
from untrain.sampling import Sampler, denoise, noise_of
from untrain.tasks.class_diffusion.making import image_maker
from untrain.tasks.class_diffusion.task import ClassDiffusion

ENGINE = Engine(torch.device("cpu"))
FEW = Sampler(3, 1.0)
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def model():
    return build_denoiser(
        "unet-small", num_classes=4, in_channels=1, image_size=8,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip


TASK = ClassDiffusion(num_classes=4, null_class=4, timesteps=20, beta_end=0.3)


def maker(sampler=FEW, size=4, task=TASK, shape=SHAPE, **more):
    return image_maker(task, shape, sampler, ENGINE, batch_size=size, **more)


def made(model, counts, sampler=FEW, size=4, first=0, **more):
    """Images, labels and numbers of all batches."""
    return made_of(model, *number_images(counts, first), sampler, size, **more)


def made_of(model, labels, numbers, sampler=FEW, size=4, **more):
    batches = list(maker(sampler, size, **more).generate(model, labels, numbers))
    return tuple(torch.cat(parts) for parts in zip(*batches))


class TestGeneration:
    def test_classes_and_numbers_come_in_order(self, model):
        images, labels, numbers = made(model, {2: 3, 0: 2}, first=5)
        assert images.shape == (5, *SHAPE)
        assert labels.tolist() == [2, 2, 2, 0, 0]
        assert numbers.tolist() == [5, 6, 7, 5, 6]
        assert images.min() >= -1 and images.max() <= 1

    @pytest.mark.parametrize("kind", ["unet-small", "dit-tiny"])
    def test_an_image_is_the_same_in_a_batch_of_any_size(self, model, kind):
        """Tolerance 1e-5: in float32, sums over a larger batch may be blocked otherwise; the noise is bit-equal."""
        if kind == "dit-tiny":
            small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
            model = build_denoiser(kind, num_classes=4, in_channels=1, image_size=8, **small)
        counts = {0: 3, 1: 1, 3: 2}
        sampler = Sampler(4, 1.0, guidance_scale=1.5)
        whole = made(model, counts, sampler, 6)
        for size in (1, 4, 100):
            for ours, theirs in zip(made(model, counts, sampler, size), whole):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        alone = made_of(model, torch.tensor([3]), torch.tensor([1]), sampler)
        torch.testing.assert_close(alone[0], whole[0][-1:], rtol=0, atol=1e-5)
        later = made(model, {0: 2}, sampler, first=1)
        torch.testing.assert_close(later[0], whole[0][1:3], rtol=0, atol=1e-5)

    def test_it_is_the_sampler_on_the_images_own_noise(self, model):
        """Guidance written out as two passes: (1 + s) ε(x, c) − s ε(x, ∅)."""
        sampler = Sampler(5, 0.5, guidance_scale=1.7)
        generators = [generator_of(9, "sample", 2, i) for i in (0, 1)]

        def predict(x, t):
            steps = torch.full((2,), t)
            wanted, none = (model(x, steps, class_labels=torch.full((2,), c)).sample for c in (2, 4))
            return 1.7 * wanted - 0.7 * none

        model.eval()
        with torch.no_grad():
            expected = denoise(
                predict, noise_of(generators, SHAPE), TASK.alphas_cumprod, sampler,
                noise=lambda: noise_of(generators, SHAPE), clip=True,
            )  # fmt: skip
        ours = made(model, {2: 2}, sampler, seed=9)[0]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        assert (ours - made(model, {2: 2}, Sampler(5, 0.5), seed=9)[0]).abs().max() > 1e-3

    def test_seeds_numbers_and_classes_give_other_noise(self, model):
        images = made(model, {0: 2, 1: 1})[0]
        other = made(model, {0: 2, 1: 1}, seed=1)[0]
        assert not torch.isclose(images, other).all(dim=(1, 2, 3)).any()
        assert (images[0] - images[1]).abs().max() > 0.1

    def test_the_model_stays_as_it_was(self, model):
        model.train()
        model.conv_in.eval()
        modes = [module.training for module in model.modules()]
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        before = torch.get_rng_state()
        images = made(model, {0: 2})[0]
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert not images.requires_grad
        assert torch.equal(torch.get_rng_state(), before), "no noise of anybody else was used up"
        model.train()

    def test_a_model_in_double_makes_the_same_images(self, model):
        """Tolerance: one of the two is float32."""
        ours = made(model.double(), {1: 2}, Sampler(5))[0]
        assert ours.dtype == torch.float64
        torch.testing.assert_close(made(model.float(), {1: 2}, Sampler(5))[0], ours.float(), rtol=0, atol=1e-4)

    def test_latents_are_decoded(self, model):
        def decode(latents):
            return to_uint8(latents.repeat(1, 3, 2, 2))

        images = made(model, {1: 3}, decode=decode, size=2)[0]
        assert images.dtype == torch.uint8
        torch.testing.assert_close(images, decode(made(model, {1: 3})[0]), rtol=0, atol=1)

    def test_two_processes_make_what_one_makes(self, tmp_path):
        """Five images in batches of two: in the last one process has no share. Tolerance as for batch sizes."""
        results = []
        for count in (1, 2):
            folder = tmp_path / str(count)
            folder.mkdir()
            run_in_processes(count, folder, sampling_in_processes.main, folder)
            results.append(torch.load(folder / "made.pt", weights_only=True))
        assert results[0]["images"].shape == (5, *SHAPE)
        assert torch.equal(results[0]["numbers"], results[1]["numbers"])
        torch.testing.assert_close(results[0]["images"], results[1]["images"], rtol=0, atol=1e-5)
        ours, theirs = (np.load(tmp_path / f"{n}/set.npz", allow_pickle=False) for n in (1, 2))
        assert np.abs(ours["arr_0"].astype(int) - theirs["arr_0"]).max() <= 1
        assert np.array_equal(ours["arr_1"], theirs["arr_1"])

    def test_so_many_of_each_condition_are_collected(self, model):
        """As bytes on the CPU, the same images as batch by batch."""
        images, labels = maker().collect(model, [2, 0], 3)
        assert labels.tolist() == [2, 2, 2, 0, 0, 0]
        assert torch.equal(images, to_uint8(made(model, {2: 3, 0: 3})[0]))

    @pytest.mark.parametrize(
        ("wrong", "error", "culprit"),
        [
            ({"sampler": Sampler(21)}, SettingError, "20 .*21"),
            ({"task": ClassDiffusion(num_classes=4), "sampler": Sampler(3, guidance_scale=2.0)}, SettingError, "guid"),
            ({"size": 0}, SettingError, "batch size .*0"),
        ],
    )
    def test_what_cannot_be_sampled_is_said_at_once(self, wrong, error, culprit):
        with pytest.raises(error, match=culprit):
            maker(**wrong)

    @pytest.mark.parametrize("number", [4, -1])
    def test_a_class_that_the_model_has_not_is_named(self, model, number):
        with pytest.raises(DataError, match=f"class {number}:"):
            made(model, {number: 1})


class TestPixels:
    def test_bytes_and_back(self):
        every = torch.arange(256, dtype=torch.uint8)
        assert torch.equal(to_uint8(every / 127.5 - 1), every)
        assert torch.equal(to_uint8(every), every)
        beyond = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.5, 1.0, 7.0])
        assert to_uint8(beyond).tolist() == [0, 0, 0, 128, 191, 255, 255]

    def test_what_is_not_finite_is_refused(self):
        with pytest.raises(ModelError, match="not finite"):
            to_uint8(torch.tensor([0.0, float("nan")]))

    @pytest.mark.parametrize(("channels", "size", "scale"), [(1, 8, 4), (3, 8, 4), (1, 10, 4), (3, 32, 1), (1, 40, 1)])
    def test_a_grid_shows_every_pixel(self, channels, size, scale):
        images = torch.rand(2, 3, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        picture = np.asarray(grid(images))
        side = size * scale
        assert picture.shape[:2] == (2 * side + 2, 3 * side + 4)
        assert picture.ndim == (2 if channels == 1 else 3)
        seen = np.zeros(picture.shape[:2], dtype=bool)
        for r in range(2):
            for k in range(3):
                top, left = r * (side + 2), k * (side + 2)
                seen[top : top + side, left : left + side] = True
                cut = picture[top + scale // 2 : top + side : scale, left : left + side : scale]
                expected = to_uint8(images[r, k]).permute(1, 2, 0).numpy()
                assert np.array_equal(cut.reshape(expected.shape), expected)
        assert (picture[~seen] == 255).all()

    def test_latents_cannot_be_shown(self):
        with pytest.raises(DataError, match="4 channels"):
            grid(torch.zeros(1, 1, 4, 8, 8))


class Counted(ImageSet):
    """A set that notes which images were made."""

    asked: list[list[int]]

    def generate(self, positions):
        self.asked.append(positions.tolist())
        return super().generate(positions)


@pytest.fixture
def images(model):
    def make(counts=None, classes=None, decoder=None, **more):
        chosen = more.pop("model", model)
        made = Counted(chosen, maker(**more), counts or {0: 3, 2: 3}, classes, decoder)
        object.__setattr__(made, "asked", [])
        return made

    return make


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def expected_pixels(model, counts):
    return to_uint8(made(model, counts)[0]).permute(0, 2, 3, 1).numpy()


class TestFolder:
    def test_every_image_is_a_file_of_its_class(self, model, images, tmp_path):
        names = ("zero", "one", "two/2: the pair", "three")
        assert write_folder(images(classes=names, size=4), tmp_path / "set") == 6
        kept = content(tmp_path / "set")
        folders = ("zero", "two_2_ the pair")
        assert set(kept) == {"samples.json"} | {f"{name}/{i:06d}.png" for name in folders for i in range(3)}
        pixels = [
            np.asarray(Image.open(tmp_path / "set" / f"{name}/{i:06d}.png")) for name in folders for i in range(3)
        ]
        difference = np.stack(pixels).astype(int) - expected_pixels(model, {0: 3, 2: 3})[..., 0]
        assert np.abs(difference).max() <= 1, "rounding of the last bit, in batches of other sizes"

    def test_only_what_is_missing_or_broken_is_made_again(self, images, tmp_path):
        write_folder(images(size=6), tmp_path)
        before = content(tmp_path)
        (tmp_path / "0/000001.png").unlink()
        broken = tmp_path / "2/000002.png"
        broken.write_bytes(broken.read_bytes()[:40])
        (tmp_path / "2/.000001.png.tmp").write_bytes(b"half")
        again = images(size=4)
        assert write_folder(again, tmp_path) == 2
        assert again.asked == [[1, 5]]
        after = content(tmp_path)
        assert after.pop("2/.000001.png.tmp") == b"half"
        assert after.keys() == before.keys()
        whole = [name for name in before if name not in ("0/000001.png", "2/000002.png")]
        assert all(after[name] == before[name] for name in whole)
        for name in ("0/000001.png", "2/000002.png"):
            (tmp_path / "old.png").write_bytes(before[name])
            old, new = (np.asarray(Image.open(path)).astype(int) for path in (tmp_path / "old.png", tmp_path / name))
            assert np.abs(old - new).max() <= 1
        last = images()
        assert write_folder(last, tmp_path) == 0
        assert last.asked == [[]]

    def test_names_differ_without_case_and_are_no_reserved_ones(self, images, tmp_path):
        names = ("Cat", "cat", "CON", "..")
        write_folder(images(dict.fromkeys(range(4), 1), classes=names), tmp_path)
        folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
        assert len({name.casefold() for name in folders}) == 4
        assert not {"CON", "..", ""} & set(folders)
        assert all(len(list((tmp_path / name).iterdir())) == 1 for name in folders)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"seed": 1}, "seed differs"),
            ({"sampler": Sampler(4)}, "sampler differs"),
            ({"counts": {0: 4}}, "counts, names differ"),
            ({"task": ClassDiffusion(num_classes=4, timesteps=30)}, "task differs"),
            ({"decoder": "other"}, "decoder differs"),
        ],
    )
    def test_images_made_otherwise_are_refused(self, images, tmp_path, change, named):
        write_folder(images(), tmp_path)
        before = content(tmp_path)
        with pytest.raises(FolderError, match=named):
            write_folder(images(**change), tmp_path)
        assert content(tmp_path) == before

    def test_images_of_other_weights_are_refused(self, model, images, tmp_path):
        write_folder(images(), tmp_path)
        other = build_denoiser(
            "unet-small", num_classes=4, in_channels=1, image_size=8, seed=1,
            block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
        )  # fmt: skip
        with pytest.raises(FolderError, match="weights differs"):
            write_folder(images(model=other), tmp_path)

    def test_something_else_is_left_alone(self, images, tmp_path):
        (tmp_path / "letter.txt").write_text("mine")
        with pytest.raises(FolderError, match="something else"):
            write_folder(images(), tmp_path)
        with pytest.raises(FolderError, match="is a file, but a folder"):
            write_folder(images(), tmp_path / "letter.txt")
        assert content(tmp_path) == {"letter.txt": b"mine"}

    def test_a_note_without_images_is_no_obstacle(self, images, tmp_path):
        """A run that was stopped before its first image leaves the note alone."""
        write_folder(images(), tmp_path)
        for path in tmp_path.glob("*/*.png"):
            path.unlink()
        for path in (tmp_path / "0", tmp_path / "2"):
            path.rmdir()
        assert write_folder(images(seed=5), tmp_path) == 6
        assert json.loads((tmp_path / "samples.json").read_text())["seed"] == 5


class TestArrays:
    def test_it_is_what_public_evaluators_read(self, model, images, tmp_path):
        """Images with three channels, uint8, first in the file; a gray image has its channel three times."""
        path = tmp_path / "deep/set.npz"
        assert write_npz(images(size=4), path) == 6
        with np.load(path, allow_pickle=False) as arrays:
            pixels, labels = arrays["arr_0"], arrays["arr_1"]
        assert pixels.dtype == np.uint8 and pixels.shape == (6, 8, 8, 3)
        assert (pixels == pixels[..., :1]).all()
        assert np.abs(pixels[..., :1].astype(int) - expected_pixels(model, {0: 3, 2: 3})).max() <= 1
        assert labels.dtype == np.int64 and labels.tolist() == [0, 0, 0, 2, 2, 2]
        assert zipfile.ZipFile(path).testzip() is None
        assert sorted(p.name for p in path.parent.iterdir()) == ["set.npz", "set.npz.samples.json"]

    def test_what_was_made_before_it_was_stopped_is_kept(self, images, tmp_path, monkeypatch):
        """Stopped in the second batch, gone on with in batches of another size."""
        whole, path = tmp_path / "whole.npz", tmp_path / "set.npz"
        write_npz(images({0: 5, 1: 6}, size=4), whole)

        stop_after(monkeypatch, batches=2)
        with pytest.raises(KeyboardInterrupt):
            write_npz(images({0: 5, 1: 6}, size=4), path)
        monkeypatch.undo()
        assert not path.exists()
        parts = sorted((tmp_path / "set.npz.parts").iterdir())
        assert [part.name for part in parts] == ["000000000.npy", "000000004.npy"]
        parts[0].write_bytes(parts[0].read_bytes()[:-100])  # as a disk may leave it

        again = images({0: 5, 1: 6}, size=3)
        assert write_npz(again, path) == 7
        assert again.asked == [[0, 1, 2, 3, 8, 9, 10]]
        ours, theirs = (np.load(p, allow_pickle=False) for p in (path, whole))
        assert np.abs(ours["arr_0"].astype(int) - theirs["arr_0"]).max() <= 1
        assert np.array_equal(ours["arr_1"], theirs["arr_1"])
        assert not (tmp_path / "set.npz.parts").exists()

        last = images({0: 5, 1: 6})
        assert write_npz(last, path) == 0
        assert last.asked == [[]]

    def test_a_broken_file_is_made_again_and_another_one_refused(self, images, tmp_path):
        path = tmp_path / "set.npz"
        write_npz(images(), path)
        before = path.read_bytes()
        path.write_bytes(before[:200])
        assert write_npz(images(), path) == 6
        assert path.read_bytes() == before, "bytes depend on the images alone"
        with pytest.raises(FolderError, match="seed differs"):
            write_npz(images(seed=1), path)
        (tmp_path / "set.npz.samples.json").unlink()
        with pytest.raises(FolderError, match="something else"):
            write_npz(images(), path)
        with pytest.raises(FolderError, match="is a folder, but a file"):
            write_npz(images(), tmp_path)


class TestGrid:
    def test_rows_are_classes_and_columns_numbers(self, model, images, tmp_path):
        path = tmp_path / "set.png"
        assert write_grid(images({2: 3, 0: 2}, size=2), path) == 5
        picture = np.asarray(Image.open(path)).astype(int)
        assert picture.shape == (2 * 32 + 2, 3 * 32 + 4)
        pixels = expected_pixels(model, {2: 3, 0: 2})[..., 0]
        for k, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
            cut = picture[row * 34 : row * 34 + 32 : 4, column * 34 : column * 34 + 32 : 4]
            assert np.abs(cut - pixels[k]).max() <= 1
        assert (picture[34:, 68:] == 255).all(), "the shorter row ends in white"
        assert write_grid(images({2: 3, 0: 2}), path) == 0

    def test_it_goes_on_too(self, images, tmp_path, monkeypatch):
        stop_after(monkeypatch, batches=1)
        with pytest.raises(KeyboardInterrupt):
            write_grid(images(size=4), tmp_path / "set.png")
        monkeypatch.undo()
        assert write_grid(images(size=4), tmp_path / "set.png") == 2


def stop_after(monkeypatch, batches):
    """Interrupts a set after so many batches."""
    own, count = Counted.generate, iter(range(batches))

    def generate(self, positions):
        for batch in own(self, positions):
            if next(count, None) is None:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Counted, "generate", generate)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"counts": {0: 0}}, SettingError, "at least one image"),
        ({"counts": {7: 1}}, DataError, "class 7"),
        ({"shape": (4, 8, 8)}, SettingError, "4 channels"),
        ({"sampler": Sampler(21)}, SettingError, "21"),
    ],
)
def test_a_set_that_cannot_be_is_refused_before_anything_is_made(images, change, error, message):
    with pytest.raises(error, match=message):
        images(**change)
