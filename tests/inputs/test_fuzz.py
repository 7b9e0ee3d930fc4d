"""Whatever is written into params, texts, tables and our own files: a right result or one line, and nothing half-made.

Each test catches an exception that is no error of the user, a message of several lines, and files left behind.
"""
# ruff: noqa: E501 - strategies are tables

import contextlib
import copy
import io
import json
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bdh.corpora.provenance import Provenance
from bdh.corpora.tokens import TokenCorpus
from bdh.golden.vectors import check_file
from bdh.models.base import build as build_model
from bdh.params import load
from bdh.project.errors import HatcheryError
from bdh.training.checkpoints import load_run, save_run
from bdh.training.resume import Checkpoint, CheckpointFolder
from tests.inputs.case import build, local, plain, table, whole
from tests.inputs.numbers import place, shipped
from tests.inputs.places import SHAPE, bpe_corpus
from tests.support.project import ROOT

FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(["1e-05", "auto", "bytes", "", "~", "0x1f", "off", "\ud800"[:0], "a" * 300]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@contextlib.contextmanager
def one_line_at_most():
    """Let an error of the user pass if it is one line that says something; any other exception is a failure."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except HatcheryError as error:
        text = str(error)
        assert text
        assert "\n" not in text.strip(), text


@pytest.fixture
def folder():
    """A folder per example; hypothesis runs many of them in one test."""
    made = []

    def fresh() -> Path:
        made.append(tempfile.mkdtemp())
        return Path(made[-1])

    yield fresh
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


def paths_of(value, prefix=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*prefix, key)
            yield from paths_of(inner, (*prefix, key))


PATHS = sorted({".".join(path) for path in paths_of(shipped()) if all(isinstance(part, str) for part in path)})


@settings(FEW, max_examples=30)
@given(dotted=st.sampled_from(PATHS), value=VALUES)
def test_fuzz_params_values(folder, dotted, value):
    raw = copy.deepcopy(shipped())
    place(raw, dotted, value)
    path = folder() / "params.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=False), encoding="utf-8")
    with one_line_at_most():
        params = load(path)
        for variant, corpus, _ in params.runs():
            params.train_of(variant, corpus)
            params.model_of(variant, corpus)


@FEW
@given(start=st.integers(0, 400), text=st.text(st.characters(codec="utf-8"), max_size=12), data=st.binary(max_size=4))
def test_fuzz_params_text(folder, start, text, data):
    shipped_text = (ROOT / "params.yaml").read_text(encoding="utf-8").encode()
    lines = shipped_text.split(b"\n")
    lines[start % len(lines)] = text.encode() + data
    path = folder() / "params.yaml"
    path.write_bytes(b"\n".join(lines))
    with one_line_at_most():
        load(path)


SEPARATORS = st.one_of(
    st.none(),
    st.sampled_from(
        ["\n", "\n\n", "--", "é", {"pattern": "a+"}, {"pattern": "(?=b)"}, {"pattern": "("}, {"pattern": "x*"}]
    ),
)
TOKENIZERS = st.sampled_from([{"name": "bytes"}, {"name": "characters"}, {"name": "bpe", "vocab_size": 270}])


@FEW
@given(
    data=st.one_of(
        st.binary(max_size=300), st.text(st.characters(codec="utf-8"), min_size=30, max_size=300).map(str.encode)
    ),
    separator=SEPARATORS,
    tokenizer=TOKENIZERS,
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16", "shift_jis", "utf-7"]),
    newlines=st.sampled_from(["keep", "lf"]),
)
def test_fuzz_text(folder, data, separator, tokenizer, encoding, newlines):
    """The documents of a corpus that is built are, joined, the bytes of the file without its separators."""
    here = folder()
    (here / "t.txt").write_bytes(data)
    with one_line_at_most():
        corpus = build(
            here, local(here / "t.txt", plain(separator), tokenizer=tokenizer, encoding=encoding, newlines=newlines)
        )
        if separator is None and encoding == "utf-8" and newlines == "keep":
            assert "".join(whole(corpus)) == data.decode("utf-8").removeprefix("\ufeff")
        if encoding == "latin-1" and separator is None and newlines == "keep" and data[:2] != b"\x1f\x8b":
            assert "".join(whole(corpus)) == data.decode("latin-1")
    assert not list(here.rglob("*.partial"))
    assert (here / "tokens/mine/stats.json").exists() or not (here / "tokens/mine").exists()


CELLS = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), min_size=12, max_size=12),
    st.lists(st.one_of(st.none(), st.floats()), min_size=12, max_size=12),
    st.lists(
        st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["2019", "Q2", "2019-01-02", ""])),
        min_size=12,
        max_size=12,
    ),
    st.lists(st.one_of(st.none(), st.binary(max_size=4)), min_size=12, max_size=12),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=12, max_size=12),
    st.lists(st.one_of(st.none(), st.dates()), min_size=12, max_size=12),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=12, max_size=12),
)
ROLES = st.sampled_from(["text", "turns", "symbol", "company", "sector", "date", "year", "quarter"])


@FEW
@given(cells=CELLS, role=ROLES, twist=st.sampled_from(["plain", "dictionary", "cut"]))
def test_fuzz_parquet(folder, cells, role, twist):
    here = folder()
    column = pa.array(cells)
    if twist == "dictionary" and not pa.types.is_nested(column.type) and not pa.types.is_null(column.type):
        column = column.dictionary_encode()
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(12)], "other": column}), here / "t.parquet")
    if twist == "cut":
        (here / "t.parquet").write_bytes((here / "t.parquet").read_bytes()[:-40])
    named = {"text": "other"} if role == "text" else {role: "other"}
    with one_line_at_most():
        corpus = build(here, local(here / "t.parquet", table("parquet", named)))
        if role in ("year", "quarter"):
            low, high = (1, 9999) if role == "year" else (1, 4)
            assert corpus.documents[role].dropna().between(low, high).all()
        if role != "text":
            assert len(corpus.documents) == 12
    assert not list(here.rglob("*.partial"))


@FEW
@given(
    values=st.lists(JSON, min_size=3, max_size=8),
    form=st.sampled_from(["jsonl", "csv"]),
    role=st.sampled_from(["date", "year", "symbol", "turns", "quarter"]),
    junk=st.binary(max_size=6),
)
def test_fuzz_rows(folder, values, form, role, junk):
    here = folder()
    lines = [json.dumps({"text": f"t {n} {value!r}", "other": value}) for n, value in enumerate(values)]
    if form == "csv":
        lines = ["text,other", *(f"text {n},{json.dumps(value)}" for n, value in enumerate(values))]
    (here / f"t.{form}").write_bytes("\n".join(lines).encode() + b"\n" + junk)
    with one_line_at_most():
        build(here, local(here / f"t.{form}", table(form, {role: "other"})))
    assert not list(here.rglob("*.partial"))


def flipped(data: bytes, place: int, new: bytes) -> bytes:
    at = place % (len(data) + 1)
    return data[:at] + new + data[at + len(new) :]


PLACES = st.integers(0, 10**6)
BYTES = st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"null", b"[]", b'"a"', b"-1", b"1e9", b"{}"]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenized corpus, a run and two checkpoints, sound."""
    here = tmp_path_factory.mktemp("made")
    bpe_corpus(here)
    model = build_model("bdh", vocab_size=256, seed=0, **SHAPE)
    config = {"variant": "bdh", "architecture": "bdh", "vocab_size": 256, "corpus": "toy", "seed": 0, "model": SHAPE}
    save_run(here / "run", model, config)
    kept = CheckpointFolder("key", "f", here / "checkpoints")
    for step in (3, 6):
        kept.write(Checkpoint(step, {"w": torch.full((4,), float(step))}, {"step": step}))
    return here


@settings(FEW, max_examples=200)
@given(
    name=st.sampled_from(
        ["tokens/mine/stats.json", "tokens/mine/tokenizer.json", "tokens/mine/documents.parquet", "raw/mine/provenance.json",
         "run/config.json", "run/model.safetensors"]
    ),
    place=PLACES,
    new=BYTES,
)  # fmt: skip
def test_fuzz_own_files(made, folder, name, place, new):
    here = folder()
    for part in ("tokens", "raw", "run"):
        shutil.copytree(made / part, here / part)
    path = here / name
    path.write_bytes(flipped(path.read_bytes(), place, new))
    with one_line_at_most():
        if name.startswith("tokens"):
            corpus = TokenCorpus.open(here / "tokens/mine")
            assert len(corpus.documents), [len(corpus.tokens(split)) for split in ("train", "test")]
            corpus.decode(corpus.encode("document"))
        elif name.startswith("raw"):
            Provenance.read(here / "raw/mine").check(here / "raw/mine")
        else:
            load_run(here / "run")


@FEW
@given(value=JSON, name=st.sampled_from(["tokens/mine/stats.json", "raw/mine/provenance.json", "run/config.json"]))
def test_fuzz_own_json(made, folder, value, name):
    """The file holds some other JSON value: never taken for what it should be."""
    here = folder() / "x"
    shutil.copytree(made, here)
    (here / name).write_text(json.dumps(value), encoding="utf-8")
    readers = (
        lambda: TokenCorpus.open(here / "tokens/mine"),
        lambda: Provenance.read(here / "raw/mine"),
        lambda: load_run(here / "run"),
    )
    reader = readers[("tokens", "raw", "run").index(name.split("/")[0])]
    with pytest.raises(HatcheryError, match=Path(name).name):
        reader()


@FEW
@given(place=PLACES, new=BYTES)
def test_fuzz_golden_files(folder, place, new):
    path = folder() / "official_small.npz"
    path.write_bytes(flipped((ROOT / "tests/golden/official_small.npz").read_bytes(), place, new))
    with one_line_at_most():
        assert check_file(path).status in ("passed", "failed")


@FEW
@given(name=st.sampled_from(["rest.json", "tensors.safetensors"]), place=PLACES, new=BYTES)
def test_fuzz_checkpoints(made, folder, name, place, new):
    """A damaged checkpoint is passed over and the earlier one is read, whole."""
    root = folder()
    shutil.copytree(made / "checkpoints", root, dirs_exist_ok=True)
    path = root / "key/f/6" / name
    before = path.read_bytes()
    path.write_bytes(flipped(before, place, new))
    found = CheckpointFolder("key", "f", root).read()
    assert found is not None
    assert found.step == (6 if path.exists() and path.read_bytes() == before else 3)
    assert torch.equal(found.tensors["w"], torch.full((4,), float(found.step)))
    assert found.rest == {"step": found.step}
