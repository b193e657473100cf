"""The worker that times PyTorch's layers one by one, forward and backward."""

# pyright: reportMissingImports=false
# PyTorch is optional: it is a peer, and nothing else needs it.
import json
import sys

import torch
from torch import nn

from experiments.bench.speed.task import Task
from experiments.bench.speed.torch_worker import VARIANTS, Peer, about, set_up
from experiments.bench.speed.worker import Benchmark, serve

# The layers with a counterpart among our modules; activations, dropout and reshaping have none.
LAYERS = (nn.Conv2d, nn.Linear, nn.LocalResponseNorm, nn.MaxPool2d, nn.AvgPool2d)


def benchmarks(task: Task, peer: Peer) -> dict[str, Benchmark]:
    """A benchmark per layer, by name and in order, on the layer's input for a batch of noise."""
    layers = {name: m for name, m in peer.net.named_children() if isinstance(m, LAYERS)}
    inputs: dict[nn.Module, torch.Tensor] = {}

    def note(layer: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        inputs[layer] = arguments[0].detach()

    hooks = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    peer.logits(torch.arange(task.batch_size, device=peer.device))
    for hook in hooks:
        hook.remove()
    first = next(iter(layers.values()))  # the gradient of the images is not needed
    return {
        name: benchmark(peer, layer, inputs[layer].requires_grad_(layer is not first))
        for name, layer in layers.items()
    }


def benchmark(peer: Peer, layer: nn.Module, x: torch.Tensor) -> Benchmark:
    """Compute the layer's output, and its gradients from a gradient of the output."""
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
