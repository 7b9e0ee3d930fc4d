"""Our own files when they are damaged, variant files of users, `bdh doctor`, prompts."""
# ruff: noqa: E501 - a case is a row of a table

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bdh import __main__ as cli
from bdh.commands import doctor
from bdh.commands.console import show_table
from bdh.commands.generate import write_utf8
from bdh.corpora.fetch import fetch_corpus
from bdh.corpora.provenance import Provenance
from bdh.corpora.tokenizer import load as load_tokenizer
from bdh.corpora.tokens import TokenCorpus
from bdh.frontier.run import stage_b_of
from bdh.golden.vectors import check_file
from bdh.hub import tokenizer_of
from bdh.models import catalog
from bdh.models.base import build as build_model
from bdh.params import load as load_params
from bdh.project.processes import Stop
from bdh.tracking import session
from bdh.training.checkpoints import load_run, save_run
from bdh.training.distributed.worker import joined
from bdh.training.resume import Checkpoint, CheckpointFolder
from bdh.training.run import check_memory, describe
from tests.inputs.case import Case, build, local, plain
from tests.inputs.texts import JOINED, environment
from tests.support.project import ROOT
from tests.support.stage_project import make_project
from tests.support.toys import write_corpus

SHAPE = {"n_layer": 1, "n_embd": 16, "n_head": 2, "mlp_internal_dim_multiplier": 4}


def bpe_corpus(folder: Path) -> TokenCorpus:
    (folder / "t.txt").write_text(JOINED, encoding="utf-8")
    return build(folder, local(folder / "t.txt", plain("\n--\n"), tokenizer={"name": "bpe", "vocab_size": 300}))


def damaged(path: str, change: Callable[[Any], Any] | bytes, read: Callable[[Path], Any]) -> Any:
    """Change one of our files (JSON by a function, any by its bytes) and read it again."""

    def attempt(folder: Path) -> str:
        bpe_corpus(folder)
        model = build_model("bdh", vocab_size=256, seed=0, **SHAPE)
        config = {
            "variant": "bdh",
            "architecture": "bdh",
            "vocab_size": 256,
            "corpus": "toy",
            "seed": 0,
            "model": SHAPE,
        }
        save_run(folder / "run", model, config)
        target = folder / path
        if isinstance(change, bytes):
            target.write_bytes(change)
        else:
            value = json.loads(target.read_text(encoding="utf-8"))
            target.write_text(json.dumps(change(value)), encoding="utf-8")
        return str(read(folder))

    return attempt


def moved(column: str, value: Any) -> Any:
    """Change the third row of the table of documents, or (`...`) take it out, and read it again."""

    def attempt(folder: Path) -> str:
        bpe_corpus(folder)
        path = folder / "tokens/mine/documents.parquet"
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[2][column] = value
        kept = [row for row in rows if row[column] is not ...]
        pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), path)
        return str(len(TokenCorpus.open(folder / "tokens/mine").documents))

    return attempt


def without(*path: str) -> Callable[[Any], Any]:
    def change(value: Any) -> Any:
        inner = value
        for part in path[:-1]:
            inner = inner[part]
        del inner[path[-1]]
        return value

    return change


def with_value(value: Any, *path: Any) -> Callable[[Any], Any]:
    def change(whole: Any) -> Any:
        inner = whole
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        return whole

    return change


