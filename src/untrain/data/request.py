"""What a recipe's sections on data ask for: samples loaded, and divided into what is forgotten, kept and held out."""

import re
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from untrain.data.earlier import IN_TEST, Before, KnownSamples
from untrain.data.geometry import Geometry, size_facts
from untrain.data.kept import TESTED, TRAINED, KeptRecords, keep_records
from untrain.data.parts import PARTS, Part
from untrain.data.records import Names, few
from untrain.data.sections import REQUESTS, Data, Forget
from untrain.data.source import Source
from untrain.data.sources import channel_statistics, load
from untrain.data.splits import Split, Subset, further_split, make_split
from untrain.engine import generator_of
from untrain.errors import SettingError
from untrain.folders import shorten_name
from untrain.io import hash_file, hash_json


def load_data(
    section: Data,
    seed: int,
    cache: MutableMapping[str, Any],
    *,
    links: bool = False,
    geometry: Geometry | None = None,
    after: str | None = None,
    numbered: bool = True,
) -> tuple[Source, Source]:
    """Loads training and test samples.

    Args:
        section: of the recipe.
        seed: of the choice where there is a limit.
        cache: data that were loaded before are taken from here; only the last ones are kept.
        links: whether links in a folder of data may lead out of it.
        geometry: how images are brought to one size, in the place of the section's image_size.
        after: run folder of the request before: samples are those that it had, as far as they are still there.
        numbered: whether classes then have the numbers that they had; False where a model knows them by name.
    """
    before = None if after is None else Before.read(after)
    if before is not None and before.named is not None:
        return _load_after(section, cache, links, geometry, before.path, before.named, numbered)
    wanted = {**asdict(section), "links": links, "image_size": geometry or section.image_size}
    limits = {"train": wanted.pop("limit"), "test": wanted.pop("test_limit")}
    del wanted["mean"], wanted["std"]
    chosen = seed if any(limits.values()) else None  # nothing else in the data depends on the seed
    key = f"data {hash_json([wanted | {'image_size': size_facts(wanted['image_size'])}, limits, chosen])}"
    if key not in cache:
        _keep_last(cache, key, tuple(load(**wanted, part=part, limit=limits[part], seed=seed) for part in PARTS))
    return cache[key]


def _keep_last(cache: MutableMapping[str, Any], key: str, loaded: Any) -> None:
    for other in [name for name in cache if name.startswith("data ")]:
        del cache[other]
    cache[key] = loaded


def _load_after(
    section: Data,
    cache: MutableMapping[str, Any],
    links: bool,
    geometry: Geometry | None,
    place: Path,
    records: KeptRecords,
    numbered: bool,
) -> tuple[Source, Source]:
    """The samples that an earlier run had, whatever is gone and new since: a choice by number would be another one."""
    facts = [asdict(section), size_facts(geometry), links, str(place), hash_file(place), numbered]
    key = f"data {hash_json(facts)}"
    if key not in cache:
        fields = {name: value for name, value in asdict(section).items() if name not in _CHOSEN}
        how: dict[str, Any] = {**fields, "links": links, "image_size": geometry or section.image_size}
        how |= {"classes": records.classes} if numbered else {}
        cut: Part = "train" if section.test_fraction is not None else "test"
        total = sum(len(records.parts.get(part, ())) for part in (*TRAINED, "gone"))
        if section.limit is not None and section.limit < total:
            raise SettingError(
                f"{place} was made of other data: of {total} samples, and data.limit is {section.limit}. Leave it "
                "as it was."
            )
        known = KnownSamples(records)
        train = load(**how, part="train", known=known.among(*TRAINED, "gone"))
        if known.new and section.limit is None:
            warnings.warn(
                f"{len(known.new)} samples of {section.name} are none that the model was trained on before the first "
                f"request (first: {few(known.new)}). They are left out.",
                stacklevel=3,
            )
        test = load(**how, part=cut, known=known.among(*TESTED))
        vanished = records.vanished(test, *TESTED)
        if vanished:
            count = sum(map(len, vanished.values()))
            warnings.warn(
                f"{count} of the test samples that {place.parent} had are gone. The others are.", stacklevel=3
            )
        _keep_last(cache, key, (train, test))
    return cache[key]


_CHOSEN = ("limit", "test_limit", "test_fraction", "mean", "std")


def input_statistics(section: Data, source: Source, after: str | None = None) -> dict[str, tuple[float, ...] | None]:
    """Returns "mean" and "std" of each channel: as the section has them, or the run `after`, else as the images do."""
    mean, std = section.mean, section.std
    if mean is None and std is None and after is not None:
        records = Before.read(after).named
        mean, std = (None if records is None else records.statistics.get(name) for name in ("mean", "std"))
    if mean is None and std is None:
        mean, std = channel_statistics(source)  # type: ignore[assignment]
    return {"mean": None if mean is None else tuple(mean), "std": None if std is None else tuple(std)}


