"""Download one file over HTTP: progress, retries, resuming where a connection broke, sha256."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests

from bdh.corpora.progress import bytes_progress
from bdh.corpora.provenance import sha256_of
from bdh.project.errors import CorpusError, one_line

ATTEMPTS = 5
FIRST_WAIT_S = 0.5
TIMEOUT_S = (10.0, 60.0)
BLOCK = 1 << 16
MAY_PASS = {408, 425, 429, 500, 502, 503, 504}


class UnreachableError(CorpusError):
    """The address could not be reached, or broke off again and again."""


@dataclass(frozen=True)
class Download:
    """A finished download; `revision` is what the server calls this version of the file, where it says so."""

    url: str
    sha256: str
    bytes: int
    revision: str | None
    finished_at: str


def download(url: str, target: Path, accepted: Sequence[str]) -> Download:
    """Download `url` to `target` unless a whole copy lies there already; an empty `accepted` takes any sha256.

    What has arrived is kept in `<target>.part` and the next call goes on from there, as long as the server's
    file is the same. Raises UnreachableError after ATTEMPTS without progress, CorpusError when the server
    refuses or the sha256 is not an accepted one.
    """
    record = target.with_name(target.name + ".json")
    if (finished := _finished(record, target, url)) is not None and _fits(finished.sha256, accepted):
        return finished
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    revision = _fill(url, part)
    digest = sha256_of(part)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)
    if not _fits(digest, accepted):
        part.unlink()
        raise CorpusError(
            f"{url} has sha256 {digest}, accepted are {', '.join(accepted)}: it changed at its source; compare, then "
            "add the new sha256 to params.yaml, or use a mirror with the old file"
        )
    finished = Download(url, digest, part.stat().st_size, revision, datetime.now(UTC).isoformat(timespec="seconds"))
    part.replace(target)
    record.write_text(json.dumps(asdict(finished), indent=2) + "\n", encoding="utf-8")
    return finished


def _fits(digest: str, accepted: Sequence[str]) -> bool:
    return not accepted or digest in accepted


def _finished(record: Path, target: Path, url: str) -> Download | None:
    try:
        finished = Download(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = finished.url == url and target.is_file() and target.stat().st_size == finished.bytes
    return finished if whole and sha256_of(target) == finished.sha256 else None


def _fill(url: str, part: Path) -> str | None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _attempt(url, part)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            problem = type(error).__name__
        except _PassingError as error:
            problem = one_line(error)
        after = part.stat().st_size if part.exists() else 0
        failures = 1 if after > before else failures + 1
        if failures >= ATTEMPTS:
            raise UnreachableError(f"{url} cannot be reached ({problem}, {failures} attempts)") from None
        time.sleep(FIRST_WAIT_S * 2 ** (failures - 1))


class _PassingError(Exception):
    """The server asks to come back later, or its file changed while it was read."""


def _attempt(url: str, part: Path) -> str | None:
    """One request, from where `part` ends to the end of the file."""
    have = part.stat().st_size if part.exists() else 0
    tag = part.with_name(part.name + ".tag")
    headers = {"Accept-Encoding": "identity"}
    if have and tag.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            raise _PassingError("the part downloaded before does not fit the file")
        if response.status_code in MAY_PASS:
            raise _PassingError(f"HTTP {response.status_code}")
        if not response.ok:
            raise CorpusError(f"{url} answers HTTP {response.status_code} {response.reason}; check its address")
        resumed = response.status_code == requests.codes.partial_content
        have = have if resumed else 0
        version = response.headers.get("ETag", "")
        tag.unlink(missing_ok=True)
        if version and not version.startswith("W/"):
            tag.write_text(version, encoding="utf-8")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file, bytes_progress(f"download {url}", total, have) as advance:
            for block in response.iter_content(BLOCK):
                file.write(block)
                advance(len(block))
        if total is not None and part.stat().st_size != total:
            raise _PassingError(f"{part.stat().st_size} of {total} bytes arrived")
        answers = (*response.history, response)
        return next((answer.headers["X-Repo-Commit"] for answer in answers if "X-Repo-Commit" in answer.headers), None)
