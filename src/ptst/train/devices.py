"""Data-parallel fine-tuning on one node: one process per device runs `ptst.train.trainer.train`.

The caller keeps the lease and hears of every step; the processes end with it, however it dies. They
form accelerate's usual process group, so TRL's trainer does the rest: DDP, or FSDP where asked for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ptst.errors import ConfigError, Interrupted, PtstError
from ptst.quiet import quiet
from ptst.train.checkpoints import Log, last_checkpoint
from ptst.train.trainer import Training, train

ANNOUNCED = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
"""How an end is announced, often to all processes of a job at once. The caller alone answers, by
stopping all."""


def train_on_devices(
    training: Training, log: Log, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """`ptst.train.trainer.train` on `recipe.devices` devices; same arguments, same result.

    Raises:
        ConfigError: there are fewer CUDA devices.
        Interrupted: `stop` said so before the last step.
        PtstError: a process was killed, or what one of them raised.
    """
    import torch
    from torch import multiprocessing

    devices = training.recipe.devices
    if training.device != "cpu" and torch.cuda.device_count() < devices:
        raise ConfigError(
            f"finetune.devices={devices}, but this process sees {torch.cuda.device_count()} GPUs."
        )
    last_checkpoint(training.scratch)  # removes what is half-written, before several look
    processes, messages, wanted = _start(training)
    facts: dict[str, Any] = {}
    ended: BaseException | None = None

    def listen() -> None:
        nonlocal ended
        while not messages.empty():
            kind, content = messages.get()
            if kind == "log":
                log(content)
            elif kind == "facts":
                facts.update(content)
            else:
                ended = ended or {"interrupted": Interrupted, "refused": PtstError}[kind](content)

    try:
        while not processes.join(timeout=0.2, grace_period=5):
            listen()
            if stop():
                wanted.set()
    except multiprocessing.ProcessExitedException as error:
        listen()  # what one of them told may be why another died
        if ended is None:
            raise PtstError(
                f"one of {devices} training processes died: {error} (out of memory?)"
            ) from error
    except multiprocessing.ProcessRaisedException:
        listen()
        if ended is None:
            raise
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.kill()
    listen()
    if ended is not None:
        raise ended
    return facts


def _start(training: Training) -> tuple[Any, Any, Any]:
    """The processes, the queue of what they tell, and the event that asks them to stop."""
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    messages, wanted = context.SimpleQueue(), context.Event()
    arguments = (messages, wanted, _free_port(), training)
    devices = training.recipe.devices
    # Processes inherit the mask, so they are deaf to these from their first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ANNOUNCED)
    try:
        processes = multiprocessing.spawn(_train_rank, arguments, nprocs=devices, join=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return processes, messages, wanted


def _train_rank(
    rank: int,
    messages: Any,
    wanted: Any,
    port: int,
    training: Training,
) -> None:
    """One of the processes. Rank 0 tells what it logs, and what came of it."""
    # Whoever holds the lease next must be alone. multiprocessing.spawn asks Linux for an interrupt
    # when the parent dies, to which this process is deaf.
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)

    import torch

    devices, device = training.recipe.devices, training.device

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    quiet()
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    else:
        device = f"cuda:{rank}"
        torch.cuda.set_device(rank)

    def log(entry: dict[str, float]) -> None:
        if rank == 0:
            messages.put(("log", {k: v for k, v in entry.items() if isinstance(v, int | float)}))

    def stop() -> bool:
        flag = torch.tensor([int(wanted.is_set())], device=device)
        torch.distributed.broadcast(flag, src=0)  # all stop after the same step, or they would wait
        return bool(flag.item())

    try:
        facts = train(replace(training, device=device), log, stop)
        if rank == 0:
            messages.put(("facts", facts))
    except Interrupted as interrupted:
        messages.put(("interrupted", str(interrupted)))
    except PtstError as error:
        messages.put(("refused", str(error)))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    # Not through Python's own end, in which gloo's threads abort a process that leaves some tenths
    # of a second before the first one (seen in 6 of 40 with torch 2.13), and with it a whole
    # training.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
