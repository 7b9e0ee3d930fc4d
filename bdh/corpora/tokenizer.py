"""Text to token ids and back: the interface, UTF-8 bytes, Unicode characters."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdh.errors import CorpusError

BYTES = 256


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


def load(folder: Path, description: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `save` and `description` wrote; raises CorpusError on an unknown name."""
    several = description["end_of_text"] is not None
    match description["name"]:
        case "bytes":
            return Bytes(several)
        case "characters":
            return Characters(json.loads((folder / Characters.FILE).read_text(encoding="utf-8")), several)
        case "gpt2" | "bpe" as name:
            from bdh.corpora.bytepairs import BytePairs

            return BytePairs.load(folder, name, description["end_of_text"])
    raise CorpusError(f"{folder}: unknown tokenizer {description['name']!r}; known: bytes, characters, gpt2, bpe")
