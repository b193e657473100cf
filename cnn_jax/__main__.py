"""What is done to datasets, and to finished runs.

python -m cnn_jax data prepare mnist
python -m cnn_jax evaluate runs/lenet5_digits-1a2b3c4d
python -m cnn_jax reproduce runs/lenet5_digits-1a2b3c4d
python -m cnn_jax shift runs/lenet5_digits-1a2b3c4d --max-shift 4 --out pictures
python -m cnn_jax convolve digits:test:3 --kernel top-edge --out edges
python -m cnn_jax maps runs/lenet5_digits-1a2b3c4d --index 3 --out maps
python -m cnn_jax maximize runs/lenet5_digits-1a2b3c4d --layer C3 --unit 4 --out patches
python -m cnn_jax page runs/lenet5_digits-1a2b3c4d --out page.html
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

import tyro

from cnn_jax.cli import exit_on_user_error, usage_errors_in_one_line
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
from cnn_jax.errors import UserError


def _one_of(commands: Mapping[str, Callable[..., Any]]) -> Any:
    """A type that tyro reads as sub-commands; the call comes back unmade, so that all flags
    are checked before anything runs.
    """

    def later(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def bind(*args: Any, **kwargs: Any) -> Callable[[], Any]:
            return functools.partial(command, *args, **kwargs)

        return bind

    return Union[  # noqa: UP007 (made of a table)
        tuple(
            Annotated[Any, tyro.conf.subcommand(name, constructor=later(command))]
            for name, command in commands.items()
        )
    ]


DataCommand = _one_of({"prepare": data.prepare, "list": data.list_all, "info": data.info})


def data_command(
    command: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[DataCommand]],  # pyright: ignore
) -> None:
    """Prepare datasets, list them, describe one."""
    command()


COMMANDS = {
    "evaluate": evaluate,
    "reproduce": reproduce,
    "verify-resume": verify_resume,
    "page": page,
    "plot": plot,
    "shift": shift,
    "convolve": convolve,
    "maps": maps,
    "kernels": kernels,
    "maximize": maximize,
    "data": data_command,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sub-command that the command line names."""
    with exit_on_user_error():
        with usage_errors_in_one_line():
            run, others = tyro.cli(
                _one_of(COMMANDS),
                prog="python -m cnn_jax",
                description=__doc__,
                args=arguments,
                return_unknown_args=True,
            )
            if "flags" in run.keywords:
                run = functools.partial(run, flags=others)
            elif others:
                raise UserError(f"Unrecognized options: {' '.join(others)}")
        run()


if __name__ == "__main__":
    main()
