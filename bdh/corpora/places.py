"""Which files are meant: a user's file, folder or pattern on any fsspec file system, and a data set of the hub."""

from __future__ import annotations

import fnmatch
import os
import sys
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from bdh.corpora.plain import FOLDER_SUFFIXES, is_meant
from bdh.params import HubSource, LocalSource, SourceFile
from bdh.project.errors import CorpusError, one_line, shown

MIRROR = "BDH_CORPORA_MIRROR"
MAGIC = "*?["
TAKEN = {"provenance.json", "floors.parquet", "labels.parquet"}
"""Names that a fetched corpus gives to files of its own."""

MOST_NAMED = 3
COMMIT = 40


@dataclass(frozen=True)
class OwnFile:
    """A file of the user's own on some file system; `size` in bytes."""

    system: Any
    path: str
    size: int | None

    def open(self, corpus: str) -> AbstractContextManager[IO[bytes]]:
        """Open it for reading; raises CorpusError naming it when that cannot be done."""
        try:
            return self.system.open(self.path, "rb")
        except Exception as error:  # every fsspec backend raises its own
            raise CorpusError(f"corpus {corpus}: {self.path} cannot be read ({one_line(error)})") from None


def mirror_address() -> str:
    """The folder or URL that the environment variable BDH_CORPORA_MIRROR names, empty for none."""
    return os.environ.get(MIRROR, "").rstrip("/")


def open_in_mirror(path: str) -> tuple[IO[bytes], int | None] | None:
    """A file of the mirror, open for reading, and its bytes where known; None where there is no mirror or it is absent.

    Absent is what the mirror says is not there (a 404, no such file). Raises CorpusError for anything else: a mirror
    that refuses, is broken or does not answer is to be mended, not passed over for the internet.
    """
    mirror = mirror_address()
    if not mirror:
        return None
    try:
        system, root = fsspec.core.url_to_fs(mirror)
        if isinstance(system, LocalFileSystem) and not system.isdir(root):
            raise NotADirectoryError(f"{root} is no folder")
        streamed = "http" in system.protocol
        place, mark, query = root.partition("?") if streamed else (root, "", "")
        address = f"{place.rstrip('/')}/{path}{mark}{query}"
        # Of a known size the file is asked for at once: the question before would turn any refusal into a 404.
        opened = system.open(address, "rb", **({"block_size": 0, "size": 1} if streamed else {}))
    except FileNotFoundError:
        return None
    except Exception as error:  # every fsspec backend raises its own
        raise unreadable(path, error) from None
    size = None
    with suppress(Exception):  # as above; only progress is told by it
        size = system.size(address)
    return opened, size


def unreadable(path: str, error: Exception) -> CorpusError:
    """What is wrong with a file of the mirror."""
    place = f"{shown(mirror_address())}: {path}"
    return CorpusError(f"{MIRROR}: {place} cannot be read ({one_line(error)}); mend or unset it")


def own_files(corpus: str, source: LocalSource, form: str, beside: set[str]) -> dict[str, OwnFile]:
    """The files that `source.path` means, by their name in the fetched corpus, in the order of their paths.

    Of a folder those count whose ending belongs to the format, and those named in `beside`; a pattern and a list mean
    what they say. Raises CorpusError for a path without any.
    """
    paths = [source.path] if isinstance(source.path, str) else source.path
    found: dict[str, OwnFile] = {}
    for path in paths:
        found |= {file.path: file for file in _files_at(corpus, path, form, beside)}
    ordered = sorted(found)
    if len(ordered) == 1:
        names = [PurePosixPath(ordered[0]).name]
    else:
        common = os.path.commonpath([os.path.dirname(path) for path in ordered])  # noqa: PTH120 - of any file system
        names = [path[len(common) :].lstrip("/") for path in ordered]
    names = [f"own-{name}" if name in TAKEN else name for name in names]
    return {name: found[path] for name, path in zip(names, ordered, strict=True)}