def divide(
    source: Source,
    test: Source,
    wanted: Mapping[str, Any],
    *,
    seed: int,
    checkpoint: str | None,
    root: str | None = None,
) -> tuple[Split, Source, Source, KeptRecords | None]:
    """Makes the split that is asked for.

    Args:
        source: the training samples.
        test: the test samples.
        wanted: the fields of `Forget`.
        seed: of the run.
        checkpoint: where the original's weights come from; None where the run trains it.
        root: folder that samples which are files lie in.

    Returns:
        The split, the held-out data, what remains of the test data, and what is kept of all of them by name.

    Raises:
        SettingError: if a further request does not say which model to go on with. UntrainError: as `make_split`.
    """
    request = {**wanted, "root": root}
    after, place, hashed = (request.pop(name) for name in ("after", "holdout_from", "hash_ids"))
    request["seed"] = seed if request["seed"] is None else request["seed"]
    if after is not None:
        return _divide_after(source, test, request, after, checkpoint, hashed)
    place = place or ("train" if checkpoint is None else "test")
    if request["audit_holdout"] and place == "test":
        raise SettingError(
            "forget.audit_holdout is cut from the training data, all of which a checkpoint may have seen. Where it was "
            "trained without that share, say so by forget.holdout_from: train; else audit the run with its test data."
        )
    request["elsewhere"] = {IN_TEST: _held_by(test)}
    split = make_split(source, **request | ({} if place == "train" else {"holdout": 0.0}))
    holdout: Source = Subset(source, split.holdout)
    if place == "test":
        split.spec.update(holdout=request["holdout"], holdout_from=place)
        count = round(request["holdout"] * len(source))
        holdout, test = held_out_of_test(test, count, split, source, request["seed"])
    return split, holdout, test, _kept(source, split, holdout, test, hashed=hashed)


def _divide_after(
    source: Source, test: Source, request: dict[str, Any], after: str, checkpoint: str | None, hashed: bool
) -> tuple[Split, Source, Source, KeptRecords | None]:
    """The split of a further request; what was held out before stays so."""
    if checkpoint is None:
        raise SettingError(
            f"forget.after: give the model to go on with, such as model.checkpoint: {after}/sfron.safetensors."
        )
    before = Before.read(after)
    found = before.find(source)
    spec, records = found.split.spec, before.named
    del request["holdout"], request["audit_holdout"]  # what was kept back before stays so
    if request["indices"] is not None and found.shifted:
        raise SettingError(
            f"forget.indices: {found.shifted} samples are gone since {after} was made, so that numbers mean other "
            "samples than they did. Name them by forget.ids."
        )
    split = further_split(source, found.split, **request, elsewhere=before.elsewhere(test))
    place, share, seed = spec.get("holdout_from", "train"), spec["holdout"], spec.get("holdout_seed", spec["seed"])
    split.spec.update(holdout=share, holdout_seed=seed)
    holdout: Source = Subset(source, split.holdout)
    if place == "test":
        split.spec.update(holdout_from=place)
        if records is None:
            holdout, test = held_out_of_test(test, round(share * len(source)), split, source, seed)
        else:
            holdout, test = _held_out_again(test, records, split, source)
    split.spec.update(after=found.facts(after))
    gone = sorted({*found.lost, *(() if records is None else records.parts.get("gone", ()))})
    if records is not None and records.hashed and not hashed:
        raise SettingError(f"forget.hash_ids: {after} kept hashes of ids, and ids beside them would undo that. Set it.")
    return split, holdout, test, _kept(source, split, holdout, test, hashed=hashed, before=records, gone=gone)


def _held_out_again(test: Source, records: KeptRecords, split: Split, source: Source) -> tuple[Source, Source]:
    """The test samples that were held out before, without classes that are forgotten whole, and those to test on."""
    places = records.in_place(test)
    held, rest = (torch.tensor([own == part for own in places]) for part in ("test_holdout", "test"))
    held &= torch.isin(test.labels, source.labels[split.retain])
    return Subset(test, held.nonzero()[:, 0]), Subset(test, rest.nonzero()[:, 0])


def _kept(
    source: Source,
    split: Split,
    holdout: Source,
    test: Source,
    *,
    hashed: bool,
    before: KeptRecords | None = None,
    gone: Sequence[str] = (),
) -> KeptRecords | None:
    """What the run keeps of its samples by name."""
    if hashed and source.ids is None:
        raise SettingError("forget.hash_ids: this data source has no ids that could be hashed.")
    parts = {part: getattr(split, part) for part in ("forget", "retain", "holdout", "earlier")}
    parts |= {"unseen": split.unseen} if len(split.unseen) else {}
    tested = {"test": test, **({} if len(split.holdout) else {"test_holdout": holdout})}
    return keep_records(source, parts, tested=tested, gone=gone, skipped=split.skipped, hashed=hashed, before=before)


def _held_by(source: Source) -> Callable[[str], bool]:
    names = Names(source.ids or ())
    return lambda name: names.find(name) is not None


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