def own_file_cases() -> list[Case]:
    """Our own files, damaged."""
    stats, raw = "tokens/mine/stats.json", "raw/mine/provenance.json"

    def corpus(folder: Path) -> TokenCorpus:
        return TokenCorpus.open(folder / "tokens/mine")

    def provenance(folder: Path) -> Provenance:
        return Provenance.read(folder / "raw/mine")

    def tokenizer(folder: Path) -> Any:
        return corpus(folder).tokenizer

    def run(folder: Path) -> Any:
        return load_run(folder / "run")

    again = "`dvc repro -f tokenize@mine` makes it again"
    gapped = json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": []}}).encode()
    rows: list[tuple[str, str, Any]] = [
        ("stats.json without digest", "refused: (digest: Field required); " + again, damaged(stats, without("digest"), corpus)),
        ("stats.json, tokens as text", "refused: (splits.test.tokens: Input should be a valid integer)", damaged(stats, with_value("9", "splits", "test", "tokens"), corpus)),
        ("stats.json, a list", "refused: has another shape than stage tokenize writes", damaged(stats, b"[1]", corpus)),
        ("stats.json cut short", "refused: has another shape than stage tokenize writes (Invalid JSON", damaged(stats, b'{"name": ', corpus)),
        ("stats.json not UTF-8", "refused: stats.json has another shape", damaged(stats, b"\xff\xfe", corpus)),
        ("stats.json, tokenizer of another size", "refused: ids, 9 are described; tokenize the corpus again", damaged(stats, with_value(9, "tokenizer", "vocab_size"), tokenizer)),
        ("stats.json, unknown tokenizer", "refused: unknown tokenizer 'words'; known: bytes", damaged(stats, with_value("words", "tokenizer", "name"), tokenizer)),
        ("provenance.json without files", "refused: (files: Field required); `dvc repro -f fetch@mine`", damaged(raw, without("files"), provenance)),
        ("provenance.json, bytes as text", "refused: (files.0.bytes: Input should be a valid integer)", damaged(raw, with_value("9", "files", 0, "bytes"), provenance)),
        ("stats.json, end of text beyond the vocabulary", "refused: tokenizer.json is damaged (its ids have gaps)", damaged(stats, with_value(5000, "tokenizer", "end_of_text"), tokenizer)),
        ("provenance.json that describes another file", "refused: names 'other.txt' and does not describe it (files); `dvc repro -f fetch@mine`", damaged(raw, with_value("other.txt", "text"), provenance)),
        ("documents.parquet, a place before its split", "refused: documents.parquet is damaged (row 2 lies outside of its split); " + again, moved("token_start", -5)),
        ("documents.parquet, a place behind its split", "refused: documents.parquet is damaged (row 2 lies outside of its split); " + again, moved("token_end", 10**12)),
        ("documents.parquet without a place", "refused: documents.parquet is damaged (row 2 lies outside of its split); " + again, moved("token_end", None)),
        ("documents.parquet, an unknown split", "refused: documents.parquet is damaged (row 2 lies outside of its split); " + again, moved("split", "other")),
        ("documents.parquet, a row fewer", "refused: documents.parquet has 5 documents in split train, stats.json says 6; " + again, moved("split", ...)),
        ("documents.parquet cut short", "refused: documents.parquet is damaged", damaged("tokens/mine/documents.parquet", b"PAR1", lambda f: corpus(f).documents)),
        ("test.bin cut short", "refused: test.bin has 1 bytes instead of", damaged("tokens/mine/test.bin", b"a", lambda f: corpus(f).tokens("test"))),
        ("tokenizer.json, no JSON", "refused: tokenizer.json is no tokenizer", damaged("tokens/mine/tokenizer.json", b"{", tokenizer)),
        ("tokenizer.json, ids with gaps", "refused: tokenizer.json is damaged (its ids have gaps)", damaged("tokens/mine/tokenizer.json", gapped, tokenizer)),
        ("config.json without model", "refused: config.json has another shape than stage train writes (model: Field required)", damaged("run/config.json", without("model"), run)),
        ("config.json, vocab_size as text", "refused: (vocab_size: Input should be a valid integer)", damaged("run/config.json", with_value("256", "vocab_size"), run)),
        ("config.json, a setting of another type", "refused: config.json: bdh cannot be built from its settings", damaged("run/config.json", with_value("two", "model", "n_head"), run)),
        ("config.json, a list", "refused: config.json has another shape", damaged("run/config.json", b"[]", run)),
        ("model.safetensors cut short", "refused: model.safetensors is damaged", damaged("run/model.safetensors", b"\x08\0\0\0\0\0\0\0{}", run)),
        ("result of stage hebbian without its arms", "refused: (arms: Field required); `dvc repro -f hebbian@r` makes it again", result({"density": {}})),
        ("result of stage hebbian, bits as text", "refused: (arms.static.bits_per_byte: Input should be a valid number)", result({"arms": {"static": ARM | {"bits_per_byte": "2"}}})),
        ("result of stage hebbian, a list", "refused: has another shape than stage hebbian writes", result([])),
        ("golden file that is none", "refused: is not a golden file", golden(b"PK\x03\x04 no zip")),
        ("golden file without its config", "refused: is not a golden file", golden(None)),
    ]  # fmt: skip
    return [Case("our own file, damaged", name, expected, attempt) for name, expected, attempt in rows]


ARM = {"nats_per_token": 1.5, "bits_per_byte": 2.0, "perplexity": 4.5, "by_position": None}


def result(value: Any) -> Any:
    """A report of stage hebbian as stage frontier reads it."""

    def attempt(folder: Path) -> str:
        (folder / "r.json").write_text(json.dumps(value), encoding="utf-8")
        return str(stage_b_of(folder / "r.json"))

    return attempt


