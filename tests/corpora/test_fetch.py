"""Fetching: mirror, resumed downloads, own files, checksums, provenance."""

import hashlib
import json
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from bdh.corpora import fetch
from bdh.corpora.download import ATTEMPTS, UnreachableError, download
from bdh.corpora.fetch import fetch_corpus
from bdh.corpora.provenance import Provenance, sha256_of
from bdh.params import Corpus
from bdh.project.errors import CorpusError, reported
from tests.support import corpus_cases

DATA = bytes(range(256)) * 8000
SHA = hashlib.sha256(DATA).hexdigest()
PATH = "folder/text.bin"


class Server:
    """A file server on 127.0.0.1 that can break off, change its file, refuse ranges or answer with an error."""

    def __init__(self) -> None:
        self.data = DATA
        self.cut_after: list[int | None] = []
        self.statuses: list[int] = []
        self.ranges = True
        self.requests: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                server.answer(self)

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=partial(self.httpd.serve_forever, 0.01), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/{PATH}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.requests.append(asked)
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            request.send_error(status)
            return
        tag = f'"{hashlib.sha256(self.data).hexdigest()[:8]}"'
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        resumed = bool(asked) and self.ranges and request.headers.get("If-Range") == tag
        body = self.data[start:] if resumed else self.data
        request.send_response(206 if resumed else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", tag)
        request.end_headers()
        limit = self.cut_after.pop(0) if self.cut_after else None
        request.wfile.write(body[:limit])

    def close(self) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdh.corpora.download.FIRST_WAIT_S", 0.0)


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def test_download_gives_the_file(server: Server, tmp_path: Path) -> None:
    done = download(server.url, tmp_path / "f", [SHA])
    assert (tmp_path / "f").read_bytes() == DATA
    assert (done.sha256, done.bytes) == (SHA, len(DATA))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.json"]


def test_download_goes_on_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_200_000, 300_000]
    download(server.url, tmp_path / "f", [SHA])
    assert (tmp_path / "f").read_bytes() == DATA
    assert server.requests[0] is None
    assert len(server.requests) == 3
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.requests[1:]]
    assert 0 < starts[0] < starts[1] < len(DATA)


def test_download_goes_on_in_a_later_call(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_200_000]
    server.statuses = [200] + [503] * ATTEMPTS
    with pytest.raises(UnreachableError, match="HTTP 503"):
        download(server.url, tmp_path / "f", [SHA])
    assert not (tmp_path / "f").exists()
    kept = (tmp_path / "f.part").stat().st_size
    assert kept > 0
    download(server.url, tmp_path / "f", [SHA])
    assert server.requests[-1] == f"bytes={kept}-"
    assert (tmp_path / "f").read_bytes() == DATA


def test_download_starts_again_when_the_file_changed(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1_200_000]
    server.statuses = [200] + [503] * ATTEMPTS
    with pytest.raises(UnreachableError):
        download(server.url, tmp_path / "f", [])
    server.data = DATA[::-1]
    download(server.url, tmp_path / "f", [])
    assert (tmp_path / "f").read_bytes() == DATA[::-1]


def test_download_starts_again_when_the_server_has_no_ranges(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [1_200_000], False
    download(server.url, tmp_path / "f", [SHA])
    assert (tmp_path / "f").read_bytes() == DATA


def test_download_is_not_repeated(server: Server, tmp_path: Path) -> None:
    first = download(server.url, tmp_path / "f", [SHA])
    assert download(server.url, tmp_path / "f", [SHA]) == first
    assert len(server.requests) == 1
    with (tmp_path / "f").open("r+b") as file:
        file.write(b"damage")
    download(server.url, tmp_path / "f", [SHA])
    assert len(server.requests) == 2
    assert (tmp_path / "f").read_bytes() == DATA


def test_download_refuses_another_sha256_and_keeps_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"sha256 {SHA}, accepted are {'0' * 64}"):
        download(server.url, tmp_path / "f", ["0" * 64])
    assert list(tmp_path.iterdir()) == []


