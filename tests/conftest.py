"""Eight simulated CPU devices, of which a test uses one unless it asks for more; no network; data
and caches in a folder that goes away with the session."""

import importlib.metadata
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_SCRATCH = tempfile.TemporaryDirectory(prefix="cnn_jax_tests_")

# Before JAX is imported, and for the processes that tests start. The cache of compiled programs
# holds nothing from before this session; all workers share that of the process that starts them.
_SHARED = os.environ.get("CNN_JAX_TESTS_COMPILED", f"{_SCRATCH.name}/compiled")
# Without its newer emitters and in one piece XLA compiles in half of the time. The flags are known
# to exist in these versions; an unknown one would end the process.
_KNOWN = importlib.metadata.version("jaxlib").startswith("0.10.")
_QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
_QUICK = _QUICK if _KNOWN else ""
# The tests compile much and compute little. Without most optimizations XLA compiles `tiny.py` in a
# tenth of the time; with the variable set to 0 all tests run on the programs that users get.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ |= {
    "CNN_JAX_TESTS_COMPILED": _SHARED,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {_QUICK}",
    "TFDS_DATA_DIR": f"{_SCRATCH.name}/data",
    "XDG_STATE_HOME": f"{_SCRATCH.name}/state",
    "JAX_COMPILATION_CACHE_DIR": _SHARED,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections that would leave this machine raise."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _only_loopback(getattr(socket.socket, name)))
        yield


def _only_loopback(connect: Callable[..., Any]) -> Callable[..., Any]:
    def connect_or_raise(self: socket.socket, address: Any) -> Any:
        inside = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not inside:
            raise RuntimeError(f"a test opened a connection to {address}")
        return connect(self, address)

    return connect_or_raise


@pytest.fixture(scope="session", autouse=True)
def one_device() -> Iterator[None]:
    """Runs use the first of the simulated devices."""
    import programs

    with programs.simulated_devices(1):
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tiny.py` on one device; not to be changed."""
    import programs

    folder = tmp_path_factory.mktemp("tiny") / "run"
    programs.train_tiny(folder)
    return folder
