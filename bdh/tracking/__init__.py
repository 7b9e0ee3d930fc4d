"""MLflow, and nothing outside this package imports it. Files are the truth; tracking mirrors them.

A stage uses `tracked` and `update_champions`, which never fail it; `bdh audit` and `bdh sync` use `audit` and `sync`.
"""

from bdh.tracking.session import Tracker, prepare, tracked, update_champions

__all__ = ["Tracker", "prepare", "tracked", "update_champions"]