def test_download_gives_up_at_once_when_refused(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(CorpusError, match="HTTP 404"):
        download(server.url, tmp_path / "f", [SHA])
    assert len(server.requests) == 1


def test_download_gives_up_when_nobody_answers(server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(UnreachableError, match=f"{ATTEMPTS} attempts"):
        download(server.url, tmp_path / "f", [SHA])


def test_download_of_an_empty_list_takes_any_file(server: Server, tmp_path: Path) -> None:
    assert download(server.url, tmp_path / "f", []).sha256 == SHA


TEXT = "".join(f"line {number}\n" for number in range(100))
TEXT_SHA = hashlib.sha256(TEXT.encode()).hexdigest()


def corpus_of(sha256: str = TEXT_SHA, url: str | None = "https://x.invalid/t", pinned: bool = True) -> Corpus:
    file = {"path": "some/text.txt", "url": url, "url_pinned": pinned, "sha256": [sha256], "licence": "free"}
    text = {"format": "text", "separator": None, "split": corpus_cases.BY_POSITION}
    source = {"kind": "download", "files": [file]}
    whole = {"source": source, "text": text, "tokenizer": {"name": "bytes"}, "scales": corpus_cases.SCALES}
    return Corpus.model_validate(whole)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mirror/some").mkdir(parents=True)
    (tmp_path / "mirror/some/text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setenv(fetch.MIRROR, str(tmp_path / "mirror"))
    return tmp_path / "mirror"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def unreachable(url: str, *_: object) -> None:
        asked.append(url)
        raise UnreachableError(f"{url} cannot be reached (ConnectionError, 5 attempts)")

    monkeypatch.delenv(fetch.MIRROR, raising=False)
    monkeypatch.setattr(fetch, "download", unreachable)
    return asked


def test_mirror_comes_before_the_address(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "download", lambda *_: pytest.fail("the network was used"))
    provenance = fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    assert (tmp_path / "raw/c/text.txt").read_text(encoding="utf-8") == TEXT
    assert provenance == Provenance.read(tmp_path / "raw/c")
    (file,) = provenance.files
    assert (provenance.source, provenance.text) == ("mirror", "text.txt")
    assert (file.source, file.sha256, file.bytes, file.pinned) == ("mirror", TEXT_SHA, len(TEXT), True)
    assert str(mirror) not in (tmp_path / "raw/c/provenance.json").read_text(encoding="utf-8")


def test_mirror_may_be_any_fsspec_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/store/some/text.txt", TEXT.encode())
    monkeypatch.setenv(fetch.MIRROR, "memory://store/")
    fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    assert sha256_of(tmp_path / "raw/c/text.txt") == TEXT_SHA


def test_mirror_with_another_file_is_refused(mirror: Path, tmp_path: Path, offline: list[str], monkeypatch) -> None:
    monkeypatch.setenv(fetch.MIRROR, str(mirror))
    for pinned in (True, False):
        with pytest.raises(CorpusError, match=f"{mirror}/some/text.txt has sha256 {TEXT_SHA}, accepted are {'0' * 64}"):
            fetch_corpus("c", corpus_of("0" * 64, pinned=pinned), tmp_path / "raw/c", tmp_path / "downloads")
    assert offline == []
    assert [path.name for path in (tmp_path / "raw").iterdir()] == []


def test_missing_mirror_folder_is_an_error_of_its_own(tmp_path: Path, offline: list[str], monkeypatch) -> None:
    monkeypatch.setenv(fetch.MIRROR, str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match=f"{fetch.MIRROR}: .*nowhere is no folder.*mend or unset"):
        fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    monkeypatch.setenv(fetch.MIRROR, "nosuchprotocol://x")
    with pytest.raises(CorpusError, match=f"{fetch.MIRROR}: nosuchprotocol.*mend or unset"):
        fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    assert offline == []


def test_offline_names_three_ways_out(tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(CorpusError) as caught:
        fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    message = str(caught.value)
    assert offline == ["https://x.invalid/t"]
    assert "\n" not in message
    for word in (
        "Three ways out",
        fetch.MIRROR,
        "some/text.txt",
        "connect to the network",
        "sample_plays",
        "kind: local",
    ):
        assert word in message
    assert [path.name for path in (tmp_path / "raw").iterdir()] == []


def test_mirror_without_the_file_says_so_and_takes_the_address(mirror, offline, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv(fetch.MIRROR, str(mirror))
    (mirror / "some/text.txt").unlink()
    with pytest.raises(CorpusError, match="the present one has it not"):
        fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    assert "is not in the mirror" in capsys.readouterr().err
    assert offline


def test_file_without_an_address_needs_a_mirror(tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(CorpusError, match="no public address"):
        fetch_corpus("c", corpus_of(url=None), tmp_path / "raw/c", tmp_path / "downloads")
    assert offline == []


@pytest.mark.parametrize("pinned", [True, False])
def test_address_without_a_known_sha256_warns_and_records(server, tmp_path, monkeypatch, capsys, pinned: bool) -> None:
    server.data = TEXT.encode()
    monkeypatch.delenv(fetch.MIRROR, raising=False)
    file = corpus_of("0" * 64, pinned=pinned).source.files[0].model_copy(update={"url": server.url})
    corpus = corpus_of()
    corpus = corpus.model_copy(update={"source": corpus.source.model_copy(update={"files": [file]})})
    if pinned:
        with pytest.raises(CorpusError, match="accepted are"):
            fetch_corpus("c", corpus, tmp_path / "raw/c", tmp_path / "downloads")
        return
    provenance = fetch_corpus("c", corpus, tmp_path / "raw/c", tmp_path / "downloads")
    assert (provenance.source, provenance.files[0].sha256, provenance.files[0].pinned) == ("url", TEXT_SHA, False)
    assert f"not pinned; it gave sha256 {TEXT_SHA}" in capsys.readouterr().err
    before = (tmp_path / "raw/c/provenance.json").read_bytes()
    fetch_corpus("c", corpus, tmp_path / "raw/c", tmp_path / "downloads")
    assert (tmp_path / "raw/c/provenance.json").read_bytes() == before
    assert len(server.requests) == 1


def test_own_file_is_copied_with_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(TEXT, encoding="utf-8")
    provenance = fetch_corpus("c", corpus_cases.text_section(tmp_path / "own.txt"), tmp_path / "raw/c", tmp_path)
    assert provenance.source == "local"
    assert provenance.files[0].sha256 == TEXT_SHA
    assert (tmp_path / "raw/c/own.txt").read_text(encoding="utf-8") == TEXT


def test_provenance_notices_a_damaged_file(mirror: Path, tmp_path: Path) -> None:
    fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    provenance = Provenance.read(tmp_path / "raw/c")
    provenance.check(tmp_path / "raw/c")
    (tmp_path / "raw/c/text.txt").write_text(TEXT[:-3], encoding="utf-8")
    with pytest.raises(CorpusError, match=r"damaged \(\d+ bytes; fetched were \d+\)"):
        provenance.check(tmp_path / "raw/c")
    (tmp_path / "raw/c/text.txt").unlink()
    with pytest.raises(CorpusError, match="missing"):
        provenance.check(tmp_path / "raw/c")


def test_provenance_holds_no_time(mirror: Path, tmp_path: Path) -> None:
    fetch_corpus("c", corpus_of(), tmp_path / "raw/c", tmp_path / "downloads")
    keys = json.loads((tmp_path / "raw/c/provenance.json").read_text(encoding="utf-8"))
    assert set(keys) == {"source", "text", "files"}
    assert set(keys["files"][0]) == {"name", "origin", "source", "bytes", "sha256", "pinned", "licence"}


@pytest.mark.parametrize("status", [403, 500, 503])
def test_mirror_that_refuses_is_no_mirror_without_the_file(server, offline, tmp_path, monkeypatch, status) -> None:
    """It counted as absent, and fetch went to the internet without a word."""
    monkeypatch.setenv("BDH_CORPORA_MIRROR", server.url.removesuffix(f"/{PATH}"))
    server.statuses = [status] * 9
    with pytest.raises(CorpusError, match="BDH_CORPORA_MIRROR") as caught:
        fetch_corpus("corpus", corpus_of(), tmp_path / "raw")
    assert str(status) in str(caught.value)
    assert offline == []


def test_mirror_that_does_not_answer_is_an_error(server, offline, tmp_path, monkeypatch) -> None:
    server.close()
    monkeypatch.setenv("BDH_CORPORA_MIRROR", server.url.removesuffix(f"/{PATH}"))
    with pytest.raises(CorpusError, match="BDH_CORPORA_MIRROR"):
        fetch_corpus("corpus", corpus_of(), tmp_path / "raw")
    assert offline == []


def test_mirror_that_says_404_has_it_not(server, offline, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BDH_CORPORA_MIRROR", server.url.removesuffix(f"/{PATH}"))
    server.statuses = [404] * 9
    with pytest.raises(CorpusError, match="Three ways out"):
        fetch_corpus("corpus", corpus_of(), tmp_path / "raw")
    assert len(offline) == 1


@pytest.mark.parametrize(
    "mirror",
    [
        "http://me:hunter2x/yz@127.0.0.1:9",
        "http://me:hunter2x@yz@127.0.0.1:9",
        "http://127.0.0.1:9/x?token=hunter2x",
        "http://127.0.0.1:9/x?token=hunter2x@yz",
        "s3://me:hunter2x%2Fyz@bucket/x",
    ],
)
def test_mirror_secrets_are_shown_by_no_error(mirror, offline, tmp_path, monkeypatch, capsys) -> None:
    """Libraries quote an address whole and in pieces, such as `port hunter2x`."""
    monkeypatch.setenv("BDH_CORPORA_MIRROR", mirror)
    with pytest.raises(SystemExit):
        reported(fetch_corpus)("corpus", corpus_of(), tmp_path / "raw")
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "hunter" not in said
    assert "yz" not in said


def test_two_fetches_at_once_share_no_folder(mirror, tmp_path, monkeypatch) -> None:
    """After dvc was killed and started again, both died with a FileNotFoundError."""
    inside, together = threading.Lock(), []

    def slow(*_: object) -> None:
        together.append(not inside.acquire(blocking=False))
        time.sleep(0.2)
        inside.release()

    monkeypatch.setenv("BDH_CORPORA_MIRROR", str(mirror))
    monkeypatch.setattr(Provenance, "write", lambda self, folder: slow() or (folder / "provenance.json").touch())
    threads = [threading.Thread(target=fetch_corpus, args=("c", corpus_of(), tmp_path / "raw")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [False, False]
    assert sorted(path.name for path in tmp_path.joinpath("raw").iterdir()) == ["provenance.json", "text.txt"]
