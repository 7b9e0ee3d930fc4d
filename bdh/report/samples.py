"""Texts that a run wrote, as pairs of prompt and continuation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdh.errors import RunError


def read_samples(path: Path) -> tuple[tuple[str, str], ...]:
    """Pairs (prompt, text) of one samples.json, none when it is absent; RunError when it is damaged.

    Read are a list of texts, a list of {prompt, text}, and either of them inside a mapping (by prompt or by name).
    """
    if not path.exists():
        return ()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from None
    return tuple(_pairs(value))


def _pairs(value: Any, prompt: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(prompt, value)]
    if isinstance(value, list):
        return [pair for item in value for pair in _pairs(item, prompt)]
    if not isinstance(value, Mapping):
        return []
    if isinstance(value.get("text"), str):
        return [(str(value.get("prompt", prompt)), value["text"])]
    return [pair for name, item in value.items() for pair in _pairs(item, str(name))]