def _files_at(corpus: str, path: str, form: str, beside: set[str]) -> list[OwnFile]:
    where = f"corpus.{corpus}.source.path"
    if not path.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise CorpusError(f"corpus {corpus}: this Python reads file names as {encoding}; export PYTHONUTF8=1")
    try:
        system, root = fsspec.core.url_to_fs(path)
        if isinstance(system, LocalFileSystem):
            root = os.path.abspath(root)  # noqa: PTH100 - a text, as on every file system
        if system.isdir(root):
            every = sorted(name for name in system.find(root) if not _hidden(name[len(root) :]))
            meant = [name for name in every if is_meant(name, form) or PurePosixPath(name).name in beside]
            _say_left_out(corpus, [name for name in every if name not in set(meant)])
            if not meant:
                raise CorpusError(
                    f"corpus {corpus}: {root} holds no file that ends in {', '.join(FOLDER_SUFFIXES[form])} "
                    f"(text.format: {form}; packed ones count too); {where} should name your text"
                )
        elif system.isfile(root):
            meant = [root]
        elif any(sign in path for sign in MAGIC):
            meant = sorted(name for name in system.glob(root) if system.isfile(name))
            if not meant:
                raise CorpusError(f"corpus {corpus}: nothing fits the pattern {root}; {where} should name your text")
        else:
            raise CorpusError(f"corpus {corpus}: {root} is no file; {where} should name your text")
        return [OwnFile(system, name, system.size(name)) for name in meant]
    except CorpusError:
        raise
    except Exception as error:  # every fsspec backend raises its own
        raise CorpusError(f"corpus {corpus}: {shown(path)} cannot be read ({one_line(error)}); mend {where}") from None


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _say_left_out(corpus: str, names: list[str]) -> None:
    if names:
        named = ", ".join(PurePosixPath(name).name for name in names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        sys.stderr.write(f"{corpus}: files of the folder that are no text of this format stay out: {named}{more}\n")


def hub_files(corpus: str, source: HubSource) -> tuple[dict[str, SourceFile], str]:
    """The files of a data set that fit `source.files`, by their path in it, each pinned; and the commit they are of.

    A mirror that BDH_CORPORA_MIRROR names is asked first: it holds them as DATASET/PATH. Raises CorpusError when the
    hub cannot be asked, has no such revision, or nothing fits.
    """
    patterns = [source.files] if isinstance(source.files, str) else source.files
    held = dataset_in_mirror(source.dataset, patterns)
    if held:
        return {path: _pinned(source, path, None, []) for path in held}, source.revision
    known, commit, address = _ask_hub(corpus, source)
    if commit != source.revision:
        sys.stderr.write(
            f"warning: {corpus}: revision {source.revision} of {source.dataset} is not pinned, today it is {commit}; "
            "write that commit to hold on to it\n"
        )
    fitting = {path: sums for path, sums in sorted(known.items()) if _fits(path, patterns)}
    if not fitting:
        there = ", ".join(sorted(known)[:8])
        raise CorpusError(
            f"corpus {corpus}: no file of {source.dataset} at {commit[:8]} fits {', '.join(patterns)} "
            f"(corpus.{corpus}.source.files); it has: {there}{' ...' if len(known) > 8 else ''}"
        )
    return {path: _pinned(source, path, address(path), sums) for path, sums in fitting.items()}, commit


def _fits(path: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _pinned(source: HubSource, path: str, url: str | None, sums: list[str]) -> SourceFile:
    return SourceFile.model_construct(
        path=f"{source.dataset}/{path}", url=url, url_pinned=True, sha256=sums, licence=source.licence
    )


def dataset_in_mirror(dataset: str, patterns: list[str]) -> list[str]:
    """Paths of the data set's files that the mirror holds; raises CorpusError when it cannot say."""
    mirror = mirror_address()
    if not mirror:
        return []
    try:
        system, root = fsspec.core.url_to_fs(f"{mirror}/{dataset}")
        system.ls(root)  # `find` passes over what goes wrong
        names = [name[len(root) :].lstrip("/") for name in system.find(root)]
    except FileNotFoundError:
        return []
    except Exception as error:  # every fsspec backend raises its own
        raise unreadable(dataset, error) from None
    return sorted(name for name in names if _fits(name, patterns))


def _ask_hub(corpus: str, source: HubSource) -> tuple[dict[str, list[str]], str, Any]:
    """sha256 by path of every file of the data set (none where the hub knows none), the commit, path -> address."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise CorpusError(f"corpus {corpus}: kind: hub needs huggingface_hub; pip install 'hatchery[hub]'") from None
    try:
        info = huggingface_hub.HfApi().dataset_info(
            source.dataset, revision=source.revision, files_metadata=True, timeout=10.0
        )
    except HfHubHTTPError as error:
        told = one_line(error).partition(" For more")[0]
        raise CorpusError(
            f"corpus {corpus}: the hub has no {source.dataset} at revision {source.revision}, or it is not public "
            f"({told[:160]}); mend corpus.{corpus}.source"
        ) from None
    except Exception as error:  # whatever the client's own network library raises
        raise CorpusError(
            f"corpus {corpus}: the hub cannot be reached ({one_line(error)[:120]}). Three ways out: connect to the "
            f"network and run the same command again; set BDH_CORPORA_MIRROR to a folder or URL that holds "
            f"{source.dataset}/ with the files; or take copies of them by kind: local"
        ) from None
    known = {one.rfilename: [one.lfs["sha256"]] if one.lfs else [] for one in info.siblings or []}
    commit = info.sha or source.revision

    def address(path: str) -> str:
        return huggingface_hub.hf_hub_url(source.dataset, path, repo_type="dataset", revision=commit)

    return known, commit, address
