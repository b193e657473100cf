"""Prepare datasets, evaluate and check runs, and look into trained networks.

Examples, with the folder of a run for RUN:

    python -m cnn_jax data prepare mnist
    python -m cnn_jax evaluate RUN
    python -m cnn_jax reproduce RUN
    python -m cnn_jax shift RUN --max-shift 4 --out pictures
    python -m cnn_jax convolve digits:test:3 --kernel top-edge --out edges
    python -m cnn_jax maps RUN --index 3 --out maps
    python -m cnn_jax maximize RUN --layer C3 --unit 4 --out patches
    python -m cnn_jax page RUN --out page.html

"python -m cnn_jax COMMAND --help" explains a command.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

import tyro

from cnn_jax.command_line.ending import exit_on_user_error
from cnn_jax.command_line.flags import parse_known, refuse_unknown
from cnn_jax.commands import data
from cnn_jax.commands.convolve import convolve
from cnn_jax.commands.evaluate import evaluate
from cnn_jax.commands.kernels import kernels
from cnn_jax.commands.maps import maps
from cnn_jax.commands.maximize import maximize
from cnn_jax.commands.page import page
from cnn_jax.commands.plot import plot
from cnn_jax.commands.reproduce import reproduce, verify_resume
from cnn_jax.commands.shift import shift
from cnn_jax.devices.process import check_devices, raise_file_limit, usual_promotion


def _one_of(commands: Mapping[str, Callable[..., Any]], briefly: bool = False) -> Any:
    """A type that tyro reads as sub-commands. Parsing binds a command's arguments without calling
    it, so that all flags are checked before anything runs.

    Args:
        briefly: describe each command by the first line of its docstring alone.
    """

    def describe(command: Callable[..., Any]) -> str:
        text = inspect.getdoc(command) or ""
        # tyro shows the line breaks inside an argument's description as they are.
        return text.splitlines()[0] if briefly else re.sub(r"\n {8}", " ", text)

    def binding(command: Callable[..., Any]) -> Callable[..., Any]:
        def partial(*args: Any, **kwargs: Any) -> Callable[[], Any]:
            return functools.partial(command, *args, **kwargs)

        bind: Any = functools.wraps(command)(partial)
        bind.__signature__ = inspect.signature(command)
        bind.__doc__ = describe(command)
        del bind.__wrapped__  # tyro would follow it to the command's own docstring
        return bind

    return Union[  # noqa: UP007 (made of a table)
        tuple(
            Annotated[Any, tyro.conf.subcommand(name, constructor=binding(command))]
            for name, command in commands.items()
        )
    ]


DataCommand = _one_of({"prepare": data.prepare, "list": data.list_all, "info": data.info})


def data_command(
    command: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[DataCommand]],  # pyright: ignore
) -> None:
    """Prepare datasets, list them, or describe one."""
    command()


COMMANDS = {
    "data": data_command,
    "evaluate": evaluate,
    "plot": plot,
    "reproduce": reproduce,
    "verify-resume": verify_resume,
    "shift": shift,
    "convolve": convolve,
    "maps": maps,
    "kernels": kernels,
    "maximize": maximize,
    "page": page,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sub-command that the command line names."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with exit_on_user_error():
        commands = _one_of(COMMANDS, briefly=not COMMANDS.keys() & set(arguments))
        run, others = parse_known(
            commands, arguments, prog="python -m cnn_jax", description=__doc__
        )
        if "flags" in run.keywords:  # it hands them to a script
            run = functools.partial(run, flags=others)
        else:
            refuse_unknown(commands, arguments, others)
        # `reproduce` first makes the settings that a run had, which devices read as they start.
        if run.func not in (data_command, plot, reproduce):
            check_devices()
        raise_file_limit()
        with usual_promotion():
            run()


if __name__ == "__main__":
    main()
