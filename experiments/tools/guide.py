"""Run the commands of docs/guide.md in order, and keep the pictures that they write.

    python -m experiments.tools.guide --workdir DIR --figures docs/pictures --data-dir DIR

`guide-FOLDER-FILE.png` is what the command with `--out FOLDER` wrote as FILE.png. Networks already
trained in the workdir are not trained again. The picture of shifts comes from
`experiments.bench.shift`, which has its record.
"""

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from cnn_jax import __main__ as program
from cnn_jax.command_line.ending import exit_on_user_error
from cnn_jax.command_line.flags import parse
from cnn_jax.errors import UserError

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
LEFT_OUT = ("data", "shift")  # prepares datasets; drawn by `experiments.bench.shift`


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: Path  # for runs and pictures
    figures: Path  # a folder for the guide's pictures, which must not hold them yet
    data_dir: Path | None = None  # with mnist and folder/imagenette prepared


def commands() -> list[list[str]]:
    """The words of each of the guide's commands, without `python -m`."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line)[2:] for block in blocks for line in block.splitlines()]


def pictures() -> list[str]:
    """The names of the pictures that the guide's commands write."""
    return re.findall(r"\(pictures/(guide-.*?\.png)\)", GUIDE.read_text(encoding="utf-8"))


def run(config: Config) -> None:
    """Train, draw, and copy the pictures to `config.figures`."""
    figures = config.figures.absolute()
    for name in pictures():
        if (figures / name).exists():
            raise UserError(f"{figures / name} is there already: remove it, or choose --figures")
    data_flags = ["--data-dir", str(config.data_dir.absolute())] if config.data_dir else []
    config.workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(config.workdir):
        for module, *arguments in commands():
            if arguments[0] in LEFT_OUT:
                continue
            print(module, *arguments)
            if module == "cnn_jax":
                program.main([*arguments, *data_flags])
            else:
                _train(module, [*arguments, *data_flags])
        figures.mkdir(parents=True, exist_ok=True)
        folders = sorted(_folders(), key=len, reverse=True)  # the longest prefix wins
        for name in pictures():
            rest = name.removeprefix("guide-")
            folder = next(folder for folder in folders if rest.startswith(f"{folder}-"))
            shutil.copyfile(Path(folder) / rest.removeprefix(f"{folder}-"), figures / name)


def _train(module: str, arguments: list[str]) -> None:
    """Train in a process, since a script sets its own options of the loop."""
    folder = Path(arguments[arguments.index("--workdir") + 1])
    if not (folder / "result.json").exists():
        environment = os.environ | {"PYTHONPATH": str(GUIDE.parents[1])}
        subprocess.run([sys.executable, "-m", module, *arguments], env=environment, check=True)


def _folders() -> list[str]:
    """The folders that the guide's commands write to."""
    return [words[words.index("--out") + 1] for words in commands() if "--out" in words]


if __name__ == "__main__":
    with exit_on_user_error():
        run(parse(Config, description=__doc__))
