"""Run a function on the ranks of a group, in forked processes that talk through gloo."""

import multiprocessing
import traceback
from datetime import timedelta

import torch

from bdh.project.processes import Stop
from bdh.training.distributed.group import ProcessGroup


def on_ranks(size, folder, work, *arguments):
    """`work(group, *arguments)` on every rank; its results in the order of the ranks (plain values and arrays)."""
    context = multiprocessing.get_context("fork")
    address = f"file://{folder}/store-{len(list(folder.glob('store-*')))}"
    started = []
    for rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_rank, args=(rank, size, address, theirs, work, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    results = [_receive(ours) for _, ours in started]
    for process, _ in started:
        process.join(60)
    failures = [text for good, text in results if not good]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def _receive(pipe):
    try:
        return pipe.recv() if pipe.poll(240) else (False, "a rank did not answer")
    except EOFError:
        return False, "a rank died"


def _rank(rank, size, address, pipe, work, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=size, timeout=timedelta(minutes=4)
    )
    try:
        pipe.send((True, work(ProcessGroup(rank, size, Stop()), *arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        pipe.close()
        torch.distributed.destroy_process_group()
