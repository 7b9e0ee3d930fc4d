"""`bdh sync`."""

from __future__ import annotations

from collections import Counter

from bdh.commands.console import say, show_table
from bdh.repository import enter_root


def sync() -> None:
    """Refill the MLflow store from dvc.lock and the reports; safe to repeat, also into an empty store."""
    enter_root()
    from bdh.tracking.store import open_store, shown
    from bdh.tracking.sync import sync as refill

    store = open_store()
    actions = refill(store)
    changed = [action for action in actions if action.done != "kept"]
    if changed:
        show_table(("stage", "done", "run or reason"), [(a.name, a.done, a.detail) for a in changed])
    counts = Counter(action.done for action in actions)
    told = ", ".join(f"{count} {done}" for done, count in counts.items()) or "dvc.lock has no tracked stage yet"
    say(f"{shown(store.uri)}: {told}")
