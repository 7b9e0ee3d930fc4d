"""Text files, formats of the field and tokenizers, as people bring them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora import plain as text_files
from bdh.corpora import readers
from bdh.corpora.provenance import Provenance
from bdh.corpora.tokenizer import BytePairs
from bdh.params import Corpus
from tests.inputs.case import Case, build, counts, local, plain, table, texts_of, whole
from tests.support import corpus_cases

DOCS = [f"document {number:02d} says Ärger" for number in range(10)]
TEN = "train 6 documents, 144 tokens, 138 bytes; validation 2 documents, 48 tokens, 46 bytes; " + (
    "test 2 documents, 48 tokens, 46 bytes"
)
JOINED = "\n--\n".join(DOCS)
BY_HASH = {"by": "hash", "validation_fraction": 0.2, "test_fraction": 0.2}


def written(name: str, data: bytes, text: dict[str, Any], **source: Any) -> Any:
    """Try a corpus of one file with these bytes; what comes of it, checked against DOCS, is told in numbers."""

    def attempt(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return told(folder, local(folder / name, text, **source))

    return attempt


def told(folder: Path, section: Corpus) -> str:
    corpus = build(folder, section)
    assert sorted(whole(corpus)) == DOCS, whole(corpus)[:3]
    return counts(corpus)


def changed(folder: Path) -> str:
    """What provenance.json says was done to the file."""
    return str(Provenance.read(folder / "raw/mine").files[0].changed)


def and_provenance(attempt: Any) -> Any:
    return lambda folder: f"{attempt(folder)}; {changed(folder)}"


def said(folder: Path, section: Corpus) -> str:
    """What a build says on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        build(folder, section)
    return stream.getvalue().strip()


