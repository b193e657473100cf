"""The processes of one run: they meet before JAX is asked for a device, and they end together.

JAX's own client ends a process whose partner is missing with a stack of C++ functions. So the
processes first meet at the coordinator's address, where process 0 compares their settings. The
connections stay open for as long as the run does: an end that the others do not share is sent over
them, and one that says nothing closes them.
"""

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import jax
from jax._src.clusters import ClusterEnv  # the only part of `initialize` that finds the address

from cnn_jax.devices.agreement import describe_differences
from cnn_jax.errors import Stopped, UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.errors.wording import message

MEETING_SECONDS = 50  # after which a process that has not come is missing
SAME_SECONDS = 1  # within which processes that refuse the same all say so themselves
ENDING_SECONDS = 5  # that process 0 waits for the others to end before it
HEARTBEAT_SECONDS = 30  # a process silent for so long is taken for dead, and JAX ends the others


class Place(NamedTuple):
    """The place of this process among those of its run."""

    coordinator: str  # host:port of process 0
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None  # None: all that the process sees


def find_place(
    detect: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Place | None:
    """Find out which process of a run this one is; None for a run of one process.

    Args:
        detect: let JAX read the cluster's own variables (SLURM, Open MPI, Kubernetes).
        coordinator: `host:port` of process 0, with `num_processes` and `process_id`, where no
            cluster describes itself.

    Raises:
        UserError: arguments are missing or out of range, or no cluster is detected.
    """
    explicit = (coordinator, num_processes, process_id)
    if any(x is not None for x in explicit) and any(x is None for x in explicit):
        raise UserError(
            "--coordinator, --num-processes and --process-id go together: give all three"
        )
    if not detect and coordinator is None:
        return None
    # As jax.distributed.initialize does: the variable is for clusters that find a wrong address.
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        address, count, number, local = ClusterEnv.auto_detect_unset_distributed_params(
            address, num_processes, process_id, None, None, MEETING_SECONDS
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"the cluster's variables do not describe this process: {message(error)}"
        ) from None
    if address is None or count is None or number is None:
        raise UserError(
            "--distributed finds no cluster (SLURM, Open MPI, Kubernetes): give --coordinator, "
            "--num-processes and --process-id"
        )
    check_range("--process-id", number, least=0, below=count)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator is host:port of process 0, got {address!r}")
    # JAX reads this variable by itself, and where it is set it counts for more than the cluster's.
    return Place(address, count, number, None if "JAX_LOCAL_DEVICE_IDS" in os.environ else local)


@contextlib.contextmanager
def together(place: Place | None, settings: Mapping[str, Any]) -> Iterator[None]:
    """Join the other processes of this run, and inside the block end when one of them does.

    Args:
        place: None for a run of one process.
        settings: what must be the same in all processes, as JSON values.

    Raises:
        UserError: a process is missing or there twice, or settings differ; in every process.
    """
    if place is None:
        yield
        return
    partners = _meet(place, {"--num-processes": place.num_processes, **settings})
    ending = threading.Lock()  # taken by the thread that ends the process
    watches = [
        threading.Thread(target=_watch, args=(partner, partners, ending), daemon=True)
        for partner in partners
    ]
    for watch in watches:
        watch.start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            place.local_device_ids,
            cluster_detection_method="deactivate",
            initialization_timeout=MEETING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        yield
    except Stopped:  # all processes stop at the same step
        _send(partners, {"done": True})
        raise
    except BaseException as error:
        if not isinstance(error, UserError):  # it may follow from the end of another process
            time.sleep(2 * SAME_SECONDS)
        if not ending.acquire(blocking=False):
            time.sleep(2 * ENDING_SECONDS)  # the other thread ends the process meanwhile
        code = 2 if isinstance(error, UserError | OSError) else 1
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        _send(partners, {"ended": f"process {place.process_id}: {text}", "code": code})
        if place.process_id == 0:  # JAX ends the others with a stack of functions once 0 is gone
            for watch in watches:
                watch.join(ENDING_SECONDS)
        # Before JAX would wait for the others, which are gone.
        atexit.register(os._exit, code)
        raise
    _send(partners, {"done": True})


class _Partner(NamedTuple):
    """An open connection to another process."""

    number: int
    link: socket.socket
    lines: TextIO  # what it sends

    @classmethod
    def of(cls, number: int, link: socket.socket) -> "_Partner":
        # The system notices a machine that is gone before JAX does.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform.startswith("linux"):
            keep_alive = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3}
            for option, value in keep_alive.items():
                link.setsockopt(socket.IPPROTO_TCP, option, value)
        return cls(number, link, link.makefile("r", encoding="utf-8"))

    def receive(self) -> dict[str, Any] | None:
        """The next message; None if the process, or what else has connected, sends no more."""
        try:
            message = json.loads(self.lines.readline())
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None


