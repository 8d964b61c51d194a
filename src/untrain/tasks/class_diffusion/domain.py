"""Image generators conditioned on a class."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from untrain.data.samples import Relabelled, Source
from untrain.data.splits import Split, Subset
from untrain.data.streams import Stream
from untrain.diffusion.denoisers import build_denoiser, from_dit, is_dit_layout, load_weights, local_folder, read_object
from untrain.diffusion.evaluate import evaluate_generators, samples_of
from untrain.diffusion.features import Features, Real, inception_features
from untrain.diffusion.grids import write_grid
from untrain.diffusion.images import Decode, to_uint8
from untrain.diffusion.judges import JUDGE, given_judge, judge_of
from untrain.diffusion.latents import decode, encode, latent_shape, load_vae
from untrain.diffusion.pipelines import class_named, labels_of, save_diffusers, schedule_of
from untrain.diffusion.quality import halves
from untrain.domain import Kind, Make
from untrain.engine import Engine, seed_of
from untrain.errors import DataError, ModelError, SettingError
from untrain.methods.base import Method
from untrain.methods.retrain import Retrain
from untrain.models import checkpoints
from untrain.runs.recipe import Recipe
from untrain.tasks.class_diffusion.task import ClassDiffusion, embedded_classes


class Generators(Kind):
    """Judged by what a classifier sees in their images, and by the distance of these from real ones."""

    holds_out = False
    task: ClassDiffusion

    def __init__(self, recipe: Recipe, engine: Engine, source: Source, test: Source) -> None:
        check_libraries()
        origin = recipe.model.checkpoint
        self.origin = origin if origin is not None and not Path(origin).is_file() else None
        self.named = None if self.origin is None else names_of(self.origin, source)
        super().__init__(recipe, engine, numbered_as(source, self.named), numbered_as(test, self.named))
        if recipe.augment.pad:
            raise SettingError("augment.pad crops images at random, which a generator would learn: set it to 0.")
        self.vae = load_vae(recipe.model.vae or self.origin, required=recipe.model.vae is not None)
        settings = asdict(recipe.diffusion) | ({} if self.origin is None else schedule_of(self.origin))
        self.task = ClassDiffusion(
            num_classes=len(self.images.classes),
            clip_samples=self.vae is None,
            flip=recipe.augment.flip,
            seed=recipe.seed,
            **settings,
        )

    # The model and its data.

    @cached_property
    def data(self) -> Source:
        """The images, or their latents, each computed once."""
        if self.vae is None:
            return self.images
        return encode(self.vae, self.images, self.engine, mirrored=self.recipe.augment.flip)

    def few(self) -> Source:
        """Two of them: to encode all would take its time."""
        two = self.images.select(torch.arange(min(2, len(self.images))))
        return two if self.vae is None else encode(self.vae, two, self.engine, mirrored=self.recipe.augment.flip)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the model makes: an image or a latent."""
        shape = self.images.shape
        return tuple(shape) if self.vae is None else latent_shape(self.vae, shape)

    @property
    def decode(self) -> Decode | None:
        """Makes images of latents; None where images are made at once."""
        if self.vae is None:
            return None
        vae = self.vae.to(self.engine.device)
        return lambda latents: decode(vae, latents)

    def module(self, seed: int) -> nn.Module:
        """The recipe's noise predictor."""
        chosen = self.recipe.model
        name = chosen.name or ("unet-small" if self.origin is None else f"diffusers:{self.origin}")
        channels, size = self.shape[0], self.shape[1]
        count = len(self.images.classes)
        module = build_denoiser(
            name, num_classes=count, in_channels=channels, image_size=size, seed=seed, **chosen.options
        )
        return module.to(self.engine.device)

    def read(self, module: nn.Module, path: str) -> dict[str, Any]:
        """A folder or hub id of diffusers, or a file of weights, the original DiT's included."""
        if self.origin is None:
            return super().read(module, path)
        load_weights(module, path)
        return {}

    def renamed(self, state: checkpoints.State, module: nn.Module) -> checkpoints.State:
        """The original DiT's weights under the names of diffusers."""
        return from_dit(state, module) if is_dit_layout(state) else state

    # What is asked of the recipe.

    def numbered(self, classes: Sequence[str | int]) -> list[str | int]:
        """One of a class's synonyms is enough, where the model's pipeline names its classes."""
        if self.named is None:
            return list(classes)
        return [class_number(self.named, str(each)) for each in classes]

    def check(self, split: Split) -> None:
        """Whole classes are forgotten, the model knows as many as the data, and the judge is there."""
        if not self.forgotten(split):
            raise SettingError(
                "a generator is judged by the classes that it forgets, and this recipe forgets none whole: give "
                "forget.classes."
            )
        if len(self.forgotten(split)) == len(self.images.labels.unique()):
            raise SettingError("forget.classes names every class: there is nothing left to keep.")
        count = len(self.images.classes)
        rows = embedded_classes(self.module(0)) if self.origin is None else rows_of(self.origin)
        if rows is not None and rows not in (count, count + 1):
            raise DataError(
                f"the model is conditioned on {rows} classes (“no class” included), the data have {count}. Name the "
                "data's classes as the model's, or by the model's numbers."
            )
        if self.recipe.judge.checkpoint is not None:
            given_judge(self.recipe, self.images, self.engine)
        sampler = self.recipe.generation.sampler
        sampler.visited(self.task.timesteps)
        if sampler.is_guided and (not self.recipe.diffusion.drop or rows == count):
            raise SettingError(
                "generation.sampler.guidance_scale needs a model with a class that stands for “no class”, which was trained "
                "with diffusion.drop > 0. Set guidance_scale to 1."
            )

    def forgotten(self, split: Split) -> list[int]:
        """The numbers of the classes that are forgotten whole."""
        asked, kept = self.images.labels[split.asked].unique(), self.images.labels[split.retain].unique()
        return asked[~torch.isin(asked, kept)].tolist()

    # Measures.

    def measured(self) -> Any:
        """How samples are made, and by what they are judged."""
        return [asdict(self.recipe.generation), asdict(self.recipe.judge)]

    def measure(
        self,
        models: Mapping[str, nn.Module],
        split: Split,
        sets: Mapping[str, Stream],
        references: Sequence[str],
        make: Make,
        samples: int | None = None,
    ) -> dict[str, Any]:
        """What a classifier sees in samples of every class, the same noise in each model; see `Kind.measure`."""
        judge, known = self.judge(split, make)
        forgotten, real, chosen = self.forgotten(split), self._real(split), self.recipe.generation
        features = judge if samples or chosen.features == JUDGE else self._inception()
        if samples:
            samples = max(samples, fewest(judge, real))
        seen = features.look(real, chosen.batch_size)
        found = evaluate_generators(
            models,
            lambda module, label: self.samples(module, samples or chosen.samples, label, own=samples is None),
            real=seen,
            forgotten=forgotten,
            classes=self.images.classes,
            judge=judge,
            features=features,
            batch_size=chosen.batch_size,
            setting="generation.samples",
            **({} if samples else {"look": partial(self._write_grid, "grids")}),
        )
        reason = next(iter(found.values())).missing.get("FD")
        if samples and reason:
            raise DataError(f"a search judges a generator's distance to real images, too: {reason}.")
        return {
            "models": {name: evaluation.to_dict() for name, evaluation in found.items()},
            "noise_floor": None,
            "forgotten": [self.images.classes[c] for c in forgotten],
            "judge": known,
            "features": features.name,
            "sampler": asdict(chosen.sampler),
            "real": halves(real=seen, forgotten=forgotten, seed=self.recipe.seed),
        }

    def samples(self, module: nn.Module, count: int, label: str | None, *, own: bool = True) -> tuple[Tensor, Tensor]:
        """So many images of each class of the data, uint8 [N, C, H, W], and their classes, [N], on the CPU.

        `own`: of the noise that a run's images are made of; else of other noise.
        """
        chosen = self.recipe.generation
        return samples_of(
            module,
            self.task,
            self.engine,
            self.images.labels.unique().tolist(),
            count,
            shape=self.shape,
            sampler=chosen.sampler,
            seed=self.recipe.seed if own else seed_of(self.recipe.seed, "other noise"),
            batch_size=chosen.batch_size,
            decode=self.decode,
            label=label,
        )

    def _real(self, split: Split) -> Real:
        """The retained training images."""
        parts = [self.images.batch(rows) for rows in split.retain.split(1024)]
        images = torch.cat([to_uint8(part["input"].cpu()) for part in parts])
        return Real(images, self.images.labels[split.retain])

    def _inception(self) -> Features:
        wanted = self.recipe.generation.features
        return inception_features(None if wanted == "inception" else wanted)

    def judge(self, split: Split, make: Make) -> tuple[Features, dict[str, Any]]:
        """The classifier that judges samples: the recipe's own, or trained here on all training images."""
        rows = torch.cat([split.asked, split.retain]).sort().values
        return judge_of(self.recipe, self.engine, self.images, Subset(self.images, rows), self.test, make)

    # Pictures and folders.

    def every(self, method: Method) -> int:
        """Grids are made less often in training, which takes longer."""
        return self.recipe.generation.train_every if isinstance(method, Retrain) else self.recipe.evaluate_every

    def watch(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """A grid of samples; what was measured is for later."""
        if name != JUDGE:
            self._write_grid(
                "snapshots", f"{name}-{step:06}", *self.samples(module, self.recipe.generation.columns, None)
            )
        return {}

    def _write_grid(self, folder: str, name: str, images: Tensor, labels: Tensor) -> None:
        """A picture of the first images of each class."""
        if self.engine.is_main:
            classes, columns = labels.unique().tolist(), self.recipe.generation.columns
            rows = torch.stack([images[labels == c][:columns] for c in classes])
            write_grid(self.recipe.folder / folder, name, [self.images.classes[c] for c in classes], rows)

    def keep(self, name: str, module: nn.Module) -> None:
        """A folder that diffusers loads, with the parts of the checkpoint's pipeline where there is one."""
        if self.engine.is_main:
            save_diffusers(self.origin or module, module, self.recipe.folder / name)


def fewest(judge: Features, real: Real) -> int:
    """Images of each class that the Fréchet distance in a judge's features needs at least, over all retained ones."""
    features = judge.look(Real(real.images[:1], real.labels[:1])).pooled.shape[1]
    return features // len(real.labels.unique()) + 1


def check_libraries() -> None:
    """What a run needs, before it begins: it would be a pity to miss it at the evaluation.

    Raises:
        SettingError: names what is missing.
    """
    missing = [name for name in ("diffusers", "torchmetrics") if not _importable(name)]
    if missing:
        raise SettingError(f"generators need {' and '.join(missing)}: pip install 'untrain[diffusion]'.")


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # taken out of reach in this process
        return False


def names_of(origin: str, source: Source) -> tuple[str, ...] | None:
    """What a saved model's classes are called, by number; None where it does not tell and all are in the source.

    Where it names none, and the source's classes are called by some of its numbers, these are the names.
    """
    found, rows = labels_of(origin), rows_of(origin)
    if found is not None or rows is None or len(source.classes) >= rows - 1:
        return found
    if all(name.isdecimal() and int(name) < rows - 1 for name in source.classes):
        return tuple(str(number) for number in range(rows - 1))
    return None


def rows_of(origin: str) -> int | None:
    """Rows of a saved model's embedding of classes, "no class" included, as its configuration tells; None: it does not.

    Raises:
        ModelError: if the model is conditioned on no class.
    """
    folder = local_folder(origin)
    path = next((p for inner in ("", "transformer", "unet") if (p := folder / inner / "config.json").is_file()), None)
    config = {} if path is None else read_object(path)
    if config.get("_class_name") == "UNet2DModel":
        rows = config.get("num_class_embeds")
        if rows is None:
            raise ModelError(
                f"{path} is of a model without classes (num_class_embeds is null), and what it should forget is a "
                "class. Give a class-conditional model."
            )
        return int(rows)
    classes = config.get("num_embeds_ada_norm")  # of a DiT
    return None if classes is None else int(classes) + 1


def numbered_as(source: Source, names: Sequence[str] | None) -> Source:
    """A source whose classes have the numbers that a model gives to them.

    Args:
        source: its classes are named as the model's, or by the model's numbers ("207").
        names: of the model's classes; each may list synonyms with commas between. None: unknown, so the source's own
            numbers hold.

    Raises:
        DataError: if the model has no such class.
    """
    if names is None or list(source.classes) == list(names):
        return source
    numbers = [
        number if list(names[number : number + 1]) == [name] else class_number(names, name)  # two can share a name
        for number, name in enumerate(source.classes)
    ]
    return Relabelled(source, numbers, names)


def class_number(names: Sequence[str], word: str) -> int:
    """A class by its name, by one of its synonyms, or by its number.

    Raises:
        UnknownName: if there is no such class.
    """
    if word.isdecimal() and word not in names and int(word) < len(names):
        return int(word)
    return class_named(names, word)
