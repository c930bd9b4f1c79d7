"""Scores as text: tables for the eye, files with every digit."""
from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..files import write_atomically
from ..tasks import Benchmark

Result = Mapping[str, Any]  # what utils.scoring.evaluate.evaluate returns
Benchmarks = Mapping[str, Benchmark]  # by the name of the set in the results
Paper = Mapping[str, tuple[float, float]]  # set -> published PSNR, SSIM
Cells = tuple[list[str], list[list[str]], list[str]]  # header, lines, notes

_HEADER = ("Set", "Images", "PSNR", "SSIM", "Protocol", "Input", "Gain", "Paper")
_WIDTH = 80
_TEXT_COLUMNS = ("Set", "Protocol", "Network")  # aligned left, as text is; numbers are aligned right
_EXTRAS = {
    "psnr_rgb": ("PSNR over RGB", "{:.2f}"),
    "ssim_rgb": ("SSIM of each RGB channel (2-D)", "{:.4f}"),
    "ssim_2d": ("SSIM of each channel alone (2-D)", "{:.4f}"),
    "aligned": ("share of images that could be aligned", "{:.3f}"),
    "lpips": ("distance of AlexNet's features, lower is better", "{:.4f}"),
    "lpips-vgg": ("distance of VGG's features, lower is better", "{:.4f}"),
    "dists": ("distance of structure and texture, lower is better", "{:.4f}"),
    "niqe": ("naturalness without a target, lower is better", "{:.3f}"),
}

# What is said of images that make a mean infinite.
_INFINITE = {"psnr": "restored images", "input_psnr": "inputs"}

_NAMES = 10  # of images in a note; results.csv has all


def format_table(results: Sequence[Result], benchmarks: Benchmarks | None = None, size: str | None = None) -> str:
    """The results of `utils.scoring.evaluate.evaluate` as an aligned text table, one line per set, and notes under it.

    `benchmarks` say what the paper reports of a network of that `size`. Sets scored by one protocol also get a line
    with the mean of their means. Columns for which there is nothing to say are left out.
    """
    header, lines, notes = _scores(results, benchmarks or {}, size)
    aligned = _align([header, *lines])
    rule = "-" * len(aligned[0])
    aligned.insert(1, rule)
    if len(lines) > len(results):  # the means
        aligned.insert(2 + len(results), rule)
    return "\n".join([*(line.rstrip() for line in aligned), *map(_folded, notes)])


def format_paper(results: Sequence[Result], benchmarks: Benchmarks, size: str | None = None) -> str:
    """The paper's own table for the sets that were scored, this run's row under it, and the difference to `size`.

    Without `size`, or with one that the paper lacks, the difference is to its M3SNet-32. A set whose number of images
    is not the published one is marked: its scores compare with nothing. Empty where the paper has none of the sets.
    """
    header, lines, notes = _comparison(results, benchmarks, size)
    if not lines:
        return ""
    aligned = _align([header, *lines])
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:], *map(_folded, notes)])


def _comparison(results: Sequence[Result], benchmarks: Benchmarks, size: str | None) -> Cells:
    """The paper's table; no lines where it has none of the sets."""
    run = {result["dataset"]: result for result in results if getattr(benchmarks.get(result["dataset"]), "paper", None)}
    if not run:
        return [], [], []
    sizes = list(dict.fromkeys(name for dataset in run for name in benchmarks[dataset].paper))
    peer = size if size in sizes else sizes[0]
    rows = {name: [benchmarks[dataset].paper[name] for dataset in run] for name in sizes}
    rows["this run"] = [(result["psnr"], result["ssim"]) for result in run.values()]
    means = [f"mean of {len(run)}"] if len(run) > 1 else []
    for scores in rows.values() if means else ():
        scores.append((fmean(psnr for psnr, _ in scores), fmean(ssim for _, ssim in scores)))
    cells = {name: [f"{psnr:.2f} / {ssim:.3f}" for psnr, ssim in scores] for name, scores in rows.items()}
    cells[f"to {peer}"] = [
        f"{psnr - psnr0:+.2f} / {ssim - ssim0:+.3f}"
        for (psnr, ssim), (psnr0, ssim0) in zip(rows["this run"], rows[peer], strict=True)
    ]
    partial = {
        name: f"{name} {result['images']} of {' or '.join(map(str, benchmarks[name].images))}"
        for name, result in run.items()
        if benchmarks[name].images and result["images"] not in benchmarks[name].images
    }
    header = ["Network", *(name + "*" * (name in partial) for name in run), *means]
    note = f"* not the published set, so the difference means nothing: {', '.join(partial.values())} images."
    return header, [[name, *line] for name, line in cells.items()], [note] if partial else []


def _scores(results: Sequence[Result], benchmarks: Benchmarks, size: str | None) -> Cells:
    """The table of scores: a line per set, then one per mean."""
    paper = {name: benchmark.paper[size] for name, benchmark in benchmarks.items() if size and size in benchmark.paper}
    sets, means = [_line(result, paper) for result in results], []
    notes = []
    if any("input_psnr" in result for result in results):
        notes.append("Input: PSNR of the degraded images; Gain: what restoring them adds; both in dB.")
    for result in results:
        notes += [note for key, what in _INFINITE.items() if (note := _infinite(result, key, what))]
        if worse := result.get("worse"):
            shown = ", ".join(worse[:_NAMES]) + (", ..." if len(worse) > _NAMES else "")
            notes.append(f"{result['dataset']}: restoring has made {len(worse)} of {result['images']} worse: {shown}.")
        if "converted" in result:
            notes.append(f"{result['dataset']}, images converted as they were read: {result['converted']}.")
    for protocol in dict.fromkeys(result["protocol"] for result in results):
        group = [result for result in results if result["protocol"] == protocol]
        if len(group) > 1:
            mean, published = _mean(group, paper)
            means.append(_line(mean, published))
            notes.append(f"{mean['dataset']} ({protocol}): {', '.join(result['dataset'] for result in group)}.")
    for key, (meaning, form) in _EXTRAS.items():
        if values := [f"{result['dataset']} {form.format(result[key])}" for result in results if key in result]:
            notes.append(f"{key}, {meaning}: {', '.join(values)}.")
    header = [title for title in _HEADER if any(title in line for line in sets)]
    return header, [[line.get(title, "") for title in header] for line in (*sets, *means)], notes