def tar(data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def bomb(folder: Path) -> str:
    """A thousand members of a packed block: what unpacks to gigabytes is given up where no text would reach."""
    (folder / "t.txt").write_bytes(gzip.compress(b"a b\n" * (1 << 17), mtime=0) * 1024)
    with mock.patch.object(text_files, "FREE_UNPACKED", 1 << 20):
        return told(folder, local(folder / "t.txt", plain()))


def endless(folder: Path) -> str:
    """A pattern that tries all ways to cut a word: given up after a while that grows with the text."""
    (folder / "t.txt").write_text("ab" * 16 + "c", encoding="utf-8")
    with mock.patch.object(readers, "SEARCH_S", 0.2):
        return told(folder, local(folder / "t.txt", plain({"pattern": r"(?:(?:ab|a|b)+)+d|((a|b|ab)+)+\1\1e"})))


def no_encoding(name: str) -> Any:
    from tests.inputs.numbers import loaded

    return loaded({"corpus.sample_plays.source": {"kind": "local", "path": "x", "licence": "mine", "encoding": name}})


def like_ours(folder: Path) -> str:
    (folder / "f").mkdir()
    (folder / "f/provenance.json").write_bytes(json_lines(DOCS[:5]))
    (folder / "f/x.json").write_bytes(json_lines(DOCS[5:]))
    result = told(folder, local(folder / "f", table("jsonl")))
    return f"{result}; {Provenance.read(folder / 'raw/mine').files[0].name}"


def duplicates(folder: Path) -> str:
    (folder / "t.txt").write_text("\n--\n".join([*DOCS, *DOCS[:3], " "]), encoding="utf-8")
    return said(folder, local(folder / "t.txt", plain("\n--\n")))


def text_cases() -> list[Case]:
    """Text files."""
    utf8, sep = JOINED.encode(), plain("\n--\n")
    crlf = JOINED.replace("\n", "\r\n").encode()
    rows = [
        ("UTF-8", TEN, written("t.txt", utf8, sep)),
        (
            "byte-order mark",
            f"{TEN}; byte-order mark removed",
            and_provenance(written("t.txt", b"\xef\xbb\xbf" + utf8, sep)),
        ),
        ("CRLF, newlines: lf", f"{TEN}; line ends made LF", and_provenance(written("t.txt", crlf, sep, newlines="lf"))),
        (
            "CR alone, newlines: lf",
            f"{TEN}; line ends made LF",
            and_provenance(written("t.txt", JOINED.replace("\n", "\r").encode(), sep, newlines="lf")),
        ),
        (
            "CRLF, separator with LF",
            "refused: its lines end in CRLF; set source.newlines: lf",
            written("t.txt", crlf, sep),
        ),
        ("separator mistyped", "refused: did you mean '--'?", written("t.txt", utf8, plain("-- "))),
        (
            "separator over-escaped",
            "refused: in YAML write it in double quotes with single backslashes",
            written("t.txt", utf8, plain("\\n--\\n")),
        ),
        ("separator that is nowhere", "refused: set separator: null", written("t.txt", utf8, plain("<|end|>"))),
        (
            "pattern that is nowhere",
            "refused: text.separator '=+\\\\d' stands nowhere",
            written("t.txt", utf8, plain({"pattern": r"=+\d"})),
        ),
        ("pattern that is none", "refused: is no regular expression", written("t.txt", utf8, plain({"pattern": "("}))),
        (
            ".jsonl read as text",
            "refused: set text.format: jsonl and text.columns",
            written("t.jsonl", b'{"text": "a"}\n' * 9, plain()),
        ),
        ("duplicates and blanks", "mine: documents left out: 1 empty, 3 duplicates", duplicates),
        (
            "UTF-16 with a mark",
            "refused: t.txt is UTF-16, not utf-8; set corpus.mine.source.encoding: utf-16",
            written("t.txt", JOINED.encode("utf-16"), sep),
        ),
        (
            "UTF-16 without a mark",
            "refused: set corpus.mine.source.encoding: utf-16-le",
            written("t.txt", JOINED.encode("utf-16-le"), sep),
        ),
        (
            "UTF-16, encoding: utf-16",
            f"{TEN}; decoded from utf-16",
            and_provenance(written("t.txt", JOINED.encode("utf-16"), sep, encoding="utf-16")),
        ),
        (
            "Latin-1",
            "refused: perhaps it is Latin-1: set source.encoding: latin-1",
            written("t.txt", JOINED.encode("latin-1"), sep),
        ),
        (
            "Latin-1, encoding: latin-1",
            f"{TEN}; decoded from iso8859-1",
            and_provenance(written("t.txt", JOINED.encode("latin-1"), sep, encoding="latin-1")),
        ),
        (
            "Windows-1252",
            "refused: set source.encoding: cp1252",
            written("t.txt", JOINED.replace("says", "“says”").encode("cp1252"), sep),
        ),
        (
            "UTF-8, encoding: ascii",
            "refused: t.txt is not ascii",
            written("t.txt", utf8, sep, encoding="ascii"),
        ),
        (
            "gzip named .txt",
            f"{TEN}; unpacked from gzip",
            and_provenance(written("t.txt", gzip.compress(utf8, mtime=0), sep)),
        ),
        (
            "gzip cut short",
            "refused: t.txt is gzip and cannot be unpacked",
            written("t.txt", gzip.compress(utf8)[:-9], sep),
        ),
        ("zip", "refused: t.txt is zip, not text", written("t.txt", b"PK\x03\x04" + utf8, sep)),
        ("parquet named .txt", "refused: text.format: parquet reads it", written("t.txt", b"PAR1" + utf8, sep)),
        (
            "UTF-32 without a mark",
            "refused: set corpus.mine.source.encoding: utf-32-le",
            written("t.txt", JOINED.encode("utf-32-le"), sep),
        ),
        (
            "two byte-order marks",
            f"{TEN}; byte-order mark removed",
            and_provenance(written("t.txt", b"\xef\xbb\xbf" * 2 + utf8, sep)),
        ),
        ("tar", "refused: t.txt is tar, not text", written("t.txt", tar(utf8), sep)),
        ("RTF", "refused: t.rtf is RTF, not text", written("t.rtf", b"{\\rtf1 " + utf8, sep)),
        ("lz4", "refused: t.txt is lz4, not text", written("t.txt", b"\x04\x22\x4d\x18" + utf8, sep)),
        (
            "a zero byte",
            "refused: holds a zero byte, at byte 14",
            written("t.txt", utf8.replace(b"says", b"sa\0s", 1), sep),
        ),
        (".csv read as text", "refused: set text.format: csv", written("t.csv", csv_of(DOCS), plain())),
        (".json read as text", "refused: set text.format: jsonl", written("t.json", json_lines(DOCS), plain())),
        (
            "JSON lines named .txt",
            "refused: holds JSON lines, and text.format: text",
            written("t.txt", json_lines(DOCS), plain()),
        ),
        ("gzip of 512 MB", "refused: bytes of gzip, unpacks to more than", bomb),
        (
            "pattern that fits the empty text",
            "refused: fits the empty text at byte 0",
            written("t.txt", utf8, plain({"pattern": "x*"})),
        ),
        (
            "pattern that cuts a character",
            "refused: cuts a character in two at byte 17",
            written("t.txt", utf8, plain({"pattern": "[Ää]"})),
        ),
        ("pattern that tries everything", "refused: repetitions of repetitions like (a+)+", endless),
        ("encoding: unicode_escape", "refused: no encoding of text has that name", no_encoding("unicode_escape")),
        ("encoding: idna", "refused: no encoding of text has that name", no_encoding("idna")),
        ("a file named like ours", f"{TEN}; own-provenance.json", like_ours),
        ("cut inside a character", "refused: unexpected end of data", written("t.txt", utf8[:-2] + b"\xc3", sep)),
        ("empty", "refused: is empty", written("t.txt", b"", sep)),
        ("blank", "refused: holds no text", written("t.txt", b" \n" * 9, plain())),
        (
            "missing",
            "refused: is no file; corpus.mine.source.path should name",
            lambda f: told(f, local(f / "no", sep)),
        ),
    ]
    return [Case("text file", name, expected, attempt) for name, expected, attempt in rows]


def zst(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def json_lines(texts: list[str], **more: Any) -> bytes:
    return "".join(json.dumps({"text": text} | more) + "\n" for text in texts).encode()


def csv_of(texts: list[str]) -> bytes:
    return ("id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts))).encode()


def files(named: dict[str, bytes], path: str | list[str], text: dict[str, Any]) -> Any:
    """Try a corpus of several files."""

    def attempt(folder: Path) -> str:
        for name, data in named.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        paths = [str(folder / one) for one in path] if isinstance(path, list) else str(folder / path)
        return told(folder, local(paths, text))

    return attempt


def shards(folder: Path) -> str:
    """Fourteen parquet shards in the order of their names."""
    (folder / "s").mkdir()
    texts = [f"shard {number:02d} row {row}" for number in range(14) for row in range(2)]
    for number in range(14):
        rows = [{"text": text} for text in texts[2 * number : 2 * number + 2]]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"s/{number:03d}_00000.parquet")
    corpus = build(folder, local(folder / "s/*.parquet", table("parquet")))
    assert whole(corpus) == texts
    return f"{len(texts)} documents in order, first {whole(corpus)[0]!r}, last {whole(corpus)[-1]!r}"


def stays_put(folder: Path) -> str:
    """The test split before and after documents are added in front."""
    found = []
    for extra in (0, 40):
        texts = [f"new {number}" for number in range(extra)] + [f"old text {number}" for number in range(60)]
        (folder / "t.jsonl").write_bytes(json_lines(texts))
        corpus = build(folder, local(folder / "t.jsonl", table("jsonl", split=BY_HASH)))
        found.append(
            [{text for text in texts_of(corpus, split) if text.startswith("old")} for split in ("train", "test")]
        )
    assert found[0] == found[1]
    for text in found[0][1]:
        assert int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) < 0.2 * 2**64
    return f"old documents: {len(found[0][0])} train, {len(found[0][1])} test, before and after"


def format_cases() -> list[Case]:
    """Formats of the field."""
    sep = plain("\n--\n")
    half, rest = "\n--\n".join(DOCS[:5]).encode(), "\n--\n".join(DOCS[5:]).encode()
    each = {f"f/{number:02d}.txt": text.encode() for number, text in enumerate(DOCS)}
    rows: list[tuple[str, str, Any]] = [
        ("two files in a list", TEN, files({"a.txt": half, "b.txt": rest}, ["a.txt", "b.txt"], sep)),
        ("pattern x-*.txt", TEN, files({"x-1.txt": half, "x-2.txt": rest, "y.txt": b"no"}, "x-*.txt", sep)),
        ("pattern that fits nothing", "refused: nothing fits the pattern", files({}, "x-*.txt", sep)),
        ("folder of .txt, a file a document", TEN, files(each | {"f/a.pdf": b"%PDF", "f/.x.txt": b"x"}, "f", plain())),
        (
            "folder of folders",
            TEN,
            files({name.replace("f/0", "f/a/0"): data for name, data in each.items()}, "f", plain()),
        ),
        ("folder without text", "refused: holds no file that ends in .txt", files({"f/a.pdf": b"%PDF"}, "f", plain())),
        (".txt.gz", TEN, files({"t.txt.gz": gzip.compress(JOINED.encode())}, "t.txt.gz", sep)),
        ("folder of .txt and .txt.gz", TEN, files({"f/1.txt": half, "f/2.txt.gz": gzip.compress(rest)}, "f", sep)),
        (".jsonl", TEN, files({"t.jsonl": json_lines(DOCS)}, "t.jsonl", table("jsonl"))),
        (".jsonl.zst", TEN, files({"t.jsonl.zst": zst(json_lines(DOCS))}, "t.jsonl.zst", table("jsonl"))),
        (".csv", TEN, files({"t.csv": csv_of(DOCS)}, "t.csv", table("csv"))),
        (".tsv", TEN, files({"t.tsv": csv_of(DOCS).replace(b",", b"\t")}, "t.tsv", table("csv"))),
        (
            ".csv with semicolons",
            "refused: it has: id;text; separate its cells by commas",
            files({"t.csv": csv_of(DOCS).replace(b",", b";")}, "t.csv", table("csv")),
        ),
        (
            ".csv in Latin-1",
            "refused: set source.encoding: latin-1",
            files({"t.csv": csv_of(DOCS).decode().encode("latin-1")}, "t.csv", table("csv")),
        ),
        (
            ".jsonl in Latin-1",
            "refused: set source.encoding: latin-1",
            files({"t.jsonl": '{"text": "Ä"}'.encode("latin-1")}, "t.jsonl", table("jsonl")),
        ),
        (
            ".jsonl with CR line ends",
            "refused: set source.newlines: lf",
            files({"t.jsonl": json_lines(DOCS).replace(b"\n", b"\r")}, "t.jsonl", table("jsonl")),
        ),
        (".jsonl, empty", "refused: t.jsonl is empty", files({"t.jsonl": b"\n"}, "t.jsonl", table("jsonl"))),
        (
            ".jsonl read as parquet",
            "refused: set text.format: jsonl",
            files({"t.jsonl": json_lines(DOCS)}, "t.jsonl", table("parquet")),
        ),
        (".csv with a byte-order mark", TEN, files({"t.csv": b"\xef\xbb\xbf" + csv_of(DOCS)}, "t.csv", table("csv"))),
        ("14 parquet shards", "28 documents in order, first 'shard 00 row 0', last 'shard 13 row 1'", shards),
        (
            ".jsonl, a line that is none",
            "refused: line 3 is no JSON",
            files({"t.jsonl": json_lines(DOCS[:2]) + b"{oops\n"}, "t.jsonl", table("jsonl")),
        ),
        (
            ".jsonl, a line without the key",
            "refused: line 3 has no 'text'; it has: body",
            files({"t.jsonl": json_lines(DOCS[:2]) + b'{"body": "x"}\n'}, "t.jsonl", table("jsonl")),
        ),
        (
            "one JSON list",
            "refused: write one object per line",
            files({"t.jsonl": json.dumps([{"text": "a"}]).encode()}, "t.jsonl", table("jsonl")),
        ),
        (
            ".jsonl, half a surrogate pair",
            "refused: holds half a surrogate pair",
            files({"t.jsonl": b'{"text": "\\ud800"}\n' * 3}, "t.jsonl", table("jsonl")),
        ),
        (
            ".csv, a row too long",
            "refused: row 12 has 3 cells under a header of 2",
            files({"t.csv": csv_of(DOCS) + b"1,2,3\n"}, "t.csv", table("csv")),
        ),
        (
            ".csv without the column",
            "refused: has no column 'text'",
            files({"t.csv": b"a,b\n1,2\n"}, "t.csv", table("csv")),
        ),
        ("by: hash, documents added", "old documents: 33 train, 16 test, before and after", stays_put),
        (
            "by: hash, a single text",
            "refused: by: blocks cuts a single text",
            written("t.txt", b"abc " * 99, {"format": "text", "separator": None, "split": BY_HASH}),
        ),
        ("hub, name and commit", f"{TEN}; revision {COMMIT}", hub(COMMIT)),
        ("hub, branch", f"{TEN}; revision {COMMIT}", hub("main")),
        (
            "hub, no such file",
            "refused: fits x/*.jsonl (corpus.mine.source.files); it has: README.md, data/a.jsonl",
            hub(COMMIT, "x/*.jsonl"),
        ),
        ("hub, no such revision", "refused: the hub has no me/texts at revision gone", hub("gone")),
        ("hub, offline", "refused: Three ways out: connect to the network", hub(COMMIT, up=False)),
        ("hub, from a mirror", f"{TEN}; revision {COMMIT}", hub_mirror),
    ]
    return [Case("format", name, expected, attempt) for name, expected, attempt in rows]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as asking for a data set and its files needs."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        siblings = [{"rfilename": "README.md", "size": 1}, *({"rfilename": f"data/{n}.jsonl", "size": 9} for n in "ab")]
        if path in (f"/api/datasets/me/texts/revision/{COMMIT}", "/api/datasets/me/texts/revision/main"):
            return self._send(json.dumps({"id": "me/texts", "sha": COMMIT, "siblings": siblings}).encode())
        for name, texts in (("a", DOCS[:5]), ("b", DOCS[5:])):
            if path == f"/datasets/me/texts/resolve/{COMMIT}/data/{name}.jsonl":
                return self._send(json_lines(texts))
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    do_HEAD = do_GET

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def hub_section(revision: str, pattern: str) -> Corpus:
    source = {"kind": "hub", "dataset": "me/texts", "revision": revision, "files": pattern, "licence": "mine"}
    values = {"source": source, "text": table("jsonl"), "tokenizer": {"name": "bytes"}, "scales": corpus_cases.SCALES}
    return Corpus.model_validate(values)


def hub(revision: str, pattern: str = "data/*.jsonl", up: bool = True) -> Any:
    def attempt(folder: Path) -> str:
        import huggingface_hub.constants as constants

        server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port if up else 9}"
        before, template = constants.ENDPOINT, constants.HUGGINGFACE_CO_URL_TEMPLATE
        constants.ENDPOINT = address
        constants.HUGGINGFACE_CO_URL_TEMPLATE = address + template.removeprefix(before)
        try:
            with environment(BDH_CORPORA_MIRROR=""):
                result = told(folder, hub_section(revision, pattern))
            return f"{result}; revision {Provenance.read(folder / 'raw/mine').revision}"
        finally:
            constants.ENDPOINT, constants.HUGGINGFACE_CO_URL_TEMPLATE = before, template
            server.shutdown()
            server.server_close()

    return attempt