def _send(partners: Sequence[_Partner], message: Mapping[str, Any]) -> None:
    for partner in partners:
        with contextlib.suppress(OSError):  # that process has ended
            partner.link.sendall(json.dumps(message).encode() + b"\n")


def _meet(place: Place, settings: Mapping[str, Any]) -> list[_Partner]:
    """Compare the settings of all processes; return the connections of this one to others.

    Process 0 is connected to all, and the others to it alone.
    """
    deadline = time.monotonic() + MEETING_SECONDS
    if place.num_processes == 1:
        return []
    if place.process_id == 0:
        partners, refusal = _gather(place, settings, deadline)
        _send(partners, {"refusal": refusal})
    else:
        process_0, refusal = _go_to_process_0(place, settings, deadline)
        partners = [process_0]
    if refusal:
        raise UserError(refusal)
    for partner in partners:
        partner.link.settimeout(None)
    return partners


def _go_to_process_0(
    place: Place, settings: Mapping[str, Any], deadline: float
) -> tuple[_Partner, str]:
    """Tell process 0 this one's settings, and return what it has against them."""
    host, _, port = place.coordinator.rpartition(":")
    while time.monotonic() < deadline:
        try:
            link = socket.create_connection((host.strip("[]"), int(port)), timeout=5)
        except OSError:
            time.sleep(0.2)  # process 0 is not there yet
            continue
        link.settimeout(MEETING_SECONDS + 5)  # it waits for others
        process_0 = _Partner.of(0, link)
        _send([process_0], {"process": place.process_id, "settings": settings})
        if answer := process_0.receive():
            return process_0, answer["refusal"]
    raise UserError(
        f"process {place.process_id} finds no process 0 at {place.coordinator} within "
        f"{MEETING_SECONDS} seconds: is it running, and on that machine?"
    )


def _gather(
    place: Place, settings: Mapping[str, Any], deadline: float
) -> tuple[list[_Partner], str]:
    """Wait in process 0 for all others; return who has come, and what is against going on."""
    partners: list[_Partner] = []
    heard = {0: settings}
    with _listen(place.coordinator) as listener:
        while len(heard) < place.num_processes:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = listener.accept()[0]
            except TimeoutError:
                missing = sorted(set(range(place.num_processes)) - set(heard))
                return partners, (
                    f"process {', '.join(map(str, missing))} of {place.num_processes} has not come "
                    f"to {place.coordinator} within {MEETING_SECONDS} seconds"
                )
            link.settimeout(5)
            stranger = _Partner.of(-1, link)
            about = stranger.receive()
            if about is None or "process" not in about:
                link.close()  # another program tries ports
                continue
            partners.append(stranger._replace(number=about["process"]))
            if about["process"] in heard:
                return partners, (
                    f"two processes came as process {about['process']}: each needs a --process-id "
                    "of its own"
                )
            heard[about["process"]] = about["settings"]
            if about["settings"]["--num-processes"] != place.num_processes:
                break  # nobody knows how many to wait for
    return partners, describe_differences(heard)


def _listen(coordinator: str) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    port = int(coordinator.rpartition(":")[2])
    try:
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {coordinator} ({os.strerror(error.errno or 0)}): another "
            "process 0 of this run, or another program, has the port"
        ) from None


def _watch(partner: _Partner, partners: Sequence[_Partner], ending: threading.Lock) -> None:
    """End this process when a partner has ended with an error or without a word."""
    message = partner.receive() or {
        "ended": f"process {partner.number} of this run has ended without a word: start all again, "
        "and the run goes on from its last checkpoint",
        "code": 1,
    }
    if "done" in message:
        return
    if message["code"] == 2:
        time.sleep(SAME_SECONDS)
    if ending.acquire(blocking=False):
        _send([other for other in partners if other is not partner], message)
        print(f"error: {message['ended']}", file=sys.stderr, flush=True)
        time.sleep(1 if len(partners) > 1 else 0)  # the others hear it from process 0
        os._exit(message["code"])
    partner.receive()  # until it is gone
