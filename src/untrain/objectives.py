"""What a search judges settings by, without a retrained model; by default how losses stand to those of unseen samples.

Held-out data show what a retrained model would do: a trial is held against how the original treats data that it never
saw, since that is how a retrained model would treat the forget set.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from untrain.data.sections import Forget
from untrain.data.splits import Split, Subset
from untrain.data.streams import Stream
from untrain.engine import generator_of
from untrain.errors import DataError, SettingError
from untrain.metrics.losses import sample_losses

if TYPE_CHECKING:
    from untrain.domain import Division, Domain

FEWEST = 20
"""Held-out samples below which nothing can be judged by them."""


class SearchObjective(ABC):
    """One forget set of a search for settings, judged without a retrained model.

    Attributes:
        division: its samples, as methods see them.
    """

    division: "Division"

    @abstractmethod
    def observe(self, module: nn.Module) -> Any:
        """Looks at a model; what is seen is passed to `score`."""

    @abstractmethod
    def score(self, seen: Any, original: Any) -> float:
        """Returns how far a model is from what it should be, in points, by what was seen of it; lower is better."""

    @abstractmethod
    def facts(self) -> Any:
        """Returns what the score depends on besides the model, as JSON."""


@dataclass(frozen=True, eq=False)
class LossObjective(SearchObjective):
    """A forget set of any task: its losses should be those of held-out data, all others what they were.

    Attributes:
        division: as methods see it: with their part of the held-out data.
        judged: the streams "forget", "retain", and "one" and "other", halves of held-out data that no method is given.
        domain: the task's.
    """

    division: "Division"
    judged: Mapping[str, Stream]
    domain: "Domain"

    def observe(self, module: nn.Module) -> dict[str, Tensor]:
        """Takes the loss of every sample, by set."""
        task, engine = self.domain.task, self.domain.context.engine
        found = {name: sample_losses(module, task, stream, engine) for name, stream in self.judged.items()}
        return {"forget": found["forget"], "retain": found["retain"], "held": torch.cat([found["one"], found["other"]])}

    def score(self, seen: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> float:
        """Scores a trial; see `loss_score`."""
        return loss_score(seen, original)

    def facts(self) -> Any:
        """Returns hashes of the sets."""
        return [stream.fingerprint() for stream in self.judged.values()]


def loss_score(seen: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> float:
    """How far a model's losses are from what a retrained one's would be, in points from 0 to 100.

    Mean of W(forget, held₀), W(retain, retain₀) and W(held, held₀), where ₀ is the original, W the Wasserstein-1
    distance of two sets of losses, and W(held₀, retain₀), how far what it saw is from what it never saw, is 100.

    Args:
        seen: losses of the model on "forget", "retain" and "held" (held-out) samples, each [N].
        original: likewise, before it was unlearned.
    """
    from scipy.stats import wasserstein_distance

    pairs = (("forget", "held"), ("retain", "retain"), ("held", "held"))
    gaps = [float(wasserstein_distance(seen[of].numpy(), original[aim].numpy())) for of, aim in pairs]
    whole = float(wasserstein_distance(original["held"].numpy(), original["retain"].numpy()))
    return sum(100 * min(1.0, gap / whole if whole else float(gap > 0)) for gap in gaps) / len(gaps)


def share_heldout(domain: "Domain", division: "Division", own: float) -> list[tuple["Division", dict[str, Stream]]]:
    """Shares the held-out data out: to the methods, and in two halves, "one" and "other", to the score.

    Args:
        domain: the task's.
        division: with the whole of the held-out data.
        own: the part of these that methods are given, in [0, 1).

    Returns:
        For each forget set of the search: its division, and the sets that it is judged by.

    Raises:
        DataError: if too few are left to judge by.
    """
    context = domain.context
    order = torch.randperm(len(division.holdout), generator=generator_of(context.seed, "tuning"))
    given = round(own * len(order))
    half = given + (len(order) - given) // 2
    parts = [Subset(division.holdout, part.sort().values) for part in (order[:given], order[given:half], order[half:])]
    if len(parts[1]) < FEWEST // 2:
        raise DataError(
            f"only {len(order) - given} held-out samples are left to judge settings by, at least {FEWEST} are needed: "
            "raise forget.holdout, or set compare.trials to 0."
        )
    halves = [Stream(part, "holdout", context.engine, context.batch_size, context.seed) for part in parts[1:]]
    found = []
    for split in forget_splits(division.split, context.seed):
        part = replace(division, split=split, holdout=parts[0])
        sets = {name: domain.stream(part, name) for name in ("forget", "retain")}
        found.append((part, {**sets, "one": halves[0], "other": halves[1]}))
    return found


def forget_splits(split: Split, seed: int) -> list[Split]:
    """The split, and where it is random a second one: other samples of the same training data are forgotten."""
    count, retain = len(split.forget), split.retain
    if split.kind != "fraction" or count > len(retain):
        return [split]
    order = torch.randperm(len(retain), generator=generator_of(seed, "tuning", "second forget set"))
    second, rest = retain[order[:count]], retain[order[count:]]
    return [split, replace(split, forget=second.sort().values, retain=torch.cat([split.forget, rest]).sort().values)]


def check_heldout(sections: Any, checkpoint: str | None) -> None:
    """Refuses a search that would judge by data which a checkpoint may have seen, or by test data.

    Raises:
        SettingError: says what to hold out.
    """
    forget = getattr(sections, "forget", None)
    if not isinstance(forget, Forget) or checkpoint is None:
        return
    if not (forget.holdout_from == "train" and forget.holdout > 0):
        raise SettingError(
            "compare.trials: a search judges by data that nothing was trained on and nothing is tested on. With "
            "model.checkpoint, hold some of the training data out that the checkpoint has not seen "
            "(forget.holdout_from: train, and forget.seed if it is always the same), or set trials to 0."
        )