def hub_mirror(folder: Path) -> str:
    (folder / "mirror/me/texts/data").mkdir(parents=True)
    (folder / "mirror/me/texts/data/a.jsonl").write_bytes(json_lines(DOCS))
    with environment(BDH_CORPORA_MIRROR=str(folder / "mirror")):
        result = told(folder, hub_section(COMMIT, "data/*.jsonl"))
    return f"{result}; revision {Provenance.read(folder / 'raw/mine').revision}"


def no_spaces(alphabet: str, count: int, size: int) -> Any:
    """A text of one word: tokenized, decoded again, its training in bounds whatever its length."""

    def attempt(folder: Path) -> str:
        text = "".join(random.Random(0).choices(alphabet, k=count))
        (folder / "t.txt").write_text(text, encoding="utf-8")
        started = time.process_time()
        corpus = build(folder, local(folder / "t.txt", plain(), tokenizer={"name": "bpe", "vocab_size": size}))
        assert "".join(whole(corpus)) == text
        assert time.process_time() - started < 120
        return f"{corpus.vocab_size} ids, decodes to the same {len(text.encode())} bytes"

    return attempt


def vocabulary(folder: Path) -> str:
    (folder / "t.txt").write_text(JOINED, encoding="utf-8")
    return said(folder, local(folder / "t.txt", plain("\n--\n"), tokenizer={"name": "bpe", "vocab_size": 50000}))


