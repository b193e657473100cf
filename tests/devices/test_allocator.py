"""Freed memory stays with the process where that was asked for, and is as it was where not."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZE = 100_000_000
# Says what was returned, and how much of a block is still resident once it was freed.
CODE = f"""
import ctypes, resource, threading
from pathlib import Path
from cnn_jax.devices.process import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

kept = keep_freed_memory() if {{asked}} else None
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
before = resident()

def ask_and_free():
    block = library.malloc({SIZE})
    ctypes.memset(block, 1, {SIZE})
    library.free(block)

# XLA asks in threads, which have arenas of their own unless told otherwise.
thread = threading.Thread(target=ask_and_free)
thread.start()
thread.join()
print(kept, (resident() - before) / {SIZE})
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets glibc's allocator")
@pytest.mark.parametrize(
    ("asked", "tunables", "answer"),
    [
        (True, "", "True"),
        (False, "", "None"),
        (True, "glibc.malloc.trim_threshold=131072", "False"),
    ],
)
def test_freed_memory_is_kept_where_asked_for(asked: bool, tunables: str, answer: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", CODE.format(asked=asked)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said, share = found.stdout.split()
    assert said == answer
    assert (float(share) > 0.9) == (answer == "True"), share
