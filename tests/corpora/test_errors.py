"""Every mistake of a user is one clear line and exit code 2, seen through the stage programs."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

import stages.fetch
import stages.tokenize
from tests.support import corpus_cases

ROOT = Path(__file__).resolve().parents[2]
OK_TEXT = "".join(f"line {number}\n" for number in range(200))
SECTIONS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
Change = Callable[[Path, dict[str, Any]], None]


class Done(NamedTuple):
    """How a stage ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a stage in `tmp_path` as its program does, without a mirror and cut off from the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("BDH_CORPORA_MIRROR", "")
    monkeypatch.setattr("bdh.corpora.download.FIRST_WAIT_S", 0.0)

    def run_stage(stage: str, corpus: str = "mine") -> Done:
        monkeypatch.setattr(sys, "argv", [stage, corpus])
        with pytest.raises(SystemExit) as ended:
            typer.run({"fetch": stages.fetch.main, "tokenize": stages.tokenize.main}[stage])
        return Done(ended.value.code, *capsys.readouterr())

    return run_stage


def place(folder: Path, change: Change) -> None:
    """params.yaml with one corpus `mine` over a local text, changed by `change`."""
    (folder / "mine.txt").write_text(OK_TEXT, encoding="utf-8")
    mine = corpus_cases.text_section(Path("mine.txt")).model_dump(mode="json", exclude_unset=True)
    params = SECTIONS | {"corpora": ["mine"], "corpus": {"mine": mine}}
    change(folder, params["corpus"]["mine"])
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def complaint(done: Done) -> str:
    """The one line on stderr of a program that ended with code 2."""
    assert done.code == 2, done.err
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    return lines[0]


def nothing(folder: Path, corpus: dict[str, Any]) -> None:
    pass


def content(data: bytes) -> Change:
    return lambda folder, _: (folder / "mine.txt").write_bytes(data) and None


def setting(path: str, value: Any) -> Change:
    def change(_: Path, corpus: dict[str, Any]) -> None:
        *parts, last = path.split(".")
        for part in parts:
            corpus = corpus[part]
        corpus[last] = value

    return change


def table(rows: list[dict[str, Any]], cut: int | None = None, **text: Any) -> Change:
    def change(folder: Path, corpus: dict[str, Any]) -> None:
        path = corpus_cases.write_table(folder / "mine.parquet", rows)
        path.write_bytes(path.read_bytes()[:cut])
        section = corpus_cases.table_section(Path("mine.parquet"), **text)
        corpus |= section.model_dump(mode="json", exclude_unset=True)

    return change


def zero_byte(folder: Path, corpus: dict[str, Any]) -> None:
    """JSON can write one; a text file that holds one is refused by stage fetch."""
    lines = "".join(json.dumps({"text": f"a\0b{number}"}) + "\n" for number in range(99))
    (folder / "mine.jsonl").write_text(lines, encoding="utf-8")
    corpus["source"]["path"] = "mine.jsonl"
    corpus["text"] = {"format": "jsonl", "columns": {"text": "text"}, "split": corpus["text"]["split"]}


ROWS = [{"content": f"text {n}", "date": f"20{10 + n}-01-02", "number": n} for n in range(14)]
FETCH_ERRORS = {
    "unknown source key": (setting("source.pth", "x"), "source.local.pth: unknown key; did you mean 'path'?"),
    "missing file": (setting("source.path", "no.txt"), "no.txt is no file; corpus.mine.source.path should name"),
    "unknown tokenizer": (setting("tokenizer.name", "bites"), "bites"),
}
TOKENIZE_ERRORS = {
    "not UTF-8": (content(OK_TEXT.encode() + b"\xff" * 9), f"not UTF-8 at byte {len(OK_TEXT)}"),
    "cut inside a character": (content(OK_TEXT.encode() + "é".encode()[:1]), "unexpected end of data"),
    "empty text": (content(b""), "mine.txt is empty"),
    "blank text": (content(b" \n" * 50), "holds no text"),
    "too short": (content(b"a"), "split train is empty"),
    "shares above one": (setting("text.split.test_fraction", 0.9), "leave nothing to train on"),
    "too few documents": (setting("text.separator", "line 1\n"), "split validation is empty"),
    "no expression": (setting("text.separator", {"pattern": "("}), "is no regular expression"),
    "zero byte": (zero_byte, "zero byte"),
    "no parquet": (table(ROWS, cut=-20), "is no whole parquet file"),
    "cut parquet": (table(ROWS, cut=300), "is no whole parquet file"),
    "missing column": (
        table(ROWS, columns={"symbol": "ticker"}),
        "no column 'ticker' (text.columns.symbol); it has: content",
    ),
    "column of numbers": (table(ROWS, columns={"text": "number"}), "holds int64, not text"),
    "no list of turns": (table(ROWS, columns={"turns": "number"}), "holds int64, not lists"),
    "no date": (table([*ROWS, {"content": "x", "date": "soon"}]), "row 14, column 'date': 'soon' is no date"),
    "null date": (table([*ROWS, {"content": "x", "date": None}]), "document 000014 has no date"),
    "date column not named": (table(ROWS, columns={"date": None}), "has no date; a split by date needs one"),
    "nothing to test": (table(ROWS[:5]), "split test is empty: documents run from 2010-01-02 to 2014-01-02"),
    "nothing to train": (table(ROWS[9:]), "split train is empty"),
    "no table of sectors": (table(ROWS, sectors="sectors.csv"), "sectors.csv is missing"),
    "unknown sector": (table(ROWS, keep_sectors=["Energy"]), "no document is of sector 'Energy'"),
}


