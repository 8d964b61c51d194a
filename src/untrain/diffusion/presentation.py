"""How reports speak of models that make images: whether they forgot, what the rest lost, and pictures side by side."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from untrain.diffusion.pictures import Grid, Line, choose, make_picture_table, read_grids, read_snapshots
from untrain.report.drawing import Figure
from untrain.report.html import render
from untrain.report.presentation import MakeSection, Measure, Presentation
from untrain.report.results import ORIGINAL, TARGET, Entry, ForgetSet, Results, as_mapping, as_number
from untrain.report.sections import Part, Section, make_section
from untrain.report.verdict import Verdict, judge_forgotten
from untrain.report.words import capitalize, label_of, show, show_difference, show_duration, show_share, uncapitalize

PICTURED = 16
"""So many classes or prompts are shown as pictures at most, forgotten ones among them."""
STEPS = 8
"""So many snapshots of a run are shown at most, spread evenly from the first to the last."""
BESIDE = 2
"""Images of a class or prompt beside each other in a snapshot."""
ROWS = 30
"""So many classes stand in the table of what is recognised at most."""
DISTANCE = "distance"
"""What limits call the Fréchet distance, FD or FID: how many times larger it is than the original's, less one."""


def make_share_measure(key: str, title: str, meaning: str, aim: str, name: str = "", **more: object) -> Measure:
    """Makes a measure of how many images something is seen in, in %."""
    return Measure(key, name or key, title, "%", meaning, aim, compared=True, **more)  # type: ignore[arg-type]


class Case:
    """What a verdict is drawn from: all models, and what one of them is held against."""

    def __init__(self, one: ForgetSet, presentation: "GeneratorPresentation") -> None:
        self.one, self.presentation = one, presentation
        named = any("FID" in entry.stats or "FID" in entry.missing for entry in one.entries)
        self.distance = "FID" if named else "FD"

    def knows(self, measure: str) -> bool:
        """Returns whether any model has the measure."""
        return any(entry.mean(measure) is not None for entry in self.one.entries)

    @property
    def limit(self) -> float:
        """Up to which share of recognised images something counts as forgotten, %."""
        before, relative = self.one.before("FA"), self.presentation.relative
        most = self.presentation.limit
        if relative is not None and before is not None:
            most = min(most, relative * before)
        return max(most, self.after_retraining)

    @property
    def after_retraining(self) -> float:
        """Up to which share a retrained model shows by chance what it never saw, %; a weak one excuses nothing."""
        return 0.0 if self.presentation.weakness(self.one) else self.one.aim("FA") or 0.0

    @property
    def nothing(self) -> float:
        """Up to which share the original itself hardly shows what is to be forgotten, %."""
        return self.limit if self.presentation.relative is None else max(1.0, self.after_retraining)

    def falls_of(self, method: Entry) -> dict[str, float]:
        """Returns by how many points less of each other class or label is recognised than of the original's."""
        if self.one.original is None or not self.one.forgotten:
            return {}
        before, after = (entry.by_class.get("recognised", {}) for entry in (self.one.original, method))
        return {c: before[c] - after[c] for c in before if c in after and c not in self.one.forgotten}

    def losses_of(self, method: Entry) -> dict[str, float]:
        """Returns what the rest lost, as far as it is known, by the names of the limits."""
        before = {key: self.one.before(key) for key in ("RA", "RA_worst", "CLIP", self.distance)}
        found = {
            key: first - last
            for key, first in before.items()
            if key != self.distance and first is not None and (last := method.mean(key)) is not None
        }
        if fallen := self.falls_of(method):
            found["RA_worst"] = max(fallen.values())
        far, first = method.mean(self.distance), before[self.distance]
        return found | ({DISTANCE: far / first - 1} if far is not None and first else {})

    def shares_of_limits(self, method: Entry) -> list[float]:
        """Returns each loss that is limited as a part of what is allowed."""
        losses = self.losses_of(method)
        return [losses[key] / most for key, most in self.presentation.allowed.items() if key in losses]

    def is_kept(self, method: Entry) -> bool | None:
        """Returns whether the rest was kept; None where nothing is known of it."""
        spent = self.shares_of_limits(method)
        return max(spent) <= 1 if spent else None

    def place(self, method: Entry) -> tuple[bool, float, float, float]:
        """Returns where a method stands: forgotten first, then by what the rest lost; unknown and failed last."""
        after, far, infinite = method.mean("FA"), method.mean(self.distance), float("inf")
        return (
            bool(method.failed), infinite if after is None else max(0.0, after - self.limit),
            max(self.shares_of_limits(method), default=infinite), infinite if far is None else far,
        )  # fmt: skip

    # Words.

    def tell_share(self, method: Entry, measure: str = "FA", *, retrained: bool = True) -> str:
        """Tells a share, and beside it what it was, and after retraining; nothing where it is not known."""
        after, before = method.mean(measure), self.one.before(measure)
        aim = self.one.aim(measure) if retrained else None
        beside = [f"{show(before)} % before"] if before is not None else []
        beside += [f"{show(aim)} % after retraining"] if aim is not None else []
        return "" if after is None else f"{show(after)} %" + (f" ({', '.join(beside)})" if beside else "")

    def tell_time(self, method: Entry) -> str:
        """Tells how long the method took, as a sentence with a space before it."""
        spent, whole = method.mean("seconds"), self.one.aim("seconds")
        if spent is None:
            return ""
        share = f", {show_share(spent, whole)} of the retraining time" if whole else ""
        return f" It took {show_duration(spent)}{share}."

    def tell_others(self) -> str:
        """Tells what is recognised after the methods that come next; nothing where there are none."""
        told = []
        for entry in self.presentation.order(self.one)[1:4]:
            after, kept = entry.mean("FA"), entry.mean("RA")
            if after is not None and not entry.failed:
                told.append(f"{entry.label} {show(after)} %" + (f" and {show(kept)} %" if kept is not None else ""))
        return "; ".join(told)

    def tell_retrained(self, keys: Iterable[str]) -> list[str]:
        """Tells the retrained model's values of these measures, as a remark."""
        noun = self.presentation.noun
        if self.one.target is None:
            return []
        known = [f"{k} {self.presentation.measure(k).amount(v)}" for k in keys if (v := self.one.aim(k)) is not None]
        return [f"The retrained {noun}, for comparison: {', '.join(known)}."] if known else []


