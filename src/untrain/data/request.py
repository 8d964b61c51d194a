"""What a recipe's sections on data ask for: samples loaded, and divided into what is forgotten, kept and held out."""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from untrain.data.geometry import Geometry, size_facts
from untrain.data.parts import PARTS
from untrain.data.sections import REQUESTS, Data, Forget
from untrain.data.source import Source
from untrain.data.sources import channel_statistics, load
from untrain.data.splits import Split, Subset, further_split, make_split
from untrain.engine import generator_of
from untrain.errors import DataError, SettingError, StaleFile
from untrain.folders import shorten_name
from untrain.io import hash_json


def load_data(
    section: Data,
    seed: int,
    cache: MutableMapping[str, Any],
    *,
    links: bool = False,
    geometry: Geometry | None = None,
) -> tuple[Source, Source]:
    """Loads training and test samples.

    Args:
        section: of the recipe.
        seed: of the choice where there is a limit.
        cache: data that were loaded before are taken from here; only the last ones are kept.
        links: whether links in a folder of data may lead out of it.
        geometry: how images are brought to one size, in the place of the section's image_size.
    """
    wanted = {**asdict(section), "links": links}
    wanted["image_size"] = geometry or section.image_size
    limits = {"train": wanted.pop("limit"), "test": wanted.pop("test_limit")}
    del wanted["mean"], wanted["std"]
    chosen = seed if any(limits.values()) else None  # nothing else in the data depends on the seed
    key = f"data {hash_json([wanted | {'image_size': size_facts(wanted['image_size'])}, limits, chosen])}"
    if key not in cache:
        train, test = (load(**wanted, part=part, limit=limits[part], seed=seed) for part in PARTS)
        for other in [name for name in cache if name.startswith("data ")]:
            del cache[other]
        cache[key] = train, test
    return cache[key]


def input_statistics(section: Data, source: Source) -> dict[str, tuple[float, ...] | None]:
    """Returns "mean" and "std" of each channel: as the section has them, else as the images do."""
    mean, std = section.mean, section.std
    if mean is None and std is None:
        mean, std = channel_statistics(source)  # type: ignore[assignment]
    return {"mean": None if mean is None else tuple(mean), "std": None if std is None else tuple(std)}


def divide(
    source: Source, test: Source, wanted: Mapping[str, Any], *, seed: int, checkpoint: str | None
) -> tuple[Split, Source, Source]:
    """Makes the split that is asked for; returns it, the held-out data, and what remains of the test data.

    Args:
        source: the training samples.
        test: the test samples.
        wanted: the fields of `Forget`.
        seed: of the run.
        checkpoint: where the original's weights come from; None where the run trains it.

    Raises:
        SettingError: if a further request does not say which model to go on with. UntrainError: as `make_split`.
    """
    request = dict(wanted)
    after, place = request.pop("after"), request.pop("holdout_from")
    request["seed"] = seed if request["seed"] is None else request["seed"]
    if after is not None:
        before = _split_before(after, source, checkpoint)
        share, seed = before.spec["holdout"], before.spec.get("holdout_seed", before.spec["seed"])
        place = before.spec.get("holdout_from", "train")
        del request["holdout"]
        split = further_split(source, before, **request)
        split.spec.update(holdout=share, holdout_seed=seed)
    else:
        place = place or ("train" if checkpoint is None else "test")
        share, seed = request["holdout"], request["seed"]
        split = make_split(source, **request | ({} if place == "train" else {"holdout": 0.0}))
    holdout: Source = Subset(source, split.holdout)
    if place == "test":
        split.spec.update(holdout=share, holdout_from=place)
        holdout, test = held_out_of_test(test, round(share * len(source)), split, source, seed)
    return split, holdout, test


def _split_before(folder: str, source: Source, checkpoint: str | None) -> Split:
    """The split of the request that this one comes after."""
    if checkpoint is None:
        raise SettingError(
            f"forget.after: give the model to go on with, such as model.checkpoint: {folder}/sfron.safetensors."
        )
    try:
        split = Split.load(f"{folder}/split.json", source)
        if not {"holdout", "seed"} <= split.spec.keys():
            raise DataError(f"{folder}/split.json does not say what was held out. Make the split again.")
        return split
    except (DataError, StaleFile) as error:
        raise type(error)(f"forget.after must be the run folder of the request before: {error}") from error


def held_out_of_test(test: Source, count: int, split: Split, source: Source, seed: int) -> tuple[Source, Source]:
    """Takes test samples, without the classes that are forgotten whole, and leaves the rest to be tested on.

    Args:
        test: the test data.
        count: how many to take; at most half of them are.
        split: says which classes are retained.
        source: the training data that the split points into.
        seed: of the choice.
    """
    order = torch.randperm(len(test), generator=generator_of(seed, "holdout from test"))
    chosen, rest = (part.sort().values for part in order.tensor_split([min(count, len(test) // 2)]))
    held = torch.isin(test.labels[chosen], source.labels[split.retain])
    return Subset(test, chosen[held]), Subset(test, rest)


def request_name(section: Forget) -> str:
    """Names a forget set by what is asked for, fit for a folder.

    Raises:
        SettingError: if nothing is asked for.
    """
    if section.fraction is not None:
        return f"random-{100 * section.fraction:g}"
    if section.count is not None:
        return f"random-{section.count}-samples"
    if section.classes:
        return _fit("-".join(map(str, section.classes))) or "classes"
    listed = section.indices or section.ids
    if listed is None:
        raise SettingError(f"say what to forget by one of {', '.join(f'forget.{name}' for name in REQUESTS)}.")
    return _fit(Path(listed).stem) or "listed"


def _fit(text: str) -> str:
    """A text as the name of a folder."""
    return shorten_name(re.sub(r"[^\w.-]+", "-", text).strip("-."))
