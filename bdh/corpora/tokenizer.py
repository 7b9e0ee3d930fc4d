"""Text to token ids and back: UTF-8 bytes, Unicode characters, and byte-level BPE.

The BPE is GPT-2's own, from its two files, or one trained on the training split.
"""

from __future__ import annotations

import functools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bdh.project.errors import CorpusError, one_line
from bdh.project.files import read_json

BYTES = 256
END_OF_TEXT = "<|endoftext|>"
LONGEST_WORD = 64
MOST_OF_LONG = 1 << 22
LONG_WORD = re.compile("|".join(f"{kind}{{{LONGEST_WORD + 1},}}" for kind in (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)")))
GPT2_PROBE = ("Hello world", [15496, 995])


class Tokenizer(ABC):
    """A lossless code: `decode(encode(text)) == text` for every text that UTF-8 can hold.

    `end_of_text` is the id that stands after every document, None where the corpus is one document.
    """

    name: str
    vocab_size: int
    end_of_text: int | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer type that holds every id."""
        return smallest_dtype(self.vocab_size)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without an end of text."""
        return self.encode_many([text])[0].tolist()

    @abstractmethod
    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of every text as arrays of `dtype`, on all cores where the tokenizer can."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""

    @property
    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token, int64 of shape (V,), 0 for the end of text."""

    def save(self, folder: Path) -> None:  # noqa: B027 - bytes have no file
        """Write the tokenizer's own files into `folder`."""

    def description(self) -> dict[str, Any]:
        """What `load` needs beside the files."""
        return {"name": self.name, "vocab_size": self.vocab_size, "end_of_text": self.end_of_text}


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint8, uint16 or uint32, the smallest that holds the ids below `vocab_size`."""
    return np.min_scalar_type(vocab_size - 1)


class Bytes(Tokenizer):
    """UTF-8 bytes, vocabulary 256; byte 0 ends a document where there are several."""

    name = "bytes"
    vocab_size = BYTES

    def __init__(self, several: bool) -> None:
        """Code for a corpus of several documents, or of one."""
        self.end_of_text = 0 if several else None

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer; raises CorpusError for a zero byte in text whose documents it would end."""
        if self.end_of_text is not None and any("\0" in text for text in texts):
            raise CorpusError(
                "the text holds a zero byte, which the tokenizer bytes puts after every document; remove it from the "
                "text or choose another tokenizer"
            )
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer."""
        return bytes(int(i) for i in ids).decode("utf-8", errors="replace")

    @property
    def token_bytes(self) -> np.ndarray:
        """See Tokenizer."""
        lengths = np.ones(BYTES, dtype=np.int64)
        if self.end_of_text is not None:
            lengths[self.end_of_text] = 0
        return lengths


class Characters(Tokenizer):
    """Unicode characters of the training split after 256 ids that spell any other character in UTF-8 bytes.

    The byte ids keep the code lossless on held-out text; a last id ends documents where there are several.
    """

    name = "characters"
    FILE = "characters.json"

    def __init__(self, characters: str, several: bool) -> None:
        """Code with an id for each of `characters`, in a corpus of several documents or of one."""
        self.characters = "".join(sorted(set(characters)))
        self._points = np.array([ord(c) for c in self.characters], dtype=np.uint32)
        self.end_of_text = BYTES + len(self.characters) if several else None
        self.vocab_size = BYTES + len(self.characters) + several

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        places = np.searchsorted(self._points, points)
        known = np.zeros(len(points), dtype=bool)
        inside = places < len(self._points)
        known[inside] = self._points[places[inside]] == points[inside]
        if known.all():
            return (places + BYTES).astype(self.dtype)
        ids: list[int] = []
        for place, is_known, character in zip(places.tolist(), known.tolist(), text, strict=True):
            ids.extend([place + BYTES] if is_known else character.encode("utf-8"))
        return np.array(ids, dtype=self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer; an end of text becomes nothing."""
        spelled = bytearray()
        for i in map(int, ids):
            if i < BYTES:
                spelled.append(i)
            elif i != self.end_of_text:
                spelled += self.characters[i - BYTES].encode("utf-8")
        return spelled.decode("utf-8", errors="replace")

    @property
    def token_bytes(self) -> np.ndarray:
        """See Tokenizer."""
        own = [len(character.encode("utf-8")) for character in self.characters]
        return np.array([1] * BYTES + own + [0] * (self.end_of_text is not None), dtype=np.int64)

    def save(self, folder: Path) -> None:
        """See Tokenizer."""
        (folder / self.FILE).write_text(json.dumps(self.characters) + "\n", encoding="utf-8")


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
            inner = tokenizers.Tokenizer.from_file(str(folder / cls.FILE))
            ids = sorted(inner.get_vocab().values())
        except Exception as error:  # tokenizers raises bare Exception
            told = one_line(error)[:200]
            raise CorpusError(f"{folder / cls.FILE} is no tokenizer ({told}); tokenize the corpus again") from None
        if ids != list(range(len(ids))) or (end_of_text is not None and end_of_text >= len(ids)):
            raise CorpusError(f"{folder / cls.FILE} is damaged (its ids have gaps); tokenize the corpus again")
        return cls(inner, name, end_of_text)

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

        Deterministic; fewer ids when the texts have no more pairs that occur twice. Words are learned from in parts of
        at most LONGEST_WORD characters: text without spaces is one word, and its merges would take hours.
        """
        inner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[],
            show_progress=False,
        )
        inner.train_from_iterator(_in_words(texts), trainer)
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


def _in_words(texts: Iterable[str]) -> Iterator[str]:
    """The texts, those with words longer than LONGEST_WORD cut there; of such words MOST_OF_LONG characters."""
    left = MOST_OF_LONG
    for text in texts:
        start = 0
        for match in LONG_WORD.finditer(text):
            yield text[start : match.start()]
            end = min(match.end(), match.start() + left)
            yield from (text[at : min(at + LONGEST_WORD, end)] for at in range(match.start(), end, LONGEST_WORD))
            left -= end - match.start()
            start = match.end()
        yield text[start:]


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def load(folder: Path, description: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `save` and `description` wrote.

    Raises CorpusError on an unknown name, RunError naming the tokenizer's file when it is missing or damaged.
    """
    several = description["end_of_text"] is not None
    tokenizer: Tokenizer
    match description["name"]:
        case "bytes":
            tokenizer = Bytes(several)
        case "characters":
            characters = read_json(folder / Characters.FILE)
            if not isinstance(characters, str):
                raise CorpusError(f"{folder / Characters.FILE} is damaged (it is no text); tokenize the corpus again")
            tokenizer = Characters(characters, several)
        case "gpt2" | "bpe" as name:
            tokenizer = BytePairs.load(folder, name, description["end_of_text"])
        case name:
            raise CorpusError(f"{folder}: unknown tokenizer {name!r}; known: bytes, characters, gpt2, bpe")
    if several and not 0 <= description["end_of_text"] < tokenizer.vocab_size:
        raise CorpusError(
            f"{folder}: its end of text is id {description['end_of_text']} of {tokenizer.vocab_size}; tokenize the "
            "corpus again"
        )
    if tokenizer.vocab_size != description["vocab_size"]:
        raise CorpusError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} ids, {description['vocab_size']} are described; "
            "tokenize the corpus again"
        )
    return tokenizer
