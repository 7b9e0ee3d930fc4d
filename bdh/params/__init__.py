"""params.yaml: every key typed and checked in one place; a mistake names its dotted path and what is allowed."""

from bdh.params.corpora import (
    BpeTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Columns,
    Corpus,
    GeneratedSource,
    Gpt2Tokenizer,
    LocalSource,
    PlainText,
    SeparatorPattern,
    SourceFile,
    SplitByBlocks,
    SplitByDate,
    SplitByPosition,
    Tokenizer,
)
from bdh.params.load import FILE, load
from bdh.params.training import Frontier, Hebbian, Train
from bdh.params.whole import Params, corpus_of, named_settings

__all__ = [
    "FILE",
    "BpeTokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Columns",
    "Corpus",
    "Frontier",
    "GeneratedSource",
    "Gpt2Tokenizer",
    "Hebbian",
    "LocalSource",
    "Params",
    "PlainText",
    "SeparatorPattern",
    "SourceFile",
    "SplitByBlocks",
    "SplitByDate",
    "SplitByPosition",
    "Tokenizer",
    "Train",
    "corpus_of",
    "load",
    "named_settings",
]