def golden(data: bytes | None) -> Any:
    def attempt(folder: Path) -> str:
        path = folder / "official_x.npz"
        if data is None:
            np.savez(path, x=np.zeros(3))
        else:
            path.write_bytes(data)
        return check_file(path).status

    return attempt


def variant(text: str, use: Callable[[], Any]) -> Any:
    """A file bdh/models/mine.py with this text, as a user writes one."""

    def attempt(folder: Path) -> str:
        models = folder / "models"
        shutil.copytree(ROOT / "bdh/models", models, ignore=shutil.ignore_patterns("__pycache__"))
        (models / "mine.py").write_text(text, encoding="utf-8")
        import bdh.models as package

        for cached in (catalog.known_architectures, catalog.settings_of, catalog._names):
            cached.cache_clear()
        try:
            with mock.patch.object(catalog, "FOLDER", models), mock.patch.object(package, "__path__", [str(models)]):
                return str(use())
        finally:
            sys.modules.pop("bdh.models.mine", None)
            for cached in (catalog.known_architectures, catalog.settings_of, catalog._names):
                cached.cache_clear()

    return attempt


HEAD = "import dataclasses\nfrom bdh.models.base import LanguageModel\n\n\n@dataclasses.dataclass(frozen=True)\n"
MODEL = "\n\nclass Model(LanguageModel):\n    def __init__(self, config, vocab_size):\n        super().__init__()\n"


def variant_cases() -> list[Case]:
    """Variant files of users."""

    def settings() -> Any:
        return {name: setting.default for name, setting in catalog.settings_of("mine").items()}

    def built() -> Any:
        return build_model("mine", vocab_size=9)

    good = HEAD + "class Config:\n    width: int = 8\n" + MODEL
    rows: list[tuple[str, str, Any]] = [
        ("whole", "{'width': 8}", variant(good, settings)),
        ("a default that is an expression", "refused: bdh/models/mine.py, line 7: Config.width: the default is 2 * 4", variant(HEAD + "class Config:\n    width: int = 2 * 4\n" + MODEL, settings)),
        ("a default that is a list", "refused: line 7: Config.width: the default is [8]; write a plain number", variant(HEAD + "class Config:\n    width: list = [8]\n" + MODEL, settings)),
        ("a setting without a default", "refused: bdh/models/mine.py, line 7: Config.width has no default", variant(HEAD + "class Config:\n    width: int\n" + MODEL, settings)),
        ("no Config", "refused: bdh/models/mine.py, line 1: it defines no Config", variant("x = 1\n", settings)),
        ("a syntax error", "refused: bdh/models/mine.py, line 2: ", variant("x = 1\nclass Config(:\n", settings)),
        ("no Model", "refused: it defines no class Model", variant(HEAD + "class Config:\n    width: int = 8\n", built)),
        ("an import that fails", "refused: bdh/models/mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'", variant("import nowhere\n" + good, built)),
        ("a name that is not there", "refused: bdh/models/mine.py, line 15: NameError", variant(good + "\n\nx = y\n", built)),
        ("no flops_per_token", "refused: mine.py, line 10: Model defines no flops_per_token", variant(good, lambda: built().flops_per_token(9))),
        ("no initial_state", "refused: mine.py, line 10: Model defines no initial_state", variant(good, lambda: built().state_bytes())),
        ("a Model that takes other arguments", "refused: bdh/models/mine.py, line 1: Model cannot be built: TypeError: Model.__init__()", variant(HEAD + "class Config:\n    width: int = 8\n\n\nclass Model(LanguageModel):\n    def __init__(self):\n        super().__init__()\n", built)),
        ("a Model that fails", "refused: bdh/models/mine.py, line 13: Model cannot be built: ZeroDivisionError", variant(good + "        1 / 0\n", built)),
        ("a Config that is no dataclass", "refused: bdh/models/mine.py, line 4: Config is no dataclass", variant("from bdh.models.base import LanguageModel\n\n\nclass Config:\n    width: int = 8\n" + MODEL, built)),
        ("a default of another type", "refused: line 7: Config.width: the default is 'x', and its type is int", variant(HEAD + "class Config:\n    width: int = 'x'\n" + MODEL, settings)),
        ("a default that is infinite", "refused: line 7: Config.width: the default is inf; write a finite number", variant(HEAD + "class Config:\n    width: float = 1e999\n" + MODEL, settings)),
        ("a Config that is itself", "refused: bdh/models/mine.py, line 1: it defines no Config", variant("Config = Config\n", settings)),
        ("sys.exit in the file", "refused: bdh/models/mine.py, line 2: SystemExit: 3", variant("import sys\nsys.exit(3)\n" + good, built)),
        ("Model that is no LanguageModel", "refused: line 10: Model is no LanguageModel", variant(HEAD + "class Config:\n    width: int = 8\n\n\nclass Model:\n    pass\n", built)),
    ]  # fmt: skip
    return [Case("variant file", name, expected, attempt) for name, expected, attempt in rows]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def checked(prepare: Callable[[Path], None], check: Callable[[], doctor.Check | None]) -> Any:
    """A check of the doctor in a folder; its state, what it saw and its remedy."""

    def attempt(folder: Path) -> str:
        (folder / ".dvc").mkdir()
        (folder / ".git").mkdir()
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        prepare(folder)
        with inside(folder):
            found = check()
        assert found is not None
        return f"{found.state}: {found.detail} -> {found.remedy}"

    return attempt


