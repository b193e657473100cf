"""The timed networks as experiments on noise, which need no data set."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from cnn_jax.data import array_dataset
from cnn_jax.experiment import Experiment, Model
from cnn_jax.models import MLP, AlexNet2012, AlexNet2014, LeNet5, narrowed
from cnn_jax.optim import alexnet_momentum
from experiments.bench.speed.task import SIZES, DType, Name, Task, noise


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which networks to time, and how: the flags of the commands that have a peer."""

    model: tuple[Name, ...] = tuple(SIZES)
    peer: Literal["none", "torch"] = "none"  # torch must be installed
    rounds: int = 8
    seconds: float = 0.5  # of a sample, which is at least one call
    batch_size: int = 0  # 0: 128, or for the AlexNets 32 on CPUs and 256 on GPUs
    image_size: int = 0  # pixels; 0: the network's own, 28 or 224
    width: float = 1.0  # share of the maps and units of the AlexNets and the MLP
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # bfloat16 on GPUs, float32 on CPUs

    def tasks(self) -> list[Task]:
        sizes = (self.batch_size, self.image_size, self.width, self.dtype)
        return [default_task(name, *sizes) for name in self.model]


def default_task(
    name: Any,
    batch_size: int = 0,
    image_size: int = 0,
    width: float = 1.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Task:
    """The task of a network on the devices at hand; 0 stands for the network's default."""
    on_cpu, size = jax.default_backend() == "cpu", SIZES[name]
    automatic: DType = "float32" if on_cpu else "bfloat16"
    return Task(
        network=name,
        batch_size=batch_size or (size.batch_size if on_cpu else size.gpu_batch_size),
        image_size=image_size or size.image_size,
        # As in the scripts: one step of AlexNet keeps a CPU busy for long enough.
        dispatch=1 if on_cpu and name.startswith("alexnet") else 10,
        width=width,
        dtype=automatic if dtype == "auto" else dtype,
    )


def experiment(task: Task) -> Experiment:
    """The script's model, loss and optimizer at its first learning rate, without augmentation."""
    size, (images, labels) = SIZES[task.network], noise(task)
    classes = [str(number) for number in range(size.classes)]
    data = array_dataset("noise", {"train": (images, labels)}, classes)
    return Experiment(
        model=model(task),
        optimizer=optimizer(task),
        dataset=data.centred() if task.network == "alexnet2012" else data,
        train_split="train",
        eval_split="train",
        batch_size=task.batch_size,
        steps=1_000_000,
        seed=0,
    )


def model(task: Task) -> Model:
    """The network as in its script, with the number of classes from `SIZES`."""
    dtype, classes = jnp.dtype(task.dtype), SIZES[task.network].classes
    if task.network == "mlp":
        return MLP((round(800 * task.width),) * 2, classes, dtype=dtype)
    if task.network == "lenet5":
        return LeNet5(classes, dtype=dtype)
    if task.network == "alexnet2014":
        narrow = narrowed(AlexNet2014, task.width)
        return AlexNet2014(classes, dropout_rate=task.dropout, dtype=dtype, **narrow)
    return AlexNet2012(
        classes,
        dropout_rate=task.dropout,
        dtype=dtype,
        kernel_init=jax.nn.initializers.normal(0.01 / task.width**0.5),
        **narrowed(AlexNet2012, task.width),
    )


def optimizer(task: Task) -> optax.GradientTransformation:
    """The optimizer of the script, with its first learning rate throughout."""
    rate = SIZES[task.network].learning_rate
    if task.network in ("mlp", "lenet5"):
        return optax.adam(rate)
    if task.network == "alexnet2014":
        return optax.chain(optax.add_decayed_weights(0.0001), optax.sgd(rate, momentum=0.9))
    return alexnet_momentum(rate)
