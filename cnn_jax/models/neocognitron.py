"""The neocognitron: Fukushima (1980), Neocognitron: a self-organizing neural network model for a
mechanism of pattern recognition unaffected by shift in position, Biological Cybernetics 36,
193-202.

It learns without labels, loss or gradient, so it is not a Linen module but pure functions:

    params = init()                      # weak, almost uniform synapses
    params = present(params, images)     # learn from one image after the other
    respond(params, image)["UC3"]        # [1, 1, 24], one cell per plane

| layer | cells    | area    | inputs of a cell | padding | stride | modifiable numbers |
|-------|----------|---------|------------------|---------|--------|--------------------|
| U0    | 16x16    |         |                  |         |        |                    |
| US1   | 16x16x24 | 5x5x1   | 25               | 2, 2    | 1      | 24 * (25 + 1)      |
| UC1   | 10x10x24 | 5x5     | 25               | 3, 4    | 2      | 0                  |
| US2   | 8x8x24   | 5x5x24  | 600              | 1, 1    | 1      | 24 * (600 + 1)     |
| UC2   | 6x6x24   | 5x5     | 25               | 4, 3    | 2      | 0                  |
| US3   | 2x2x24   | 5x5x24  | 600              | 0, 0    | 1      | 24 * (600 + 1)     |
| UC3   | 1x1x24   | 2x2     | 4                | 0, 0    | 1      | 0                  |

That makes 29,472 modifiable numbers; an S-cell has one inhibitory input more, counted by the + 1.
Cells, areas, S-columns, r, q and alpha are the paper's (section 5), as are the equations.

Readings, where the paper gives no number:

- Padding and stride. S-cells are as dense as the cells before them, which leaves one padding each.
  In C-layers the density falls (sections 2 and 5): with stride 2, 16 -> 10 and 8 -> 6 both need
  seven cells of padding, half as many cells and one more at either edge. The odd cell changes
  sides, which keeps the centre. With stride 1, C-layers would drop cells at their edges; tried,
  it generalises to about half of the shifted patterns only.
- The fixed synapses fall as `falloff ** |v|`. c is normalised as the paper says, d is not. How
  steeply c falls, how large d is and how small the initial a is, is each module's own.
- The initial a is a function of v, k / K and |k' / K' - k / K|, not printed: see `init`.
- S-columns lie wherever they fit into the layer. A silent cell represents nothing.
- psi of a negative argument is 0; the printed one is positive again below -alpha.

The free constants among them were chosen by the response to shifted patterns, at other orders and
places of presentation than the reported. What they must prevent: patterns that share a stroke, as
the 1 shares its bar with the 0 and the 4, come to share a plane of UC3, or a pattern to have two.
So the second module's c is flat and its d small: its cells tell a stroke by what surrounds it, and
UC2 does not saturate. Its initial a is large, so that fresh planes take what the others hardly
know; that of US3 is small, so that they take only what none knows.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class Module:
    """An S-layer and the C-layer that follows it.

    Areas and `column` are the edges of squares, in cells; paddings are (before, after) on both
    axes. The larger `r`, the more a feature must resemble the learned one for an S-cell to respond:
    the weighted cosine between the two must exceed r / (1 + r). `q` is the speed of learning.
    `s_falloff` is that of c, which also shapes what is learned; `gain` is d at the centre,
    `initial` the a before learning, in units of c.
    """

    r: float
    q: float
    s_padding: tuple[int, int]
    c_padding: tuple[int, int]
    initial: float
    s_falloff: float = 0.3
    gain: float = 1.0
    c_stride: int = 2
    c_area: int = 5
    s_area: int = 5
    column: int = 5
    planes: int = 24


@dataclass(frozen=True)
class Constants:
    """The numbers that learning does not change: the paper's, or readings of it (see above)."""

    modules: tuple[Module, ...] = (
        Module(4.0, 1.0, (2, 2), (3, 4), initial=0.05, gain=8.0),
        Module(1.5, 16.0, (1, 1), (4, 3), initial=0.15, s_falloff=0.85),
        Module(1.5, 16.0, (0, 0), (0, 0), initial=0.01, c_stride=1, c_area=2, column=2),
    )
    alpha: float = 0.5  # saturation of C-cells
    c_falloff: float = 0.7  # of d
    bias: float = 0.1  # by how much orientation and plane change the initial a


PAPER = Constants()


class Synapses(NamedTuple):
    """The modifiable synapses of one S-layer, shared by all cells of a plane."""

    a: jax.Array  # excitatory [s_area, s_area, planes before, planes]
    b: jax.Array  # inhibitory [planes]