def server(status: int) -> Any:
    """The check of the store against a server that answers everything with `status`."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    def attempt(folder: Path) -> str:
        with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{web.server_port}"
            with environment(MLFLOW_TRACKING_URI=address, BDH_TRACKING=""):
                found = doctor.store()
            web.shutdown()
        return f"{found.state}: {found.detail} -> {found.remedy}".replace(address, "SERVER")

    return attempt


def doctor_cases() -> list[Case]:
    """bdh doctor."""

    def append(name: str, text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).write_text(text, encoding="utf-8") and None

    def params() -> doctor.Check:
        return doctor.parameters()[1]

    ours = "`git checkout --ours dvc.lock` (or --theirs), then `dvc repro`"
    sign = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    rows: list[tuple[str, str, Any]] = [
        ("no .git", "problem: this folder is in no git repository (a copy without .git?), and DVC needs one -> `git init`, or `dvc config --local core.no_scm true` to go without", checked(lambda f: (f / ".git").rmdir(), doctor.obstacle)),
        ("no .dvc", "problem: this folder is no DVC repository -> `dvc init`, or clone the repository anew", checked(lambda f: (f / ".dvc").rmdir(), doctor.obstacle)),
        ("conflict markers in dvc.lock", f"problem: dvc.lock, line 1: git's conflict markers -> {ours}", checked(append("dvc.lock", "<<<<<<< HEAD\na: 1\n"), doctor.obstacle)),
        ("conflict markers in dvc.yaml", "problem: dvc.yaml, line 2: git's conflict markers -> keep one side of each in your editor", checked(append("dvc.yaml", "a: 1\n>>>>>>> other\n"), doctor.obstacle)),
        ("conflict markers in params.yaml", "problem: params.yaml is not readable YAML: line 1: git's conflict markers; keep one side of each and delete the markers -> mend that line", checked(append("params.yaml", "<<<<<<< HEAD\nscale: laptop\n"), params)),
        ("MLflow server that refuses with 403", f"problem: SERVER refuses: HTTP 403 Forbidden -> {sign} (403 may also mean its --allowed-hosts)", server(403)),
        ("MLflow server that wants a name", f"problem: SERVER refuses: HTTP 401 Unauthorized -> {sign} (403 may also mean its --allowed-hosts)", server(401)),
        ("a server that is no MLflow", "problem: SERVER refuses: HTTP 404 Not Found -> it is no MLflow server: mend or unset MLFLOW_TRACKING_URI", server(404)),
        ("MLflow server that answers", "ok: SERVER answers -> ", server(200)),
    ]  # fmt: skip
    return [Case("bdh doctor", name, expected, attempt) for name, expected, attempt in rows]


def prompted(*words: str, encoding: str = "utf-8", config: dict[str, Any] | None = None) -> Any:
    """`bdh generate` on a small run; the bytes that it writes, or the line that it ends with."""

    def attempt(folder: Path) -> str:
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        write_corpus(folder / "data/tokens/toy")
        given = {"variant": "bdh", "architecture": "bdh", "vocab_size": 256, "corpus": "toy", "seed": 0, "model": SHAPE}
        model = build_model("bdh", vocab_size=256, seed=0, **SHAPE)
        save_run(folder / "data/runs/r", model, given | (config or {}))
        written, said = io.BytesIO(), io.StringIO()
        screen = io.TextIOWrapper(written, encoding=encoding)
        with inside(folder), contextlib.redirect_stdout(screen), contextlib.redirect_stderr(said):
            try:
                cli.main(["generate", "r", "--tokens", "1", "--temperature", "0", *words])
            except SystemExit as ended:
                code = ended.code
        screen.flush()
        if code:
            return f"refused: {said.getvalue().removeprefix('error: ').rstrip()}"
        data = written.getvalue()
        data.decode("utf-8")
        return f"rc 0, begins with {data[: len(data) - 2 if data[-2:-1].isascii() else 3]!r}"

    return attempt


def prompt_cases() -> list[Case]:
    """Prompts."""
    corpus_anew = {"corpus_digest": "another"}
    rows: list[tuple[str, str, Any]] = [
        ("empty", "refused: the prompt is empty; give at least one sign with --prompt", prompted("--prompt", "")),
        ("a lone surrogate", "refused: --prompt is not UTF-8", prompted("--prompt", "a\ud800b")),
        ("bytes that are not UTF-8", "refused: --prompt is not UTF-8", prompted("--prompt", os.fsdecode(b"a\xff"))),
        ("UTF-8 through an ASCII command line", "same as UTF-8", same_as_utf8),
        ("Ä on an ASCII terminal", "the bytes of Ä", ascii_terminal),
        ("a table with Ä on an ASCII terminal", "ok, \\xc4", ascii_table),
        ("a seed of 23 digits", "refused: Invalid value for '--seed'", prompted("--seed", "1" * 23)),
        ("a lone surrogate in --stop", "refused: --stop is not UTF-8", prompted("--prompt", "a", "--stop", "\udfff")),
        ("signs that steer a terminal, on a terminal", "a\\x1b[2J b", on_a_terminal),
        ("temperature: nan", "refused: temperature", prompted("--prompt", "a", "--temperature", "nan")),
        ("corpus tokenized anew since", "refused: corpus toy was tokenized anew since this run was trained", prompted("--prompt", "a", config=corpus_anew)),
        ("a run that carries its tokenizer", "the run's own words", carried),
    ]  # fmt: skip
    return [Case("prompt", name, expected, attempt) for name, expected, attempt in rows]


def on_a_terminal(folder: Path) -> str:
    """What a model writes, on a terminal; `write_utf8` is what `bdh generate` writes with."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    written = io.BytesIO()
    with contextlib.redirect_stdout(Terminal(written, encoding="utf-8")):
        write_utf8("a\x1b[2J b")
        return written.getvalue().decode("utf-8")


