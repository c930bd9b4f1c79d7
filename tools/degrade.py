"""Make pairs of sharp photographs: `python tools/degrade.py rain|blur|shake FOLDER -o OUT`.

OUT gets input/ and target/, like any other data set: `test.py --opts TEST.DATASETS OUT` scores on it.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from m3snet.utils.data.blur import BLUR, shake
from m3snet.utils.data.pairs import PairError, find_photographs
from m3snet.utils.data.rain import RAIN
from m3snet.utils.images import ImageError, read_image, write_image

KINDS = {"rain": RAIN.apply, "blur": BLUR.apply, "shake": shake}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pairs that the command line describes; exits with a message when one cannot be made."""
    args = parse(argv)
    try:
        photographs = find_photographs([args.folder])
        if (args.out / "target").exists():
            raise PairError(f"{args.out}: holds pairs already; name another folder, or delete it")
        for photograph in tqdm(photographs, unit=" images", disable=not sys.stderr.isatty()):
            target = read_image(photograph.target)
            degraded = KINDS[args.kind](target, np.random.default_rng((args.seed, *photograph.name.encode())))
            write_image(args.out / "target" / f"{photograph.name}.png", target)
            write_image(args.out / "input" / f"{photograph.name}.png", degraded)
    except (OSError, ImageError, PairError) as error:
        sys.exit(f"degrade.py: {error}")
    print(f"{len(photographs)} pairs: {args.out}/input, {args.out}/target")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="degrade.py",
        description="Make pairs of degraded and sharp images from sharp photographs.",
        epilog="rain and blur are what training makes on the fly, of any strength (docs/synthesis.md); shake is the "
        "blur of a shaken camera alone. What becomes of a photograph depends on its name and the seed only.",
    )
    parser.add_argument("kind", choices=KINDS, help="what is done to the photographs")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the sharp photographs")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, type=Path, help="gets input/ and target/")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
