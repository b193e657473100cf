"""How this process keeps memory that it has freed."""

import ctypes
import os
import sys

# Of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_PAD = 256 << 20  # bytes that are fetched from the system at a time


def keep_freed_memory() -> bool:
    """Have C's allocator keep large blocks that are freed, for the next that asks; whether it does.

    XLA on CPU asks for the memory of intermediate results in every step and frees it after, and so
    do readers with the blocks that they fill. glibc hands such memory back to the system, which
    then has to find and zero each of its pages anew: AlexNet trains faster without that, LeNet-5 no
    slower. The price is that the process stays as large as it ever was. Threads started from then
    on share one arena: blocks above the 64 MB of a thread's own come from the system and go back to
    it whatever the other settings are. Other C libraries are left as they are, and so is an
    allocator that the user has set by GLIBC_TUNABLES.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has a mallopt that does nothing
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, _PAD),
        (_M_ARENA_MAX, 1),
    )
    return all([library.mallopt(name, value) == 1 for name, value in settings])
