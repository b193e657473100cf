"""The worker's side: time one sample of a benchmark whenever the parent asks for one.

Each framework runs in a process of its own, because their thread pools and allocators would disturb
each other. Requests and answers are lines of JSON on standard input and output.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Benchmark(NamedTuple):
    """Something to be timed.

    `run(calls)` does it that many times and waits for the end. If it returns a number, these are
    the seconds that count; otherwise all the time that it took counts.
    """

    run: Callable[[int], float | None]
    amount: float  # work in one call: examples, FLOPs or bytes
    warm_up: bool = True  # make an untimed call before each sample, since caches are cold


def serve(
    benchmarks: Mapping[str, Benchmark],
    about: Mapping[str, Any],
    device_peak: Callable[[], int | None] = lambda: None,
) -> None:
    """Send `about`, then answer requests until standard input closes.

        {"warm": name}                 -> {"first": seconds, "call": seconds, "peak_bytes": ...}
        {"time": name, "seconds": s}   -> {"seconds": per call}, the mean over about s seconds

    Args:
        device_peak: the peak of the device's memory in bytes; None if the device has no memory of
            its own, so that the process's memory counts.
    """
    # Libraries may print to standard output: send that to standard error, answers to the parent.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(content: Mapping[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    latest: dict[str, float] = {}  # seconds of a call

    def timed(name: str, calls: int) -> float:
        started = time.perf_counter()
        counted = benchmarks[name].run(calls)
        latest[name] = (time.perf_counter() - started if counted is None else counted) / calls
        return latest[name]

    amounts = {name: benchmark.amount for name, benchmark in benchmarks.items()}
    say({"amounts": amounts, "built_bytes": device_peak() or peak_bytes(), **about})
    for line in sys.stdin:
        request = json.loads(line)
        if (name := request.get("warm")) is not None:
            first, call = timed(name, 1), timed(name, 1)
            peak = device_peak()
            say({"first": first, "call": call, "peak_bytes": peak or peak_bytes()})
        else:
            name = request["time"]
            if benchmarks[name].warm_up:
                timed(name, 1)
            say({"seconds": timed(name, max(1, round(request["seconds"] / latest[name])))})


def peak_bytes() -> int | None:
    """The peak memory of this process in bytes; None if the system does not say.

    `getrusage` would not do: it begins with the memory of the parent.
    """
    try:
        lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
    except OSError:
        return None
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