def same_as_utf8(folder: Path) -> str:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    escaped = "Ä".encode().decode("ascii", "surrogateescape")
    found = [prompted("--prompt", word)(folder / name) for word, name in (("Ä", "a"), (escaped, "b"))]
    return "same as UTF-8" if found[0] == found[1] else str(found)


def ascii_terminal(folder: Path) -> str:
    got = prompted("--prompt", "Ä", encoding="ascii")(folder)
    return "the bytes of Ä" if got.startswith("rc 0, begins with b'\\xc3\\x84") else got


def ascii_table(folder: Path) -> str:
    written = io.BytesIO()
    screen = io.TextIOWrapper(written, encoding="ascii")
    with contextlib.redirect_stdout(screen):
        show_table(("", "what"), [("ok", "Ä")])
    screen.flush()
    return ", ".join(written.getvalue().decode("ascii").splitlines()[-1].split())


def carried(folder: Path) -> str:
    """The text changes and is tokenized anew; the run still speaks its own words."""
    corpus = bpe_corpus(folder)
    run = folder / "run"
    run.mkdir()
    corpus.tokenizer.save(run)
    config = {"tokenizer": corpus.tokenizer.description(), "corpus": "mine", "vocab_size": corpus.vocab_size}
    before = corpus.encode("document says Ärger")
    (folder / "t.txt").write_text(JOINED.replace("document", "a wholly different word"), encoding="utf-8")
    section = local(folder / "t.txt", plain("\n--\n"), tokenizer={"name": "bpe", "vocab_size": 300})
    fetch_corpus("mine", section, folder / "raw/mine", folder)
    anew = build(folder, section)
    assert anew.encode("document says Ärger") != before
    own = tokenizer_of(run, config)
    assert own.encode("document says Ärger") == before
    assert own.decode(before) == "document says Ärger"
    assert load_tokenizer(run, config["tokenizer"]).vocab_size == corpus.vocab_size
    return "the run's own words"


