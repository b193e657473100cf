"""The worker that times PyTorch on the same task, written in one of several ways."""

# pyright: reportMissingImports=false
# PyTorch is optional: it is a peer, and nothing else needs it.
import contextlib
import json
import os
import sys
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from experiments.bench.speed.task import Task, noise, standard
from experiments.bench.speed.torch_networks import network, optimizer
from experiments.bench.speed.worker import Benchmark, serve


class Variant(NamedTuple):
    channels_last: bool
    fused: bool  # the optimizer, in one kernel
    compiled: str | None  # mode of torch.compile for the loss and its gradient


VARIANTS = {
    "eager": Variant(channels_last=False, fused=False, compiled=None),
    "fused": Variant(channels_last=False, fused=True, compiled=None),
    "channels_last": Variant(channels_last=True, fused=True, compiled=None),
    "compiled": Variant(channels_last=True, fused=True, compiled="default"),
    "graphs": Variant(channels_last=True, fused=True, compiled="reduce-overhead"),  # GPUs only
}


class Peer:
    """A network that trains on noise, all of which the device holds as uint8.

    Like ours, it gathers a batch by indices and standardises it on the device. Unlike ours, it does
    not sum metrics.
    """

    def __init__(self, task: Task, variant: Variant):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.platform = "gpu" if self.device.type == "cuda" else "cpu"  # as JAX calls them
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        images, labels = noise(task)
        mean, deviation = standard(task, images)
        stored = torch.tensor(images).permute(0, 3, 1, 2)
        self.images = stored.contiguous(memory_format=layout).to(self.device)
        self.labels = torch.tensor(labels, dtype=torch.int64, device=self.device)
        self.mean, self.deviation = (
            torch.tensor(x, dtype=torch.float32, device=self.device)[:, None, None]
            for x in (mean, deviation)
        )
        self.layout, self.dtype = layout, getattr(torch, task.dtype)
        self.net = network(task).to(self.device, memory_format=layout)
        self.optimizer = optimizer(task, self.net, variant.fused)
        self.loss, self.predict = self._loss, self.logits
        if variant.compiled is not None:
            self.loss = torch.compile(self._loss, mode=variant.compiled)
            self.predict = torch.compile(self.logits, mode=variant.compiled)

    def logits(self, index: torch.Tensor) -> torch.Tensor:
        """Float32 [B, classes] of the images at `index` [B]."""
        images = self.images[index].to(torch.float32, memory_format=self.layout)
        with self.precision():
            return self.net((images / 255 - self.mean) / self.deviation).float()

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which the network computes in the task's dtype."""
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype) if low else contextlib.nullcontext()

    def _loss(self, index: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.logits(index), self.labels[index])

    def step(self, index: torch.Tensor) -> torch.Tensor:
        """Make one training step; return the loss before it."""
        loss = self.loss(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def training(peer: Peer, batches: list[torch.Tensor], batch_size: int) -> Benchmark:
    def run(calls: int) -> None:
        peer.net.train()
        for call in range(calls):
            peer.step(batches[call % len(batches)])
        peer.wait()

    return Benchmark(run, batch_size)


def forward(peer: Peer, batches: list[torch.Tensor], batch_size: int) -> Benchmark:
    def run(calls: int) -> None:
        peer.net.eval()
        with torch.inference_mode():
            for _ in range(calls):
                peer.predict(batches[0])
        peer.wait()

    return Benchmark(run, batch_size)


def matrix_product(peer: Peer) -> Benchmark:
    n = 2048 if peer.device.type == "cpu" else 8192

    @cache  # made by the first call, after training's peak memory was read
    def matrices() -> list[torch.Tensor]:
        return [torch.randn(n, n, device=peer.device).to(peer.dtype) for _ in range(2)]

    def run(calls: int) -> None:
        with torch.inference_mode():
            for _ in range(calls):
                torch.matmul(*matrices())
        peer.wait()

    return Benchmark(run, 2 * n**3)


def set_up() -> None:
    """Settle the process's settings before anything is computed."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, which is JAX's default there
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)


def about(peer: Peer) -> dict[str, str]:
    """What the worker says about itself."""
    return {"version": torch.__version__, "platform": peer.platform}


def main(task: Task, variant: str) -> None:
    set_up()
    peer, size = Peer(task, VARIANTS[variant]), task.batch_size
    shuffled = torch.randperm(len(peer.images), device=peer.device)
    batches = [shuffled.roll(k * size)[:size] for k in range(10)]
    benchmarks = {"train": training(peer, batches, size), "forward": forward(peer, batches, size)}
    if variant == "channels_last":  # once is enough
        benchmarks |= {"gemm": matrix_product(peer)}
    on_gpu = peer.platform == "gpu"
    memory = torch.cuda.max_memory_allocated
    serve(benchmarks, about(peer), lambda: memory() if on_gpu else None)


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])), sys.argv[2])
