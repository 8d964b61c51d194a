"""Image generators conditioned on a class: how they are found, judged, sampled and handed over."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from untrain.data.classes import class_number
from untrain.data.request import input_statistics, load_data
from untrain.data.source import Source
from untrain.data.sources import SOURCES
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.diffusion.architectures import SUPPORTED
from untrain.diffusion.denoisers import (
    build_denoiser,
    denoiser_of,
    fresh_denoiser,
    from_dit,
    is_dit_layout,
    is_of_diffusers,
    load_weights,
)
from untrain.diffusion.features import Features, Real, classifier_features, inception_features
from untrain.diffusion.folders import INDEX
from untrain.diffusion.grids import write_grid
from untrain.diffusion.images import Decode, ImageMaker, to_uint8
from untrain.diffusion.judges import JUDGE, is_given, judge_features, judge_training, read_judge
from untrain.diffusion.latents import Latents, decode, encode, encode_data, latent_shape, load_vae
from untrain.diffusion.measuring import sample_once, sampling_passes
from untrain.diffusion.paths import Flow
from untrain.diffusion.pipelines import (
    check_draws_classes,
    check_libraries,
    diffusion_of,
    save_diffusers,
    save_schedule,
    with_denoiser,
)
from untrain.diffusion.quality import GenerationEvaluation, evaluate_generators, halves
from untrain.diffusion.search import SampleObjective
from untrain.domain import (
    AuditNumber,
    Division,
    Domain,
    EvaluationSettings,
    Inquiry,
    Measurement,
    SearchObjective,
    Told,
    Training,
    UserModel,
    check_module,
)
from untrain.engine import Engine, generator_of, on_device, seed_of
from untrain.errors import DataError, SettingError
from untrain.methods.base import Method
from untrain.methods.retrain import Retrain
from untrain.models import checkpoints
from untrain.models.checkpoints import bytes_of
from untrain.models.pretrained import read_object
from untrain.models.recognition import Recognition
from untrain.sampling import Sampler
from untrain.settings import join_arguments
from untrain.tasks.class_diffusion.audit import (
    Attacker,
    AttackSets,
    ClassAuditOptions,
    attack_needs,
    generator_numbers,
)
from untrain.tasks.class_diffusion.classes import class_names, class_rows, renumber
from untrain.tasks.class_diffusion.embeddings import embedded_classes
from untrain.tasks.class_diffusion.making import image_maker, prepare_generator
from untrain.tasks.class_diffusion.pictures import draw_attacks
from untrain.tasks.class_diffusion.presentation import ClassDiffusionPresentation
from untrain.tasks.class_diffusion.sample import sample_classes
from untrain.tasks.class_diffusion.sections import ClassDiffusionSections
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.types import Batch, Task


@dataclass(frozen=True)
class EvaluateOptions:
    """What `untrain.evaluate` takes for a generator of classes besides what it takes for every model."""

    judge: nn.Module | None = None
    """A classifier of images in [−1, 1], which says what samples show."""
    samples: int = 250
    """Images of each class."""
    sampler: Sampler = Sampler()
    """How they are made."""


class GeneratorModel(UserModel):
    """A noise predictor, or a pipeline of diffusers with its schedule and VAE."""

    def __init__(self, model: Any, task: Task, *, named: bool = False) -> None:
        self.vae = None if isinstance(model, nn.Module) else getattr(model, "components", {}).get("vae")
        if not isinstance(model, nn.Module) and hasattr(model, "components"):
            known = diffusion_of(model) if named else {}
            task = replace(cast(ClassDiffusion, task), clip_samples=self.vae is None, **known)
        super().__init__(model, task)

    def trained_module(self) -> nn.Module:
        """Returns the noise predictor.

        Raises:
            ModelError: if the pipeline draws no classes.
        """
        module: Any = self.model
        if not isinstance(module, nn.Module) and hasattr(module, "components"):
            check_draws_classes(module)
            module = denoiser_of(module)
        return check_module(module)

    def init(self) -> Callable[[], nn.Module] | None:
        """Returns what builds the same architecture with new weights, where its configuration tells how."""
        return partial(fresh_denoiser, self.module) if is_of_diffusers(self.module) else None

    @contextmanager
    def sets(
        self, given: Mapping[str, Any], engine: Engine, folder: Path | None, seed: int, options: Any = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the sets as latents, each computed once, where there is a VAE."""
        task = cast(ClassDiffusion, self.task)
        if self.vae is None:
            yield dict(given)
            return
        yield {
            name: encode_data(self.vae, data, engine, mirrored=task.flip, names=task.names, name=name)
            for name, data in given.items()
        }

    def save(self, folder: Path, module: nn.Module) -> bool:
        """Writes a folder that diffusers loads, where the module is one of its kind; returns whether it is."""
        if not hasattr(module, "save_pretrained"):
            return False
        save_diffusers(self.model, module, folder)
        if isinstance(self.model, nn.Module):  # a pipeline has its own
            save_schedule(cast(ClassDiffusion, self.task), folder)
        return True

    def whole(self, module: nn.Module) -> Any:
        """Returns the unlearned module as the user's type."""
        if isinstance(self.model, nn.Module):
            return super().whole(module)
        return self.model if module is self.module else with_denoiser(self.model, module)