def resume_cases() -> list[Case]:
    """Training: sizes that cannot fit, resuming after a change."""
    rows: list[tuple[str, str, Any]] = [
        ("a changed learning rate", "bdh-x-0: the checkpoint of step 40 is of other settings, text or code and is deleted; training begins anew (train.init_from: RUN begins with a run's weights)", changed_setting),
        ("a batch of a million windows", "refused: GiB of logits, this machine has", too_large),
        ("a batch of a million windows on a GPU of 80 GiB", "refused: GiB at least, and this GPU has 80 GiB: make the sizes of `model`", on_gpu(batch_size=2**20, window=2**20)),
        ("a step that fits a GPU of 80 GiB", "fits", on_gpu(batch_size=8, window=128)),
        ("a model too large for a GPU of 4 KiB", "refused: parameters need", on_gpu(2**12, batch_size=8, window=128)),
        ("RANK empty", "refused: the environment variable RANK is '', and torchrun sets it to a whole number from 0 on; unset it", launched_as(WORLD_SIZE="2", RANK="")),
        ("WORLD_SIZE: two", "refused: the environment variable WORLD_SIZE is 'two'", launched_as(WORLD_SIZE="two")),
        ("WORLD_SIZE: -1", "refused: the environment variable WORLD_SIZE is '-1'", launched_as(WORLD_SIZE="-1")),
        ("RANK: 5 of 2", "refused: WORLD_SIZE is 2 and RANK 5, which should be below it; unset both", launched_as(WORLD_SIZE="2", RANK="5")),
        ("no RANK, WORLD_SIZE: 2", "refused: WORLD_SIZE is 2 and RANK missing", launched_as(WORLD_SIZE="2")),
        ("MASTER_PORT: http", "refused: the environment variable MASTER_PORT is 'http'", launched_as(WORLD_SIZE="2", RANK="0", MASTER_PORT="http")),
        ("RANK empty, one process", "alone", launched_as(RANK="")),
        ("train.init_from: a folder", "the weights of the run", begun("own/run")),
        ("train.init_from: a run that is not there", "refused: data/runs/none-x-0 holds no run", begun("none-x-0")),
        ("train.init_from: a run of another shape", "refused: own/run does not fit the model", begun("own/run", {"n_embd": 16})),
    ]  # fmt: skip
    return [Case("training", name, expected, attempt) for name, expected, attempt in rows]


def too_large(folder: Path) -> str:
    make_project(folder, batch_size=2**20, window=128)
    with inside(folder):
        check_memory(describe(load_params(), "bdh", "sample_plays", 0))
    return "fits"


def on_gpu(memory: int = 80 * 2**30, **train: int) -> Any:
    """The estimate for a GPU that this machine need not have."""

    def attempt(folder: Path) -> str:
        make_project(folder, **train)
        properties = mock.Mock(total_memory=memory)
        with inside(folder), mock.patch("torch.cuda.get_device_properties", return_value=properties):
            run = describe(load_params(), "bdh", "sample_plays", 0)
            check_memory(dataclasses.replace(run, device=torch.device("cuda", 0)))
        return "fits"

    return attempt


def launched_as(**variables: str) -> Any:
    """How a training joins others with these variables of torchrun; whether it tracks is asked before."""

    def attempt(folder: Path) -> str:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        with mock.patch.dict(os.environ, kept | variables, clear=True):
            session.wanted()
            with joined(Stop(), "cpu") as group:
                return "alone" if group.size == 1 else "joined"

    return attempt


def changed_setting(folder: Path) -> str:
    before = CheckpointFolder("bdh-x-0", "one", folder)
    before.prepare()
    before.write(Checkpoint(40, {"w": torch.zeros(1)}, {}))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        CheckpointFolder("bdh-x-0", "two", folder).prepare()
    return said.getvalue().strip()


def begun(origin: str, shape: dict[str, Any] | None = None) -> Any:
    """The model of a run with `train.init_from`, before its first step."""

    def attempt(folder: Path) -> str:
        make_project(folder)
        with inside(folder):
            first = describe(load_params(), "bdh", "sample_plays", 3)
            model = first.build()
            config = {"variant": "bdh", "architecture": "bdh", "vocab_size": 256, "corpus": "x", "seed": 3}
            save_run(Path("own/run"), model, config | {"model": first.model})
            make_project(folder, model=shape, learning_rate=0.001, init_from=origin)
            other = describe(load_params(), "bdh", "sample_plays", 0).build()
        same = all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
        return "the weights of the run" if same else "other weights"

    return attempt
