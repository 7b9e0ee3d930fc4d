"""Where a piece of the pipeline runs: here, in a process of its own, or as a job of submitit, in a clone of its own.

With submitit (Slurm, or processes of this machine) a piece runs in `data/clones/NAME`: a git worktree of the commit,
with the edits that are here, and with the DVC cache of this repository. Its stages end in the run cache, so that the
plain `dvc repro` at the end finds everything done. A job that is preempted or runs out of its time asks its stages to
stop (trainings write a checkpoint), is queued again by submitit, and goes on in the same clone.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdh.commands.schedule import GRACE_S, JOBS, LOGS, Piece, Starter, Work, ask_to_stop, die_with_us, see_off
from bdh.project.errors import HatcheryError, shown

if TYPE_CHECKING:
    from submitit import Job

CLONES = Path("data/clones")
POLL_S = 1.0
ASK_S = 30.0
STOP = "stop"
TIMEOUT_MIN = 24 * 60
TIMES = 100
"""How often a job that ran out of its time may be queued again."""


class ExecutorError(HatcheryError):
    """Jobs cannot be submitted as asked."""


@dataclass
class Chain:
    """What a job does: one command in a clone, its output in `log`. Returns the exit code; goes on after a preemption.

    stop: when this file appears, the stages are asked to stop.
    """

    command: Sequence[str]
    clone: Path
    log: Path
    environment: Mapping[str, str]
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def stop(self) -> Path:
        """The file that asks for an end; beside the clone, which must not change."""
        return self.clone.with_name(f"{self.clone.name}.{STOP}")

    def __call__(self) -> int:
        """Run the command to its end, or until it was asked to stop."""
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command, cwd=self.clone, stdout=log, stderr=log, env=environment, preexec_fn=die_with_us()
            )
        while self.child.poll() is None:
            if self.stop.exists():
                self.end()
            time.sleep(POLL_S)
        return self.child.returncode

    def end(self) -> None:
        """Ask the stages to stop, and wait until they have."""
        if self.child is not None:
            ask_to_stop(self.child)
            see_off(self.child, time.monotonic() + GRACE_S)

    def checkpoint(self) -> Any:
        """What submitit queues again after a preemption or at the end of a job's time."""
        from submitit.helpers import DelayedSubmission

        self.end()
        return DelayedSubmission(Chain(self.command, self.clone, self.log, self.environment))


@dataclass
class JobPiece:
    """A submitted job, as the schedule sees it; its clone is removed once it has succeeded."""

    job: Job[int]
    chain: Chain
    returncode: int | None = None
    asked: float = field(default_factory=time.monotonic)

    def wait(self) -> int:
        """Wait for the end of the job; 1, and the reason in the log, where it died without a word."""
        while not self._done():
            time.sleep(POLL_S)
        try:
            self.returncode = self.job.result()
        except Exception as error:  # whatever the cluster reports
            with self.chain.log.open("a", encoding="utf-8") as log:
                log.write(f"error: job {self.job.job_id}: {str(error).strip().splitlines()[-1]}\n")
            self.returncode = 1
        self.chain.stop.unlink(missing_ok=True)
        if self.returncode == 0:
            remove_clone(self.chain.clone)
        return self.returncode

    def ask_to_stop(self) -> None:
        """The job sees the file within a second of its file system's time."""
        self.chain.stop.touch()

    def see_off(self, end: float) -> None:
        """Wait until `end` (of the monotonic clock); then cancel the job."""
        while not self._done() and time.monotonic() < end:
            time.sleep(POLL_S)
        if self._done():
            self.wait()
        else:
            self.job.cancel()
            self.returncode = 1

    def _done(self) -> bool:
        """Whether there is a result; the cluster itself, which may have lost the job, is asked less often."""
        if self.job.paths.result_pickle.exists():
            return True
        if time.monotonic() - self.asked < ASK_S:
            return False
        self.asked = time.monotonic()
        return self.job.done()


