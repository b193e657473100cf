"""The same networks in PyTorch, written for speed as its users would write them.

Layers have the same names as in `cnn_jax.models`, so that weights can be copied.
"""

# pyright: reportMissingImports=false
# PyTorch is optional: it is a peer, and nothing else needs it.
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.bench.speed.task import SIZES, Task


def network(task: Task) -> nn.Sequential:
    """The network from standardised images [B, C, H, W] to logits."""
    layers = {"mlp": _mlp, "lenet5": _lenet5}.get(task.network, _alexnet)(task)
    net = nn.Sequential(OrderedDict(layers))
    if task.network == "alexnet2012":  # PyTorch's default weights do not suit raw pixels
        for name, values in net.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(values, std=0.01 / task.width**0.5)
            else:
                nn.init.constant_(values, name.split(".")[0] not in ("conv1", "conv3", "fc8"))
    return net


def optimizer(task: Task, net: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """The same optimizer as `jax_networks.optimizer`."""
    rate, params = SIZES[task.network].learning_rate, net.parameters()
    if task.network in ("mlp", "lenet5"):
        return torch.optim.Adam(params, rate, fused=fused)
    decay = 0.0001 if task.network == "alexnet2014" else 0.0005
    return torch.optim.SGD(params, rate, momentum=0.9, weight_decay=decay, fused=fused)


def load_weights(net: nn.Sequential, params: Mapping[str, Any]) -> None:
    """Copy Flax's parameters {layer: {"kernel", "bias"}}, whose dimensions are in another order."""
    maps = None  # of the convolution before a dense layer, which reads [H, W, C] in Flax
    for name, layer in net.named_children():
        if name not in params:
            continue
        kernel, bias = (np.asarray(params[name][part]) for part in ("kernel", "bias"))
        if kernel.ndim == 2 and maps is not None:
            side = round((len(kernel) / maps) ** 0.5)
            kernel = kernel.reshape(side, side, maps, -1).transpose(2, 0, 1, 3)
            kernel, maps = kernel.reshape(-1, kernel.shape[-1]), None
        elif kernel.ndim == 4:
            kernel, maps = kernel.transpose(2, 0, 1, 3), kernel.shape[-1]
        weight = np.moveaxis(kernel, -1, 0)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.ascontiguousarray(weight)))
            layer.bias.copy_(torch.tensor(bias))


def _mlp(task: Task) -> dict[str, nn.Module]:
    size = SIZES["mlp"]
    units, inputs = round(800 * task.width), task.image_size**2 * size.channels
    return {
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(inputs, units),
        "relu1": nn.ReLU(),
        "fc2": nn.Linear(units, units),
        "relu2": nn.ReLU(),
        "output": nn.Linear(units, size.classes),
    }


def _lenet5(task: Task) -> dict[str, nn.Module]:
    side = (task.image_size // 2 - 4) // 2
    return {
        "C1": nn.Conv2d(1, 6, 5, padding=2),
        "tanh1": nn.Tanh(),
        "S2": nn.AvgPool2d(2),
        "C3": nn.Conv2d(6, 16, 5),
        "tanh3": nn.Tanh(),
        "S4": nn.AvgPool2d(2),
        "flatten": nn.Flatten(),
        "C5": nn.Linear(16 * side**2, 120),
        "tanh5": nn.Tanh(),
        "F6": nn.Linear(120, 84),
        "tanh6": nn.Tanh(),
        "output": nn.Linear(84, SIZES["lenet5"].classes),
    }


def _alexnet(task: Task) -> dict[str, nn.Module]:
    """Either AlexNet; 2012's has normalisation, two groups, and dropout after its dense layers."""
    old = task.network == "alexnet2012"
    maps = (96, 256, 384, 384, 256) if old else (64, 192, 384, 256, 256)
    a, b, c, d, e = (round(task.width * n) for n in maps)
    units, groups = round(task.width * 4096), 2 if old else 1
    classes, missing = SIZES[task.network].classes, (11 - task.image_size) % 4
    side = (task.image_size + (missing if old else 4) - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1

    def norm(name: str) -> dict[str, nn.Module]:
        # PyTorch divides the sum over 5 maps by 5, the paper does not.
        return {name: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)} if old else {}

    def dense(number: int, inputs: int) -> dict[str, nn.Module]:
        drop = {f"drop{number}": nn.Dropout(task.dropout)}
        layer = {f"fc{number}": nn.Linear(inputs, units), f"relu{number}": nn.ReLU()}
        return layer | drop if old else drop | layer

    return {
        **({"pad": nn.ZeroPad2d((0, missing, 0, missing))} if old else {}),
        "conv1": nn.Conv2d(3, a, 11, stride=4, padding=0 if old else 2),
        "relu1": nn.ReLU(),
        **norm("norm1"),
        "pool1": nn.MaxPool2d(3, 2),
        "conv2": nn.Conv2d(a, b, 5, padding=2, groups=groups),
        "relu2": nn.ReLU(),
        **norm("norm2"),
        "pool2": nn.MaxPool2d(3, 2),
        "conv3": nn.Conv2d(b, c, 3, padding=1),
        "relu3": nn.ReLU(),
        "conv4": nn.Conv2d(c, d, 3, padding=1, groups=groups),
        "relu4": nn.ReLU(),
        "conv5": nn.Conv2d(d, e, 3, padding=1, groups=groups),
        "relu5": nn.ReLU(),
        "pool5": nn.MaxPool2d(3, 2),
        "flatten": nn.Flatten(),
        **dense(6, e * side**2),
        **dense(7, units),
        "fc8": nn.Linear(units, classes),
    }
