"""dvc.yaml and dvc.lock as plain facts: what a stage declares, and what it read and wrote when it last ran.

Both are read with the YAML library that DVC uses, so that `1e-3` or `on` mean here what they mean there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bdh.project.errors import RunError, one_line
from bdh.project.files import write_json

LOCK = Path("dvc.lock")
PIPELINE = Path("dvc.yaml")
PARAMS = Path("params.yaml")
TEMPLATE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class LockedStage:
    """One stage of dvc.lock: md5 by path of what it read and wrote, and the parameters it ran with."""

    name: str
    deps: dict[str, str] = field(default_factory=dict)
    outs: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Declaration:
    """What dvc.yaml says about one stage, templates filled in."""

    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]


def stage_name(stage: str, key: str) -> str:
    """DVC's name of a stage: `train@bdh-sample_plays-0`; the one comparison (key `all`) is plain `compare`."""
    return stage if key == "all" else f"{stage}@{key}"


def stage_and_key(name: str) -> tuple[str, str]:
    """The inverse of `stage_name`."""
    stage, _, key = name.partition("@")
    return stage, key or "all"


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, {} where the file is missing; raises RunError when it is damaged."""
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it with `git checkout {path}`") from None


LOST_LOCK = (
    "remove it (`rm dvc.lock`), then `dvc repro`: that restores everything from the run cache of DVC and computes "
    "nothing again that is there"
)


def lock_damage(path: Path = LOCK) -> str | None:
    """What is wrong with dvc.lock, None for nothing; DVC rewrites it after every stage, and may be killed then."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml import YAML, YAMLError
    from voluptuous import Invalid

    if not path.is_file():
        return None
    size = path.stat().st_size
    cut = "; dvc was killed or the disk was full while it was written"
    if size == 0:
        return f"{path} is empty (0 bytes){cut}"
    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except (YAMLError, UnicodeDecodeError, ValueError):
        return f"{path} is broken (after {size} bytes it is no whole YAML){cut}"
    except Invalid as error:
        return f"{path} is broken ({one_line(error)[:120]}){cut}"
    return None


def check_lock(path: Path = LOCK) -> None:
    """Raise RunError, with the way back, when dvc.lock is damaged."""
    if (damage := lock_damage(path)) is not None:
        raise RunError(f"{damage}; {LOST_LOCK}")


def release_dead_locks(folder: Path = Path(".dvc/tmp")) -> None:
    """Forget the locks of DVC whose processes are gone, and a list of locks that was cut short.

    DVC keeps the number of every process that reads or writes a path and never forgets one that was killed while it
    read; once another process has that number, whoever writes the path is told that it is busy.
    """
    from dvc.lock import LockError, make_lock

    path = folder / "rwlock"
    if not path.is_file():
        return
    with suppress(LockError), make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            read = {name: [one for one in held["read"][name] if _is_dvc(one["pid"])] for name in held.get("read", {})}
            write = {name: one for name, one in held.get("write", {}).items() if _is_dvc(one["pid"])}
        except (ValueError, KeyError, TypeError, AttributeError):
            path.unlink()
            return
        write_json(path, {"read": {name: ones for name, ones in read.items() if ones}, "write": write})


def _is_dvc(pid: int) -> bool:
    """Whether a living process with this number runs DVC; a number is soon another's, at the latest after a reboot."""
    try:
        return any("dvc" in Path(word).parts[-2:] for word in psutil.Process(pid).cmdline() if word)
    except psutil.Error:
        return False


def load_lock(path: Path = LOCK) -> dict[str, LockedStage]:
    """Every stage of dvc.lock by name, {} where there is none yet."""
    return {name: _entry(name, body) for name, body in (load_yaml(path).get("stages") or {}).items()}


def _entry(name: str, body: Mapping[str, Any]) -> LockedStage:
    def hashes(kind: str) -> dict[str, str]:
        return {item["path"]: item.get("md5", "") for item in body.get(kind, [])}

    params = {key: value for section in body.get("params", {}).values() for key, value in section.items()}
    return LockedStage(name, hashes("deps"), hashes("outs"), params)


def outputs(lock: Mapping[str, LockedStage]) -> dict[str, str]:
    """md5 of everything that some stage wrote, by path."""
    return {path: md5 for entry in lock.values() for path, md5 in entry.outs.items()}


def declared(stage: str, key: str, pipeline: Path = PIPELINE, params: Path = PARAMS) -> Declaration:
    """What dvc.yaml declares for a stage; empty where the file or the stage is missing."""
    template = (load_yaml(pipeline).get("stages") or {}).get(stage) or {}
    axes = list(template.get("matrix") or {})
    context = {**load_yaml(params), "key": key, "item": dict(zip(axes, key.split("-"), strict=False))}

    def paths(kind: str) -> list[str]:
        listed = (next(iter(item)) if isinstance(item, dict) else item for item in template.get(kind, []))
        return [_fill(path, context) for path in listed]

    outs = paths("outs") + paths("metrics") + paths("plots")
    return Declaration(tuple(paths("deps")), tuple(outs), tuple(paths("params")))


def _fill(text: str, context: Mapping[str, Any]) -> str:
    return TEMPLATE.sub(lambda match: str(lookup(context, match[1].strip())), text)


def lookup(values: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted path, None where there is none."""
    level: Any = values
    for part in dotted.split("."):
        level = level.get(part) if isinstance(level, Mapping) else None
    return level


def current_params(names: tuple[str, ...], params: Path = PARAMS) -> dict[str, Any]:
    """The values that params.yaml now has for dotted names."""
    values = load_yaml(params)
    return {name: lookup(values, name) for name in names}


def params_sha(values: Mapping[str, Any]) -> str:
    """sha256 of parameters by dotted name, independent of their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def current_deps(declaration: Declaration, lock: Mapping[str, LockedStage]) -> dict[str, str]:
    """md5 of what a stage is about to read.

    Outputs of earlier stages are looked up in dvc.lock, other files are hashed; a folder that is not one output but
    gathers those of several stages is left out.
    """
    written = outputs(lock)
    found = {}
    for path in declaration.deps:
        if path in written:
            found[path] = written[path]
        elif Path(path).is_file():
            found[path] = file_md5(Path(path))
    return found


def file_md5(path: Path) -> str:
    """md5 of a file's bytes, as DVC records it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
