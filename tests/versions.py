"""The tests that meet other libraries most, in an environment of the oldest or the newest allowed releases.

    python -m tests.versions oldest|newest

Makes `build/versions/oldest` or `newest` with uv (one of the development tools), without the pins of constraints.txt,
installs this project there, and runs golden vectors, models, settings, the stages as toys through DVC, and MLflow.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}
TESTS = (
    "tests/golden",
    "tests/params",
    "tests/models/test_contract.py",
    "tests/corpora/test_tokenizer.py",
    "tests/corpora/test_build.py",
    "tests/frontier/test_run.py",
    "tests/training/test_stage.py",
    "tests/training/test_resume.py",
    "tests/tracking",
    "tests/report/test_compare.py",
    "tests/commands/test_cli.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=RESOLUTION)
    which = parser.parse_args().which
    folder = ROOT / "build/versions" / which
    python = folder / "bin/python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", str(folder)], check=True)
    install = [*uv, "pip", "install", "--python", str(python), "--resolution", RESOLUTION[which], "--upgrade"]
    subprocess.run([*install, "--editable", f"{ROOT}[dev]"], check=True)
    subprocess.run([*uv, "pip", "freeze", "--python", str(python)], check=True)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    tests = [str(python), "-m", "pytest", "-q", *TESTS]
    return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
