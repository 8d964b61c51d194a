"""Text-to-image pipelines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from untrain.data.samples import Arrays, Source
from untrain.data.splits import Split, Subset
from untrain.data.streams import Stream
from untrain.diffusion.denoisers import fresh_denoiser, read_object
from untrain.diffusion.features import Features, inception_features
from untrain.diffusion.grids import miniature, pictured, write_grid
from untrain.diffusion.judges import is_given, judge_of, labelled_judge
from untrain.diffusion.latents import Latents
from untrain.diffusion.pipelines import hush, load_pipeline, save_diffusers
from untrain.diffusion.single_file import ENDINGS, save_single_file
from untrain.diffusion.text import Prompts, encode_prompts, own_size
from untrain.domain import Kind, Load, Make
from untrain.engine import Engine, seed_of
from untrain.errors import SettingError
from untrain.io import ensure_dir, exclusive_lock, write_text
from untrain.models.parts import trained
from untrain.runs.recipe import Augment, Data, Forget, Recipe
from untrain.small_pipeline import RECORD, small_pipeline
from untrain.tasks.class_diffusion.domain import check_libraries
from untrain.tasks.text_to_image.card import CARD, Card, licence_of, model_card
from untrain.tasks.text_to_image.concepts import CACHE, ConceptSet, concept_data, remove, text_task
from untrain.tasks.text_to_image.detectors import Classifier, Clip, Detector, load_clip
from untrain.tasks.text_to_image.eval_prompts import (
    FORGET,
    RETAIN,
    asked_prompts,
    attributes_of,
    concepts_of,
    facts,
    is_captioned,
    primary_of,
)
from untrain.tasks.text_to_image.evaluate import ConceptEvaluation, write_detections
from untrain.tasks.text_to_image.nudity import nudenet
from untrain.tasks.text_to_image.rendering import JUDGE, Made, Studio, evaluate_prompted
from untrain.tasks.text_to_image.task import TextToImage

KEPT = "concepts"
"""Folder of images and latents of concepts, where the recipe keeps them."""


class TextGenerators(Kind):
    """Judged by what detectors see in images of prompts, and by how these differ from the original's."""

    holds_out = False
    task: TextToImage
    images: ConceptSet

    def __init__(self, recipe: Recipe, engine: Engine, captioned: Source | None, test: Source | None) -> None:
        self.captioned, self.captioned_test = captioned, test
        self.concepts = concepts_of(recipe, captioned)
        self.asked = asked_prompts(recipe, self.concepts, captioned)
        self.recipe, self.engine = recipe, engine
        self.folder = self._folder()
        self.pipeline = load_pipeline(self.folder, config=recipe.model.config)
        if recipe.model.gradient_checkpointing:
            self.pipeline.unet.enable_gradient_checkpointing()
        chosen = recipe.diffusion
        self.task = text_task(self.pipeline, drop=chosen.drop, draws=chosen.draws, reduction=chosen.reduction)
        data, _ = concept_data(
            self.pipeline,
            self.concepts,
            engine,
            self.cache,
            task=self.task,
            how=recipe.concepts.images,
            seed=recipe.seed,
        )
        super().__init__(recipe, engine, data, Subset(data, []))

    @classmethod
    def open(cls, recipe: Recipe, engine: Engine, load: Load) -> "TextGenerators":
        """The recipe's pipeline, with the data where concepts are captions of these."""
        check_libraries()
        _check(recipe)
        hush()
        source, test = load() if is_captioned(recipe) else (None, None)
        return cls(recipe, engine, source, test)

    def _folder(self) -> str:
        """The original pipeline's folder, hub id or file; one that is to train is trained now, unless it is there."""
        recipe = self.recipe
        if recipe.model.checkpoint is not None:
            return recipe.model.checkpoint
        if not isinstance(self.captioned, Arrays):
            raise SettingError(
                "model.checkpoint says which pipeline must forget: a folder that diffusers saved, a hub id, or a file. "
                "Only for captioned images, such as data.name: shapes, a small one can be trained here."
            )
        kept = ensure_dir(recipe.folder.parent / "pipelines")
        how = {"seed": recipe.seed, "batch_size": recipe.batch_size}
        if self.engine.num_processes > 1:  # they train it together
            return str(small_pipeline(self.captioned, kept, recipe.frame, recipe.train, self.engine, **how))
        with exclusive_lock(kept, wait=True):  # another run may be training the same one
            return str(small_pipeline(self.captioned, kept, recipe.frame, recipe.train, self.engine, **how))

    @property
    def title(self) -> str:
        """The data's name, or the pipeline's."""
        return self.recipe.data.name if self.captioned is not None else Path(self.folder).name

    @property
    def checkpoint(self) -> str:
        """Where the pipeline is."""
        return self.folder

    @property
    def cache(self) -> Path:
        """Where images and latents of concepts are while the run goes on."""
        return self.recipe.folder / (KEPT if self.recipe.concepts.keep else CACHE)

    # The model and its data.

    def few(self) -> Source:
        """Two samples without an image: to make some would take its time."""
        latents = torch.zeros(2, 2, *self.images.shape, dtype=self.pipeline.vae.dtype)
        labels = self.images.labels[:2]
        if len(labels) < 2:
            labels = labels.repeat(2)
        whole = self.images
        made = Latents(latents, labels, whole.classes)
        return ConceptSet(lambda: made, labels, whole.prompts, whole.anchors, whole.shape, "few")

    def module(self, seed: int) -> nn.Module:
        """The pipeline's UNet with new weights."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return fresh_denoiser(self.pipeline.unet).to(self.engine.device)

    def original(self, seed: int) -> tuple[nn.Module, dict[str, Any]]:
        """The pipeline's own UNet, and the seconds that training it took, where that was done here."""
        record = Path(self.folder) / RECORD
        told = read_object(record) if record.is_file() else {}
        seconds = {"seconds": told["seconds"]["unet"]} if "seconds" in told else {}
        return self.pipeline.unet.to(self.engine.device), seconds

    def numbered(self, classes: Sequence[str | int]) -> list[str | int]:
        """The forgotten prompts, which are classes of the data."""
        return [concept.prompt for concept in self.concepts[FORGET]]

    def check(self, split: Split) -> None:
        """Detectors, labels and sampler are what the recipe needs; nothing is trained for that."""
        self.recipe.generation.sampler.visited(self.task.timesteps)
        self.recipe.concepts.images.sampler.visited(self.task.timesteps)
        primary = self.primary
        if self._is_ready:
            self._ready().check([each.wanted.get(primary) for each in self.asked])
        _ = self.inception  # is read, so that weights that are not there are missed now
        if self.clip is not None:
            self.clip.check([each.text for each in self.asked if not each.forgotten])
        with trained(self.pipeline.unet, self.recipe.parts):
            return

    # What is asked of models.

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts of the evaluation, embedded; those of a file are cut where they are too long, as is published."""
        own = self.recipe.detection
        cut = own.forget_prompts is not None or own.retain_prompts is not None
        texts = [each.text for each in self.asked]
        size = self.recipe.concepts.images.image_size or own_size(self.pipeline)
        return encode_prompts(self.pipeline, texts, size, cut=cut).to(self.engine.device)

    @cached_property
    def studio(self) -> Studio:
        """Where images of prompts are made."""
        chosen, vae = self.recipe.generation, self.pipeline.vae.to(self.engine.device)
        return Studio(self.task, vae, self.prompts, self.images.shape, self.engine, chosen.sampler, chosen.batch_size)

    # Measures.

    def measured(self) -> Any:
        """How images are made, of which prompts, and by what they are judged."""
        return [
            *(asdict(part) for part in (self.recipe.generation, self.recipe.judge, self.recipe.detection)),
            facts(self.asked),
        ]

    def measure(
        self,
        models: Mapping[str, nn.Module],
        split: Split,
        sets: Mapping[str, Stream],
        references: Sequence[str],
        make: Make,
        samples: int | None = None,
    ) -> dict[str, Any]:
        """What detectors see in images of prompts, the same noise in each model; see `Kind.measure`."""
        detector, judges, known = self._detectors(make)
        chosen = self.recipe.generation
        features = None if samples else self._features(detector)  # a search has no use for the distance
        seed = self.recipe.seed if samples is None else seed_of(self.recipe.seed, "other noise")

        def images(module: nn.Module, label: str | None) -> Made:
            count = min(samples or chosen.samples, chosen.samples)
            return self.studio.images(module, self.asked, count, seed=seed, primary=self.primary, label=label)

        found = evaluate_prompted(
            models,
            self.original(0)[0],
            images,
            self.asked,
            detector=detector,
            judges=judges,
            features=features,
            clip=self.clip,
            setting="generation.samples",
            **({} if samples else {"look": self._keep_images}),
        )
        return {
            "models": {name: evaluation.to_dict() for name, evaluation in found.items()},
            "noise_floor": None,
            "classes": [each.text for each in pictured(self.asked)],
            "forgotten": self._forgotten(),
            "detector": known,
            "features": None if features is None else features.name,
            "clip": self.recipe.detection.clip,
            "sampler": asdict(chosen.sampler),
            "prompts": {
                "forget": sum(each.forgotten for each in self.asked),
                "retain": sum(not each.forgotten for each in self.asked),
                "images": samples or chosen.samples,
            },
            "trained": self._trained(),
        }

    def _keep_images(self, name: str, made: Made, found: ConceptEvaluation) -> None:
        """What was seen in every image, and a picture of some."""
        if self.engine.is_main:
            write_detections(self.recipe.folder / "detections" / f"{name}.json", found, *made)
            self._write_grid("grids", name, made, found)

    def _forgotten(self) -> list[str]:
        """The forgotten prompts, and the labels that stand for them."""
        gone = [each for each in self.asked if each.forgotten]
        labels = dict.fromkeys(each.wanted[self.primary] for each in gone if self.primary in each.wanted)
        return [*(each.text for each in gone), *labels]

    def _trained(self) -> dict[str, Any]:
        """What of the UNet the methods train."""
        sizes = {name: parameter.numel() for name, parameter in self.pipeline.unet.named_parameters()}
        with trained(self.pipeline.unet, self.recipe.parts) as names:
            parts = self.recipe.parts or "full"
            return {"parts": parts, "parameters": sum(sizes[name] for name in names), "of": sum(sizes.values())}

    # Detectors.

    @cached_property
    def primary(self) -> str:
        """The judge that says whether the concept is there."""
        return JUDGE if self.recipe.detection.detector == "nudity" else primary_of(self.recipe, self.asked)

    @property
    def _is_ready(self) -> bool:
        """Whether the primary detector need not be trained first."""
        return self.recipe.detection.detector == "nudity" or is_given(self.recipe) or self.captioned is None

    def _ready(self) -> Detector:
        if self.recipe.detection.detector == "nudity":
            return nudenet(self.recipe.detection.threshold, self.engine)
        return labelled_judge(self.recipe, self.engine)

    def _detectors(self, make: Make) -> tuple[Detector, dict[str, Classifier], dict[str, Any]]:
        """The primary detector, further judges by what they judge, and what is known of the first."""
        accuracies: dict[str, float] = {}
        if self._is_ready:
            detector, others = self._ready(), {}
        else:
            judges = {}
            for about, source in attributes_of(self._captioned).items():
                test = attributes_of(self.captioned_test or self._captioned)[about]
                name = JUDGE if about == JUDGE else f"{JUDGE}-{about}"
                features, known = judge_of(self.recipe, self.engine, source, source, test, make, name)
                judges[about] = Classifier(features, source.classes)
                accuracies[about] = known["test_accuracy"]
            detector = judges.pop(self.primary)
            others = judges
        known = {"name": detector.name, "kind": detector.kind, "threshold": detector.threshold, "hash": detector.hash}
        return detector, others, {**known, "test_accuracy": accuracies}

    @property
    def _captioned(self) -> Source:
        if self.captioned is None:
            raise SettingError("no judge can be trained without captioned data: give judge.checkpoint.")
        return self.captioned

    def _features(self, detector: Detector) -> Features | None:
        """The network of the distance to the original's images."""
        own = detector.features if isinstance(detector, Classifier) else None
        return own if self.recipe.generation.features == JUDGE else self.inception

    @cached_property
    def inception(self) -> Features | None:
        """Inception-v3, where the distance is measured in it."""
        wanted = self.recipe.generation.features
        return None if wanted == JUDGE else inception_features(None if wanted == "inception" else wanted)

    @cached_property
    def clip(self) -> Clip | None:
        """What scores how images fit their prompts."""
        source = self.recipe.detection.clip
        return None if source is None else load_clip(source, self.engine.device)

    # Pictures and folders.

    def watch(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """A picture of a few prompts; what was measured is for later."""
        if name.split("-")[0] != JUDGE:
            count = self.recipe.generation.columns
            made = self.studio.images(module, pictured(self.asked), count, seed=self.recipe.seed)
            self._write_grid("snapshots", f"{name}-{step:06}", made, None)
        return {}

    def _write_grid(self, folder: str, name: str, made: Made, found: ConceptEvaluation | None) -> None:
        """A row for each prompt, blurred where the detector fires; where none looked, all of the forgotten prompts."""
        if not self.engine.is_main:
            return
        blur, everywhere = self.recipe.detection.blur, self.recipe.detection.detector == "nudity"
        fires = [True] * len(made.gone.prompts) if found is None else [s.seen for s in found.forgotten_sightings]
        also = [
            everywhere and (found is None or found.retained_sightings[i].seen) for i in range(len(made.stay.prompts))
        ]
        rows: dict[str, list[Tensor]] = {each.text: [] for each in pictured(self.asked)}
        for images, seen in ((made.gone, fires), (made.stay, also)):
            for text, number, image, hidden in zip(images.prompts, images.numbers, images.images, seen, strict=True):
                if text in rows and number < self.recipe.generation.columns:
                    rows[text].append(miniature(image, hidden=blur and hidden))
        whole = torch.stack([torch.stack(row) for row in rows.values()])
        write_grid(self.recipe.folder / folder, name, [*rows], whole, blurred=blur)

    def keep(self, name: str, module: nn.Module) -> None:
        """A folder that diffusers loads; beside it one file, where the pipeline came as one."""
        if not self.engine.is_main:
            return
        place, single = self.recipe.folder / name, Path(self.folder).suffix in ENDINGS
        save_diffusers(self.pipeline if single else self.folder, module, place)
        if single:
            save_single_file(self.folder, module, place / f"{name}.safetensors")

    def told(self, content: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the card of every pipeline that a method made."""
        licence = {} if self.recipe.model.checkpoint is None else licence_of(self.folder)
        for name in self.recipe.methods if self.engine.is_main else ():
            if name in content["models"]:
                card = model_card(self._card(name, content, facts, licence))
                write_text(self.recipe.folder / name / CARD, card)

    def _card(
        self,
        name: str,
        content: Mapping[str, Any],
        facts: Mapping[str, Mapping[str, Any]],
        licence: Mapping[str, str],
    ) -> Card:
        parts, made = content["trained"], facts[name]
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
            base_hash=facts["original"]["hash"],
            versions={library: version(library) for library in ("untrain", "torch", "diffusers", "transformers")},
            hash=made["hash"],
            seed=self.recipe.seed,
            evaluation=content,
            entry=name,
            licence=licence,
        )

    def close(self) -> None:
        """Removes the concepts' images and latents."""
        if not self.recipe.concepts.keep:
            remove(self.cache, self.engine)


def _check(recipe: Recipe) -> None:
    """What a text-to-image recipe cannot ask for.

    Raises:
        SettingError: says what to do instead.
    """
    wrong = {
        "forget": (recipe.forget == Forget(), "name what to forget under concepts.forget"),
        "augment": (recipe.augment == Augment(), "captions speak of left and right, so images are taken as they are"),
        "model.name": (recipe.model.name is None, "the architecture is the pipeline's"),
        "model.vae": (recipe.model.vae is None, "the VAE is the pipeline's"),
        "diffusion.redirect": (recipe.diffusion.redirect == "next", "give concepts anchors"),
        "data": (is_captioned(recipe) or _of_judge(recipe) == Data(), "leave it out, or name concepts by containing"),
        "references": (
            not recipe.references or recipe.model.checkpoint is None,
            "only a pipeline that was trained here can be retrained. Set it to 0",
        ),
    }
    for name, (right, remedy) in wrong.items():
        if not right:
            raise SettingError(f"{name} is not for task text-to-image here: {remedy}.")


def _of_judge(recipe: Recipe) -> Data:
    """The section without what it says of a judge's inputs, where that has its weights already."""
    if recipe.judge.checkpoint is None:
        return recipe.data
    return replace(recipe.data, image_size=None, mean=None, std=None)