class GeneratorPresentation(Presentation, ABC):
    """Presents models that make images, held against a retrained one, or against the original, whose images they keep.

    Attributes:
        limit: so many % of the images are recognised at most where something counts as forgotten, or no more than
            after retraining.
        relative: nor more than this part of the original's share, which is small where few prompts bring a concept
            about; None: whatever the original's is.
        allowed: what the rest may lose to count as kept: points of RA, RA_worst and CLIP, and `DISTANCE`.
        noun: what makes the images.
        what: what is forgotten.
        rest: what should stay.
        damaged: what has suffered where it has not stayed.
        kept: what is said where it has stayed.
        lost: what is not known where nothing is known of it.
        by_class: head of the table of what is recognised, one of its rows in a sentence, its title, and its lede.
        prompts: whether pictures are made of prompts, which stand above them.
    """

    limit: float
    relative: float | None = None
    allowed: ClassVar[Mapping[str, float]]
    noun = "generator"
    what = "class"
    rest = "classes"
    damaged = "other classes"
    kept = "the other classes kept"
    lost = "what the other classes lost"
    by_class: tuple[str, str, str, str]
    prompts = False
    audited = "whether an attack brings back what was forgotten"
    unseen = (
        "Every image. All values are averages over the images that were made here; others can still show what was "
        "forgotten."
    )
    quality: ClassVar[Mapping[str, float]] = {"RA": 5.0}

    # What is said.

    def gauge(self, one: ForgetSet) -> Entry | None:
        """Returns the retrained model, else the original: what it had should be kept."""
        return one.target or one.original

    def order(self, one: ForgetSet) -> list[Entry]:
        """Returns the methods: those that forgot first, by what the rest lost."""
        return sorted(one.methods, key=Case(one, self).place)

    def without_target(self, one: ForgetSet) -> str:
        """Says what is not shown where no model was retrained: the aim is known, not what chance leaves of it."""
        return (
            f"What a {self.noun} draws that never saw the {self.what}. None was trained: that the {self.what} should "
            "be gone is known without one, what is recognised by chance is not."
        )

    def curves_lede(self) -> str:
        """Says what stands above the losses over the steps."""
        return (
            f"{super().curves_lede()} A method that redirects the {self.what} to something else lowers both: there, "
            "low is right."
        )

    def lede(self, results: Results) -> str:
        """Says what stands above the table: how its values are to be read."""
        if results.compared:
            return super().lede(results)
        told = f"The first value says whether the {self.what} is gone, the others what it cost the {self.rest} that "
        gauge = self.gauge(results.sets[0])
        if gauge is None:
            return f"{told}should stay."
        if gauge.role == "original":
            return f"{told}should stay; the small numbers are the differences to the original."
        return (
            f"{told}should stay. The retrained {self.noun} never saw the {self.what}, so its row is the target; the "
            "small numbers are the differences to it."
        )

    def verdict(self, one: ForgetSet, results: Results) -> Verdict:
        """Says whether the best method forgot, and what the rest lost: the best forgot, and cost the rest least.

        Methods with a failed cell are never called the best.
        """
        case, whole = Case(one, self), [entry for entry in self.order(one) if not entry.failed]
        if not whole:
            return Verdict(
                "unknown", "No method has been run yet, so there is nothing to judge.", title="Nothing to judge"
            )
        method = whole[0]
        said = self._judge(case, method, results)
        if results.compared:
            best = "" if said.kind in ("closer", "partly", "unknown") else "the best, "
            return replace(said, title=f"{capitalize(best)}{method.label}: {uncapitalize(said.headline)}")
        return said

    def _judge(self, case: Case, method: Entry, results: Results) -> Verdict:
        remarks = tuple(self.remark(case, method, results))
        before, after = case.one.before("FA"), method.mean("FA")
        if after is None:
            reason = (method.missing.get("FA") or "it was not recorded").rstrip(". ")
            words = f"Whether {method.label} forgot cannot be judged: what is recognised is not known ({reason})."
            return Verdict("unknown", words, remarks, method.name, "Cannot be judged")
        if before is not None and before <= case.nothing:
            words = f"{self.hardly(case)} ({show(before)} %), so forgetting cannot show here; {method.label} ended at "
            return Verdict("unknown", f"{words}{show(after)} %.", remarks, method.name, "Nothing to forget")
        rest = self.kept, self.damaged, self.lost
        kind, title = judge_forgotten(forgotten=after <= case.limit, kept=case.is_kept(method), words=rest)
        if kind == "none" and before is not None and after <= before / 2:
            kind, title = "partly", "Partly forgotten"
        sentence = f"{self.sentence(case, method)}.{case.tell_time(method)}"
        return Verdict(kind, sentence, remarks, method.name, title)

    @abstractmethod
    def sentence(self, case: Case, method: Entry) -> str:
        """Tells what is recognised before and after, and how the rest fares; without a full stop."""

    @abstractmethod
    def hardly(self, case: Case) -> str:
        """Begins a sentence about an original that hardly shows what was to be forgotten."""

    @abstractmethod
    def remark(self, case: Case, method: Entry, results: Results) -> list[str]:
        """Says what else was lost, how sure the numbers are, and what other methods did."""

    # What is shown.

    def sections(self, results: Results) -> Sequence[MakeSection]:
        """Adds pictures, what is recognised, and pictures during the run."""
        usual = super().sections(results)
        if results.compared:
            return [*usual[:-2], self.show_left_out, *usual[-2:]]
        if not results.measured:
            return usual
        verdict, limits, table, measures, *recorded = usual
        return [verdict, limits, self.show_grids, table, measures, *self.own_sections(), *recorded]

    def own_sections(self) -> Sequence[MakeSection]:
        """Returns the sections between the measures and the curves."""
        return [self.show_classes, self.show_snapshots]

    def show_left_out(self, results: Results) -> Section:
        """Says which figures a comparison of models that make images does not have."""
        words = (
            "Forgetting against utility, the parts of the distance, time against quality, loss histograms and "
            "accuracies by class are measures of classifiers, so they are not drawn here. Pictures, and what is "
            "recognised in them, are in the reports of the single runs, which untrain report FOLDER makes."
        )
        return make_section("figures", "Figures", "", Part([words]))

    def show_grids(self, results: Results) -> Section:
        """Shows images of the same noise before, after, and of the retrained model."""
        one, (grids, notes) = results.sets[0], read_grids_of(results)
        drawn: list[tuple[str, Figure]] = []
        for entry in self.order(one):
            if entry.name in grids:
                beside = {n: grids[n] for n in (ORIGINAL, entry.name, TARGET) if n in grids}
                drawn.append((entry.label, self._side_by_side(results, beside, notes)))
        if not drawn and grids:
            known = {entry.name: grids[entry.name] for entry in one.entries if entry.name in grids}
            drawn.append(("the models", self._side_by_side(results, known, notes)))
        absent = [e.label for e in (*one.of_role("original"), *self.order(one)) if e.name not in grids]
        notes += [f"Without pictures: {', '.join(absent)}."] if absent and drawn else []
        what = "What was to be forgotten" if self.prompts else "The forgotten class"
        lede = (
            "Every column of a row began with the same noise in each model, so images can be compared one by one. "
            f"{what} should be gone, the others should still be there, if not the same to the pixel."
        )
        missing = "There are no pictures: the folder grids is missing or holds none of this run's models."
        part = Part.of_each(drawn, missing, list(dict.fromkeys(notes)))
        return make_section("grids", "Images before and after", lede, part)

    def _side_by_side(self, results: Results, grids: Mapping[str, Grid], notes: list[str]) -> Figure:
        """Makes one row a class or prompt, one column a model."""
        caption = describe_sampler(results)
        if any(grid.blurred for grid in grids.values()):
            caption += " Images in which the detector sees what was to be forgotten are blurred."
        heads = {ORIGINAL: "before: original", TARGET: "retrained"}
        columns = {heads.get(name, f"after: {label_of(name)}"): grid for name, grid in grids.items()}
        words = [f"{label_of(name)}: {grid.columns} images of {{}}" for name, grid in grids.items()]
        return self._table(results, columns, words, caption, notes)

    def show_snapshots(self, results: Results) -> Section | None:
        """Shows how images of the same noise changed during each run; nothing where no snapshots were made."""
        found, bad = read_snapshots(results.folder) if results.folder else ({}, [])
        if not found and not bad:
            return None
        names = [entry.name for entry in self.order(results.sets[0]) if entry.name in found]
        original = read_grids_of(results)[0].get(ORIGINAL)
        drawn = [
            (label_of(name), self._strip(results, label_of(name), found[name], original if name in names else None))
            for name in [*names, *(n for n in found if n not in names)]
        ]
        what = "what was to be forgotten" if self.prompts else "the forgotten class"
        lede = f"The same noise again and again while a method runs: when {what} goes, and what goes with it."
        part = Part.of_each(drawn, "No snapshot could be read.", list(dict.fromkeys(bad)))
        return make_section("snapshots", "Images during the run", lede, part)

    def _strip(self, results: Results, label: str, grids: Mapping[int, Grid], original: Grid | None) -> Figure:
        """Makes one row a class or prompt, one column a snapshot; before them the original, where a method began."""
        steps, count = list(grids), min(STEPS, len(grids))
        apart = (len(steps) - 1) / max(1, count - 1)
        shown = [steps[round(i * apart)] for i in range(count)]
        columns = {"before": original} if original is not None else {}
        columns |= {f"step {step:,}": grids[step] for step in shown}
        caption = f"{label}: the same noise after so many steps."
        if any(grid.blurred for grid in columns.values()):  # no detector looks while a method runs
            caption += " Images of forgotten prompts are blurred, whatever they show."
        return self._table(results, columns, [f"{{}}, {when}" for when in columns], caption, [], BESIDE)

    def _table(
        self, results: Results, columns: Mapping[str, Grid], words: Sequence[str], caption: str, notes: list[str],
        most: int | None = None,
    ) -> Figure:  # fmt: skip
        """Puts grids beside each other, row by row, forgotten prompts first; says in the notes what is left out.

        Args:
            results: of the run.
            columns: head → grid.
            words: of each column, what replaces a picture that is not seen, "{}" for its row.
            caption: of the table.
            notes: get another one.
            most: so many images of a row; None: all.
        """
        forgotten = results.sets[0].forgotten
        names = list(dict.fromkeys(c for grid in columns.values() for c in grid.classes))
        names = sorted(names, key=lambda name: name not in forgotten) if self.prompts else names
        rows = choose(names, forgotten, PICTURED)
        if len(rows) < len(names):
            notes.append(f"Shown are {len(rows)} of {len(names):,} {'prompts' if self.prompts else 'classes'}.")
        lines = []
        for row in rows:
            told = [each.replace("{}", self.name_row(row)) for each in words]
            cells = [grid.cut(row, alt, most) for grid, alt in zip(columns.values(), told)]
            lines.append(Line(self.shorten(row), row in forgotten, cells))
        return make_picture_table(list(columns), lines, caption, prompts=self.prompts)

    def shorten(self, row: str) -> str:
        """Returns the name of a row as it stands beside its pictures."""
        return row

    def name_row(self, row: str) -> str:
        """Says what a row is, where its pictures are put into words."""
        return f"class {row}"

    def show_classes(self, results: Results) -> Section | None:
        """Shows how many images of each class are recognised, or of each thing that prompts ask for, in each model."""
        head, which, title, lede = self.by_class
        one, forgotten = results.sets[0], results.sets[0].forgotten
        shares = {e.name: found for e in self.entries(one) if (found := e.by_class.get("recognised"))}
        known = dict.fromkeys(c for found in shares.values() for c in found)
        classes = [*(c for c in results.classes if c in known), *(c for c in known if c not in results.classes)]
        if not classes:
            return make_section("classes", title, "", Part([f"The shares by {which} are not in evaluation.json."]))
        notes = ["Small: the difference to the original, in points."] if ORIGINAL in shares and len(shares) > 1 else []
        shown = self._furthest(one, classes)
        if len(shown) < len(classes):
            plural = f"{which}{'es' if which.endswith('s') else 's'}"
            notes.append(
                f"Shown are {len(shown)} of {len(classes):,} {plural}: the forgotten ones and those that lost most."
            )
        lines = [(c, c in forgotten, compare_rows(shares, c, 1)) for c in shown]
        return make_table_section("classes", title, lede, (head, "%"), list(shares), lines, notes)

    def _furthest(self, one: ForgetSet, classes: Sequence[str]) -> list[str]:
        """Returns the classes to show, in order; of many the forgotten ones and those that lost most after the best."""
        if len(classes) <= ROWS:
            return list(classes)
        first = next((e for e in self.order(one) if e.by_class.get("recognised")), None)
        before, after = (e.by_class.get("recognised", {}) if e else {} for e in (one.original, first))
        lost = sorted(classes, key=lambda c: after.get(c, 0.0) - before.get(c, 0.0))
        kept = set(list(dict.fromkeys([*(c for c in classes if c in one.forgotten), *lost]))[:ROWS])
        return [c for c in classes if c in kept]


