"""The worker that times PyTorch's layers one by one, forward and backward."""

# pyright: reportMissingImports=false
# PyTorch is optional: it is a peer, and nothing else needs it.
import json
import sys

import torch
from torch import nn

from experiments.speed.task import Task
from experiments.speed.torch_worker import VARIANTS, Peer, about, set_up
from experiments.speed.worker import Benchmark, serve


def benchmarks(task: Task, peer: Peer) -> dict[str, Benchmark]:
    """Every layer by its name, in the network's order, on what reaches it of a batch of noise.

    What comes before the first layer with parameters (padding, flattening) is part of no layer.
    """
    found: dict[str, tuple[nn.Module, torch.Tensor]] = {}
    for name, layer in peer.net.named_children():

        def note(layer: nn.Module, arguments: tuple[torch.Tensor], name: str = name) -> None:
            found[name] = layer, arguments[0].detach()

        layer.register_forward_pre_hook(note)
    peer.logits(torch.arange(task.batch_size, device=peer.device))
    for layer, _ in found.values():
        layer._forward_pre_hooks.clear()
    names = list(found)
    first = next(
        n for n, name in enumerate(names) if any(True for _ in found[name][0].parameters())
    )
    layers = {name: found[name] for name in names[first:]}
    return {
        name: benchmark(peer, layer, x.requires_grad_(name != names[first]))
        for name, (layer, x) in layers.items()
    }


def benchmark(peer: Peer, layer: nn.Module, x: torch.Tensor) -> Benchmark:
    """The layer's output, and its gradients for a given gradient of the output."""
    with peer.precision():
        dy = torch.randn_like(layer(x))

    def run(calls: int) -> None:
        for _ in range(calls):
            x.grad = None
            layer.zero_grad(set_to_none=True)
            with peer.precision():
                y = layer(x)
            y.backward(dy)
        peer.wait()

    return Benchmark(run, len(x))


def main(task: Task, variant: str) -> None:
    set_up()
    peer = Peer(task, VARIANTS[variant])
    serve(benchmarks(task, peer), about(peer))


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])), sys.argv[2])
