"""The own-text examples of docs/corpora.md, taken from the page, on files as it names them."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bdh.params import Corpus
from tests.inputs.case import build, texts_of
from tests.support.project import ROOT

DOCS = [f"document {number} about Größe" for number in range(40)]


def examples() -> list[dict]:
    page = (ROOT / "docs/corpora.md").read_text(encoding="utf-8").partition("## Your own text")[2]
    return [yaml.safe_load(block)["mine"] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]


def bring(folder) -> None:
    """The files that the examples name."""
    (folder / "my/folder").mkdir(parents=True)
    (folder / "my/texts.txt").write_text("".join(f"{text}\n" for text in DOCS * 200), encoding="utf-8")
    for number, text in enumerate(DOCS):
        (folder / f"my/folder/{number:02d}.txt").write_text(text, encoding="utf-8")
    (folder / "my/texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in DOCS), encoding="utf-8"
    )
    rows = [{"content": text, "published": f"{2010 + number // 4}-01-02"} for number, text in enumerate(DOCS)]
    for part in (0, 1):
        pq.write_table(pa.Table.from_pylist(rows[20 * part : 20 * part + 20]), folder / f"my/{part}.parquet")


def test_page_has_an_example_of_every_kind() -> None:
    found = [(example["text"]["format"], example["source"]["path"]) for example in examples()]
    assert found == [
        ("text", "my/texts.txt"),
        ("text", "my/folder"),
        ("jsonl", "my/texts.jsonl"),
        ("parquet", "my/*.parquet"),
    ]


@pytest.mark.parametrize("number", range(4))
def test_example_of_the_page_works_as_it_stands(number, tmp_path, monkeypatch) -> None:
    """Catches a key that was renamed, and text that did not arrive whole."""
    bring(tmp_path)
    monkeypatch.chdir(tmp_path)
    corpus = build(tmp_path, Corpus.model_validate(examples()[number]))
    found = [text for split in ("train", "validation", "test") for text in texts_of(corpus, split)]
    if number == 0:
        data = (tmp_path / "my/texts.txt").read_bytes()
        assert sorted("".join(found).encode()) == sorted(data)
        assert len(corpus.tokens("test")) == pytest.approx(0.1 * len(data), abs=4)
    else:
        assert sorted(found) == sorted(DOCS)
    if number == 3:
        assert texts_of(corpus, "test") == DOCS[36:]
