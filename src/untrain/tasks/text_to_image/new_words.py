"""Words of a pipeline that stand for vectors from elsewhere: what a textual inversion learns, or a relaxed token.

Nothing of the pipeline is changed. A spare word of its tokenizers, which no prompt uses, is written where the vector is
to stand, and while it has a meaning, the embedding layers give that vector for its number instead of their own row.

Gal et al.: *An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion*, ICLR 2023.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.diffusion.architectures.base import Condition
from untrain.diffusion.text import embed_texts, text_encoders, tokenizers, tokens_of
from untrain.errors import SettingError


class NewWords:
    """Spare words of a pipeline.

    Attributes:
        pipeline: whose they are.
        words: as they are written into prompts.
    """

    def __init__(self, pipeline: Any, count: int, texts: Sequence[str]) -> None:
        """Finds words that none of the texts uses.

        Args:
            pipeline: has the tokenizers.
            count: how many.
            texts: prompts that the words will stand beside.

        Raises:
            SettingError: if there are fewer.
        """
        self.pipeline = pipeline
        used = {token for text in tokens_of(pipeline, list(texts)) for row in text for token in row}
        found: list[str] = []
        for word in _written_words(next(tokenizers(pipeline))[1]):
            numbers = _numbers_of(pipeline, word)
            if numbers is not None and not used & set(numbers):
                found.append(word)
            if len(found) == count:
                break
        if len(found) < count:
            raise SettingError(
                f"the tokenizer has {len(found)} words that no prompt uses, not {count}: use fewer tokens."
            )
        self.words = tuple(found)
        self.numbers = [numbers for word in found if (numbers := _numbers_of(pipeline, word))]

    @property
    def tables(self) -> list[nn.Embedding]:
        """The embedding layer of each text encoder."""
        return [encoder.get_input_embeddings() for encoder in text_encoders(self.pipeline)]

    @contextmanager
    def meaning(self, vectors: Sequence[Tensor]) -> Iterator[None]:
        """Lets the words stand for vectors for the block.

        Args:
            vectors: of each text encoder, [B or 1, words, D]: of every text that is embedded at once, or of all alike.
        """
        with ExitStack() as hooks:
            for place, (table, given) in enumerate(zip(self.tables, vectors, strict=True)):
                own = [numbers[place] for numbers in self.numbers]
                hook = table.register_forward_hook(partial(_with_vectors, own, given))
                hooks.callback(hook.remove)
            yield

    def embed(self, texts: Sequence[str], vectors: Sequence[Tensor]) -> Condition:
        """Embeds texts, [B], in which the words stand for vectors; as of `embed_texts`."""
        with self.meaning(vectors):
            return embed_texts(self.pipeline, texts)


def _with_vectors(
    numbers: Sequence[int], vectors: Tensor, _: nn.Module, args: tuple[Tensor, ...], out: Tensor
) -> Tensor:
    """What an embedding layer gives, [B, L, D], with vectors [B or 1, words, D] in place of the words' own rows."""
    for place, number in enumerate(numbers):
        out = torch.where((args[0] == number)[..., None], vectors[:, place, None].to(out), out)
    return out


def _written_words(tokenizer: Any) -> Iterator[str]:
    """Yields the words of a vocabulary that can be written as they are, the rarest first."""
    vocabulary = tokenizer.get_vocab()
    for token in sorted(vocabulary, key=vocabulary.__getitem__, reverse=True):
        word = token.removesuffix("</w>")
        if word != token and word.isascii() and word.isalpha() and word == word.lower():
            yield word


def _numbers_of(pipeline: Any, word: str) -> tuple[int, ...] | None:
    """The number of a word in each vocabulary; None if it is not one token in all."""
    found = []
    for _, tokenizer in tokenizers(pipeline):
        numbers = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(numbers) != 1:
            return None
        found.append(numbers[0])
    return tuple(found)


def neutral_vectors(pipeline: Any, word: str | None) -> list[Tensor]:
    """Returns where a new word starts from, of each text encoder [1, 1, D].

    Args:
        pipeline: has tokenizers and text encoders.
        word: one token of every tokenizer; None: the mean of all that the vocabulary holds, which says nothing.

    Raises:
        SettingError: if the word is several tokens.
    """
    tables: list[Tensor] = [encoder.get_input_embeddings().weight for encoder in text_encoders(pipeline)]
    if word is None:
        return [table.detach().mean(0)[None, None].clone() for table in tables]
    numbers = _numbers_of(pipeline, word)
    if numbers is None:
        raise SettingError(f"the word to start from, {word!r}, is several tokens: choose one that the tokenizer knows.")
    return [table.detach()[number][None, None].clone() for table, number in zip(tables, numbers, strict=True)]
