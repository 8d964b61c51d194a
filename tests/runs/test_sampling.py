"""`untrain sample`: what of a command line reaches the function that samples."""

import pytest

from untrain.errors import SettingError
from untrain.permissions import NONE, Permissions
from untrain.runs import sampling
from untrain.runs.flags import arguments, function_help, takes_permissions
from untrain.tasks.class_diffusion.sample import sample_classes
from untrain.tasks.text_to_image.sample import sample_table


@pytest.mark.parametrize("sampler", [sample_classes, sample_table])
def test_permissions_are_no_values_of_a_command_line(sampler):
    assert takes_permissions(sampler) and "permissions" not in function_help(sampler, "untrain sample")
    with pytest.raises(SettingError, match="unknown flag '--permissions'"):
        arguments(sampler, ["source", "--permissions", "all"], "untrain sample")


def test_they_reach_samplers_that_take_them(monkeypatch):
    heard = []

    def with_permissions(source: str, permissions: Permissions = NONE) -> None:
        """Samples with them."""
        heard.append((source, permissions))

    def without(source: str) -> None:
        """Samples without."""
        heard.append((source, None))

    for sampler in (with_permissions, without):
        monkeypatch.setattr(sampling, "_samplers", lambda given=sampler: {"own": given})
        monkeypatch.setattr(sampling, "_choose", lambda *_, given=sampler: given)
        sampling.sample_command(["there"], Permissions(code=True))
    assert heard == [("there", Permissions(code=True)), ("there", None)]
