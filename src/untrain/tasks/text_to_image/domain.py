"""Text-to-image pipelines: how they are found, judged, sampled and handed over."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from untrain.data.captions import read_attributes
from untrain.data.decoding import IMAGE_SUFFIXES
from untrain.data.encoded import FileRows
from untrain.data.request import input_statistics, load_data
from untrain.data.samples import Images
from untrain.data.source import Source
from untrain.data.splits import Split, Subset
from untrain.data.streams import Stream
from untrain.diffusion.architectures import ARCHITECTURES, SUPPORTED
from untrain.diffusion.denoisers import denoiser_of, fresh_denoiser, is_of_diffusers
from untrain.diffusion.empty_pipelines import config_folder, empty_pipeline
from untrain.diffusion.features import Features, inception_features
from untrain.diffusion.folders import INDEX
from untrain.diffusion.grids import miniature, write_grid
from untrain.diffusion.judges import is_given, judge_features, judge_training
from untrain.diffusion.latents import Latents, decode
from untrain.diffusion.measuring import sample_once, sampling_passes
from untrain.diffusion.pipelines import check_libraries, hush, load_pipeline, save_diffusers, with_denoiser
from untrain.diffusion.search import SampleObjective
from untrain.diffusion.single_file import ENDINGS, save_single_file
from untrain.diffusion.text import (
    Prompts,
    architecture_of,
    check_pipeline,
    encode_prompts,
    own_size,
    text_encoders,
)
from untrain.domain import (
    AttackNumber,
    Attempt,
    Division,
    Domain,
    EvaluationSettings,
    Measurement,
    SearchObjective,
    Told,
    Training,
    UserModel,
    check_module,
)
from untrain.engine import Engine, on_device, seed_of, set_aside
from untrain.errors import DataError, ModelError, SettingError, spell
from untrain.io import write_text
from untrain.models.adapters import count_parameters
from untrain.models.card import CARD, licence_of
from untrain.models.checkpoints import bytes_of
from untrain.models.parts import trained as training
from untrain.models.pretrained import read_object
from untrain.models.recognition import Recognition
from untrain.reading import LeftOut, expand, find_files, printable
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.attack_kit import AttackKit, attack_numbers, memory_lines, not_tried
from untrain.tasks.text_to_image.attack_options import WITHOUT_WORDS, AttackBudget, AttackOptions, budget_of
from untrain.tasks.text_to_image.card import Card, model_card
from untrain.tasks.text_to_image.concepts import (
    CACHE,
    Concept,
    ConceptSet,
    concept_data,
    concept_lists,
    latent_shape_of,
    remove,
    text_task,
    until_done,
)
from untrain.tasks.text_to_image.conditions import check_templates, text_sets
from untrain.tasks.text_to_image.detectors import Classifier, Clip, Detector, labelled_judge, load_clip
from untrain.tasks.text_to_image.eval_prompts import (
    FORGET,
    RETAIN,
    Captioned,
    choose_primary,
    is_captioned,
    make_concepts,
    make_eval_prompts,
    prompt_facts,
)
from untrain.tasks.text_to_image.evaluate import ConceptEvaluation, features_of, write_best_labels, write_detections
from untrain.tasks.text_to_image.from_prompts import Way, work_from_prompts
from untrain.tasks.text_to_image.nudity import nudenet
from untrain.tasks.text_to_image.presentation import TextToImagePresentation
from untrain.tasks.text_to_image.rendering import (
    JUDGE,
    EvalPrompt,
    PromptRenderer,
    RenderedImages,
    choose_pictured,
    evaluate_prompted,
)
from untrain.tasks.text_to_image.same_prompts import check_asked, check_concepts
from untrain.tasks.text_to_image.sample import sample_table
from untrain.tasks.text_to_image.sections import ConceptImages, TextToImageSections
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Batch, Task

KEPT = "concepts"
"""Folder of images and latents of concepts, where the recipe keeps them."""


@dataclass(frozen=True)
class UnlearnOptions:
    """What `untrain.unlearn` takes for a text-to-image pipeline besides what it takes for every model."""

    images: ConceptImages | None = None
    """How images are made of concepts that come without; they are removed in the end."""
    templates: Sequence[str] = ()
    """Texts with {} in them that a forgotten prompt and its anchor are put into, for methods that look at no image;
    empty: each as it is."""

    def __post_init__(self) -> None:
        """Checks the templates."""
        check_templates(self.templates)


@dataclass(frozen=True)
class EvaluateOptions:
    """What `untrain.evaluate` takes for a text-to-image pipeline besides what it takes for every model."""

    judge: Any = None  # looked at where it is used: the message says where detectors come from
    """`untrain.nudenet()` or `untrain.image_classifier(module, labels)`."""
    samples: int = 250
    """Images of each prompt."""
    sampler: Sampler = Sampler(50, guidance_scale=7.5)
    """How they are made."""
    clip: str | None = None
    """Folder or hub id of the CLIP model that scores images of retained prompts."""


class PipelineModel(UserModel):
    """A pipeline of diffusers, of which the UNet or transformer is trained; or that alone, with latents as data."""

    @property
    def is_whole(self) -> bool:
        """Whether the user gave the whole pipeline, so that concepts can be asked for."""
        return not isinstance(self.model, nn.Module)

    def __init__(self, model: Any, task: Task, *, named: bool = False) -> None:
        super().__init__(model, task)
        self.vae = model.components.get("vae") if self.is_whole else None
        if self.is_whole:
            self.task = self._sized_task(None)
            self.pipeline_part = self.task.kind.part

    def _sized_task(self, image_size: int | None) -> TextToImage:
        """The pipeline's task for images of a size, with what the user set."""
        own = {key: getattr(self.task, key) for key in ("draws", "drop", "reduction", "names")}
        return text_task(self.model, image_size=image_size, **own)

    def trained_module(self) -> nn.Module:
        """Returns the UNet or transformer.

        Raises:
            ModelError: if it is not that of a supported pipeline.
        """
        network: Any = self.model
        if not isinstance(network, nn.Module) and hasattr(network, "components"):
            check_pipeline(network)
            network = denoiser_of(network)
        return check_module(network)

    def init(self) -> Callable[[], nn.Module] | None:
        """Returns what builds the same architecture with new weights."""
        return partial(fresh_denoiser, self.module) if is_of_diffusers(self.module) else None

    @contextmanager
    def sets(
        self, given: Mapping[str, Any], engine: Engine, folder: Path | None, seed: int, options: Any = None
    ) -> Iterator[dict[str, Any]]:
        """Yields concepts as latents and embedded prompts; images and latents are removed at a good end."""
        images = None if options is None else options.images
        if not self.is_whole:
            for name, data in given.items():
                if isinstance(data, Concept) or (
                    isinstance(data, Sequence) and any(isinstance(d, Concept) for d in data)
                ):
                    raise DataError(f"the {name} set is concepts: these need a whole pipeline.")
            if images is not None:
                raise SettingError("images= says how a whole pipeline makes images of concepts: leave it out.")
            yield dict(given)
            return
        _check_no_holdout(given)
        with until_done(None if folder is None else folder / CACHE, engine) as place:
            how = images or ConceptImages()
            self.task = task = self._sized_task(how.image_size)
            if how.from_prompts is not None:
                self.task = work_from_prompts(task, Way(how.from_prompts, engine, seed))
            check_concepts(self.model, concept_lists(given))
            data, rows = concept_data(self.model, given, engine, place, task=task, how=how, seed=seed)
            yield {name: Subset(data, positions) for name, positions in rows.items()}

    def condition_sets(self, given: Mapping[str, Any], options: Any = None) -> Mapping[str, Any] | None:
        """Returns the concepts as embedded prompts alone."""
        if not self.is_whole:
            return None
        _check_no_holdout(given)
        options, lists = options or UnlearnOptions(), concept_lists(given)
        check_concepts(self.model, lists)
        size = (options.images or ConceptImages()).image_size or own_size(self.model)
        self.task = self._sized_task(size)
        return text_sets(self.model, lists, options.templates, latent_shape_of(self.model, size), size)

    def aside(self) -> AbstractContextManager[None]:
        """Text encoders and VAE are off the accelerator: texts are encoded by then, and latents bring the VAE there."""
        return set_aside(*text_encoders(self.model), self.model.vae) if self.is_whole else nullcontext()

    def batch_size(self, sets: Mapping[str, Any]) -> int:
        """Returns the published 2 for 64 × 64 latents, and more for smaller ones."""
        if not self.is_whole:
            return super().batch_size(sets)
        _, height, width = sets["forget"].shape
        return max(2, min(32, 2 * 64 * 64 // (height * width)))

    def save(self, folder: Path, module: nn.Module) -> bool:
        """Writes the pipeline with the unlearned network, as diffusers loads it; returns whether it did."""
        if self.is_whole:
            save_diffusers(self.model, module, folder)
        return self.is_whole

    def whole(self, module: nn.Module) -> Any:
        """Returns the pipeline with the unlearned network."""
        if not self.is_whole:
            return module
        return self.model if module is self.module else with_denoiser(self.model, module)


def _check_no_holdout(given: Mapping[str, Any]) -> None:
    if "holdout" in given:
        raise SettingError("held-out data tell a classifier how far to forget: leave holdout out for a pipeline.")


class TextToImageDomain(Domain):
    """Text-conditional prediction in latent space, judged by what detectors see in images of prompts."""

    name = "text-to-image"
    task_class = TextToImage
    Sections = TextToImageSections
    UnlearnOptions = UnlearnOptions
    EvaluateOptions = EvaluateOptions
    AuditOptions = AttackOptions
    presentation = TextToImagePresentation()
    user_model = PipelineModel
    references = 0
    reference_name = "original"
    recorded = ("steps", "seconds")
    pipeline_part = "unet"
    holds_out = False
    sections: TextToImageSections
    task: TextToImage
    source: ConceptSet

    # The model and its data.

    def load(self) -> tuple[Source, Source]:
        """Loads the pipeline, and the recipe's concepts as its network sees them; no image is made yet."""
        check_libraries()
        hush()
        sections, engine = self.sections, self.context.engine
        self.captioned = self._captioned()
        self.concepts = make_concepts(sections.concepts, self.captioned)
        self.asked = make_eval_prompts(sections.detection, self.concepts, self.captioned)
        if sections.model.checkpoint is None:
            raise SettingError(
                "model.checkpoint says which pipeline must forget: a folder that diffusers saved, a hub id, or a file."
            )
        self.folder = sections.model.checkpoint
        load = load_pipeline if self.context.weights else empty_pipeline
        self.pipeline = load(self.folder, config=sections.model.config)
        if sections.model.gradient_checkpointing:
            network: Any = denoiser_of(self.pipeline)
            network.enable_gradient_checkpointing()
        size = sections.concepts.images.image_size
        self._task = text_task(self.pipeline, image_size=size, **asdict(sections.diffusion))
        self.pipeline_part = self._task.kind.part
        check_concepts(self.pipeline, self.concepts)
        check_asked(self.pipeline, self.asked)
        how, seed = sections.concepts.images, self.context.seed
        if how.from_prompts is not None:
            way = Way(how.from_prompts, engine, seed, denoiser_of(self.pipeline))  # of which every method gets a copy
            self._task = work_from_prompts(self._task, way)
        data, self.rows = concept_data(
            self.pipeline,
            self.concepts,
            engine,
            self.cache,
            task=self._task,
            how=how,
            seed=seed,
            links=self.context.permissions.links,
        )
        return data, Subset(data, [])

    def _captioned(self) -> Captioned | None:
        section, concepts = self.sections.data, self.sections.concepts
        if not is_captioned(concepts):
            if section is not None:
                raise SettingError("data holds captioned images, and no concept is named by containing: leave it out.")
            return None
        if section is None:
            raise SettingError("concepts named by containing are words of captions: say where these are, under data.")
        links = self.context.permissions.links
        train, test = load_data(section, self.context.data_seed, self.context.cache, links=links)
        asked = self.sections.judge.attributes
        return Captioned(train, test, read_attributes(section, train.classes, asked, links=links))

    def make_task(self) -> TextToImage:
        """Makes the task of the pipeline's own schedule."""
        return self._task

    @property
    def title(self) -> str:
        """The data's name, or the pipeline's."""
        return Path(self.folder).name if self.sections.data is None else self.sections.data.title

    @property
    def cache(self) -> Path:
        """Where images and latents of concepts are while the run goes on."""
        return self.context.folder / (KEPT if self.sections.concepts.keep else CACHE)

    def few(self) -> Source:
        """Returns two samples without an image: to make some would take its time."""
        latents = torch.zeros(2, 2, *self.source.shape, dtype=self.pipeline.vae.dtype)
        labels = self.source.labels[:2]
        if len(labels) < 2:
            labels = labels.repeat(2)
        whole = self.source
        made = Latents(latents, labels, whole.classes)
        return ConceptSet(lambda: made, labels, whole.prompts, whole.anchors, whole.shape, "few")

    def build(self, seed: int) -> nn.Module:
        """Builds the pipeline's network with new weights."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return fresh_denoiser(denoiser_of(self.pipeline)).to(self.context.engine.device)

    def original_shape(self) -> nn.Module:
        """Returns the pipeline's own network, which has no values here."""
        return denoiser_of(self.pipeline)

    def original(self) -> tuple[nn.Module, dict[str, Any]]:
        """Returns the pipeline's own network."""
        return denoiser_of(self.pipeline).to(self.context.engine.device), {}

    def save(self, name: str, module: nn.Module) -> bool:
        """Writes a folder that diffusers loads; beside it one file, where the pipeline came as one."""
        if not self.context.engine.is_main:
            return False
        place, single = self.context.folder / name, Path(self.folder).suffix in ENDINGS
        links = self.context.permissions.links
        save_diffusers(self.pipeline if single else self.folder, module, place, links=links)
        if single:
            save_single_file(self.folder, module, place / f"{name}.safetensors")
        return True

    @cached_property
    def texts(self) -> dict[str, Subset]:
        """The concepts as embedded prompts alone."""
        section = self.sections.concepts
        size = section.images.image_size or own_size(self.pipeline)
        how = (section.templates, self.source.shape, size)
        return text_sets(self.pipeline, self.concepts, *how, device=self.context.engine.device)

    def condition_sets(self, division: Division) -> dict[str, Stream]:
        """Returns the concepts' embedded prompts, for methods that look at no image."""
        return {name: self.stream(division, name, data=data) for name, data in self.texts.items()}

    # What is asked of the recipe.

    def divide(self) -> Division:
        """Divides the concepts' images: those of forgotten concepts are forgotten, the others kept."""
        empty = torch.empty(0, dtype=torch.int64)
        spec = {"classes": [concept.prompt for concept in self.concepts[FORGET]]}
        spec |= {"holdout": 0.0, "seed": self.context.seed}  # type: ignore[dict-item]
        forget, retain = (self.rows[name] for name in (FORGET, RETAIN))
        split = Split(forget, retain, empty, "classes", spec, self.source.fingerprint())
        return Division(split, Subset(self.source, empty), self.test)

    def check(self, division: Division) -> None:
        """Detectors, labels and sampler are what the recipe needs; nothing is trained for that."""
        sections = self.sections
        self.task.visited(sections.generation.sampler)
        how = sections.concepts.images
        self.task.visited(how.from_prompts or how.sampler)
        check_templates(sections.concepts.templates)
        primary = self.primary
        if self._is_ready:
            self._ready().check([each.wanted.get(primary) for each in self.asked])
        _ = self.inception, self.photographs  # are read, so that what is not there is missed now
        if self.clip is not None:
            self.clip.check([each.text for each in self.asked if not each.forgotten])
        with training(denoiser_of(self.pipeline), self.context.parts):
            return

    def check_references(self, count: int) -> None:
        """Only a pipeline whose training images are the recipe's data, and looked at, can be retrained."""
        if count and self.sections.concepts.images.from_prompts is not None:
            raise SettingError(
                "references: from prompts alone nothing can be retrained but a copy of the original. Set references "
                "to 0, or leave out concepts.images.from_prompts."
            )
        if count and self.captioned is None:
            raise SettingError(
                "references: a pipeline can be retrained only on the captioned images that it was trained on: give "
                "them as data, with concepts named by containing. Set references to 0."
            )

    @classmethod
    def request_name(cls, sections: Any) -> str:
        """Names the recipe's one forget set."""
        return "concepts"

    # What is asked of models.

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts of the evaluation, embedded; those of a file are cut where they are too long, as is published."""
        own = self.sections.detection
        cut = own.forget_prompts is not None or own.retain_prompts is not None
        texts = [each.text for each in self.asked]
        size = self.sections.concepts.images.image_size or own_size(self.pipeline)
        place = self.context.engine.device
        return encode_prompts(self.pipeline, texts, size, cut=cut, device=place).to(place)

    @cached_property
    def renderer(self) -> PromptRenderer:
        """What renders the prompts."""
        chosen, engine = self.sections.generation, self.context.engine
        vae, how = self.pipeline.vae.to(engine.device), (chosen.sampler, chosen.batch_size)
        return PromptRenderer(self.task, vae, self.prompts, self.source.shape, engine, *how)

    # Measures.

    def evaluation_facts(self) -> Any:
        """Returns how images are made, of which prompts, and by what they are judged."""
        parts = (self.sections.generation, self.sections.judge, self.sections.detection)
        photographs = [] if self.photographs is None else [self.photographs.fingerprint()]
        return [*(asdict(part) for part in parts), prompt_facts(self.asked), *photographs]

    def images_to_make(self, models: int) -> int:
        """Counts images of prompts."""
        return models * len(self.asked) * self.sections.generation.samples

    def passes_to_measure(self, models: int, division: Division) -> int:
        """Counts steps of sampling: each is a pass of a batch, with and without the prompt."""
        return sampling_passes(self.images_to_make(models), self.sections.generation)

    def try_measuring(self, module: nn.Module, task: Task, draw: Callable[[int], Batch]) -> None:
        """Takes one step of sampling a batch, and decodes it."""
        found = sample_once(cast(TextToImage, task), module, draw, self.sections.generation)
        decode(self.pipeline.vae, found)

    def saved_bytes(self, module: nn.Module) -> int:
        """Counts the whole pipeline: the network in float32, and the files of all else."""
        parts = (part for name, part in self.pipeline.components.items() if name != self.pipeline_part)
        own = bytes_of(module)
        if Path(self.folder).suffix in ENDINGS:
            return 2 * own + sum(bytes_of(part) for part in parts if isinstance(part, nn.Module))
        files = (path for path in config_folder(self.folder).glob("*/*") if path.parent.name != self.pipeline_part)
        return own + sum(path.stat().st_size for path in files if path.is_file())

    def samples_bytes(self) -> int:
        """Counts latents, mean and deviation of each, and images as large as their pixels."""
        latent = 8 * math.prod(self.source.shape)
        pixels = 3 * math.prod(self.source.shape[1:]) * architecture_of(self.pipeline).latent_factor(self.pipeline) ** 2
        return len(self.source) * latent + self.samples_to_make() * pixels

    def samples_to_make(self) -> int:
        """Counts images of concepts that come without any."""
        concepts = [*self.sections.concepts.forget, *self.sections.concepts.retain]
        if self.sections.concepts.images.from_prompts is not None:
            return 0
        bare = sum(entry.prompt is not None and entry.images is None for entry in concepts)
        return bare * self.sections.concepts.images.count

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
        """Measures what detectors see in images of prompts, the same noise in each model.

        Args:
            models: see `Domain.measure`, and so for division, sets, references and trained.
            samples: for a search: judge by so many images of each prompt, made of other noise than a run's are, and
                keep none; None: as the recipe says.
        """
        detector, judges, known = self._detectors(trained or {})
        chosen = self.sections.generation
        features = None if samples else self._features(detector)  # a search has no use for the distance
        seed = self.context.seed if samples is None else seed_of(self.context.seed, "other noise")

        def render(module: nn.Module, label: str | None) -> RenderedImages:
            count = min(samples or chosen.samples, chosen.samples)
            return self.renderer.render(module, self.asked, count, seed=seed, primary=self.primary, label=label)

        found = evaluate_prompted(
            models,
            self.original()[0],
            render,
            self.asked,
            detector=detector,
            judges=judges,
            features=features,
            photographs=self._seen_photographs(features),
            clip=self.clip,
            setting="generation.samples",
            **({} if samples else {"look": self._keep_images}),
        )
        facts = {
            "classes": [each.text for each in choose_pictured(self.asked)],
            "forgotten": self._forgotten(),
            "detector": known,
            "features": None if features is None else features.name,
            "clip": self.sections.detection.clip,
            "sampler": asdict(chosen.sampler),
            "prompts": {
                "forget": sum(each.forgotten for each in self.asked),
                "retain": sum(not each.forgotten for each in self.asked),
                "images": samples or chosen.samples,
            },
            "trained": self._trained(),
        }
        return Measurement({name: evaluation.to_dict() for name, evaluation in found.items()}, None, facts)

    def _keep_images(self, name: str, images: RenderedImages, found: ConceptEvaluation) -> None:
        """What was seen in every image, and a picture of some."""
        if self.context.engine.is_main:
            write_detections(self.context.folder / "detections" / f"{name}.json", found, *images)
            if self.sections.detection.detector == "judge":
                write_best_labels(self.context.folder / "detections" / f"{name}.csv", found, *images)
            self._write_grid("grids", name, images, found)

    def _forgotten(self) -> list[str]:
        """The forgotten prompts, and the labels that stand for them."""
        gone = [each for each in self.asked if each.forgotten]
        labels = dict.fromkeys(each.wanted[self.primary] for each in gone if self.primary in each.wanted)
        return [*(each.text for each in gone), *labels]

    def _trained(self) -> dict[str, Any]:
        """What of the network the methods train."""
        network, adapters = denoiser_of(self.pipeline), self.context.adapters
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
        if adapters is not None:
            count, layers = count_parameters(network, adapters)
            words = f"LoRA of rank {adapters.rank} on {layers} layers"
            return {"parts": words, "parameters": count, "of": sum(sizes.values())}
        with training(network, self.context.parts) as names:
            parts = self.context.parts or "full"
            return {"parts": parts, "parameters": sum(sizes[name] for name in names), "of": sum(sizes.values())}

    def objectives(self, division: Division, own: float, trained: Mapping[str, nn.Module]) -> Sequence[SearchObjective]:
        """A pipeline is judged by what it should do: forget the concept, and keep the rest."""
        return [SampleObjective(division, self, trained)]

    # An audit.

    @classmethod
    def audit_designs(cls, sections: Any) -> tuple[str, ...]:
        """Names the one design: attacks on the run's own models."""
        return ("attacks",)

    def _budget(self, options: AttackOptions) -> AttackBudget:
        return budget_of(options, min(self.source.shape[1:]), nudity=self._finds_nudity)

    def attacks(self, options: Any) -> Mapping[str, Mapping[str, AttackNumber]]:
        """Returns plain prompts, textual inversion, adversarial prompts and relearning, as far as asked for."""
        return attack_numbers(options, self._budget(options))

    def audit_needs(self, options: Any) -> list[str]:
        """Says how much memory weights take.

        Raises:
            SettingError: if an attack is asked for that writes into CLIP's words, and the pipeline is none of Stable
                Diffusion.
        """
        asked = [name for name in options.attacks if name not in WITHOUT_WORDS]
        if asked and not architecture_of(self.pipeline).new_words:
            known = " and ".join(ARCHITECTURES["stable-diffusion"].pipelines)
            raise SettingError(
                f"{' and '.join(asked)}: attacks that write words of their own are on {known}, and this is a "
                f"{type(self.pipeline).__name__}: ask for the others alone, --audit.attacks "
                f'"[{", ".join(WITHOUT_WORDS)}]".'
            )
        return list(memory_lines(self.pipeline, options))

    def attacks_not_tried(self, options: Any) -> Sequence[str]:
        """Names what is left out, and what there is besides."""
        return not_tried(options)

    def attack(self, name: str, module: nn.Module, attempt: Attempt) -> Told:
        """Makes one attack on a UNet; images that attacks learn from are made once a process, and never kept."""
        return self._attack_kit(attempt).attack(name, module, attempt)

    def _attack_kit(self, attempt: Attempt) -> AttackKit:
        if self._kit is None or (self._kit.options, self._kit.seed) != (attempt.options, attempt.seed):
            chosen, sections = self.sections.generation, self.sections
            self._kit = AttackKit(
                pipeline=self.pipeline,
                unet=self.original()[0],
                task=self.task,
                empty=self.prompts,
                shape=self.source.shape,
                engine=self.context.engine,
                sampler=chosen.sampler,
                batch_size=chosen.batch_size,
                asked=self.asked,
                entries=sections.concepts.forget,
                detector=self._detectors(attempt.trained)[0],
                judge=self.primary,
                blur=sections.detection.blur,
                nudity=self._finds_nudity,
                options=attempt.options,
                seed=attempt.seed,
            )
        return self._kit

    _kit: AttackKit | None = None

    # Detectors.

    @property
    def _finds_nudity(self) -> bool:
        return self.sections.detection.detector == "nudity"

    @cached_property
    def primary(self) -> str:
        """The judge that says whether the concept is there."""
        return JUDGE if self._finds_nudity else choose_primary(self.sections.concepts, self.asked)

    @property
    def _is_ready(self) -> bool:
        """Whether the primary detector need not be trained first."""
        return self._finds_nudity or is_given(self.sections.judge) or self.captioned is None

    def _ready(self) -> Detector:
        if self._finds_nudity:
            return nudenet(self.sections.detection.threshold, self.context.engine)
        return labelled_judge(self.sections.judge, self.context.engine)

    def trainings(self, division: Division) -> Mapping[str, Training]:
        """Says how the judges are trained on captioned images, unless they have their weights already."""
        if self._is_ready or self.captioned is None:
            return {}
        section, context = self.sections.judge, self.context
        return {
            _judge_name(about): judge_training(
                section, self._recognition(train), train, train, context, _judge_name(about)
            )
            for about, (train, _) in self.captioned.judged().items()
        }

    def _recognition(self, images: Source) -> Recognition:
        section = self.sections.data
        if section is None:
            raise SettingError("no judge can be trained without captioned data: give judge.checkpoint.")
        return Recognition(len(images.classes), **input_statistics(section, images))

    def _detectors(self, trained: Mapping[str, nn.Module]) -> tuple[Detector, dict[str, Classifier], dict[str, Any]]:
        """The primary detector, further judges by what they judge, and what is known of the first."""
        accuracies: dict[str, float] = {}
        judges: dict[str, Classifier] = {}
        if self._is_ready or self.captioned is None:
            detector: Detector = self._ready()
        else:
            for about, (train, test) in self.captioned.judged().items():
                module, how = trained[_judge_name(about)], self._recognition(train)
                features, known = judge_features(self.sections.judge, module, how, test, self.context.engine)
                judges[about] = Classifier(features, train.classes)
                accuracies[about] = known["test_accuracy"]
            detector = judges.pop(self.primary)
        known = {"name": detector.name, "kind": detector.kind, "threshold": detector.threshold, "hash": detector.hash}
        return detector, judges, {**known, "test_accuracy": accuracies}

    def _features(self, detector: Detector) -> Features | None:
        """The network of the distance to the original's images."""
        own = detector.features if isinstance(detector, Classifier) else None
        return own if self.sections.generation.features == JUDGE else self.inception

    @cached_property
    def photographs(self) -> Source | None:
        """Real images that the distance is measured to, of the size that the pipeline makes."""
        place = self.sections.detection.real_images
        if place is None:
            return None
        how = self.sections.concepts.images
        folder = expand(place)
        if not os.path.isdir(folder):
            raise DataError(f"detection.real_images: {printable(folder)} is no folder of photographs. Give one.")
        left_out = LeftOut(folder)
        links = self.context.permissions.links
        files = find_files(folder, folder, IMAGE_SUFFIXES, links=links, left_out=left_out)
        left_out.warn()
        if not files:
            raise DataError(f"detection.real_images: {printable(folder)} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        size = how.image_size or own_size(self.pipeline)
        return Images(FileRows(tuple(files)), [0] * len(files), image_size=size, interpolation=how.interpolation)

    def _seen_photographs(self, features: Features | None) -> Tensor | None:
        """What the network of the distance sees in them, [N, D]."""
        if self.photographs is None or features is None:
            return None
        rows = torch.arange(len(self.photographs)).split(64)
        return torch.cat([features_of(self.photographs.batch(part)["input"], features) for part in rows])

    @cached_property
    def inception(self) -> Features | None:
        """Inception-v3, where the distance is measured in it."""
        wanted = self.sections.generation.features
        return None if wanted == JUDGE else inception_features(None if wanted == "inception" else wanted)

    @cached_property
    def clip(self) -> Clip | None:
        """What scores how images fit their prompts."""
        source = self.sections.detection.clip
        return None if source is None else load_clip(source, self.context.engine.device)

    # Pictures and folders.

    def preview(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """Writes a picture of a few prompts; what was measured is for later."""
        if name.split("-")[0] != JUDGE:
            count = self.sections.generation.columns
            images = self.renderer.render(module, choose_pictured(self.asked), count, seed=self.context.seed)
            self._write_grid("snapshots", f"{name}-{step:06}", images, None)
        return {}

    def _write_grid(self, folder: str, name: str, images: RenderedImages, found: ConceptEvaluation | None) -> None:
        """A row for each prompt, blurred where the detector fires; where none looked, all of the forgotten prompts."""
        if not self.context.engine.is_main:
            return
        section = self.sections.detection
        everywhere = section.detector == "nudity"
        fires = [True] * len(images.forget.prompts) if found is None else [s.seen for s in found.forgotten_sightings]
        also = [
            everywhere and (found is None or found.retained_sightings[i].seen)
            for i in range(len(images.retain.prompts))
        ]
        rows: dict[str, list[Tensor]] = {each.text: [] for each in choose_pictured(self.asked)}
        for side, seen in ((images.forget, fires), (images.retain, also)):
            for text, number, image, hidden in zip(side.prompts, side.numbers, side.images, seen, strict=True):
                if text in rows and number < self.sections.generation.columns:
                    rows[text].append(miniature(image, hidden=section.blur and hidden))
        whole = torch.stack([torch.stack(row) for row in rows.values()])
        write_grid(self.context.folder / folder, name, [*rows], whole, blurred=section.blur)

    def on_evaluated(self, evaluation: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the card of every pipeline that a method made."""
        licence = licence_of(self.folder)
        for name in evaluation["models"] if self.context.engine.is_main else ():
            if (self.context.folder / name / INDEX).is_file():  # adapters alone have none
                card = model_card(self._card(name, evaluation, models, licence))
                write_text(self.context.folder / name / CARD, card)

    def _card(
        self,
        name: str,
        evaluation: Mapping[str, Any],
        models: Mapping[str, Mapping[str, Any]],
        licence: Mapping[str, str],
    ) -> Card:
        parts, made = evaluation["trained"], models[name]
        named = parts["parts"]
        return Card(
            forgotten={concept.prompt: concept.anchor for concept in self.concepts[FORGET]},
            retained=[concept.prompt for concept in self.concepts[RETAIN]],
            method=made["method"],
            settings=made["settings"],
            parts=named if isinstance(named, str) else ", ".join(named),
            parameters=parts["parameters"],
            of=parts["of"],
            base=self.folder,
            base_hash=models["original"]["hash"],
            versions={library: version(library) for library in ("untrain", "torch", "diffusers", "transformers")},
            hash=made["hash"],
            seed=self.context.seed,
            evaluation=evaluation,
            entry=name,
            licence=licence,
        )

    def close(self) -> None:
        """Removes the concepts' images and latents."""
        if not self.sections.concepts.keep:
            remove(self.cache, self.context.engine)

    # The Python interface and the command line.

    sampler = staticmethod(sample_table)

    @classmethod
    def recognises(cls, source: Path) -> bool:
        """Returns whether there is a pipeline that makes images of prompts, in a folder or in one file."""
        index = source / INDEX
        if os.path.isfile(index):
            return read_object(index).get("_class_name") in SUPPORTED
        return os.path.isfile(source) and source.suffix in ENDINGS

    @classmethod
    def evaluate(
        cls,
        model: UserModel,
        sets: Mapping[str, Any],
        references: Sequence[Any],
        engine: Engine,
        how: EvaluationSettings,
    ) -> ConceptEvaluation:
        """Measures what a detector sees in a pipeline's images of the concepts' prompts.

        The reference is the original pipeline, from whose images of retained prompts the distance is measured.
        """
        given, options, judge = cast(PipelineModel, model), how.options, how.options.judge
        if not given.is_whole:
            raise ModelError("images of prompts are made by a whole pipeline: pass that, not its network alone.")
        if not isinstance(judge, Detector):
            raise SettingError(
                "a pipeline is judged by a detector: pass judge=untrain.nudenet(), or untrain.image_classifier(module, "
                "labels) with the concepts' label= among these."
            )
        lists = concept_lists({name: sets[name] for name in (FORGET, RETAIN)})
        asked = [EvalPrompt.of_concept(c, forgotten=name == FORGET) for name, each in lists.items() for c in each]
        clip = None if options.clip is None else load_clip(options.clip, engine.device)
        _check_asked(asked, judge, clip)
        check_asked(given.model, asked)
        original = PipelineModel(references[0], TextToImage()).module if references else None
        shape, vae, pipeline = latent_shape_of(given.model), given.vae, given.model
        prompts = encode_prompts(pipeline, [each.text for each in asked], own_size(pipeline)).to(engine.device)
        parts = [part for part in (given.module, original, vae) if part is not None]
        with on_device(engine.device, *parts):
            task = cast(TextToImage, given.task)
            renderer = PromptRenderer(task, vae, prompts, shape, engine, options.sampler, how.batch_size)
            found = evaluate_prompted(
                {"model": given.module},
                original,
                lambda unet, label: renderer.render(unet, asked, options.samples, seed=how.seed, label=label),
                asked,
                detector=judge,
                judges={},
                features=judge.features if isinstance(judge, Classifier) and original is not None else None,
                clip=clip,
            )
        return found["model"]


def _judge_name(about: str) -> str:
    """What a judge is called in the run folder."""
    return JUDGE if about == JUDGE else f"{JUDGE}-{about}"


def _check_asked(asked: Sequence[EvalPrompt], judge: Detector, clip: Clip | None) -> None:
    """Labels and texts must fit before anything is sampled.

    Raises:
        SettingError: if a classifier is not told what to look for. UnknownName: if it has no such label.
        DataError: if a text is too long for CLIP.
    """
    untold = next((each.text for each in asked if each.forgotten and JUDGE not in each.wanted), None)
    if untold is not None and judge.kind == "classifier":
        raise SettingError(
            f"{judge.name} looks for labels: give the concept {untold!r} one that it knows, "
            f"{spell('its field label', 'label=')}."
        )
    judge.check([each.wanted.get(JUDGE) for each in asked])
    if clip is not None:
        clip.check([each.text for each in asked if not each.forgotten])