Params = tuple[Synapses, ...]


def init(constants: Constants = PAPER) -> Params:
    """The state before learning: small excitatory synapses, no inhibitory ones, no randomness.

    Plane k of K (from 1) weakly prefers the orientation pi k / K, and after the first module the
    planes k' with k' / K' near k / K (on a circle):
    a = initial c(v) (1 + bias cos 2(angle(v) - pi k / K)) (1 + bias cos 2 pi(k' / K' - k / K)).
    """
    params, before = [], 1
    for module in constants.modules:
        plane = np.arange(1, module.planes + 1) / module.planes
        y, x = _offsets(module.s_area)
        angle = np.arctan2(-y, x)[:, :, None, None]
        centre = ((x == 0) & (y == 0))[:, :, None, None]
        orientation = np.where(centre, 1, np.cos(2 * (angle - np.pi * plane)))
        planes_before = np.arange(1, before + 1)[:, None] / before
        likeness = np.cos(2 * np.pi * (planes_before - plane)) if before > 1 else 0.0
        a = (1 + constants.bias * orientation) * (1 + constants.bias * likeness)
        a = module.initial * _c(module, before)[:, :, None, None] * a
        params.append(Synapses(jnp.asarray(a, jnp.float32), jnp.zeros(module.planes)))
        before = module.planes
    return tuple(params)


@partial(jax.jit, static_argnames="constants")
def respond(params: Params, image: jax.Array, constants: Constants = PAPER) -> dict[str, jax.Array]:
    """The activity of every layer by name: U0 [H, W], then US1, UC1, US2 ... [H', W', planes].

    image: float32 [H, W], 0 is no light, 1 the paper's stroke. S-cells answer with any value
    from 0 on, C-cells with 0 .. 1. Map it over a batch with `jax.vmap`.
    """
    layers, u = {"U0": image}, image[:, :, None]
    for number, (module, synapses) in enumerate(zip(constants.modules, params, strict=True), 1):
        s, _ = _s_layer(module, synapses, u)
        u = _c_layer(module, constants, s)
        layers |= {f"US{number}": s, f"UC{number}": u}
    return layers


@partial(jax.jit, static_argnames="constants")
def learn(params: Params, image: jax.Array, constants: Constants = PAPER) -> Params:
    """The synapses after one presentation of `image` [H, W]; all modules learn at once.

    Planes that have a representative, at n, gain q c(v) u(k', n + v) in a and q v(n) / 2 in b
    (section 3), with the responses from before the presentation. The others do not change.
    """
    learned, u = [], image[:, :, None]
    for module, synapses in zip(constants.modules, params, strict=True):
        s, v = _s_layer(module, synapses, u)
        row, column, chosen = representatives(s, module.column)
        seen = jnp.moveaxis(_patches(module, u, row, column), 0, -1)
        c = jnp.asarray(_c(module, u.shape[-1]))[:, :, None, None]
        a = synapses.a + jnp.where(chosen, module.q * c * seen, 0)
        b = synapses.b + jnp.where(chosen, module.q / 2 * v[row, column], 0)
        learned.append(Synapses(a, b))
        u = _c_layer(module, constants, s)
    return tuple(learned)


@partial(jax.jit, static_argnames="constants")
def present(params: Params, images: jax.Array, constants: Constants = PAPER) -> Params:
    """The synapses after `learn` has gone through images [N, H, W] in their order."""
    return lax.scan(lambda p, image: (learn(p, image, constants), None), params, images)[0]


def sizes() -> tuple[int, int]:
    """Count the modifiable numbers, and the inputs of all cells, in the paper's network."""
    params = jax.eval_shape(init)
    layers = jax.eval_shape(respond, params, jax.ShapeDtypeStruct((16, 16), jnp.float32))
    connections = 0
    for number, (module, synapses) in enumerate(zip(PAPER.modules, params, strict=True), 1):
        s_inputs = math.prod(synapses.a.shape[:3]) + 1
        connections += layers[f"US{number}"].size * s_inputs
        connections += layers[f"UC{number}"].size * module.c_area**2
    return sum(leaf.size for leaf in jax.tree.leaves(params)), connections


