"""The run's own models, as an audit asks them: read, never made."""

from collections.abc import Mapping, Sequence

from torch import nn

from untrain.errors import SettingError
from untrain.runs import stages
from untrain.runs.names import ORIGINAL
from untrain.runs.stages import Experiment

RUN = "run"
"""The group of the run's own models; its folder in that of the audit holds what they told."""


def load_finished(experiment: Experiment, names: Sequence[str]) -> Mapping[str, nn.Module]:
    """Reads models of a finished run.

    Args:
        experiment: of the run.
        names: original, methods and retrained models.

    Raises:
        SettingError: names a model that is not there.
    """
    folder, recipe = experiment.folder, experiment.recipe
    needed = [name for name in (ORIGINAL, *names) if name != ORIGINAL or experiment.domain.checkpoint is None]
    gone = [name for name in dict.fromkeys(needed) if not folder.holds(name)]
    if gone:
        raise SettingError(f"{folder.path} has no {gone[0]}.safetensors. Make it: untrain run {folder.path} --resume.")
    if not names:
        return {}
    start = stages.prepare_original(experiment)
    references = stages.train_references(experiment, [name for name in names if name in stages.reference_names(recipe)])
    models = stages.unlearn_methods(experiment, start, [name for name in names if name in recipe.methods])
    found = {ORIGINAL: start, **references, **models}
    return {name: found[name] for name in names}