def _infinite(result: Result, key: str, what: str) -> str | None:
    """A note on images that equal their targets: they make the mean infinite, whatever the others are."""
    finite = [row[key] for row in result["per_image"] if key in row and math.isfinite(row[key])]
    count = len(result["per_image"])
    if key not in result or len(finite) == count:
        return None
    others = f"; without them it is {fmean(finite):.2f} dB" if finite else ""
    return (
        f"{result['dataset']}: {count - len(finite)} of {count} {what} equal their targets under this protocol, "
        f"so the mean PSNR is infinite{others}."
    )


def write_results(
    results: Sequence[Result], out_dir: str | Path, benchmarks: Benchmarks | None = None, size: str | None = None
) -> list[Path]:
    """Write results.json, results.csv and results.md, each of which says where its numbers come from.

    results.json: the list of results with every digit. results.csv: a line per image. results.md: the tables of
    `format_table` and `format_paper`, ready to paste. Each file appears whole or not at all. The PSNR of equal images
    is infinite, which JSON cannot hold as a number: it becomes the text "inf".
    """
    texts = {
        "results.json": json.dumps(_json_safe(results), indent=2, allow_nan=False) + "\n",
        "results.csv": _csv(results),
        "results.md": _markdown(results, benchmarks or {}, size),
    }
    for name, text in texts.items():
        with write_atomically(Path(out_dir) / name) as file:
            file.write(text.encode("utf-8", "backslashreplace"))  # a file name may be no text
    return [Path(out_dir) / name for name in texts]


def origin_lines(results: Sequence[Result]) -> list[str]:
    """Where results come from: a line per fact, which names the sets where they differ in it."""
    facts = [_flat(result.get("provenance", {})) for result in results]
    lines = []
    for key in dict.fromkeys(key for of_set in facts for key in of_set):
        values = ["none" if of_set.get(key) in (None, []) else str(of_set[key]) for of_set in facts]
        named = [f"{value} ({result['dataset']})" for value, result in zip(values, results, strict=True)]
        lines.append(f"{key}: {values[0] if len(set(values)) == 1 else '; '.join(named)}")
    return lines


def _csv(results: Sequence[Result]) -> str:
    lines = [
        {"dataset": result["dataset"], "protocol": result["protocol"], **row, **_flat(result.get("provenance", {}))}
        for result in results
        for row in result["per_image"]
    ]
    text = io.StringIO()
    columns = list(dict.fromkeys(column for line in lines for column in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _markdown(results: Sequence[Result], benchmarks: Benchmarks, size: str | None) -> str:
    text = []
    for header, lines, notes in (_scores(results, benchmarks, size), _comparison(results, benchmarks, size)):
        if lines:
            rule = ["---" if title in _TEXT_COLUMNS else "--:" for title in header]
            text += [f"| {' | '.join(line)} |" for line in (header, rule, *lines)] + [""]
        if notes:
            text += [*(f"{note.replace('*', chr(92) + '*')}  " for note in notes), ""]
    return "\n".join([*text, *(f"- {line}" for line in origin_lines(results))]) + "\n"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _folded(note: str) -> str:
    return textwrap.fill(note, _WIDTH, subsequent_indent="  ")


def _line(result: Result, paper: Paper) -> dict[str, str]:
    """The cells of one line by column."""
    cells = {
        "Set": result["dataset"],
        "Images": str(result["images"]),
        "PSNR": f"{result['psnr']:.2f}",
        "SSIM": f"{result['ssim']:.4f}",
        "Protocol": result["protocol"],
    }
    if "input_psnr" in result:
        cells["Input"] = f"{result['input_psnr']:.2f}"
        gain = result["psnr"] - result["input_psnr"]
        cells["Gain"] = "-" if math.isnan(gain) else f"{gain:+.2f}"  # infinite before and after: nothing to say
    if published := paper.get(result["dataset"]):
        cells["Paper"] = f"{published[0]:.2f} / {published[1]:.3f}"
    return cells


def _mean(group: Sequence[Result], paper: Paper) -> tuple[Result, Paper]:
    """The mean over sets of their means, and that of the paper where it has them all."""
    name = f"mean of {len(group)}"
    keys = [key for key in ("psnr", "ssim", "input_psnr") if all(key in result for result in group)]
    mean = {key: fmean(result[key] for result in group) for key in keys}
    images = sum(result["images"] for result in group)
    published = [paper[result["dataset"]] for result in group if result["dataset"] in paper]
    complete = len(published) == len(group)
    return (
        {"dataset": name, "images": images, "protocol": group[0]["protocol"], **mean},
        {name: (fmean(psnr for psnr, _ in published), fmean(ssim for _, ssim in published))} if complete else {},
    )


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if title in _TEXT_COLUMNS else f"{cell:>{width}}"
            for cell, width, title in zip(line, widths, lines[0], strict=True)
        )
        for line in lines
    ]


def _json_safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
