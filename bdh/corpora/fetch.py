"""The files of a corpus into data/raw/<corpus>: from a mirror, their address, this machine, or a generator.

A generated corpus is written from its seed, in the shape of the corpus it stands for.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from bdh.corpora.download import UnreachableError, download
from bdh.corpora.places import MIRROR, OwnFile, hub_files, mirror_address, open_in_mirror, own_files, unreadable
from bdh.corpora.plain import make_plain
from bdh.corpora.planted import FLOORS, LABELS, write_planted
from bdh.corpora.progress import bytes_progress
from bdh.corpora.provenance import FetchedFile, Provenance, replacing_folder, sha256_of
from bdh.corpora.sample.calls import write_call, years_of
from bdh.corpora.sample.plays import write_play
from bdh.corpora.sample.words import COMPANIES
from bdh.params import Corpus, GeneratedSource, Gpt2Tokenizer, HubSource, LocalSource, PlainText, SourceFile, Written
from bdh.project.errors import CorpusError, shown

DOWNLOADS = Path("data/downloads")
BLOCK = 1 << 20
PLAYS = "plays.txt"
CALLS = "calls.parquet"
SECTORS = "sectors.csv"
SEPARATOR = "\n\n* * *\n\n"
CALL_COLUMNS = {
    "symbol": pa.string(),
    "company_name": pa.string(),
    "company_id": pa.float64(),
    "year": pa.int64(),
    "quarter": pa.int64(),
    "date": pa.string(),
    "content": pa.string(),
    "structured_content": pa.list_(pa.struct({"speaker": pa.string(), "text": pa.string()})),
}


def fetch_corpus(name: str, corpus: Corpus, folder: Path, downloads: Path = DOWNLOADS) -> Provenance:
    """Bring all files of a corpus, those of its tokenizer included, into `folder`, which is replaced as a whole.

    A file comes from the mirror that the environment variable BDH_CORPORA_MIRROR names (a folder or any fsspec
    URL), else from its address. Files with documents become plain UTF-8 (`bdh.corpora.plain`). Raises CorpusError when
    a file cannot be had, its sha256 is not an accepted one, or it is not what the section says.
    """
    with replacing_folder(folder) as partial:
        source, files, revision = _text_files(name, corpus, partial, downloads)
        tables = _tables_beside(corpus)
        files = [_made_plain(name, corpus, partial, file, file.name in tables) for file in files]
        texts = [file for file in files if file.name not in tables]
        if not texts:
            raise CorpusError(f"corpus {name}: no file is left that holds documents; corpus.{name}.source names them")
        files += [_fetch_file(name, file, partial, downloads) for file in _tokenizer_files(corpus)]
        several = tuple(file.name for file in texts) if len(texts) > 1 else ()
        provenance = Provenance(source, texts[0].name, tuple(files), several, revision)
        provenance.write(partial)
    return provenance


def _text_files(name: str, corpus: Corpus, folder: Path, downloads: Path) -> tuple[str, list[FetchedFile], str | None]:
    """Source, all files but the tokenizer's, and the revision of a data set."""
    source = corpus.source
    if isinstance(source, GeneratedSource):
        generate(source, folder)
        origin = f"generator {source.generator}, seed {source.seed}, {source.documents} documents"
        made = sorted(folder.iterdir())
        return "generated", [_described(path, origin, "generated", True, "MIT") for path in made], None
    if isinstance(source, LocalSource):
        found = own_files(name, source, corpus.text.format, _tables_beside(corpus))
        return "local", [_copy_own(name, file, target, source, folder) for target, file in found.items()], None
    if isinstance(source, HubSource):
        wanted, revision = hub_files(name, source)
        fetched = {to: _fetch_file(name, file, folder, downloads, to) for to, file in wanted.items()}
        return "hub", [replace(file, name=to) for to, file in fetched.items()], revision
    names = [Path(file.path).name for file in (*source.files, *_tokenizer_files(corpus))]
    _check_names(name, names)
    files = [_fetch_file(name, file, folder, downloads) for file in source.files]
    return files[0].source, files, None


