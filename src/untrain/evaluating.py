"""`untrain.evaluate`: how far a user's model forgot and what it kept."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.diffusion.evaluate import evaluate_generators, samples_of
from untrain.diffusion.features import Real, classifier_features
from untrain.diffusion.images import to_uint8
from untrain.diffusion.latents import decode, latent_shape
from untrain.diffusion.quality import GenerationEvaluation
from untrain.diffusion.text import encode_prompts, own_size
from untrain.engine import Engine, Precision, on_device, preserve_modes
from untrain.errors import DataError, ModelError, SettingError
from untrain.given import Given, check_model, prepared
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.classification.evaluate import evaluate_models
from untrain.tasks.text_to_image.concepts import concept_lists, latent_shape_of
from untrain.tasks.text_to_image.detectors import Classifier, Clip, Detector, load_clip
from untrain.tasks.text_to_image.evaluate import ConceptEvaluation
from untrain.tasks.text_to_image.rendering import JUDGE, Asked, Studio, asked_of, evaluate_prompted
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Task


def evaluate(
    model: Any,
    *,
    forget: Any,
    retain: Any,
    test: Any = None,
    task: str | Task = "classification",
    reference: Any = None,
    seed: int = 0,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    precision: Precision = "no",
    workers: int = 0,
    classes: Sequence[str] | None = None,
    svc: bool = False,
    judge: nn.Module | Detector | None = None,
    samples: int = 250,
    sampler: Sampler | None = None,
    clip: str | None = None,
) -> Any:
    """Measures how far a model forgot and what it kept.

    Args:
        model: the model to look at; nothing in it is changed.
        forget: what was to be forgotten: a data set or a list of ready batches.
        retain: what was to be kept, likewise.
        test: samples that the model never saw, likewise; a classifier needs them.
        task: as in `unlearn`.
        reference: a model retrained without the forget set, or several: the first is the target of every
            distance, the others show the noise floor. None: measures that need one say so in `.missing`.
        seed: of the samples that the support vector attacks are fitted on; other measures draw nothing.
        batch_size: samples a forward pass.
        device: as in `unlearn`.
        precision: as in `unlearn`.
        workers: as in `unlearn`.
        classes: names of the classes.
        svc: whether to run the support vector attacks too, which take about a second for each model.
        judge: for generators: a classifier of images in [−1, 1], which says what samples show; for text-to-image a
            detector, `untrain.nudenet()` or `untrain.image_classifier(module, labels)`.
        samples: for generators: images of each class or prompt.
        sampler: for generators: how they are made; None: 50 steps of DDIM, without guidance for classes, at a guidance
            scale of 7.5 for texts.
        clip: for text-to-image: folder or hub id of the CLIP model that scores images of retained prompts.

    Returns:
        An `Evaluation`; of a generator of classes a `GenerationEvaluation`, of a text-to-image pipeline a
        `ConceptEvaluation`. These need no `test`; the `reference` of a pipeline is the original one, from whose images
        of retained prompts the distance is measured.
    """
    engine = Engine.start(device, precision)
    given = Given.of(model, task)
    if isinstance(given.task, TextToImage):
        how = sampler or Sampler(50, guidance_scale=7.5)
        return _evaluate_pipeline(given, forget, retain, engine, judge, samples, how, seed, batch_size, reference, clip)
    if isinstance(given.task, ClassDiffusion):
        if reference is not None:
            raise SettingError("generators are not measured beside others: evaluate the retrained one by itself.")
        return _evaluate_generator(
            given, forget, retain, engine, judge, samples, sampler or Sampler(), seed, batch_size, classes
        )
    if test is None:
        raise DataError("a classifier is evaluated on test data too: pass test=, samples that it never saw.")
    references = reference if isinstance(reference, (list, tuple)) else [] if reference is None else [reference]
    models = {"model": given.module}
    models |= {f"reference-{i}": check_model(module, "reference") for i, module in enumerate(references)}
    sets = {"forget": forget, "retain": retain, "test": test}
    streams = {name: Stream(data, name, engine, batch_size, seed, workers) for name, data in sets.items()}
    with on_device(engine.device, *models.values()):
        ready = prepared(task, model, streams)
        count = getattr(ready, "num_classes", None)
        if classes is not None and count not in (None, len(classes)):
            raise DataError(f"classes has {len(classes)} names, but the model has {count} outputs: name each of them.")
        names = [name for name in models if name != "model"]
        found = evaluate_models(models, ready, streams, engine, references=names, classes=classes, svc=svc, seed=seed)
        return found["model"]


def _evaluate_generator(
    given: "Given",
    forget: Any,
    retain: Any,
    engine: Engine,
    judge: Any,
    count: int,
    sampler: Sampler,
    seed: int,
    batch_size: int,
    names: Sequence[str] | None,
) -> GenerationEvaluation:
    """What a judge sees in a generator's samples of the sets' classes, and how far these are from the retain set."""
    if not isinstance(judge, nn.Module):
        raise SettingError("a generator is judged by a classifier: pass judge=, a module that takes images in [−1, 1].")
    images = {name: _images(data, name, engine, given.task) for name, data in (("forget", forget), ("retain", retain))}
    retained = images["retain"].labels.unique()
    forgotten = [c for c in images["forget"].labels.unique().tolist() if c not in retained]
    shape = tuple(images["retain"].images.shape[1:])
    latent = None if given.vae is None else latent_shape(given.vae, shape)
    blank = {"input": torch.zeros(1, *(latent or shape)), "label": retained[:1]}
    module = given.module
    with on_device(engine.device, module, judge):
        with preserve_modes(module):
            drawn = given.task.draw(blank, torch.Generator(), "evaluate")
            task = cast(ClassDiffusion, given.task.prepare(module.eval(), engine.to_device(drawn)))
        features = classifier_features(
            judge, lambda x: x.to(engine.device, torch.float32) / 127.5 - 1, type(judge).__name__
        )

        def sample(module: nn.Module, label: str) -> tuple[Tensor, Tensor]:
            return samples_of(
                module,
                task,
                engine,
                [*forgotten, *retained.tolist()],
                count,
                shape=latent or shape,
                sampler=sampler,
                seed=seed,
                batch_size=batch_size,
                decode=None if given.vae is None else lambda latents: decode(given.vae, latents),
                label=label,
            )

        known = names or [str(c) for c in range(task.num_classes or 0)]
        found = evaluate_generators(
            {"model": module},
            sample,
            real=features.look(images["retain"], batch_size),
            forgotten=forgotten,
            classes=known,
            judge=features,
            features=features,
            batch_size=batch_size,
        )
        return found["model"]


def _images(data: Any, name: str, engine: Engine, task: Task) -> Real:
    """A set's images and labels, as bytes, on the CPU."""
    batches = list(Stream(data, name, engine).once(task, "evaluate"))
    images, labels = (torch.cat([batch[key].cpu() for batch in batches]) for key in ("input", "label"))
    return Real(to_uint8(images), labels)


