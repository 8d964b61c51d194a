"""What stands around the verdict: what was asked and done, in one paragraph, and what the page does not show."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from untrain.report.results import Entry, ForgetSet, Results, as_mapping
from untrain.report.words import (
    capitalize,
    count_of,
    describe_choice,
    join_words,
    list_values,
    show_date,
    show_duration,
    show_value,
)

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation

_CHOSEN = {
    "fraction": "at random", "count": "at random", "classes": "by class", "indices": "by position", "ids": "by id"
}  # fmt: skip
"""Kind of a request → how its samples were chosen."""


def describe_request(results: Results, presentation: "Presentation") -> list[str]:
    """Says in sentences what was asked and done: which samples, from which model, by which methods, when, how long."""
    if results.compared:
        told = _compared(results)
    else:
        told = [*_forgotten(results, presentation), _origin(results), _methods(results), _references(results)]
        told.append(_other_sets(results.sets[0]))
    return [sentence for sentence in told if sentence]


def _forgotten(results: Results, presentation: "Presentation") -> list[str]:
    """Which samples were to be forgotten, and how they were chosen."""
    sizes, split = results.sets[0].sizes, as_mapping(results.manifest.get("split"))
    told = []
    if "forget" in sizes and "retain" in sizes:
        of = f"{sizes['forget']:,} of {sizes['forget'] + sizes['retain']:,}"
        told.append(f"{of} {presentation.samples}")
    if names := presentation.forgotten(results):
        begun = told.pop() if told else "to be forgotten"
        told.append(f"{begun}: {list_values(names, 6)}")
    elif split.get("kind"):
        told.append(_choice(str(split["kind"]), split.get("spec")))
    return [capitalize(f"{'; '.join(told)}.")] if told else []


def _choice(kind: str, spec: Any) -> str:
    """How samples were chosen: by a list that was given, or by what was asked; the rest is among the settings."""
    asked = spec.get(kind) if isinstance(spec, Mapping) else spec
    listed = as_mapping(asked)
    if listed.get("file"):
        column = f", column {listed['column']}" if listed.get("column") not in (None, "") else ""
        return f"listed {_CHOSEN.get(kind, f'by {kind}')} in {listed['file']}{column}"
    told = "" if asked in (None, "", []) or listed else f" ({describe_choice(asked)})"
    return f"chosen {_CHOSEN.get(kind, f'by {kind}')}{told}"


def _origin(results: Results) -> str:
    """Where the model came from."""
    model, made = as_mapping(results.settings.get("model")), results.manifest_of("original")
    name = f" {model['name']}" if model.get("name") else ""
    if source := made.get("source"):
        return f"The model{name} came from {source}."
    original = results.sets[0].original
    seconds = original.mean("seconds") if original else None
    if made.get("method") and seconds is not None:
        return f"The model{name} was trained here on all samples, in {show_duration(seconds)}."
    return f"The model is{name}." if name else ""


def _methods(results: Results) -> str:
    """Which methods changed it, when, and how long each took."""
    told = [_timed(entry) for entry in results.sets[0].methods]
    when, seed = results.manifest.get("created"), results.manifest.get("seed")
    aside = [f"with seed {seed}"] if seed is not None else []
    aside += [f"on {results.manifest['device']}"] if results.manifest.get("device") else []
    aside += [f"finished {show_date(str(when))}"] if when else []
    if not told:
        return "No method has been run yet."
    noun = "method" if len(told) == 1 else f"{len(told)} methods"
    return f"{capitalize(noun)}: {join_words(told)}{', ' if aside else ''}{', '.join(aside)}."


def _timed(entry: Entry) -> str:
    seconds = entry.mean("seconds")
    return entry.label + (f" ({show_duration(seconds)})" if seconds is not None else "")


def _references(results: Results) -> str:
    """Which models they are compared with."""
    if not results.measured:
        return ""
    one = results.sets[0]
    trained = one.of_role("target", "reference")
    if not trained:
        return "No model was trained without these samples to compare with."
    seconds = [s for entry in trained if (s := entry.mean("seconds")) is not None]
    took = f", in {join_words([show_duration(s) for s in seconds])}" if len(seconds) == len(trained) else ""
    verb = "was" if len(trained) == 1 else "were"
    return f"{capitalize(count_of(len(trained), 'model'))} {verb} trained without these samples to compare with{took}."


def _other_sets(one: ForgetSet) -> str:
    others = (("holdout", "were held out"), ("test", "are to test on"))
    told = [f"{one.sizes[key]:,} {words}" for key, words in others if one.sizes.get(key)]
    return f"Other samples: {join_words(told)}." if told else ""


def _compared(results: Results) -> list[str]:
    methods = list(dict.fromkeys(entry.label for one in results.sets for entry in one.methods))
    seeds = len(results.seeds) or max(one.seeds for one in results.sets)
    noun = count_of(len(methods), "method")
    told = [f"{noun} with {count_of(seeds, 'seed')}: {join_words(methods)}." if methods else "No method was compared."]
    for one in results.sets:
        chosen = f"{one.name}{f' ({describe_choice(one.spec)})' if one.spec else ''}"
        if "forget" in one.sizes and "retain" in one.sizes:
            of = f"{one.sizes['forget']:,} of {one.sizes['forget'] + one.sizes['retain']:,}"
            told.append(f"Forget set {chosen}: {of} samples.")
        else:
            told.append(f"Forget set {chosen}.")
    data, model = (as_mapping(results.settings.get(key)) for key in ("data", "model"))
    about = [f"{key} {show_value(of['name'])}" for key, of in (("data", data), ("model", model)) if of.get("name")]
    told.append(f"{capitalize(', '.join(about))}." if about else "")
    when = results.manifest.get("created")
    return [*told, f"Finished {show_date(str(when))}." if when else ""]


def list_limits(results: Results, presentation: "Presentation") -> list[str]:
    """Lists what the page does not show, in sentences: of any task, then of this one."""
    one = results.sets[0]
    told = [
        "That nothing is left. Unlearning is approximate: the page says how models behave where they were measured, "
        "and proves nothing about what their weights still hold.",
        presentation.unseen,
    ]
    if not results.compared and (seed := results.manifest.get("seed")) is not None:
        told.append(f"What another seed gives. This is one run (seed {seed}), and another can end differently.")
    if results.measured and all(each.target is None for each in results.sets):
        told.append(presentation.without_target(one))
    return [sentence for sentence in [*told, *presentation.own_limits(results)] if sentence]
