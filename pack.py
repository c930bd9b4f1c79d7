"""Pack a training for another machine: `python pack.py --config Deraining/configs/m3snet32.yml --out packed`."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

import Deblurring.config
import Deblurring.dataset
import Deraining.config
import Deraining.dataset
from utils.config import argument_parser, load_config, load_task_config
from utils.packing import MB, PackError, pack
from utils.tasks import default_config
from utils.trainer import ERRORS

TASKS = {
    "Deblurring": (Deblurring.config.DEFAULTS, Deblurring.dataset.TASK),
    "Deraining": (Deraining.config.DEFAULTS, Deraining.dataset.TASK),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Pack what the command line names."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("packed"), help="a new folder (packed)")
    parser.add_argument("--limit-mb", metavar="MB", type=float, default=50, help="largest size of an archive (50)")
    parser.add_argument(
        "--quality",
        metavar="Q",
        type=int,
        help="pack images that are stored without loss as JPEG of this quality, 1 to 100 (95: hardly any loss); "
        "without it every file stays as it is",
    )
    arguments = parser.parse_args(argv)
    if arguments.quality is not None and not 1 <= arguments.quality <= 100:
        parser.error("--quality is JPEG's, 1 to 100")
    if arguments.limit_mb <= 0:
        parser.error("--limit-mb is a size in MB")
    defaults, task = TASKS[mode(arguments.config, arguments.opts)]
    config = load_task_config(defaults, arguments.config, arguments.opts)
    root = Path(__file__).resolve().parent
    pack(config, task, root, arguments.out, int(arguments.limit_mb * MB), arguments.quality)


def mode(file: str | None, opts: Sequence[str]) -> str:
    """The task: MODEL.MODE where the file or --opts set it, else the folder that the file lies in.

    Raises:
        PackError: neither says.
    """
    named = load_config(default_config(""), file, opts).MODEL.MODE
    folders = PurePath(Path(file).resolve()).parts if file else ()
    found = named or next((part for part in reversed(folders) if part in TASKS), "")
    if found not in TASKS:
        raise PackError(f"{file or '--opts'}: which task? Add --opts MODEL.MODE and one of {', '.join(TASKS)}")
    return found


if __name__ == "__main__":
    try:
        main()
    except (*ERRORS, PackError, OSError) as error:
        sys.exit(f"error: {error}")
