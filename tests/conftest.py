"""Tests compute with one thread each: several threads that wait for a busy core are far slower than one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