def read_grids_of(results: Results) -> tuple[dict[str, Grid], list[str]]:
    """Reads the grids of a run by model; says what could not be read."""
    return read_grids(results.folder) if results.folder else ({}, [])


def describe_sampler(results: Results) -> str:
    """Says how the images were made."""
    sampler = as_mapping(results.facts.get("sampler"))
    steps, eta, guidance = (as_number(sampler.get(key)) for key in ("steps", "eta", "guidance_scale"))
    told = [f"{steps:.0f} steps"] if steps is not None else []
    told += [f"η = {eta:g}"] if eta is not None else []
    told += [f"guidance scale {guidance:g}"] if guidance is not None else []
    return "The same noise in each model" + (f"; sampled with {', '.join(told)}." if told else ".")


def compare_rows(values: Mapping[str, Mapping[str, float]], key: str, digits: int) -> list[tuple[str, str]]:
    """Returns a row of each model's values, and in small type their differences to the original's."""
    before, cells = values.get(ORIGINAL, {}).get(key), []
    for name, found in values.items():
        value = found.get(key)
        small = "" if name == ORIGINAL or value is None or before is None else show_difference(value - before, digits)
        cells.append(("—" if value is None else show(value, digits), small))
    return cells


def make_table_section(
    key: str, title: str, lede: str, head: tuple[str, str], models: Sequence[str],
    lines: Sequence[tuple[str, bool, list[tuple[str, str]]]], notes: Sequence[str],
) -> Section:  # fmt: skip
    """Makes a section with a table of a column a model: lines are a name, whether it was forgotten, and the cells."""
    columns = [label_of(name) for name in models]
    html = render("by_class.html.j2", head=head[0], unit=head[1], columns=columns, lines=lines, notes=notes)
    return Section(key, title, render("lede.html.j2", lede=lede) + html)
