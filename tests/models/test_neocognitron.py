"""The neocognitron against loops over its cells, and what it learns from the digits 0 to 4."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import count_parameters
from cnn_jax.models.neocognitron import (
    PAPER,
    Constants,
    Module,
    Params,
    Synapses,
    digits,
    init,
    learn,
    present,
    representatives,
    respond,
    shifted,
)

# Two modules that are nowhere alike: constants, areas, paddings, planes, stride.
SMALL = Constants(
    (
        Module(3.0, 2.0, (1, 1), (0, 1), initial=0.1, s_falloff=0.6, gain=4.0,
               c_stride=2, c_area=3, s_area=3, column=3, planes=4),
        Module(1.5, 5.0, (1, 2), (1, 0), initial=0.2, s_falloff=0.8, gain=3.0,
               c_stride=1, c_area=2, s_area=4, column=2, planes=3),
    )
)  # fmt: skip
represent = jax.jit(representatives, static_argnames="column")
IMAGE = np.random.default_rng(0).random((9, 8)).astype(np.float32)


def random_params(constants: Constants, seed: int = 1) -> Params:
    """As large as learned ones, so that neither excitation nor inhibition always prevails."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(lambda: init(constants))
    return tuple(
        Synapses(*(jnp.asarray(rng.random(leaf.shape) * size, jnp.float32)
                   for leaf, size in zip(synapses, (0.2, 2.0), strict=True)))
        for synapses in shapes
    )  # fmt: skip


def falling(size: int, falloff: float) -> np.ndarray:
    middle = (size - 1) / 2
    return np.array(
        [
            [falloff ** ((y - middle) ** 2 + (x - middle) ** 2) ** 0.5 for x in range(size)]
            for y in range(size)
        ]
    )


def looped(constants: Constants, params: Params, image: np.ndarray) -> dict[str, np.ndarray]:
    """`respond`, cell by cell in float64: equations 1 to 6 of the paper."""
    layers, u = {"U0": image}, image.astype(np.float64)[:, :, None]
    for number, (module, synapses) in enumerate(zip(constants.modules, params, strict=True), 1):
        a, b = (np.asarray(leaf, np.float64) for leaf in synapses)
        c = falling(module.s_area, module.s_falloff)
        c /= c.sum() * u.shape[-1]
        padded = np.pad(u, (module.s_padding, module.s_padding, (0, 0)))
        height, width = (n - module.s_area + 1 for n in padded.shape[:2])
        s = np.zeros((height, width, module.planes))
        for y, x, k in np.ndindex(s.shape):
            seen = padded[y : y + module.s_area, x : x + module.s_area]
            v = np.sqrt(sum((c * seen[:, :, before] ** 2).sum() for before in range(u.shape[-1])))
            inhibition = 2 * module.r / (1 + module.r) * b[k] * v
            s[y, x, k] = module.r * max(0, (1 + (a[..., k] * seen).sum()) / (1 + inhibition) - 1)

        d = module.gain * falling(module.c_area, constants.c_falloff)
        padded = np.pad(s, (module.c_padding, module.c_padding, (0, 0)))
        height, width = (
            (n - module.c_area) // module.c_stride + 1 for n in padded.shape[:2]
        )  # fmt: skip
        u = np.zeros((height, width, module.planes))
        for y, x in np.ndindex(height, width):
            top, left = y * module.c_stride, x * module.c_stride
            seen = padded[top : top + module.c_area, left : left + module.c_area]
            sums = [(d * seen[:, :, k]).sum() for k in range(module.planes)]
            for k in range(module.planes):
                net = max(0, (1 + sums[k]) / (1 + sum(sums) / module.planes) - 1)
                u[y, x, k] = net / (constants.alpha + net)
        layers |= {f"US{number}": s, f"UC{number}": u}
    return layers


