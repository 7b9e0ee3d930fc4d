"""Byte-level BPE: GPT-2's own from its two files, or one trained on the training split."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bdh.corpora.tokenizer import Tokenizer
from bdh.errors import CorpusError

END_OF_TEXT = "<|endoftext|>"
GPT2_PROBE = ("Hello world", [15496, 995])


class BytePairs(Tokenizer):
    """GPT-2's scheme: text is cut by its regular expression, bytes are merged inside the cuts.

    The end of text is an id that no text encodes to: "<|endoftext|>" in a document is ordinary text.
    """

    FILE = "tokenizer.json"

    def __init__(self, inner: tokenizers.Tokenizer, name: str, end_of_text: int | None) -> None:
        """Wrap a tokenizer of the `tokenizers` library."""
        self.name = name
        self.end_of_text = end_of_text
        self.vocab_size = inner.get_vocab_size()
        self._inner = inner

    @classmethod
    def load(cls, folder: Path, name: str, end_of_text: int | None) -> BytePairs:
        """The tokenizer that `save` wrote; raises CorpusError when its file is missing or damaged."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(folder / cls.FILE)), name, end_of_text)
        except Exception as error:  # tokenizers raises bare Exception
            raise CorpusError(f"{folder / cls.FILE} is no tokenizer ({error}); tokenize the corpus again") from None

    @classmethod
    def gpt2(cls, vocab: Path, merges: Path) -> BytePairs:
        """GPT-2's tokenizer from vocab.json and merges.txt; raises CorpusError when they are not GPT-2's."""
        try:
            table = json.loads(vocab.read_text(encoding="utf-8"))
            inner = _byte_level(models.BPE.from_file(str(vocab), str(merges)))
            tokenizer = cls(inner, "gpt2", table[END_OF_TEXT])
        except Exception as error:  # tokenizers raises bare Exception
            raise CorpusError(f"{vocab} and {merges} are no GPT-2 tokenizer: {error!r}") from None
        text, expected = GPT2_PROBE
        if tokenizer.encode(text) != expected:
            raise CorpusError(f"{vocab} and {merges}: {text!r} gives {tokenizer.encode(text)} instead of {expected}")
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BytePairs:
        """A tokenizer of `vocab_size` ids from `texts`: 256 bytes, the merges, the end of text last.

        Deterministic; fewer ids when the texts have no more pairs that occur twice.
        """
        inner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[],
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        state = json.loads(inner.to_str())
        size = len(state["model"]["vocab"])
        state["model"]["vocab"][END_OF_TEXT] = size
        return cls(tokenizers.Tokenizer.from_str(json.dumps(state)), "bpe", size)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer."""
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """See Tokenizer; in the byte-level alphabet every character of a token is one byte."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, i in self._inner.get_vocab().items():
            lengths[i] = 0 if i == self.end_of_text else len(token)
        return lengths

    def save(self, folder: Path) -> None:
        """See Tokenizer; the file is in the format of the `tokenizers` library."""
        (folder / self.FILE).write_text(self._inner.to_str() + "\n", encoding="utf-8")


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner
