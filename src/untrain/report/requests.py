"""The section on requests that come one after another: whose records they name, and what each model makes of these."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from untrain.report.html import render
from untrain.report.results import Results, as_mapping, as_number, as_sequence
from untrain.report.sections import Section
from untrain.report.words import count_of, show

NEW, EARLIER = "new", "earlier"


@dataclass(frozen=True)
class Named:
    """Names that a reader opens when wanted."""

    summary: str
    names: Sequence[str]


def show_requests(results: Results) -> Section | None:
    """What was asked for by name, and how new and earlier requests fare apart; nothing where a run tells of neither."""
    request = as_mapping(results.manifest.get("request"))
    if results.compared or not (request.get("ids") or request.get("after")):
        return None
    table = _table(results)
    html = render(
        "requests.html.j2", told=[*_told(request)], named=[*_named(request)], columns=[c for c, _ in table],
        lines=[(e.label, [v.get(e.name, "—") for _, v in table]) for e in results.sets[0].entries] if table else [],
    )  # fmt: skip
    return Section("requests", "This request, and those before it", html)


def _number(value: Any) -> int:
    return int(as_number(value) or 0)


def _told(request: Mapping[str, Any]) -> Iterator[str]:
    """What is known of the request, in sentences."""
    new, earlier, gone = (_number(request.get(key)) for key in ("count", "earlier", "earlier_gone"))
    nothing = "Nothing of this request was in the data any more: the model was trained on what remains alone."
    yield f"This request asked for {count_of(new, 'sample')}." if new else nothing
    if request.get("after"):
        there = f"{earlier} of them are still in the data and measured with these" if earlier else "none is in the data"
        yield (
            f"Requests before it, the last in {request['after']}, asked for {earlier + gone}; {there}"
            f"{f', {gone} are gone from it and cannot be measured' if gone and earlier else ' any more'}."
        )
    lost = _number(as_mapping(request.get("lost")).get("count"))
    if lost:
        yield (
            f"{count_of(lost, 'retained sample')} vanished from the data without a request: the model was trained on "
            "them and has not been made to forget them."
        )
    missing = as_mapping(request.get("first")).get("missing")
    if missing:
        yield f"The model before the first request is not shown beside the others: {missing}"


def _named(request: Mapping[str, Any]) -> Iterator[Named]:
    """The names behind the numbers, or their hashes."""
    word = "hashes of ids" if request.get("hashed") is True else "ids"
    groups = [("This request", request.get("count"), request.get("ids"))]
    lost = as_mapping(request.get("lost"))
    groups += [("Vanished without a request", lost.get("count"), lost.get("ids"))]
    for why, skipped in as_mapping(request.get("skipped")).items():
        groups += [(f"Skipped: {why}", as_mapping(skipped).get("count"), as_mapping(skipped).get("ids"))]
    for title, count, names in groups:
        shown = [str(name) for name in as_sequence(names)]
        if shown:
            first = (
                f"the first {len(shown)} of {_number(count)}" if len(shown) < _number(count) else f"all {len(shown)}"
            )
            yield Named(f"{title}: {word}, {first}", shown)


def _table(results: Results) -> list[tuple[str, dict[str, str]]]:
    """Columns, "FA, this request" and so on, with each model's value; none where nothing was measured apart."""
    columns: dict[str, dict[str, str]] = {}
    for part, words in ((NEW, "this request"), (EARLIER, "earlier ones")):
        for entry in results.sets[0].entries:
            for key, value in as_mapping(as_mapping(entry.facts.get("requests")).get(part)).items():
                if (known := as_number(value)) is not None:
                    columns.setdefault(f"{key}, {words}", {})[entry.name] = show(known)
    return [*columns.items()]
