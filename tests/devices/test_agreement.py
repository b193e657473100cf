"""The processes of a run compare what they must have in common."""

import json

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from cnn_jax.devices import agreement
from cnn_jax.errors import UserError


@pytest.mark.parametrize("sha", ["1f", "2e", "a longer one"])
def test_data_that_differ_between_processes_are_refused(
    sha: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [{"the dataset's sha256": "1f", "seed": 0}, {"the dataset's sha256": sha, "seed": 0}]
    texts = [np.frombuffer(json.dumps(value).encode(), np.uint8) for value in values]
    sizes = np.array([text.size for text in texts])

    def allgather(mine: np.ndarray) -> np.ndarray:
        whole = [np.resize(text, sizes.max()) for text in texts]
        return np.stack(whole) if mine.ndim else sizes

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
    if sha == "1f":
        agreement.check_same(values[0])
        return
    with pytest.raises(UserError, match=f"sha256 is '1f' in process 0 and '{sha}' in process 1"):
        agreement.check_same(values[0])
