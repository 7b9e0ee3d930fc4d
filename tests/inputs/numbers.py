"""Numbers of params.yaml and tables of documents: what people and DVC write, and what may not be meant."""
# ruff: noqa: E501 - a case is a row of a table

from __future__ import annotations

import copy
import datetime
import decimal
import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from dvc.utils.hydra import apply_overrides

from bdh.corpora.documents import drop_empty_and_repeated
from bdh.corpora.readers import TableReader, read_sectors
from bdh.models.base import build as build_model
from bdh.params import Columns, Params, load
from bdh.params.section import Section, _annotations, _bounds, _sections
from tests.inputs.case import Case, build, local, table, whole
from tests.support.project import ROOT

TRAIN = "scales.laptop.train"
MODEL = "scales.laptop.model"


@functools.cache
def shipped() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def place(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        raw = raw[part]
    raw[last] = value


def look(params: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        params = params[part] if isinstance(params, dict) else getattr(params, part)
    return params


def loaded(changes: dict[str, Any], literal: str | None = None) -> Any:
    """Load params.yaml with these values; `literal` is written as it is, without YAML's own rules for numbers."""

    def attempt(folder: Path) -> str:
        raw = copy.deepcopy(shipped())
        for dotted, value in changes.items():
            place(raw, dotted, value if literal is None else "LITERAL")
        text = yaml.dump(raw, sort_keys=False, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        path = folder / "params.yaml"
        path.write_text(text if literal is None else text.replace("LITERAL", literal), encoding="utf-8")
        return ", ".join(repr(look(load(path), dotted)) for dotted in changes)

    return attempt


def by_dvc(dotted: str, written: str) -> Any:
    """`dvc exp run -S dotted=written`, as DVC writes it."""

    def attempt(folder: Path) -> str:
        (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        apply_overrides(folder / "params.yaml", [f"{dotted}={written}"])
        return repr(look(load(folder / "params.yaml"), dotted))

    return attempt


def text_of(changed: str, instead: str) -> Any:
    def attempt(folder: Path) -> str:
        text = (ROOT / "params.yaml").read_text(encoding="utf-8")
        assert changed in text
        (folder / "params.yaml").write_text(text.replace(changed, instead, 1), encoding="utf-8")
        return load(folder / "params.yaml").scale

    return attempt


def bytes_of_params(data: bytes) -> Any:
    def attempt(folder: Path) -> str:
        (folder / "params.yaml").write_bytes(data)
        return load(folder / "params.yaml").scale

    return attempt


def folder_of_params(folder: Path) -> str:
    (folder / "params.yaml").mkdir()
    return load(folder / "params.yaml").scale


def every_number_is_bounded(folder: Path) -> str:
    """Every whole number of params.yaml has a largest value: nothing is looped over, or allocated, without end."""
    seen: set[type] = set()

    def walk(section: type[Section], place: str) -> list[str]:
        if section in seen:
            return []
        seen.add(section)
        found = []
        for name, field in section.model_fields.items():
            inside = [*field.metadata, *_annotations(field.annotation)]
            if re.search(r"\bint\b", str(field.annotation)) and "bool" not in str(field.annotation):
                bounds = {sign for sign, _ in _bounds(inside)}
                found += [] if bounds & {"<", "<="} else [f"{place}{name}"]
            for kind in _sections([field.annotation]):
                found += walk(kind, f"{place}{name}.")
        return found

    return ", ".join(walk(Params, "")) or "all of them"


def sized(architecture: str, **sizes: int) -> Any:
    def attempt(folder: Path) -> str:
        return str(build_model(architecture, vocab_size=256, **sizes).parameter_count())

    return attempt


def number_cases() -> list[Case]:
    """Numbers in params.yaml."""
    rate, window = f"{TRAIN}.learning_rate", f"{TRAIN}.window"
    rows: list[tuple[str, str, Any]] = [
        ("-S learning_rate=0.00001 (DVC writes 1e-05)", "1e-05", by_dvc(rate, "0.00001")),
        ("-S compile=off", "'off'", by_dvc(f"{TRAIN}.compile", "off")),
        ("-S seeds=0", "refused: seeds: a list is expected, like [0] (it is 0)", by_dvc("seeds", "0")),
        ("learning_rate: 1e-3", "0.001", loaded({rate: 0}, "1e-3")),
        ("learning_rate: 1E-3", "0.001", loaded({rate: 0}, "1E-3")),
        ("learning_rate: .003", "0.003", loaded({rate: 0}, ".003")),
        ("seeds: [0x10, 0o17]", "[16, 15]", loaded({"seeds": 0}, "[0x10, 0o17]")),
        ("regime: no", "refused: regime: Input should be 'none', 'readout' or 'full'", loaded({f"{TRAIN}.regime": 0}, "no")),
        ("learning_rate: '1e-3'", "refused: should be a valid number (it is '1e-3'); allowed: > 0", loaded({rate: 0}, "'1e-3'")),
        ("learning_rate: .inf", "refused: learning_rate: Input should be less than or equal to 100 (it is inf)", loaded({rate: math.inf})),
        ("learning_rate: .nan", "refused: (it is nan); allowed: > 0.0, <= 100.0", loaded({rate: math.nan})),
        ("learning_rate: 1e308", "refused: (it is 1e+308); allowed: > 0.0, <= 100.0", loaded({rate: 1e308})),
        ("weight_decay: -1", "refused: allowed: >= 0.0, <= 1000000.0", loaded({f"{TRAIN}.weight_decay": -1})),
        ("beta2: 1.0", "refused: allowed: >= 0.0, < 1.0", loaded({f"{TRAIN}.beta2": 1.0})),
        ("window: 1e30", "refused: (it is 1e+30); allowed: >= 2, <= 16777216", loaded({window: 1e30})),
        ("window: 10^30", "refused: allowed: >= 2, <= 16777216", loaded({window: 10**30})),
        ("steps: 1e30", "refused: allowed: >= 1, <= 1000000000", loaded({f"{TRAIN}.steps": 1e30})),
        ("steps: 0", "refused: greater than or equal to 1 (it is 0)", loaded({f"{TRAIN}.steps": 0})),
        ("steps: true", "refused: should be a valid integer (it is True)", loaded({f"{TRAIN}.steps": True})),
        ("n_layer: .nan", "refused: n_layer: expected int, it is nan", loaded({f"{MODEL}.n_layer": math.nan})),
        ("n_embd: 10^30", "refused: allowed: >= 1, <= 16777216", loaded({f"{MODEL}.n_embd": 10**30})),
        ("dropout: 3.7", "refused: dropout: 3.7 cannot be meant; allowed: >= 0, < 1", loaded({f"{MODEL}.dropout": 3.7})),
        ("dropout of a variant: -0.1", "refused: variant.bdh.model.dropout: -0.1 cannot be meant", loaded({"variant.bdh.model": {"dropout": -0.1}})),
        ("seeds: 23 digits", "refused: allowed: >= 0, < 9223372036854775808", loaded({"seeds": [10**22]})),
        ("corpora: a name alone", "refused: a list is expected, like ['sample_plays']", loaded({"corpora": "sample_plays"})),
        ("damping_sweep: [2]", "refused: allowed: > 0.0, <= 1.0", loaded({"hebbian.damping_sweep": [2.0]})),
        ("vocab_size: 10^9", "refused: allowed: >= 257, <= 1048576", loaded({"corpus.sample_calls.tokenizer.vocab_size": 10**9})),
        ("encoding: utf-99", "refused: no encoding of text has that name", loaded({"corpus.sample_plays.source": {
            "kind": "local", "path": "x", "licence": "m", "encoding": "utf-99"}})),
        ("threads: 100000", "refused: threads: Input should be less than or equal to 1024 (it is 100000); allowed: >= 1, <= 1024", loaded({"threads": 100000})),
        ("hebbian window: 10^30", "refused: allowed: >= 2, <= 16777216", loaded({"hebbian.laptop.window": 10**30})),
        ("null_draws: 10^12", "refused: allowed: >= 20, <= 1000000", loaded({"frontier.null_draws": 10**12})),
        ("seeds: [0, 0]", "refused: seeds: a number stands twice in [0, 0]", loaded({"seeds": [0, 0]})),
        ("tune.space: steps of -1", "refused: train.steps: -1: Input should be greater than or equal to 1", loaded({"tune.laptop.space.train": {"steps": {"choices": [-1]}}})),
        ("tune.space: learning rate to infinity", "refused: high: Input should be less than or equal to 1000000", loaded({"tune.laptop.space.train": {"learning_rate": {"low": 1.0, "high": math.inf, "spread": "even"}}})),
        ("tuned: dropout 9.0", "refused: tuned.laptop.sample_plays.bdh.model.dropout: 9.0 cannot be meant", loaded({"tuned.laptop.sample_plays.bdh.model": {"dropout": 9.0}})),
        ("tuned: a key that is none", "refused: tuned.laptop.sample_plays.bdh.model.dropuot: unknown key; did you mean 'dropout'?", loaded({"tuned.laptop.sample_plays.bdh.model": {"dropuot": 0.1}})),
        ("fifty thousand brackets", "refused: line 1: more than 50 sections lie in each other", bytes_of_params(b"[" * 50000)),
        ("a tag of Python's", "refused: could not determine a constructor for the tag", loaded({f"{TRAIN}.regime": 0}, "!!python/object:os.system x")),
        ("a folder named params.yaml", "refused: cannot be read", folder_of_params),
        ("UTF-16", "refused: is not readable YAML: ", bytes_of_params("scale: laptop".encode("utf-16"))),
        ("a key twice", "refused: line 4, column 1: found duplicate key", text_of("scale: laptop", "scale: laptop\nscale: gpu")),
        ("conflict markers", "refused: line 3: git's conflict markers", text_of("scale: laptop", "<<<<<<< HEAD\nscale: laptop")),
        ("a whole number without a largest value", "all of them", every_number_is_bounded),
        ("a byte-order mark, CRLF", "laptop", lambda folder: crlf(folder)),
        ("bdh of 210 billion weights", "refused: bdh with these settings has 2.1e+11 parameters, 768 GiB", sized(
            "bdh", n_embd=4096, n_head=4, mlp_internal_dim_multiplier=4096)),
        ("hebbian_block of 13 quadrillion", "refused: make the sizes of `model` smaller", sized("hebbian_block", n_embd=2**20, n_layer=1000)),
        ("transformer as large as such a bdh", "refused: at most 1e+10 are searched for", sized("transformer", n_embd=2**20)),
    ]  # fmt: skip
    return [Case("number in params.yaml", name, expected, attempt) for name, expected, attempt in rows]


def crlf(folder: Path) -> str:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("\n", "\r\n")
    (folder / "params.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    params = load(folder / "params.yaml")
    assert params == load(ROOT / "params.yaml")
    return params.scale


TEXTS = [f"call {number} of ten" for number in range(10)]
DAY = datetime.date(2019, 5, 1)


def columns(role: str, values: Any, kind: pa.DataType | None = None) -> Any:
    """A table whose column for `role` holds `values`; tells what the first document got, by its column."""

    def attempt(folder: Path) -> str:
        data = values if isinstance(values, pa.Array) else pa.array([values] * 10, kind)
        pq.write_table(pa.table({"text": TEXTS, "other": data}), folder / "t.parquet")
        named = {"text": "other"} if role == "text" else {role: "other"}
        corpus = build(folder, local(folder / "t.parquet", table("parquet", named)))
        assert sorted(whole(corpus)) == sorted(set(TEXTS if role != "text" else data.cast(pa.string()).to_pylist()))
        found = (
            {repr(None if pd.isna(value) else value) for value in corpus.documents[role].astype(object)}
            if (role != "text")
            else {f"{len(corpus.documents)} documents"}
        )
        return ", ".join(sorted(found))

    return attempt


def one_for_two(folder: Path) -> str:
    pq.write_table(pa.table({"text": TEXTS, "name": ["ACME"] * 10}), folder / "t.parquet")
    corpus = build(folder, local(folder / "t.parquet", table("parquet", {"symbol": "name", "company": "name"})))
    row = corpus.documents.iloc[0]
    return f"{row.symbol}, {row.company}"


def twice(folder: Path) -> str:
    pq.write_table(pa.table([pa.array(TEXTS), pa.array(TEXTS)], names=["text", "text"]), folder / "t.parquet")
    return str(len(build(folder, local(folder / "t.parquet", table("parquet"))).documents))


def null_first(folder: Path) -> str:
    """The first shard has no text at all: its column is of the type null."""
    pq.write_table(pa.table({"text": pa.nulls(10)}), folder / "0.parquet")
    pq.write_table(pa.table({"text": TEXTS}), folder / "1.parquet")
    corpus = build(folder, local(folder / "*.parquet", table("parquet")))
    return f"{len(corpus.documents)} documents, {corpus.stats['removed']['empty']} empty"


def repeated(folder: Path) -> str:
    """A dictionary of three texts of 1 MB, in a thousand rows: each is held once."""
    texts = pa.DictionaryArray.from_arrays(
        pa.array([n % 3 for n in range(1000)]), pa.array([f"{'x' * 2**20}{n}" for n in range(3)])
    )
    pq.write_table(pa.table({"text": texts}), folder / "t.parquet", compression="zstd")
    before = pa.total_allocated_bytes()
    documents, dropped = drop_empty_and_repeated(
        TableReader(folder / "t.parquet", Columns(text="text")).documents(), folder
    )
    assert pa.default_memory_pool().max_memory() - before < 1 << 29
    return f"{len(documents)} documents of {documents[0].utf8_bytes} bytes, {dropped['duplicates']} duplicates"


def packed(folder: Path) -> str:
    texts = pa.table({"text": ["x" * 2**24 + str(n) for n in range(8)]})
    pq.write_table(texts, folder / "t.parquet", compression="zstd", use_dictionary=False)
    return str(build(folder, local(folder / "t.parquet", table("parquet"))).stats)


def many_rows(folder: Path) -> str:
    pq.write_table(pa.table({"text": pa.nulls(5_000_000, pa.string())}), folder / "t.parquet")
    return str(build(folder, local(folder / "t.parquet", table("parquet"))).stats)


def contradiction(folder: Path) -> str:
    (folder / "s.csv").write_text("symbol,sector\nA,Tech\nA,Energy\n", encoding="utf-8")
    return repr(read_sectors(folder / "s.csv"))


def wide_sectors(folder: Path) -> str:
    """`encoding` holds for the table of sectors too."""
    (folder / "d").mkdir()
    (folder / "d/t.jsonl").write_bytes(
        "".join(json.dumps({"text": text, "s": "A"}) + "\n" for text in TEXTS).encode("utf-16")
    )
    (folder / "d/s.csv").write_bytes("symbol,sector\nA,Größe\n".encode("utf-16"))
    text = table("jsonl", {"symbol": "s"}) | {"sectors": "s.csv"}
    corpus = build(folder, local(folder / "d", text, encoding="utf-16"))
    assert sorted(whole(corpus)) == sorted(TEXTS)
    return ", ".join(set(corpus.documents.sector))


def sectors(folder: Path) -> str:
    (folder / "s.csv").write_bytes(b"\xef\xbb\xbfsymbol,sector\nBRK-B,Financials\n")
    return repr(read_sectors(folder / "s.csv"))


def json_years(folder: Path) -> str:
    """JSON lines whose years are numbers, text, null and missing."""
    given = [2019, "2019", None, "", 2019.0, "2019-05-01"]
    lines = [{"text": f"call {n}", "year": year} for n, year in enumerate(given)] + [{"text": "call x"}]
    (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    corpus = build(folder, local(folder / "t.jsonl", table("jsonl", {"year": "year"})))
    return ", ".join(str(year) for year in corpus.documents.year)


def invalid_utf8(kind: pa.DataType) -> pa.Array:
    """Text that claims to be UTF-8 and is not."""
    return pa.array([b"fine %d" % n for n in range(9)] + [b"\xff\xfe no"], pa.binary()).view(pa.string()).cast(kind)


def table_cases() -> list[Case]:
    """Tables of documents."""
    text = pa.array(TEXTS)
    rows: list[tuple[str, str, Any]] = [
        ("year as float", "2019", columns("year", 2019.0)),
        ("year as float with NaN", "None", columns("year", math.nan)),
        ('year "2019"', "2019", columns("year", "2019")),
        ("year as date", "2019", columns("year", DAY)),
        ("year as timestamp[ns]", "2019", columns("year", datetime.datetime(2019, 5, 1), pa.timestamp("ns"))),
        ("year as empty text", "None", columns("year", "")),
        ("year as decimal", "2019", columns("year", pa.array([2019] * 10).cast(pa.decimal128(19)))),
        ("year too large", "refused: 5000000000 is no year; it should be from 1 to 9999 (text.columns.year)", columns("year", 5 * 10**9)),
        ("year as bool", "refused: holds bool 'True', not a number", columns("year", True)),
        ('year "soon"', "refused: 'soon' is neither a number nor a date", columns("year", "soon")),
        ("year as timestamp of the year 1,117,000", "refused: holds timestamp[ms]", columns("year", pa.array([2**45] * 10, pa.timestamp("s")))),
        ("year as date of the year 2,900,000", "refused: holds date32[day]", columns("year", pa.array([2**30] * 10, pa.int32()).cast(pa.date32()))),
        ("year as bytes", "2019", columns("year", b"2019")),
        ("symbol as decimal of 20 digits", "'12345678901234567890'", columns("symbol", pa.array([decimal.Decimal("12345678901234567890")] * 10))),
        ("symbol with signs that steer a terminal", "'A\\\\x1b[31m\\\\u202eB'", columns("symbol", " A\x1b[31m\u202eB ")),
        ("symbol of 65,536 bytes", "refused: holds 65536 bytes, and a name has at most 1000", columns("symbol", "s" * 65536)),
        ("year as list", "refused: holds", columns("year", [2019])),
        ('quarter "Q1"', "1", columns("quarter", "Q1")),
        ('quarter "2019Q3"', "3", columns("quarter", "2019Q3")),
        ("quarter as date", "2", columns("quarter", DAY)),
        ("quarter 7", "refused: 7 is no quarter; it should be from 1 to 4", columns("quarter", 7)),
        ("symbol as integer", "'700'", columns("symbol", 700)),
        ("company as float", "'700'", columns("company", 700.0)),
        ("company as bool", "refused: holds bool 'True', not text", columns("company", True)),
        ("symbol not UTF-8", "refused: row 9, column 'other': is not UTF-8 at its byte 0", columns("symbol", invalid_utf8(pa.string()))),
        ("text not UTF-8", "refused: is not UTF-8 at its byte 0", columns("text", invalid_utf8(pa.string()))),
        ("date as timestamp", "'2019-05-01'", columns("date", datetime.datetime(2019, 5, 1, 23))),
        ("date as date", "'2019-05-01'", columns("date", DAY)),
        ("date as number", "refused: 20190501 is no date", columns("date", 20190501)),
        ('date "soon"', "refused: 'soon' is no date; its first 10 characters should be like 2018-12-31", columns("date", "soon")),
        ("text dictionary-encoded", "10 documents", columns("text", text.dictionary_encode())),
        ("text as large_string", "10 documents", columns("text", text.cast(pa.large_string()))),
        ("text as string_view", "10 documents", columns("text", text.cast(pa.string_view()))),
        ("text as numbers", "refused: holds int64, not text", columns("text", 7)),
        ("one column for two roles", "ACME, ACME", one_for_two),
        ("two columns of one name", "refused: has 2 columns named 'text'", twice),
        ("first shard all null", "10 documents, 10 empty", null_first),
        ("600 bytes that are 1 GB of text", "3 documents of 1048577 bytes, 997 duplicates", repeated),
        ("a few kB that unpack to 128 MB", "refused: bytes in 8 values, as no text does", packed),
        ("five million rows of nothing", "refused: in 5000000 values, as no text does", many_rows),
        ("sectors in another folder", "refused: the name of a file beside the documents is expected", loaded({"corpus.sample_calls.text.sectors": "../../secret"})),
        ("sectors at an absolute path", "refused: the name of a file beside the documents is expected", loaded({"corpus.sample_calls.text.sectors": "/etc/passwd"})),
        ("sectors that contradict each other", "refused: A is of sector 'Tech' in one row and of 'Energy' in another", contradiction),
        ("sectors in UTF-16, encoding: utf-16", "Größe", wide_sectors),
        ("sectors with a byte-order mark", "{'BRK.B': 'Financials'}", sectors),
        (".jsonl, years of every type", "2019, 2019, <NA>, <NA>, 2019, 2019, <NA>", json_years),
    ]  # fmt: skip
    return [Case("table", name, expected, attempt) for name, expected, attempt in rows]