def searched(s: np.ndarray, column: int) -> dict[int, tuple[int, int]]:
    """{plane: place of its representative}: section 3, sentence by sentence."""
    candidates: dict[int, set[tuple[int, int]]] = {}
    for top in range(s.shape[0] - column + 1):
        for left in range(s.shape[1] - column + 1):
            window = s[top : top + column, left : left + column]
            y, x, k = np.unravel_index(window.argmax(), window.shape)
            if window[y, x, k] > 0:
                candidates.setdefault(int(k), set()).add((top + int(y), left + int(x)))
    return {k: max(places, key=lambda p: s[p[0], p[1], k]) for k, places in candidates.items()}


def test_layers_and_synapses_are_as_many_as_the_papers() -> None:
    layers = jax.eval_shape(lambda: respond(init(), jnp.zeros((16, 16))))
    assert {name: layer.shape for name, layer in layers.items()} == {
        "U0": (16, 16),
        "US1": (16, 16, 24),
        "UC1": (10, 10, 24),
        "US2": (8, 8, 24),
        "UC2": (6, 6, 24),
        "US3": (2, 2, 24),
        "UC3": (1, 1, 24),
    }
    assert [leaf.a.shape for leaf in init()] == [(5, 5, 1, 24), (5, 5, 24, 24), (5, 5, 24, 24)]
    assert count_parameters(init()) == 24 * (25 + 1) + 2 * 24 * (600 + 1) == 29_472


def test_initial_synapses_are_small_positive_and_differ_from_plane_to_plane() -> None:
    for synapses, module, before in zip(init(), PAPER.modules, (1, 24, 24), strict=True):
        assert not synapses.b.any()
        assert synapses.a.min() > 0
        # A uniform image of ones excites no cell by more than `initial` and its biases.
        assert synapses.a.sum((0, 1, 2)).max() <= module.initial * (1 + PAPER.bias) ** 2
        planes = np.asarray(synapses.a).reshape(25 * before, 24).T
        assert len(np.unique(planes, axis=0)) == 24
    vertical = jnp.zeros((16, 16)).at[:, 8].set(1)
    # pi k / K is a right angle for k = 12, the plane of index 11.
    assert respond(init(), vertical)["US1"][8, 8].argmax() == 11
    assert respond(init(), vertical.T)["US1"][8, 8].argmax() == 23


def test_respond_against_loops() -> None:
    params = random_params(SMALL)
    layers, expected = respond(params, IMAGE, SMALL), looped(SMALL, params, IMAGE)
    assert layers.keys() == expected.keys()
    for name, layer in layers.items():
        np.testing.assert_allclose(layer, expected[name], atol=1e-5)
        assert 0.1 < np.mean(expected[name] > 0)
    assert 0.1 < np.mean(expected["US1"] == 0) and 0.1 < np.mean(expected["UC2"] == 0)


def test_a_learned_cell_responds_if_and_only_if_the_cosine_exceeds_its_threshold() -> None:
    """With synapses learned from x, y passes if cos(x, y) > r / (1 + r), cosine weighted by c."""
    single = Constants(
        (Module(4.0, 1.0, (0, 0), (0, 0), 0.1, 0.6, 4.0, c_area=1, column=1, planes=1),)
    )
    c = falling(5, single.modules[0].s_falloff)[..., None]
    c /= c.sum()
    rng = np.random.default_rng(0)
    x = rng.random((5, 5, 1)) > 0.5
    y = np.where(rng.random((300, 5, 5, 1)) < rng.random((300, 1, 1, 1)) / 2, ~x, x)
    norms = np.sqrt((c * x).sum()) * np.sqrt((c * y).sum((1, 2, 3)))
    excess = (c * x * y).sum((1, 2, 3)) / np.maximum(norms, 1e-9) - 4 / 5
    a, b = c[..., None] * x[..., None], np.sqrt((c * x).sum())[None] / 2
    params = (Synapses(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)),)

    def cell(image: jax.Array) -> jax.Array:
        return respond(params, image, single)["US1"][0, 0, 0]

    u = np.asarray(jax.vmap(cell)(jnp.asarray(y[..., 0], jnp.float32)))
    clear = np.abs(excess) > 1e-4
    np.testing.assert_array_equal(u[clear] > 0, excess[clear] > 0)
    assert 0.1 < np.mean(u > 0) < 0.9