def _evaluate_pipeline(
    given: Given,
    forget: Any,
    retain: Any,
    engine: Engine,
    judge: Any,
    count: int,
    sampler: Sampler,
    seed: int,
    batch_size: int,
    reference: Any,
    clip: str | None,
) -> ConceptEvaluation:
    """What a detector sees in a pipeline's images of the concepts' prompts."""
    if given.model is given.module:
        raise ModelError("images of prompts are made by a whole pipeline: pass that, not its UNet alone.")
    if not isinstance(judge, Detector):
        raise SettingError(
            "a pipeline is judged by a detector: pass judge=untrain.nudenet(), or untrain.image_classifier(module, "
            "labels) with the concepts' label= among these."
        )
    lists = concept_lists({"forget": forget, "retain": retain})
    asked = [asked_of(concept, forgotten=name == "forget") for name, each in lists.items() for concept in each]
    scorer = None if clip is None else load_clip(clip, engine.device)
    _check_asked(asked, judge, scorer)
    original = None if reference is None else Given.of(reference, given.task).module
    shape, vae = latent_shape_of(given.model), given.vae
    prompts = encode_prompts(given.model, [each.text for each in asked], own_size(given.model)).to(engine.device)
    parts = [part for part in (given.module, original, vae) if part is not None]
    with on_device(engine.device, *parts):
        studio = Studio(cast(TextToImage, given.task), vae, prompts, shape, engine, sampler, batch_size)
        found = evaluate_prompted(
            {"model": given.module},
            original,
            lambda unet, label: studio.images(unet, asked, count, seed=seed, label=label),
            asked,
            detector=judge,
            judges={},
            features=judge.features if isinstance(judge, Classifier) and original is not None else None,
            clip=scorer,
        )
        return found["model"]


def _check_asked(asked: Sequence[Asked], judge: Detector, clip: Clip | None) -> None:
    """Labels and texts must fit before anything is sampled.

    Raises:
        SettingError: if a classifier is not told what to look for. UnknownName: if it has no such label.
        DataError: if a text is too long for CLIP.
    """
    untold = next((each.text for each in asked if each.forgotten and JUDGE not in each.wanted), None)
    if untold is not None and judge.kind == "classifier":
        raise SettingError(f"{judge.name} looks for labels: give the concept {untold!r} a label= that it knows.")
    judge.check([each.wanted.get(JUDGE) for each in asked])
    if clip is not None:
        clip.check([each.text for each in asked if not each.forgotten])
