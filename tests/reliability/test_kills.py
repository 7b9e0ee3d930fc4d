"""Kills at random moments in every stage: of the stage, of dvc and of `bdh repro`."""

import random
import time
from itertools import product

import pytest

from tests.reliability.disturbed import (
    SIGNALS,
    STAGES,
    check_clean,
    check_quiet,
    differing,
    end,
    mend_lock,
    results,
    stage_below,
    wait,
)
from tests.reliability.faults import record
from tests.support.project import Project

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(3000)]
SEED = 17
KINDS = list(product(("a stage", "dvc", "bdh repro"), SIGNALS))
PER_STAGE = 6
DVC_S = 3.0
"""About how long dvc runs before and after a stage."""


def kinds_of(stage):
    """Six of the nine kinds of kill for a stage, so that each kind comes six times; kills of bdh repro first.

    A stage that had ended before it was killed would run again under `dvc repro --force` alone.
    """
    place = list(STAGES).index(stage)
    chosen = [KINDS[(3 * place + step) % len(KINDS)] for step in range(PER_STAGE)]
    return sorted(chosen, key=lambda kind: kind[0] != "bdh repro")


@pytest.fixture(scope="module")
def disturbed(undisturbed):
    return Project.there(undisturbed[0].folder.parent / "fresh")


def kill(project, stage, victim, how, seconds, moment):
    """One kill at `moment`, a share of the stage's time (for dvc: of the command's); False where it was too late."""
    words = ("bdh", "repro") if victim == "bdh repro" else ("dvc", "repro", "--force", "--single-item", STAGES[stage])
    running = project.start(*words)
    if victim == "dvc":
        time.sleep(moment * (seconds + 2 * DVC_S))
        target = running
    else:
        wait(lambda: stage_below(running.pid) or running.poll() is not None)
        time.sleep(moment * seconds)
        target = running if victim == "bdh repro" else stage_below(running.pid)
    hit = target is not None and running.poll() is None
    if hit:
        end(target, SIGNALS[how], group=how == "Ctrl-C" and victim != "a stage")
    running.communicate(timeout=200)
    check_quiet(project)
    return hit


@pytest.mark.parametrize("stage", STAGES)
def test_stage_killed_in_every_way_ends_as_if_nobody_had(undisturbed, disturbed, stage):
    """The stage is killed six times in a row, then completed; what it then left must be what nobody disturbed."""
    _, reference, seconds = undisturbed
    draw = random.Random(f"{SEED} {stage}")
    hits = []
    for victim, how in kinds_of(stage):
        moment = draw.uniform(0.02, 0.98)
        if any(kill(disturbed, stage, victim, how, seconds[stage], moment / again) for again in (1, 2, 4, 8)):
            hits.append(f"{how} of {victim}")
        mend_lock(disturbed)
    disturbed.repro("--single-item", STAGES[stage])
    wrong = differing(disturbed, reference)
    assert not wrong
    for fault in hits:
        record(fault, recovered=1, identical=1)
    assert len(hits) == PER_STAGE
    if stage == "compare":
        check_clean(disturbed)
        assert results(disturbed) == reference