class ClassDiffusionDomain(Domain):
    """Class-conditional noise prediction, judged by what a classifier sees in images, and by their distance to real."""

    name = "class-diffusion"
    task_class = ClassDiffusion
    Sections = ClassDiffusionSections
    EvaluateOptions = EvaluateOptions
    AuditOptions = ClassAuditOptions
    audit_twins = 5
    presentation = ClassDiffusionPresentation()
    user_model = GeneratorModel
    holds_out = False
    sections: ClassDiffusionSections
    task: ClassDiffusion

    # The model and its data.

    def load(self) -> tuple[Source, Source]:
        """Loads the recipe's images, under the numbers that the checkpoint's model gives to their classes."""
        check_libraries()
        origin = self.checkpoint
        self.origin = origin if origin is not None and not Path(origin).is_file() else None
        source, test = load_data(
            self.sections.data,
            self.context.data_seed,
            self.context.cache,
            links=self.context.permissions.links,
            after=self.sections.forget.after,
        )
        self.named = None if self.origin is None else class_names(self.origin, source)
        vae = self.sections.model.vae
        self.vae = load_vae(vae or self.origin, required=vae is not None, weights=self.context.weights)
        return renumber(source, self.named), renumber(test, self.named)

    def make_task(self) -> ClassDiffusion:
        """Makes the task of the recipe's diffusion, or of the checkpoint's own."""
        own = self.sections.diffusion
        known = {} if self.origin is None else diffusion_of(self.origin)
        settings = asdict(own) | known | {"flow": self._flow(own.flow, known)}
        return ClassDiffusion(
            num_classes=len(self.source.classes),
            clip_samples=self.vae is None,
            flip=self.sections.augment.flip,
            seed=self.context.seed,
            **settings,
        )

    def _flow(self, own: Flow | None, known: Mapping[str, Any]) -> Flow | None:
        """The recipe's flow, with the shift that the checkpoint's scheduler has; or the checkpoint's."""
        found: Flow | None = known.get("flow")
        if own is None or not known:
            return found or own
        if found is None:
            raise SettingError(f"diffusion.flow: {self.origin} was trained on a schedule of β, and is no flow.")
        if own.shift not in (Flow.shift, found.shift):
            raise SettingError(
                f"diffusion.flow.shift is {own.shift}, but the scheduler of {self.origin} has {found.shift}: leave it "
                "out."
            )
        convention = own.convention if found.convention == Flow.convention else found.convention
        return replace(own, shift=found.shift, convention=convention)

    @cached_property
    def data(self) -> Source:
        """The images, or their latents, each computed once."""
        return self.source if self.vae is None else self._encoded(self.source)

    def few(self) -> Source:
        """Returns two of them: to encode all would take its time."""
        two = self.source.select(torch.arange(min(2, len(self.source))))
        return two if self.vae is None else self._encoded(two)

    def _encoded(self, source: Source) -> Source:
        if not self.context.weights:
            posteriors = torch.zeros(1, 4 if self.sections.augment.flip else 2, *self.shape)
            return Latents(posteriors.expand(len(source), *posteriors.shape[1:]), source.labels, source.classes)
        return encode(self.vae, source, self.context.engine, mirrored=self.sections.augment.flip)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the model makes: an image or a latent."""
        shape = self.source.shape
        return tuple(shape) if self.vae is None else latent_shape(self.vae, shape)

    @property
    def decode(self) -> Decode | None:
        """Makes images of latents; None where images are made at once."""
        return None if self.vae is None else partial(decode, self.vae.to(self.context.engine.device))

    def build(self, seed: int) -> nn.Module:
        """Builds the recipe's noise predictor."""
        chosen = self.sections.model
        name = chosen.name or ("unet-small" if self.origin is None else f"diffusers:{self.origin}")
        rows = None if self.origin is None else class_rows(self.origin)
        classes = len(self.source.classes) if rows is None else rows - 1  # where none stands for “no class”, one fewer
        sizes = {"num_classes": classes, "in_channels": self.shape[0], "image_size": self.shape[1]}
        arguments = join_arguments({"name": name, **sizes, "seed": seed}, chosen.options)
        return build_denoiser(**arguments).to(self.context.engine.device)

    def read(self, module: nn.Module, path: str) -> dict[str, Any]:
        """Reads a folder or hub id of diffusers, or a file of weights, the original DiT's included."""
        if self.origin is None:
            return super().read(module, path)
        load_weights(module, path)
        return {}

    def renamed(self, state: checkpoints.State, module: nn.Module) -> checkpoints.State:
        """Returns the original DiT's weights under the names of diffusers."""
        return from_dit(state, module) if is_dit_layout(state) else state

    def save(self, name: str, module: nn.Module) -> bool:
        """Writes a folder that diffusers loads, with the parts of the checkpoint's pipeline where there is one.

        Of a module of the user's own, the weights are all that is kept.
        """
        if not self.context.engine.is_main or not hasattr(module, "save_pretrained"):
            return False
        links = self.context.permissions.links
        save_diffusers(self.origin or module, module, self.context.folder / name, links=links)
        if self.origin is None and self.task.flow is not None:  # else it would be taken for a schedule of β
            save_schedule(self.task, self.context.folder / name)
        return True

    # What is asked of the recipe.

    def numbered(self, classes: Sequence[str | int]) -> list[str | int]:
        """One of a class's synonyms is enough, where the model's pipeline names its classes."""
        if self.named is None:
            return list(classes)
        return [class_number(self.named, str(each)) for each in classes]

    def check(self, division: Division) -> None:
        """Whole classes are forgotten, the model knows as many as the data, and the judge is there."""
        if not self.forgotten(division):
            raise SettingError(
                "a generator is judged by the classes that it forgets, and this recipe forgets none whole: give "
                "forget.classes."
            )
        if len(self.forgotten(division)) == len(self.source.labels.unique()):
            raise SettingError("forget.classes names every class: there is nothing left to keep.")
        count = len(self.source.classes)
        rows = embedded_classes(self.build(0)) if self.origin is None else class_rows(self.origin)
        if rows is not None and rows not in (count, count + 1):
            raise DataError(
                f"the model is conditioned on {rows} classes (“no class” included), the data have {count}. Name the "
                "data's classes as the model's, or by the model's numbers."
            )
        if is_given(self.sections.judge):
            self._given_judge()
        sampler = self.sections.generation.sampler
        self.task.visited(sampler)
        if sampler.is_guided and (not self.sections.diffusion.drop or rows == count):
            raise SettingError(
                "generation.sampler.guidance_scale needs a model with a class that stands for “no class”, which was "
                "trained with diffusion.drop > 0. Set guidance_scale to 1."
            )

    def forgotten(self, division: Division) -> list[int]:
        """Returns the numbers of the classes that are forgotten whole."""
        asked, kept = (self.source.labels[part].unique() for part in (division.split.asked, division.split.retain))
        return asked[~torch.isin(asked, kept)].tolist()

    # Measures.

    @property
    def recognition(self) -> Recognition:
        """How the judge's inputs are normalised."""
        return Recognition(
            len(self.source.classes), **input_statistics(self.sections.data, self.source, self.sections.forget.after)
        )

    def input_statistics(self) -> Mapping[str, Any]:
        """Returns what the judge's inputs are normalised by, which later requests go on with."""
        return input_statistics(self.sections.data, self.source, self.sections.forget.after)

    def measure_request(self, module: nn.Module, samples: Stream) -> dict[str, float]:
        """Measures nothing: what the judge sees in images of each class tells requests apart."""
        return {}

    def _given_judge(self) -> nn.Module:
        return read_judge(self.sections.judge, self.source.classes, self.source.shape, self.context.engine)

    def trainings(self, division: Division) -> Mapping[str, Training]:
        """Says how the judge is trained, on all training images, unless it has its weights already."""
        section = self.sections.judge
        if is_given(section):
            return {}
        rows = torch.cat([division.split.asked, division.split.retain]).sort().values
        train = Subset(self.source, rows)
        return {JUDGE: judge_training(section, self.recognition, self.source, train, self.context)}

    def judge(self, trained: Mapping[str, nn.Module]) -> tuple[Features, dict[str, Any]]:
        """Returns the classifier that judges samples, and what is known of it."""
        module = trained[JUDGE] if JUDGE in trained else self._given_judge()
        return judge_features(self.sections.judge, module, self.recognition, self.test, self.context.engine)

    def measure(
        self,
        models: Mapping[str, nn.Module],
        division: Division,
        sets: Mapping[str, Stream],
        *,
        references: Sequence[str] = (),
        trained: Mapping[str, nn.Module] | None = None,
        samples: int | None = None,
    ) -> Measurement:
        """Measures what a classifier sees in samples of every class, the same noise in each model.

        Args:
            models: see `Domain.measure`, and so for division, sets, references and trained.
            samples: for a search: judge by so many images of each class, made of other noise than a run's are, and keep
                none; None: as the recipe says.
        """
        judge, known = self.judge(trained or {})
        forgotten, real, chosen = self.forgotten(division), self._real(division), self.sections.generation
        features = judge if samples or chosen.features == JUDGE else self._inception()
        if samples:
            samples = max(samples, fewest_images(judge, real))
        seen = features.look(real, chosen.batch_size)
        own = self.context.seed
        maker = self.maker(seed_of(own, "other noise") if samples else own)
        classes = self.source.labels.unique().tolist()
        found = evaluate_generators(
            models,
            lambda module, label: maker.collect(module, classes, samples or chosen.samples, label),
            real=seen,
            forgotten=forgotten,
            classes=self.source.classes,
            judge=judge,
            features=features,
            batch_size=chosen.batch_size,
            setting="generation.samples",
            **({} if samples else {"look": partial(self._write_grid, "grids")}),
        )
        reason = next(iter(found.values())).missing.get("FD")
        if samples and reason:
            raise DataError(f"a search judges a generator's distance to real images, too: {reason}.")
        facts = {
            "forgotten": [self.source.classes[c] for c in forgotten],
            "judge": known,
            "features": features.name,
            "sampler": asdict(chosen.sampler),
            "real": halves(real=seen, forgotten=forgotten, seed=self.context.seed),
        }
        return Measurement({name: evaluation.to_dict() for name, evaluation in found.items()}, None, facts)

    def images_to_make(self, models: int) -> int:
        """Counts samples of every class."""
        return models * len(self.source.classes) * self.sections.generation.samples

    def passes_to_measure(self, models: int, division: Division) -> int:
        """Counts steps of sampling: each is a pass of a batch, where it is guided with and without its classes."""
        return sampling_passes(self.images_to_make(models), self.sections.generation)

    def try_measuring(self, module: nn.Module, task: Task, draw: Callable[[int], Batch]) -> None:
        """Takes one step of sampling a batch, and decodes it where there is a VAE."""
        found = sample_once(cast(ClassDiffusion, task), module, draw, self.sections.generation)
        if self.vae is not None:
            decode(self.vae, found)

    def saved_bytes(self, module: nn.Module) -> int:
        """Counts a folder that diffusers loads, with the parts of the checkpoint's pipeline."""
        beside = 0 if self.vae is None or self.origin is None else bytes_of(self.vae)
        return bytes_of(module) + beside if hasattr(module, "save_pretrained") else 0

    def maker(self, seed: int | None = None) -> ImageMaker:
        """Returns what makes the run's images, of a seed's noise; None: of the run's own."""
        chosen = self.sections.generation
        return image_maker(
            self.task,
            self.shape,
            chosen.sampler,
            self.context.engine,
            seed=self.context.seed if seed is None else seed,
            batch_size=chosen.batch_size,
            decode=self.decode,
        )

    def _real(self, division: Division) -> Real:
        """The retained training images."""
        retain = division.split.retain
        parts = [self.source.batch(rows) for rows in retain.split(1024)]
        images = torch.cat([to_uint8(part["input"].cpu()) for part in parts])
        return Real(images, self.source.labels[retain])

    def _inception(self) -> Features:
        wanted = self.sections.generation.features
        return inception_features(None if wanted == "inception" else wanted)

    def evaluation_facts(self) -> Any:
        """Returns how samples are made, and by what they are judged."""
        return [asdict(self.sections.generation), asdict(self.sections.judge)]

    def objectives(self, division: Division, own: float, trained: Mapping[str, nn.Module]) -> Sequence[SearchObjective]:
        """A generator is judged by what it should do: forget the class, and keep the others."""
        return [SampleObjective(division, self, trained)]

    # An audit.

    @classmethod
    def audit_designs(cls, sections: ClassDiffusionSections) -> tuple[str, ...]:
        """References: a generator forgets whole classes, so there are no coins."""
        return ("refs",)

    def audit_needs(self, options: ClassAuditOptions) -> list[str]:
        """Says how many steps and images the attacks on a model are, and what memory they take."""
        weights = sum(p.numel() * p.element_size() for p in self.build(0).parameters())
        return attack_needs(options, self.sections.generation.samples, weights)

    def ask_whole(self, module: nn.Module, inquiry: Inquiry) -> Told:
        """Asks a generator by every attack; see `untrain.tasks.class_diffusion.audit`."""
        options, seed = inquiry.options, inquiry.seed
        lr = None if inquiry.rate is None else 10 * inquiry.rate * options.relearning_lr
        sets, draw = self._attack_sets(inquiry.division, options, seed, lr), self.maker(seed).collect
        judge, _ = self.judge(inquiry.trained)
        attacker = Attacker(self.task, sets, self.context.engine, options, draw, judge, seed)
        return attacker.ask(module, self.sections.generation.samples)

    def _attack_sets(self, division: Division, options: ClassAuditOptions, seed: int, rate: float | None) -> AttackSets:
        """What every model's attacks are given."""
        engine, forgotten, retain = self.context.engine, self.forgotten(division), division.split.retain
        labels = self.source.labels

        def stream(name: str, data: Any, size: int = options.batch_size) -> Stream:
            return Stream(data, f"audit {name}", engine, size, seed, self.context.workers)

        def some(name: str, rows: Tensor, count: int) -> Tensor:
            order = torch.randperm(len(rows), generator=generator_of(seed, "audit", name))
            return rows[order[:count].sort().values]

        asked = division.split.asked
        of_class = {c: asked[labels[asked] == c] for c in forgotten}
        given = {c: some(f"class {c}", rows, options.images) for c, rows in of_class.items()}
        shown = torch.cat([*given.values()])
        kept = some("retained", retain, len(shown))
        members = some("members", torch.cat([*of_class.values()]), options.members)
        unseen = self._held_out_at_random(division, forgotten)
        unseen = None if unseen is None else unseen.select(some("unseen", torch.arange(len(unseen)), options.members))
        if unseen is not None and self.vae is not None:
            unseen = self._encoded(unseen)
        size = self.sections.generation.batch_size
        return AttackSets(
            {c: stream(f"class {c}", Subset(self.data, rows)) for c, rows in given.items()},
            stream("forgotten", Subset(self.data, shown)),
            stream("retained", Subset(self.data, kept)),
            None if unseen is None else stream("members", Subset(self.data, members), size),
            None if unseen is None else stream("unseen", unseen, size),
            labels[retain].unique().tolist(),
            rate,
        )

    def _held_out_at_random(self, division: Division, forgotten: Sequence[int]) -> Source | None:
        """Test images of the forgotten classes, where chance alone parted them from the training images."""
        data = self.sections.data
        kind = SOURCES.get(data.name)
        if data.test_fraction is None and (kind is None or not kind.random_test):
            return None
        rows = torch.isin(division.test.labels, torch.tensor(forgotten)).nonzero().flatten()
        return Subset(division.test, rows) if len(rows) else None

    def audit_numbers(
        self,
        original: Sequence[Told],
        unlearned: Sequence[Told],
        retrained: Sequence[Told],
        seed: int,
        *,
        options: Any = None,
    ) -> Mapping[str, AuditNumber]:
        """Makes the numbers of the attacks; see `generator_numbers`."""
        return generator_numbers(original, unlearned, retrained, options, seed)

    def audit_figures(
        self, folder: Path, name: str, original: Sequence[Told], unlearned: Sequence[Told], retrained: Sequence[Told]
    ) -> Mapping[str, Any]:
        """Writes pictures of what the attacks brought back."""
        return draw_attacks(folder, name, original, unlearned, retrained)

    # Pictures.

    def preview_every(self, method: Method) -> int:
        """Grids are made less often in training, which takes longer."""
        trains = isinstance(method, Retrain)
        return self.sections.generation.train_every if trains else self.context.evaluate_every

    def preview(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """Writes a grid of samples; what was measured is for later."""
        if name != JUDGE:
            classes = self.source.labels.unique().tolist()
            made = self.maker().collect(module, classes, self.sections.generation.columns)
            self._write_grid("snapshots", f"{name}-{step:06}", *made)
        return {}

    def _write_grid(self, folder: str, name: str, images: Tensor, labels: Tensor) -> None:
        """A picture of the first images of each class."""
        if self.context.engine.is_main:
            classes, columns = labels.unique().tolist(), self.sections.generation.columns
            rows = torch.stack([images[labels == c][:columns] for c in classes])
            write_grid(self.context.folder / folder, name, [self.source.classes[c] for c in classes], rows)

    # The Python interface and the command line.

    @classmethod
    def evaluate(
        cls,
        model: UserModel,
        sets: Mapping[str, Any],
        references: Sequence[Any],
        engine: Engine,
        how: EvaluationSettings,
    ) -> GenerationEvaluation:
        """Measures what a judge sees in a generator's samples of the sets' classes, and how far these are from real."""
        given, options, judge = cast(GeneratorModel, model), how.options, how.options.judge
        if references:
            raise SettingError("generators are not measured beside others: evaluate the retrained one by itself.")
        if not isinstance(judge, nn.Module):
            raise SettingError(
                "a generator is judged by a classifier: pass judge=, a module that takes images in [−1, 1]."
            )
        images = {name: _images(sets[name], name, engine, model.task) for name in ("forget", "retain")}
        retained = images["retain"].labels.unique()
        forgotten = [c for c in images["forget"].labels.unique().tolist() if c not in retained]
        shape = tuple(images["retain"].images.shape[1:])
        shape = shape if given.vae is None else latent_shape(given.vae, shape)
        module = model.module
        with on_device(engine.device, module, judge):
            task = prepare_generator(cast(ClassDiffusion, model.task), module, shape, retained[:1], engine)
            features = classifier_features(
                judge, lambda x: x.to(engine.device, torch.float32) / 127.5 - 1, type(judge).__name__
            )
            decoder = None if given.vae is None else partial(decode, given.vae)
            drawn: dict[str, Any] = {"seed": how.seed, "batch_size": how.batch_size, "decode": decoder}
            maker = image_maker(task, shape, options.sampler, engine, **drawn)
            found = evaluate_generators(
                {"model": module},
                lambda module, label: maker.collect(module, [*forgotten, *retained.tolist()], options.samples, label),
                real=features.look(images["retain"], how.batch_size),
                forgotten=forgotten,
                classes=how.classes or [str(c) for c in range(task.num_classes or 0)],
                judge=features,
                features=features,
                batch_size=how.batch_size,
            )
        return found["model"]

    sampler = staticmethod(sample_classes)

    @classmethod
    def recognises(cls, source: Path) -> bool:
        """Returns whether diffusers saved a noise predictor or a pipeline of classes there."""
        index = source / INDEX
        if os.path.isfile(index):
            return read_object(index).get("_class_name") not in SUPPORTED
        config = source / "config.json"
        return os.path.isfile(config) and "_class_name" in read_object(config)  # which transformers does not write


def _images(data: Any, name: str, engine: Engine, task: Task) -> Real:
    """A set's images and labels, as bytes, on the CPU."""
    batches = list(Stream(data, name, engine).once(task, "evaluate"))
    images, labels = (torch.cat([batch[key].cpu() for batch in batches]) for key in ("input", "label"))
    return Real(to_uint8(images), labels)


def fewest_images(judge: Features, real: Real) -> int:
    """Images of each class that the Fréchet distance in a judge's features needs at least, over all retained ones."""
    features = judge.look(Real(real.images[:1], real.labels[:1])).pooled.shape[1]
    return features // len(real.labels.unique()) + 1
