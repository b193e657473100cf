"""Ciresan, Meier, Gambardella and Schmidhuber (2010), Deep, big, simple neural nets for handwritten
digit recognition, Neural Computation 22(12); arXiv:1003.0358.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.errors import UserError
from cnn_jax.models.lecun_layers import scaled_tanh, uniform_fan_in
from cnn_jax.models.mlp import MLP

WIDTHS = (
    (1000, 500),
    (1500, 1000, 500),
    (2000, 1500, 1000, 500),
    (2500, 2000, 1500, 1000, 500),
    (1000,) * 9,
)  # the hidden layers of nets 1 to 5


class Ciresan2010(nn.Module):
    """The five perceptrons of table 1; parameters (and connections) at 29x29x1 and 10 classes.

    | net | hidden layers                | parameters |
    |-----|------------------------------|------------|
    | 1   | 1000, 500                    | 1,347,510  |
    | 2   | 1500, 1000, 500              | 3,269,510  |
    | 3   | 2000, 1500, 1000, 500        | 6,692,010  |
    | 4   | 2500, 2000, 1500, 1000, 500  | 12,115,010 |
    | 5   | 9 x 1000                     | 8,860,010  |

    The layers of net 1:

    | layer  | what            | output | parameters |
    |--------|-----------------|--------|------------|
    | fc1    | fully connected | 1000   | 842,000    |
    | fc2    | fully connected | 500    | 500,500    |
    | output | fully connected | 10     | 5,010      |

    1.7159 tanh(2x / 3) follows all but the output, whose logits are for a softmax (the paper prints
    0.6666 for 2 / 3). Weights start uniform between -0.05 and 0.05, biases too, as weights of a
    constant input. The paper's numbers of weights fit 29x29 pixels, not 28x28.

    net: 1 to 5. classes: number of logits. dtype: what the network computes in; parameters are
    float32 regardless.

    Raises UserError for another net.
    """

    net: int = 1
    classes: int = 10
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]."""
        if self.net not in range(1, len(WIDTHS) + 1):
            raise UserError(f"net must be 1 to {len(WIDTHS)}, got {self.net}")
        init = uniform_fan_in(0.05, power=0)  # of any fan-in
        mlp = MLP(WIDTHS[self.net - 1], self.classes, scaled_tanh, self.dtype, init, init)
        nn.share_scope(self, mlp)
        return mlp(images)
