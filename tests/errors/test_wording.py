"""Values in messages are short, and two that differ look different."""

from typing import Any

import pytest

from cnn_jax.errors.wording import brief, change, contrast

FLAGS = "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters="
NAMES = [f"n{number:08}" for number in range(1000)]


@pytest.mark.parametrize(
    ("one", "two", "parts"),
    [
        (1, 2, ("1", "2")),
        (1, "1", ("1", "'1'")),
        (None, "", ("None", "''")),
        ("0" * 64, "0" * 63 + "1", ("00'", "01'")),
        (FLAGS + "true", FLAGS + "false", ("emitters=true'", "emitters=false'")),
        (NAMES, [*NAMES[:-1], "other"], ("'n00000999'", "'other'")),
        (NAMES, NAMES[:-1], (", 'n00000999'", "'n00000998']")),
    ],
)
def test_two_values_that_differ_look_different(one: Any, two: Any, parts: tuple[str, str]) -> None:
    first, second = contrast(one, two)
    assert first != second and max(len(first), len(second)) <= 62
    assert parts[0] in first and parts[1] in second
    assert change("it", one, two) == f"it was {first}, is {second}"


def test_a_hash_is_short() -> None:
    assert brief("5f" * 32) == "5f5f5f5f5f5f" and len(brief("x" * 1000)) == 62
