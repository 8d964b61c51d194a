import pytest
import torch

from untrain.data.classes import class_named, match_classes, number_positions
from untrain.data.samples import Arrays
from untrain.errors import DataError, SettingError, UnknownName

LABELS = ("tench, Tinca tinca", "goldfish", "black_swan", "cat", "Ox")
REMEDY = {"remedy": "Say so."}


def test_classes_by_name() -> None:
    labels = ("tench, Tinca tinca", "goldfish", "great white shark", "cat", "cock")
    assert [class_named(labels, name) for name in ("tench", "Tinca tinca", "tench, Tinca tinca", "cat")] == [0, 0, 0, 3]
    assert class_named(("crane, hoist", "crane"), "crane") == 1, "a whole name comes before a synonym"
    with pytest.raises(UnknownName, match="none of the 5 classes is called 'cats'. Did you mean 'cat'"):
        class_named(labels, "cats")
    with pytest.raises(UnknownName, match=r"2 classes are called 'maillot': 0 maillot, a; 1 maillot, b. Give"):
        class_named(("maillot, a", "maillot, b"), "maillot")


@pytest.mark.parametrize(
    ("classes", "numbers", "said"),
    [
        (["cat", "goldfish"], [3, 1], ""),
        (["Tinca tinca", "cat"], [0, 3], ""),
        (["Cat", "black swan"], [3, 2], "'Cat' is 'cat'"),
        (["black-swan", "OX"], [2, 4], "'black-swan' is 'black_swan'"),
        (["4", "0"], [4, 0], "4 is 'Ox'"),
    ],
)
def test_data_find_their_classes_by_the_models_names(classes: list[str], numbers: list[int], said: str) -> None:
    found = match_classes(classes, LABELS, **REMEDY)
    assert list(found.numbers) == numbers
    assert (said in " ".join(found.notes)) if said else not found.notes
    labels = torch.tensor([0, 1, 1])
    source = found.renumber(Arrays(torch.rand(3, 2), labels, classes))
    assert source.labels.tolist() == [numbers[0], numbers[1], numbers[1]] and source.classes == LABELS
    assert source.batch(torch.tensor([2]))["label"].item() == numbers[1]


def test_a_user_says_which_class_is_which() -> None:
    assert match_classes(["katze", "n01443537"], LABELS, {"katze": "cat", "n01443537": 1}, **REMEDY).numbers == (3, 1)
    assert match_classes(["a", "b"], LABELS, {"a": "cat", "b": 3}, **REMEDY).numbers == (3, 3), "both, if it is said"
    with pytest.raises(SettingError, match="'hund'"):
        match_classes(["cat"], LABELS, {"hund": "cat"}, **REMEDY)


def test_classes_that_the_model_has_not() -> None:
    with pytest.raises(UnknownName, match=r"4 of the data's 5 .*'n1', 'n2', 'n3' ….*Say so") as caught:
        match_classes(["n1", "n2", "cat", "n3", "n4"], LABELS, **REMEDY)
    assert "n4" not in str(caught.value), "three are enough"
    with pytest.raises(UnknownName, match="'cats' .did you mean 'cat'"):
        match_classes(["cats"], LABELS, **REMEDY)
    with pytest.raises(DataError, match="'tench' and 'Tinca tinca' are both"):
        match_classes(["tench", "Tinca tinca"], LABELS, **REMEDY)
    with pytest.raises(UnknownName, match="2 classes could be 'CAT': 0 Cat; 1 cat"):
        match_classes(["CAT"], ["Cat", "cat"], **REMEDY)


def test_numbers_that_are_not_positions() -> None:
    assert number_positions(["0", "1", "2"]) is None and number_positions(["a", "10"]) is None
    assert "'10' is number 2" in str(number_positions(["0", "1", "10", "2"]))
