"""One run on many processes: as torchrun starts them, or started here.

Gradients are means over the processes, and so are gradients of the mean over the whole batch, as
every process has equally many clips.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pvtok.errors import PvtokError, UsageError
from pvtok.model.layers import ResBlock
from pvtok.tokenizer import find_device

TIMEOUT = timedelta(hours=2)
"""Processes wait for the first one while it fits the start or validates."""


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes the files and says what there is to say."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def in_first(self, call: Callable[[], object]) -> None:
        """Call it in the first process while the others wait. Where it fails, all end."""
        error: PvtokError | None = None
        if self.first:
            try:
                call()
            except PvtokError as failed:
                error = failed
        if self.size > 1:
            box = [error]
            dist.broadcast_object_list(box, src=0)
            error = box[0]
        if error is not None:
            self.fail(error)

    def fail(self, error: PvtokError) -> NoReturn:
        """End all processes with an error that all of them know of: the first one says it."""
        if self.first:
            raise error
        raise SystemExit(error.exit_code)

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Over the processes; for few or small ones, as it waits for each."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.size


def check_devices(device: str, processes: int) -> None:
    """That so many processes can each have a device of their own.

    Raises:
        UsageError, MissingDependencyError: they cannot.
    """
    where = find_device(device)
    if where.type != "cuda":
        return
    if ":" in device:
        raise UsageError(
            f"device {device!r} for {processes} processes",
            why="every process takes a GPU of its own",
            fix="Use cuda, and choose GPUs by CUDA_VISIBLE_DEVICES.",
        )
    find_device(f"cuda:{processes - 1}")


@contextmanager
def world(device: str) -> Iterator[World]:
    """Join the processes that the environment names (`RANK`, `WORLD_SIZE`, ...), if it names any.

    Args:
        device: as for `Tokenizer.load`; "cuda" and "auto" take the GPU of this process's
            `LOCAL_RANK`.

    Raises:
        UsageError, MissingDependencyError: there is no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    where = find_device(device)
    if size == 1:
        yield World(device=where)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if where.type == "cuda":
        check_devices(device, local_rank + 1)
        where = find_device(f"cuda:{local_rank}")
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield World(rank, size, where)
        dist.barrier()  # none hangs up while another still talks
    finally:
        dist.destroy_process_group()


def data_parallel(module: nn.Module, world: World, apart: Collection[str]) -> nn.Module:
    """Average the module's gradients over the processes during the backward pass. To be done again
    when other parameters are trained.

    Args:
        apart: parameters that have no part in some steps, for which it would wait in vain. Their
            gradients are left to `World.average_gradients`.
    """
    if world.size == 1:
        return module
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(apart))
    return DistributedDataParallel(module)


def shard(module: nn.Module, world: World) -> None:
    """Share out the weights, one residual block after the other and then the rest, in place
    (FSDP2). Parameters become `DTensor`s, so make optimizers after this."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in module.modules():
        if isinstance(part, ResBlock):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out, put together. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be shared out; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU for the first process, nothing for the others. All must call it."""
    copies = {}
    for name, tensor in tensors.items():
        found = whole(tensor.detach())
        if not dist.is_initialized() or dist.get_rank() == 0:
            copies[name] = found.to("cpu", copy=True)
    return copies


def distributed_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor laid out as `like` is, on its device."""
    tensor = tensor.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a whole state into a module whose own may be shared out."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            local(tensor).copy_(local(distributed_like(state[name], tensor)))


def launch(command: Sequence[str], processes: int) -> int:
    """Run `command` as so many processes of one run on this machine, to the end.

    What torchrun does, but an interrupted run may take its time to write a checkpoint, and its
    exit code is that of its processes. All belong to the terminal's process group; a polite kill
    of this process is handed on to them.

    Returns:
        The exit code of the first process that failed, else 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        # As torchrun: processes that each take all cores are in each other's way.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: Any) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    # Ctrl-C has reached the children already.
    old_term = signal.signal(signal.SIGTERM, forward)
    old_int = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        for rank in range(processes):
            own = {k: str(v) for k, v in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            children.append(subprocess.Popen(command, env=os.environ | own))
        return _wait(children)
    finally:
        signal.signal(signal.SIGTERM, old_term)
        signal.signal(signal.SIGINT, old_int)
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def _wait(children: Sequence[subprocess.Popen[bytes]], grace: float = 30.0) -> int:
    """Until all have ended; once one has failed the others, which wait for it, are ended."""
    while True:
        codes = [child.poll() for child in children]
        failed = [code for code in codes if code]
        if failed:
            until = time.monotonic() + grace
            while time.monotonic() < until and any(c.poll() is None for c in children):
                time.sleep(0.05)
            # A process killed by a signal counts as one that failed.
            return failed[0] if failed[0] > 0 else 1
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)