def one_word_of_long_text(folder: Path) -> str:
    """What the trainer is given of a long word: parts of at most 64 characters, and not without end."""
    from bdh.corpora import tokenizer

    parts = [len(part) for part in tokenizer._in_words(["a" * (1 << 20)] * 6)]
    return f"longest part {max(parts)}, {sum(parts)} of {6 << 20} characters learned from"


def date_of_text(folder: Path) -> str:
    split = {"by": "date", "train_until": "2018-12-31", "validation_fraction": 0.1}
    from tests.inputs.numbers import loaded

    return loaded({"corpus.sample_plays.text.split": split})(folder)


def tokenizer_cases() -> list[Case]:
    """Tokenizers."""
    han = "".join(map(chr, range(0x4E00, 0x4E00 + 800)))
    rows: list[tuple[str, str, Any]] = [
        (
            "bpe, 60,000 Chinese characters, no space",
            "600 ids, decodes to the same 180000 bytes",
            no_spaces(han, 60000, 600),
        ),
        ("bpe, 300,000 letters, no space", "300 ids, decodes to the same 300000 bytes", no_spaces("ACGT", 300000, 300)),
        ("bpe, 6 MB in one word", "longest part 64, 4194304 of 6291456 characters learned from", one_word_of_long_text),
        (
            "bpe, vocab_size 50000 of little text",
            "mine: tokenizer.vocab_size 50000 was asked for, the training text gives 275",
            vocabulary,
        ),
        ("by: date with format: text", "refused: by: date needs dates, and format: text has none", date_of_text),
        ("bpe trained twice", "equal", lambda folder: twice(folder)),
    ]
    return [Case("tokenizer", name, expected, attempt) for name, expected, attempt in rows]


def twice(folder: Path) -> str:
    first, second = (BytePairs.train(["no" * 500, *DOCS], 300).encode("document says no") for _ in range(2))
    return "equal" if first == second else "different"