@pytest.mark.parametrize("case", FETCH_ERRORS)
def test_fetch_reports_a_mistake_in_one_line(case: str, tmp_path: Path, run: Callable[..., Done]) -> None:
    change, expected = FETCH_ERRORS[case]
    place(tmp_path, change)
    assert expected in complaint(run("fetch"))
    assert not (tmp_path / "data/raw/mine").exists()


@pytest.mark.parametrize("case", TOKENIZE_ERRORS)
def test_tokenize_reports_a_mistake_in_one_line(case: str, tmp_path: Path, run: Callable[..., Done]) -> None:
    change, expected = TOKENIZE_ERRORS[case]
    place(tmp_path, change)
    fetched = run("fetch")
    assert fetched.code == 0, fetched.err
    assert expected in complaint(run("tokenize"))
    assert not (tmp_path / "data/tokens/mine").exists()


def test_stages_run_in_order_and_quietly(tmp_path: Path, run: Callable[..., Done]) -> None:
    place(tmp_path, nothing)
    assert "`dvc repro fetch@mine` fetches it" in complaint(run("tokenize"))
    for stage in ("fetch", "tokenize"):
        done = run(stage)
        assert done == (0, "", "")
    assert {path.name for path in (tmp_path / "data/tokens/mine").iterdir()} >= {"train.bin", "stats.json"}


def test_unknown_corpus_names_the_known_ones(tmp_path: Path, run: Callable[..., Done]) -> None:
    place(tmp_path, nothing)
    for stage in ("fetch", "tokenize"):
        assert "unknown corpus 'mien'; did you mean 'mine'? allowed: mine" in complaint(run(stage, "mien"))


def test_damage_after_fetching_is_noticed(tmp_path: Path, run: Callable[..., Done]) -> None:
    place(tmp_path, nothing)
    assert run("fetch").code == 0
    (tmp_path / "data/raw/mine/mine.txt").write_text(OK_TEXT[:-9], encoding="utf-8")
    assert "is damaged" in complaint(run("tokenize"))


def test_offline_download_names_the_ways_out(tmp_path: Path, run: Callable[..., Done]) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SECTIONS, sort_keys=False), encoding="utf-8")
    line = complaint(run("fetch", "shakespeare"))
    assert "Three ways out: set BDH_CORPORA_MIRROR" in line
    assert "no public address" in complaint(run("fetch", "tinystories"))


def test_wrong_file_in_the_mirror_is_refused(tmp_path: Path, run: Callable[..., Done], monkeypatch) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SECTIONS, sort_keys=False), encoding="utf-8")
    (tmp_path / "mirror/tinyshakespeare").mkdir(parents=True)
    (tmp_path / "mirror/tinyshakespeare/input.txt").write_text("other", encoding="utf-8")
    monkeypatch.setenv("BDH_CORPORA_MIRROR", "mirror")
    assert "accepted are 86c4e6aa" in complaint(run("fetch", "shakespeare"))


def test_unwritable_folder_is_reported(tmp_path: Path, run: Callable[..., Done], monkeypatch) -> None:
    place(tmp_path, nothing)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "data/raw: permission denied; make the folder writable" in complaint(run("fetch"))


def test_corpus_programs_import_neither_torch_nor_mlflow() -> None:
    program = (
        "import sys, stages.fetch, stages.tokenize, bdh.corpora.tokens, bdh.corpora.tokenizer;"
        "sys.exit(' '.join({'torch', 'mlflow', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stage_program_ends_with_code_2(tmp_path: Path) -> None:
    place(tmp_path, content(b"\xff" * 99))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "BDH_CORPORA_MIRROR": ""}
    for stage, code in (("fetch", 0), ("tokenize", 2)):
        command = [sys.executable, "-m", f"stages.{stage}", "mine"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert complaint(Done(done.returncode, done.stdout, done.stderr)).startswith(
        "error: data/raw/mine/mine.txt is not UTF-8"
    )