def _check_names(name: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise CorpusError(f"corpus {name}: two files of one name among {', '.join(names)}; rename one of them")


def _tables_beside(corpus: Corpus) -> set[str]:
    """Names of files that hold no documents: the table of sectors, and what a generator knows."""
    sectors = None if isinstance(corpus.text, PlainText) else corpus.text.sectors
    known = {FLOORS, LABELS, SECTORS} if isinstance(corpus.source, GeneratedSource) else set()
    return known | ({sectors} if sectors else set())


def _made_plain(name: str, corpus: Corpus, folder: Path, file: FetchedFile, beside: bool) -> FetchedFile:
    """The file as plain UTF-8, in the folder too; what was done and the sha256 of what came stand in the result.

    beside: it is a table beside the documents, which keeps its name, packed or not.
    """
    if not isinstance(corpus.source, Written):
        return file
    path = folder / file.name
    made = make_plain(path, "csv" if beside else corpus.text.format, corpus.source, f"corpus.{name}")
    if made is None:
        return file
    target = path if beside else path.with_name(made[0])
    if target != path and target.exists():
        raise CorpusError(f"corpus {name}: {file.name} unpacks to {target.name}, which is there too; name one of them")
    path.rename(target)
    size, digest, named = target.stat().st_size, sha256_of(target), target.relative_to(folder).as_posix()
    return replace(file, name=named, bytes=size, sha256=digest, changed=made[1], original=file.sha256)


def generate(source: GeneratedSource, folder: Path) -> str:
    """Write the files of the corpus into `folder` and return the name of the one with the documents.

    A document depends on the seed and its number alone (a call also on its year), so equal settings give equal
    bytes. Beside the text stand its known entropy and the planted concepts, see `bdh.corpora.planted`.
    """
    seeds = [f"{source.generator}/{source.seed}/{number}" for number in range(source.documents)]
    if source.generator == "plays":
        plays = [write_play(seed) for seed in seeds]
        (folder / PLAYS).write_text(SEPARATOR.join(text for text, _ in plays), encoding="utf-8")
        write_planted(folder, [planted for _, planted in plays])
        return PLAYS
    calls = [write_call(seed, year) for seed, year in zip(seeds, years_of(source.documents), strict=True)]
    table = pa.Table.from_pylist([row for row, _ in calls], schema=pa.schema(CALL_COLUMNS))
    pq.write_table(table, folder / CALLS)
    write_planted(folder, [planted for _, planted in calls])
    with (folder / SECTORS).open("w", encoding="utf-8", newline="") as file:
        rows = [(company.symbol, company.name, company.sector) for company in COMPANIES]
        csv.writer(file, lineterminator="\n").writerows([("symbol", "company", "gics_sector"), *rows])
    return CALLS


def _tokenizer_files(corpus: Corpus) -> list[SourceFile]:
    tokenizer = corpus.tokenizer
    return [tokenizer.vocab, tokenizer.merges] if isinstance(tokenizer, Gpt2Tokenizer) else []


def _described(path: Path, origin: str, source: str, pinned: bool, licence: str) -> FetchedFile:
    return FetchedFile(path.name, origin, source, path.stat().st_size, sha256_of(path), pinned, licence)


def _copy_own(name: str, file: OwnFile, to: str, source: LocalSource, folder: Path) -> FetchedFile:
    target = folder / to
    target.parent.mkdir(parents=True, exist_ok=True)
    with file.open(name) as remote:
        _copy(remote.read, target, file.size, f"copy {to}")
    return replace(_described(target, to, "local", False, source.licence), name=to)


def _fetch_file(name: str, file: SourceFile, folder: Path, downloads: Path, to: str | None = None) -> FetchedFile:
    target = folder / (to or Path(file.path).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    mirror = shown(mirror_address())
    if _from_mirror(file, target):
        fetched = _described(target, file.url or file.path, "mirror", True, file.licence)
        if file.sha256 and fetched.sha256 not in file.sha256:
            raise CorpusError(
                f"corpus {name}: {mirror}/{file.path} has sha256 {fetched.sha256}, accepted are "
                f"{', '.join(file.sha256)}; mend the mirror, or add the new sha256 to params.yaml"
            )
        return fetched
    return _from_address(name, file, target, downloads, mirror)


def _from_mirror(file: SourceFile, target: Path) -> bool:
    """Copy the file from the mirror; False when there is none or it has no such file."""
    held = open_in_mirror(file.path)
    if held is None:
        return False
    remote, size = held

    def read(count: int) -> bytes:
        try:
            return remote.read(count)
        except Exception as error:  # every fsspec backend raises its own
            raise unreadable(file.path, error) from None

    with remote:
        _copy(read, target, size, f"copy {file.path}")
    return True


def _from_address(name: str, file: SourceFile, target: Path, downloads: Path, mirror: str) -> FetchedFile:
    if file.url is None:
        raise CorpusError(f"corpus {name}: {file.path} has no public address. {_ways_out(file, mirror)}")
    if mirror:
        sys.stderr.write(f"{name}: {file.path} is not in the mirror {mirror}; taking it from {file.url}\n")
    stored = downloads / f"{hashlib.sha256(file.url.encode()).hexdigest()[:16]}-{target.name}"
    downloads.mkdir(parents=True, exist_ok=True)
    accepted = file.sha256 if file.url_pinned else []
    with filelock.FileLock(f"{stored}.lock"):
        try:
            done = download(file.url, stored, accepted)
        except UnreachableError as error:
            raise CorpusError(f"corpus {name}: {error}. {_ways_out(file, mirror)}") from None
        _link(stored, target)
    pinned = done.sha256 in file.sha256 or (file.url_pinned and not file.sha256)
    if not pinned:
        version = f", revision {done.revision}" if done.revision else ""
        sys.stderr.write(
            f"warning: {name}: {file.url} is not pinned; it gave sha256 {done.sha256} ({done.bytes} bytes{version}), "
            "which provenance.json records; add it to sha256 and set url_pinned: true to hold on to it\n"
        )
    return FetchedFile(target.name, file.url, "url", done.bytes, done.sha256, pinned, file.licence)


def _ways_out(file: SourceFile, mirror: str) -> str:
    also = " (the present one has it not)" if mirror else ""
    return (
        f"Three ways out: set {MIRROR} to a folder or URL that holds {file.path}{also}; connect to the network and run "
        "the same command again, it goes on where it stopped; or choose corpora that need neither: sample_plays, "
        "sample_calls or a text of your own (kind: local)"
    )


def _link(stored: Path, target: Path) -> None:
    """Give a download a second name, so that it takes its space once; a copy where the file system cannot."""
    try:
        os.link(stored, target)
    except OSError:
        shutil.copyfile(stored, target)


def _copy(read: Callable[[int], bytes], target: Path, size: int | None, what: str) -> None:
    with target.open("wb") as out, bytes_progress(what, size) as advance:
        while block := read(BLOCK):
            out.write(block)
            advance(len(block))
