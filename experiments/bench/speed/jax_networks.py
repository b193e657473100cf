"""The networks that are timed, as experiments on noise: no data set is needed."""

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
    """Which networks to time, and how: what the commands that have a peer are asked."""

    model: tuple[Name, ...] = tuple(SIZES)
    peer: Literal["none", "torch"] = "none"  # torch must be installed
    rounds: int = 8
    seconds: float = 0.5  # of a sample, of one call at least
    batch_size: int = 0  # 0: 128, and of the AlexNets 32 on CPUs, 256 on GPUs
    image_size: int = 0  # pixels; 0: the network's own, 28 or 224
    width: float = 1.0  # share of the maps and units of the AlexNets and the MLP
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # bfloat16 on GPUs, float32 on CPUs

    def tasks(self) -> list[Task]:
        given = (self.batch_size, self.image_size, self.width, self.dtype)
        return [default_task(name, *given) for name in self.model]


def default_task(
    name: Any,
    batch_size: int = 0,
    image_size: int = 0,
    width: float = 1.0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Task:
    """The task of a network on the devices that there are; 0 is the network's own number."""
    on_cpu, size = jax.default_backend() == "cpu", SIZES[name]
    automatic: DType = "float32" if on_cpu else "bfloat16"
    return Task(
        network=name,
        batch_size=batch_size or (size.batch_size if on_cpu else size.gpu_batch_size),
        image_size=image_size or size.image_size,
        # As the scripts have it: one step of AlexNet keeps a CPU busy for long enough.
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
    """The network, as the script of its name has it, with the classes of `SIZES`."""
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
    """The script's, its learning rate staying where it begins."""
    rate = SIZES[task.network].learning_rate
    if task.network in ("mlp", "lenet5"):
        return optax.adam(rate)
    if task.network == "alexnet2014":
        return optax.chain(optax.add_decayed_weights(0.0001), optax.sgd(rate, momentum=0.9))
    return alexnet_momentum(rate)
