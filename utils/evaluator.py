"""A set of pairs through a restorer: scores, and the restored images on disk."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.images import read_image, write_image
from utils.metrics import PROTOCOLS
from utils.pairs import Pair, PairError

Sample = tuple[str, np.ndarray, np.ndarray]  # name, degraded, target: a pair that is in memory


def evaluate(
    restorer: Callable[[np.ndarray], np.ndarray],
    dataset: str,
    pairs: Sequence[Pair | Sample],
    protocol: str,
    out_dir: Path | None = None,
) -> dict[str, Any]:
    """Restore and score every pair of a set; `restorer` maps an H x W x 3 uint8 image to its restored version.

    Returns {"dataset", "protocol", "images", scores, "per_image": [{"name", scores}]}, where scores are "psnr", "ssim",
    what else the protocol names, and "input_psnr" and "input_ssim" of the degraded image as it is; those of the set are
    means over its images. With `out_dir` the restored images are written to out_dir/dataset/NAME.png.

    Raises:
        PairError: the set is empty, or an input and its target differ in size.
        ImageError: an image cannot be read or written.
        ValueError: the restored image is not of its target's size, or too small for the protocol.
    """
    if not pairs:
        raise PairError(f"{dataset}: there are no pairs to score")
    score = PROTOCOLS[protocol]
    rows: list[dict[str, Any]] = []
    for pair in tqdm(pairs, desc=dataset, unit="image", dynamic_ncols=True, disable=None):
        name, degraded, target = _read(pair) if isinstance(pair, Pair) else pair
        restored = restorer(degraded)
        if out_dir is not None:
            write_image(out_dir / dataset / f"{name}.png", restored)
        try:
            scores, before = score(restored, target), score(degraded, target)
        except ValueError as error:
            raise ValueError(f"{dataset}, {name}: {error}") from error
        rows.append({"name": name, **scores, "input_psnr": before["psnr"], "input_ssim": before["ssim"]})
    means = {key: fmean(row[key] for row in rows) for key in rows[0] if key != "name"}
    return {"dataset": dataset, "protocol": protocol, "images": len(rows), **means, "per_image": rows}


def _read(pair: Pair) -> Sample:
    if pair.input is None:
        raise PairError(f"{pair.target}: a sharp photograph without its degraded partner cannot be scored")
    degraded, target = read_image(pair.input), read_image(pair.target)
    if degraded.shape != target.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (degraded, target)]
        raise PairError(f"{pair.input} is {sizes[0]} but {pair.target} is {sizes[1]}")
    return pair.name, degraded, target
