"""The same prompt in two spellings, as the tokenizers of both kinds of pipelines see it."""

from typing import Any

import pytest
import torch

import untrain
from helpers.small_pipelines import TEXTS
from helpers.text_recipes import save_text_recipe
from untrain.cli import main
from untrain.diffusion.text import encode_prompts, tokens_of
from untrain.errors import DataError, Overlap
from untrain.tasks.text_to_image.concepts import Concept
from untrain.tasks.text_to_image.rendering import EvalPrompt
from untrain.tasks.text_to_image.same_prompts import check_asked, check_concepts

SAME = ("A Red Circle", "a red circle ", "  a  red\tcircle", "A RED CIRCLE\n")


@pytest.fixture(params=["pipe", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_texts_of_the_same_tokens_have_the_same_embeddings(pipeline: Any) -> None:
    texts = [*SAME, *TEXTS]
    seen, embeds = tokens_of(pipeline, texts), encode_prompts(pipeline, texts, 16).embeds[1:]
    for i in range(len(texts)):
        for j in range(len(texts)):
            assert (seen[i] == seen[j]) == torch.equal(embeds[i], embeds[j])
    assert len({*seen}) == 3 and tokens_of(pipeline, []) == []


def test_texts_are_compared_within_the_window(pipeline: Any) -> None:
    long = "a" * 22
    one, two, short = tokens_of(pipeline, [f"{long}b", f"{long}c", long[:-1]])
    assert one == two != short and len(one[0]) == 24


@pytest.mark.parametrize("text", SAME)
def test_the_same_in_another_spelling_is_refused(pipeline: Any, text: str) -> None:
    kept = [Concept("a red square")]
    with pytest.raises(DataError, match="anchor of"):
        check_concepts(pipeline, {"forget": [Concept(text, anchor="a red circle")], "retain": kept})
    with pytest.raises(DataError, match="anchor of"):
        check_concepts(pipeline, {"forget": [Concept("x")], "retain": [Concept(text, anchor="a red circle")]})
    with pytest.raises(Overlap, match="'a red circle' is in the forget set"):
        check_concepts(pipeline, {"forget": [Concept("a red circle")], "retain": [*kept, Concept(text)]})
    asked = [EvalPrompt("a red circle", True), EvalPrompt("a red square", False), EvalPrompt(text, False)]
    with pytest.raises(Overlap, match="evaluated as forgotten"):
        check_asked(pipeline, asked)
    check_asked(pipeline, asked[:2])


def test_what_is_retained_twice_is_noted_once(pipeline: Any) -> None:
    kept = [Concept(text) for text in SAME]
    with pytest.warns(UserWarning, match=r"3 prompts are in a set twice, the first 'A Red Circle' and"):
        check_concepts(pipeline, {"forget": [Concept("a blue square")], "retain": kept})


def test_a_prompt_that_is_nothing_to_the_encoder_is_redirected_to_itself(pipeline: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(pipeline, "maybe_convert_prompt", lambda text, tokenizer: text.replace("x", ""))
    with pytest.raises(DataError, match="the anchor of 'x' is ''"):
        check_concepts(pipeline, {"forget": [Concept("x")], "retain": [Concept("a red square")]})


def test_they_are_refused_in_python_and_in_recipes(pipe: Any, tmp_path: Any, capsys: Any) -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    forget, retain = Concept(TEXTS[0], images), Concept(SAME[0], images)
    with pytest.raises(Overlap):
        untrain.unlearn(pipe, task="text-to-image", forget=forget, retain=retain, steps=1, device="cpu")
    recipe = save_text_recipe(tmp_path)
    text = recipe.read_text()
    for old, new in (
        ("anchor: a red square", "anchor: A red CIRCLE"),
        ("{prompt: a red square", "{prompt: A red circle"),
    ):
        recipe.write_text(text.replace(old, new))
        assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 1
        assert "text encoder" in capsys.readouterr().err and not (tmp_path / "run").exists()