def representatives(s: jax.Array, column: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Choose the cell of each plane that learns from the response s [H, W, planes] of an S-layer.

    Every square of column x column places, all planes together, is an S-column. Its strongest cell
    is a candidate, unless it is silent. A plane's strongest candidate represents it; a plane
    without candidates is not represented. Ties go to the first in the order rows, columns, planes.

    Returns (row [planes], column [planes], chosen [planes], a mask without which the first two
    mean nothing). Source: section 3.
    """
    height, width, planes = s.shape
    rows, columns = height - column + 1, width - column + 1
    strongest, plane = s.max(-1), s.argmax(-1)
    places = [(y, x) for y in range(column) for x in range(column)]
    windows = jnp.stack([strongest[y : y + rows, x : x + columns] for y, x in places], -1)
    best = windows.argmax(-1)
    y = jnp.arange(rows)[:, None] + best // column
    x = jnp.arange(columns)[None] + best % column
    candidate = jnp.zeros(s.shape, bool).at[y, x, plane[y, x]].set(True)
    outputs = jnp.where(candidate, s, 0).reshape(height * width, planes)
    place = outputs.argmax(0)
    return place // width, place % width, outputs.max(0) > 0


def digits() -> np.ndarray:
    """The patterns 0 to 4, float32 [5, 10, 8], redrawn after the paper's figure 6 (a)."""
    rows = [list(line.split()) for line in _DIGITS.strip().splitlines()]
    drawn = [[[dot == "#" for dot in row[digit]] for row in rows] for digit in range(5)]
    return np.asarray(drawn, np.float32)


def shifted(pattern: np.ndarray, size: int = 16) -> np.ndarray:
    """Copies of a pattern [h, w] at every place of a size x size retina: [places, size, size]."""
    height, width = pattern.shape
    places = [
        ((y, size - height - y), (x, size - width - x))
        for y in range(size - height + 1)
        for x in range(size - width + 1)
    ]
    return np.stack([np.pad(pattern, place) for place in places])


_DIGITS = """
..####..  ...#....  ..####..  ..####..  .....#..
.#....#.  ..##....  .#....#.  .#....#.  ....##..
#......#  ...#....  #......#  .......#  ...#.#..
#......#  ...#....  .......#  ......#.  ..#..#..
#......#  ...#....  ......#.  ...###..  .#...#..
#......#  ...#....  .....#..  ......#.  #....#..
#......#  ...#....  ....#...  .......#  ########
#......#  ...#....  ..##....  .......#  .....#..
.#....#.  ...#....  .#......  .#....#.  .....#..
..####..  ...#....  ########  ..####..  .....#..
"""


def _s_layer(module: Module, synapses: Synapses, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equations 1 to 3: S-cells [H', W', planes], and the inhibitory cells [H', W'] they share."""
    c = jnp.asarray(_c(module, u.shape[-1]))[:, :, None, None]
    excitation = _correlate(u[None], synapses.a, module.s_padding)[0]
    energy = jnp.sum(jnp.square(u), -1, keepdims=True)
    v = jnp.sqrt(_correlate(energy[None], c, module.s_padding)[0])
    inhibition = 2 * module.r / (1 + module.r) * synapses.b * v
    return module.r * jax.nn.relu((1 + excitation) / (1 + inhibition) - 1), v[..., 0]


def _c_layer(module: Module, constants: Constants, s: jax.Array) -> jax.Array:
    """Equations 4 to 6: C-cells [H', W', planes] of S-cells s, planes inhibiting each other."""
    d = module.gain * _falling(module.c_area, constants.c_falloff)
    padded = jnp.pad(s, (module.c_padding, module.c_padding, (0, 0)))
    height, width = (n - module.c_area + 1 for n in padded.shape[:2])
    stride, pooled = module.c_stride, jnp.zeros(())
    for y, x in np.ndindex(d.shape):
        pooled += d[y, x] * padded[y : y + height : stride, x : x + width : stride]
    x = jax.nn.relu((1 + pooled) / (1 + pooled.mean(-1, keepdims=True)) - 1)
    return x / (constants.alpha + x)


def _patches(module: Module, u: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """The inputs of the S-cells at row, column [planes]: [planes, s_area, s_area, K']."""
    padded = jnp.pad(u, (module.s_padding, module.s_padding, (0, 0)))
    size = (module.s_area, module.s_area, u.shape[-1])
    return jax.vmap(lambda y, x: lax.dynamic_slice(padded, (y, x, 0), size))(row, column)


def _correlate(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    # In full precision on all hardware: which cell is the strongest may hang on the last digits.
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def _c(module: Module, planes_before: int) -> np.ndarray:
    """c [s_area, s_area], the same for each plane before; over all of them it sums to 1."""
    weights = _falling(module.s_area, module.s_falloff)
    return weights / (weights.sum() * planes_before)


def _falling(size: int, falloff: float) -> np.ndarray:
    y, x = _offsets(size)
    return (falloff ** np.hypot(y, x)).astype(np.float32)


def _offsets(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns [size, size], counted from the centre of the square."""
    steps = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return y, x