class Submitter:
    """Starts pieces as jobs of submitit, those that start together with the same needs as one array.

    cluster: `slurm` or `local`; what submitit finds when it is None. options: of `sbatch`, by name. threads: CPU
    threads of a stage. Raises ExecutorError where submitit is missing or the repository cannot be cloned.
    """

    def __init__(self, jobs: int, threads: int, cluster: str | None = None, options: Sequence[str] = ()) -> None:
        try:
            import submitit
        except ImportError:
            raise ExecutorError(
                "--executor submitit needs the package submitit: pip install 'hatchery[cluster]'"
            ) from None
        self.jobs, self.threads = jobs, threads
        asked = dict(_option(option) for option in options)
        try:
            logging.getLogger("submitit").setLevel(logging.ERROR)
            self.executor = submitit.AutoExecutor(LOGS / "jobs", cluster=cluster, slurm_max_num_timeout=TIMES)
            self.gpus = asked.pop("gpus_per_node", None)
            self.executor.update_parameters(
                timeout_min=asked.pop("timeout_min", TIMEOUT_MIN),
                cpus_per_task=threads,
                **{f"slurm_{name}": value for name, value in asked.items()},
            )
        except (ValueError, TypeError, NameError, AssertionError, RuntimeError) as error:
            raise ExecutorError(f"submitit: {shown(str(error).splitlines()[0])}") from None
        self.slurm = self.executor.cluster == "slurm"
        self.cache = _cache()

    def start(self, works: Sequence[tuple[Work, list[str]]]) -> list[Piece]:
        """Submit pieces, each with the GPUs (of this machine) that it may use; with Slurm it chooses them."""
        chains = [self._chain(work, gpus) for work, gpus in works]
        pieces: dict[int, Piece] = {}
        for count in sorted({self._count(work) for work, _ in works}):
            own = [at for at, (work, _) in enumerate(works) if self._count(work) == count]
            name = works[own[0]][0].name if len(own) == 1 else "hatchery"
            self.executor.update_parameters(name=name, gpus_per_node=count or None)
            with self.executor.batch():
                jobs = {at: self.executor.submit(chains[at]) for at in own}
            pieces |= {at: JobPiece(job, chains[at]) for at, job in jobs.items()}
        return [pieces[at] for at in range(len(works))]

    def _count(self, work: Work) -> int:
        """GPUs that a job asks Slurm for: as many as it uses, or as `--slurm gpus_per_node=N` says."""
        if not self.slurm or work.gpus == 0:
            return 0
        if self.gpus is not None:
            return int(self.gpus)
        if work.gpus == "all":
            raise ExecutorError("train.devices: all: say how many GPUs a node has, --slurm gpus_per_node=N")
        return int(work.gpus)

    def _chain(self, work: Work, gpus: list[str]) -> Chain:
        clone = clone_of(work.name, self.cache)
        log = (LOGS / f"{work.name}.log").absolute()
        log.write_bytes(b"")
        environment = {JOBS: "1" if self.slurm else str(self.jobs), **_absolute()}
        if gpus and not self.slurm:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        chain = Chain(work.command, clone, log, environment)
        chain.stop.unlink(missing_ok=True)
        return chain


def _option(text: str) -> tuple[str, str | int]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise ExecutorError(f"--slurm {shown(text)}: write NAME=VALUE, such as partition=gpu")
    return name, int(value) if value.isdigit() else value


def _git(*words: str, folder: Path = Path()) -> bytes:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, check=False)
    if done.returncode != 0:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExecutorError(
            f"`git {words[0]}` in {folder.absolute()}: {told[-1] if told else done.returncode}; "
            "--executor submitit gives every job a git worktree, so it needs a repository with a commit"
        )
    return done.stdout


def _cache() -> Path:
    """The DVC cache of this repository, wherever its configuration puts it."""
    from dvc.repo import Repo

    with Repo() as repo:
        return Path(repo.cache.local.path).parent.parent


def clone_of(name: str, cache: Path) -> Path:
    """The worktree of a piece, made or brought up to date, with the edits that are here and the DVC cache of this one.

    A clone that an interrupted job left is kept: its checkpoints are in it. Raises ExecutorError without git.
    """
    folder = (CLONES / name).absolute()
    prefix = _git("rev-parse", "--show-prefix").decode().strip()
    if not (folder / ".git").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _git("worktree", "prune")
        _git("worktree", "add", "--detach", "--force", str(folder), "HEAD")
    else:
        _git("checkout", "--quiet", "--force", "--detach", _git("rev-parse", "HEAD").decode().strip(), folder=folder)
    here = folder / prefix
    for path in _names("ls-files", "--others", "--exclude-standard", "-z"):
        _copy(path, here)
    for path in _names("diff", "--name-only", "--relative", "-z", "HEAD"):
        _copy(path, here)
    (here / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    return here


def _names(*words: str) -> list[Path]:
    return [Path(os.fsdecode(name)) for name in _git(*words).split(b"\0") if name]


def _copy(path: Path, folder: Path) -> None:
    """A changed or new file as it is here; none where it was deleted."""
    if path.is_file():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / path)
    else:
        (folder / path).unlink(missing_ok=True)


def remove_clone(folder: Path) -> None:
    """Remove a worktree; what it made is in the cache."""
    top = _git("rev-parse", "--show-toplevel", folder=folder).decode().strip()
    _git("worktree", "remove", "--force", top)


def _absolute() -> dict[str, str]:
    """Addresses of this environment that would mean another place in a clone."""
    from bdh.tracking.session import wanted
    from bdh.tracking.store import store_uri

    found: dict[str, str] = {"MLFLOW_TRACKING_URI": store_uri()} if wanted() else {}
    mirror = os.environ.get("BDH_CORPORA_MIRROR")
    if mirror and "://" not in mirror:
        found["BDH_CORPORA_MIRROR"] = str(Path(mirror).absolute())
    return found


def starter(executor: str, jobs: int, threads: int, cluster: str | None, options: Sequence[str]) -> Starter | None:
    """What starts pieces; None for processes of this machine in this folder."""
    if executor == "submitit":
        return Submitter(jobs, threads, cluster, options).start
    if options or cluster:
        raise ExecutorError("--cluster and --slurm belong to --executor submitit")
    return None