@pytest.mark.parametrize("column", [1, 2, 3, 5])
def test_representatives_against_a_search(column: int) -> None:
    rng = np.random.default_rng(column)
    unrepresented = 0
    for _ in range(20):
        s = np.maximum(0, rng.normal(-1, 1, (7, 6, 8))).astype(np.float32)
        rows, columns, chosen = map(np.asarray, represent(jnp.asarray(s), column))
        expected = searched(s, column)
        assert {int(k): (rows[k], columns[k]) for k in np.flatnonzero(chosen)} == expected
        unrepresented += 8 - len(expected)
    assert column == 1 or unrepresented > 0


def test_a_silent_layer_has_no_representatives() -> None:
    assert not represent(jnp.zeros((6, 6, 3)), 5)[2].any()


def test_learning_adds_what_the_representative_sees_and_nothing_else() -> None:
    params = random_params(SMALL)
    learned, layers = learn(params, IMAGE, SMALL), respond(params, IMAGE, SMALL)
    inputs, untouched = (layers["U0"][..., None], layers["UC1"]), 0
    for number, (module, old, new) in enumerate(zip(SMALL.modules, params, learned, strict=True)):
        u = np.asarray(inputs[number])
        padded = np.pad(u, (module.s_padding, module.s_padding, (0, 0)))
        c = falling(module.s_area, module.s_falloff)[..., None]
        c /= c.sum() * u.shape[-1]
        chosen = searched(np.asarray(layers[f"US{number + 1}"]), module.column)
        assert chosen
        for k in range(module.planes):
            if k not in chosen:
                untouched += 1
                np.testing.assert_array_equal(new.a[..., k], old.a[..., k])
                assert new.b[k] == old.b[k]
                continue
            y, x = chosen[k]
            seen = padded[y : y + module.s_area, x : x + module.s_area]
            v = np.sqrt((c * seen**2).sum())
            np.testing.assert_allclose(
                new.a[..., k] - old.a[..., k], module.q * c * seen, atol=1e-6
            )
            np.testing.assert_allclose(new.b[k] - old.b[k], module.q / 2 * v, atol=1e-5)
    assert untouched


def test_presenting_is_learning_in_order() -> None:
    images = np.random.default_rng(3).random((3, 9, 8)).astype(np.float32)
    params = step_by_step = init(SMALL)
    for image in images:
        step_by_step = learn(step_by_step, image, SMALL)
    for one, other in zip(
        jax.tree.leaves(present(params, images, SMALL)), jax.tree.leaves(step_by_step), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@cache
def taught() -> Params:
    rng, patterns = np.random.default_rng(0), digits()
    order = np.concatenate([rng.permutation(5) for _ in range(20)])
    return present(init(), np.stack([rng.choice(shifted(patterns[d])) for d in order]))


def test_every_digit_excites_a_plane_of_its_own_and_no_other_wherever_it_is() -> None:
    places = np.stack([shifted(pattern) for pattern in digits()])

    params = taught()

    @jax.jit
    @jax.vmap
    def uc3(image: jax.Array) -> jax.Array:
        return respond(params, image)["UC3"][0, 0]

    answers = np.asarray(uc3(places.reshape(-1, 16, 16))).reshape(5, 63, 24)
    winners = answers.argmax(-1)
    planes = [np.bincount(winner).argmax() for winner in winners]
    assert len(set(planes)) == 5
    assert np.mean(winners == np.array(planes)[:, None]) > 0.95
    assert np.mean((answers > 0).sum(-1) == 1) > 0.9
    assert answers.max(-1).min() > 0


def test_learning_is_repeatable_bit_for_bit() -> None:
    again = taught.__wrapped__()
    for one, other in zip(jax.tree.leaves(taught()), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shifted_patterns_are_whole_and_everywhere() -> None:
    patterns = digits()
    assert patterns.shape == (5, 10, 8) and set(np.unique(patterns)) == {0, 1}
    places = shifted(patterns[2])
    assert places.shape == (7 * 9, 16, 16)
    assert (places.sum((1, 2)) == patterns[2].sum()).all()
    assert len(np.unique(places, axis=0)) == 63
