"""Draw M3SNet as the mountain it is: `python fig/draw_network.py --size M3SNet-32 -o fig/network.png` (or .svg, .pdf).

The encoder climbs the left flank, where every level halves the resolution and doubles the channels, the decoder comes
down the right one, and the fusion pyramid fills what is between. Boxes and arrows are those that a run of the network
makes, so a changed network gives a changed drawing.
"""
from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from m3snet.models import SIZES, M3SNet, create_model
from m3snet.utils.cli import UserError, run_program

if TYPE_CHECKING:  # the wiring can be had, and is tested, without matplotlib
    from matplotlib.axes import Axes

INPUT, OUTPUT = "input", "output"
Point = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """A part of the network that is drawn as a box."""

    kind: str  # a key of COLOURS
    chs: int  # of its output
    level: int  # its output has 1 / 2**level of the image's height
    blocks: int = 1


@dataclass(frozen=True)
class Wiring:
    """Nodes by module name, in the order in which they run, and (source, target) of every arrow."""

    nodes: dict[str, Node]
    edges: tuple[tuple[str, str], ...]

    def sources(self, name: str, level: int) -> list[str]:
        """The nodes of `level` whose output `name` reads."""
        return [source for source, target in self.edges if target == name and self.nodes[source].level == level]


def wiring(model: M3SNet) -> Wiring:
    """What is computed from what in `model`, seen by running it on a very small image.

    Parts that only change the resolution are no nodes: an arrow between two levels stands for them.

    Raises:
        UserError: a part of the network is of no kind that can be drawn.
    """
    model = copy.deepcopy(model).float().cpu()  # the hooks stay on the copy
    side = 2 ** len(model.downs)  # the smallest image that needs no padding
    nodes = {INPUT: Node("image", model.intro.in_channels, 0)}
    steps: dict[str, frozenset[str]] = {}
    edges: list[tuple[str, str]] = []
    tracer = _Tracer()

    def arrive(name: str, sources: frozenset[str]) -> None:
        direct = {origin for source in sources for origin in steps.get(source, (source,))}
        edges.extend((source, name) for source in nodes if source in direct)

    def record(name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        sources = tracer.sources(inputs)
        kind, blocks = _kind(name, module)
        if kind == "step":
            steps[name] = sources
        else:
            arrive(name, sources)
            nodes[name] = Node(kind, output.shape[1], (side // output.shape[-2]).bit_length() - 1, blocks)
        tracer.mark(output, name)

    for name, part in _parts(model):
        part.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, inputs, output))
    image = torch.zeros(1, model.intro.in_channels, side, side)
    tracer.mark(image, INPUT)
    with torch.no_grad(), tracer:
        restored = model(image)
    arrive(OUTPUT, tracer.sources(restored))
    nodes[OUTPUT] = Node("image", restored.shape[1], 0)
    return Wiring(nodes, tuple(edges))


class _Tracer(TorchFunctionMode):
    """While active, remembers of every tensor which marked tensors it was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, frozenset[str]] = {}
        self._alive: list[torch.Tensor] = []  # a dead tensor's id would be given to another

    def mark(self, tensor: torch.Tensor, name: str) -> None:
        self._remember(tensor, frozenset({name}))

    def sources(self, value: Any) -> frozenset[str]:
        if isinstance(value, torch.Tensor):
            return self._sources.get(id(value), frozenset())
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return frozenset(name for item in items for name in self.sources(item))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sources = self.sources((args, kwargs))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, torch.Tensor) and sources:
                self._remember(tensor, sources)
        return result

    def _remember(self, tensor: torch.Tensor, sources: frozenset[str]) -> None:
        self._sources[id(tensor)] = sources
        self._alive.append(tensor)


def _parts(model: M3SNet) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", part) for index, part in enumerate(child))
        else:
            yield name, child


def _kind(name: str, module: nn.Module) -> tuple[str, int]:
    """What a part is drawn as, and of how many blocks it is made."""
    if isinstance(module, nn.Sequential) and any(isinstance(layer, nn.PixelShuffle) for layer in module):
        return "step", 1
    if isinstance(module, nn.Conv2d):
        return "step" if module.stride != (1, 1) else "Conv2d", 1
    blocks = list(module) if isinstance(module, nn.Sequential) else [module]
    kinds = {type(block).__name__ for block in blocks} or {"NAFBlock"}
    if len(kinds) > 1 or not kinds <= COLOURS.keys():
        raise UserError(f"{name}: {', '.join(sorted(kinds))} cannot be drawn; there are {', '.join(COLOURS)}")
    return kinds.pop(), len(blocks)


# kind -> fill, outline
COLOURS = {
    "NAFBlock": ("#d9e6f5", "#3a6ea5"),
    "FFM": ("#fbe6bf", "#b5791b"),
    "MHAMB": ("#f3cfd0", "#a8383b"),
    "Conv2d": ("#e7e9ed", "#69707d"),
    "image": ("#ffffff", "#69707d"),
}
CLIMB, DESCENT, LEVEL = "#3a6ea5", "#2f8f6b", "#8b93a1"  # arrows to a coarser level, to a finer one, within one
INK, GRAY, FAINT = "#22262e", "#69707d", "#c5cad3"
LEFT_FACE, RIGHT_FACE = "#f2f5f9", "#e8edf3"
TIMES = "\N{MULTIPLICATION SIGN}"
ENDS = ("Conv2d", "image")  # what stands outside the mountain

# One unit is how far each level's ends lie further in than those of the level below; y = 0 is full resolution.
INCHES = 0.82  # of a unit: text of 10 points stays readable where four levels are shown 900 pixels wide
RISE = 1.32  # of a level
BOX, SMALL_BOX, HEIGHT = 1.14, 0.86, 0.66
MARGIN, BOTTOM, ABOVE = 0.75, -1.4, 1.62  # what the page shows around the outermost boxes
RESIDUAL = -0.98  # height of the arrow from input to output, below everything else


def symbols(graph: Wiring) -> dict[str, str]:
    """The paper's name of each block: e in the encoder, f and g in the rows of the fusion pyramid, d in the decoder."""
    rows: dict[str, int] = {}
    found: dict[str, str] = {}
    for name, node in graph.nodes.items():
        if name.startswith("decoders."):
            found[name] = f"d_{node.level}"
        elif name.startswith("encoders.") or node.kind == "FFM":
            rows[name] = 1 + max((rows.get(source, -1) for source in graph.sources(name, node.level)), default=-1)
            found[name] = f"{'efghijklmn'[rows[name]]}_{node.level}"
    return found


def layout(graph: Wiring) -> dict[str, Point]:
    """The centre of each box: a level is a row, and a row of the fusion pyramid a slope beside the encoder's."""
    top = max(node.level for node in graph.nodes.values())
    places: dict[str, Point] = {}
    for name, node in graph.nodes.items():
        flank, y = top - node.level, node.level * RISE
        if node.kind == "FFM":
            x = max(places[source][0] for source in graph.sources(name, node.level + 1)) + 1
        elif node.kind in ENDS:
            x = -flank - 1.42 if name == "intro" else flank + 1.42
            x = -flank - 2.6 if name == INPUT else flank + 2.6 if name == OUTPUT else x
        else:
            x = flank if name.startswith("decoders.") else -flank
        places[name] = float(x), y
    return places


def draw(model: M3SNet, title: str, path: str | Path) -> None:
    """Write the drawing of `model`; the suffix of `path` chooses the format, missing folders are made.

    Raises:
        UserError: a part of the network cannot be drawn, or matplotlib cannot write this format.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path, graph = Path(path), wiring(model)
    places = layout(graph)
    edge = max(x for x, _ in places.values()) + MARGIN
    ceiling = max(y for _, y in places.values()) + ABOVE
    with mpl.rc_context({"font.family": "DejaVu Sans", "mathtext.fontset": "stix", "svg.hashsalt": "m3snet"}):
        figure = Figure(figsize=(INCHES * 2 * edge, INCHES * (ceiling - BOTTOM)), dpi=150)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-edge, edge), ylim=(BOTTOM, ceiling))
        axes.axis("off")
        _draw_mountain(axes, max(y for _, y in places.values()))
        _draw_levels(axes, graph, places, 0.2 - edge)
        _draw_edges(axes, graph, places)
        _draw_nodes(axes, graph, places)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        axes.text(0.2 - edge, ceiling - 0.42, title, size=22, weight="bold", color=INK, va="center")
        axes.text(0.2 - edge, ceiling - 0.84, f"{parameters / 1e6:.2f} M parameters", size=12, color=GRAY, va="center")
        _draw_legend(axes, graph, model, edge - 3.9, ceiling - 0.42)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date, the same network gives the same bytes.
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except ValueError as error:  # matplotlib's, which lists the formats it knows
            raise UserError(f"{path}: {error}") from error


def _draw_mountain(axes: Axes, summit: float) -> None:
    """Two faces, lit from the left, and wide enough for the boxes on both flanks."""
    peak, foot, slope = summit + 1.32, -0.64, 0.72
    reach = slope * (peak - foot)
    bends = ((0.0, 1.0), (0.3, 0.74), (-0.2, 0.55), (0.45, 0.36), (0.1, 0.2), (0.7, 0.0))  # of the ridge, from the top
    ridge = [(x, foot + share * (peak - foot)) for x, share in bends]
    for side, colour in ((-reach, LEFT_FACE), (reach, RIGHT_FACE)):
        axes.fill(*zip((side, foot), *ridge, strict=True), color=colour, lw=0)


def _draw_levels(axes: Axes, graph: Wiring, places: dict[str, Point], left: float) -> None:
    """At the margin, how large and how deep the features of each level are: what altitudes are to a mountain."""
    for level in sorted({node.level for node in graph.nodes.values()}):
        first = next(name for name, node in graph.nodes.items() if node.level == level and node.kind not in ENDS)
        size = f"H/{2**level} {TIMES} W/{2**level}" if level else f"H {TIMES} W"
        y = level * RISE if level else 0.58  # above the input's box
        axes.text(left, y, size, size=10.5, color=INK, va="center")
        axes.text(left + 1.3, y, f"{graph.nodes[first].chs} channels", size=10.5, color=GRAY, va="center")
        if level:
            axes.plot([left + 2.65, places[first][0] - 0.75], [y, y], color=FAINT, lw=1, ls=(0, (1, 3)))


def _draw_edges(axes: Axes, graph: Wiring, places: dict[str, Point]) -> None:
    for source, target in graph.edges:
        (x0, y0), (x1, y1) = start, end = places[source], places[target]
        if (source, target) == (INPUT, OUTPUT):
            corners = [(x0, y0 - HEIGHT / 2), (x0, RESIDUAL), (x1, RESIDUAL), (x1, y1 - HEIGHT / 2)]
            axes.plot(*zip(*corners[:3], strict=True), color=LEVEL, lw=1.6, solid_joinstyle="round")
            _arrow(axes, corners[2], corners[3], LEVEL)
            words = "residual: the network predicts the difference"
            axes.text(0, RESIDUAL, words, size=10, color=GRAY, ha="center", va="center", bbox={"fc": "white", "lw": 0})
            continue
        change = graph.nodes[target].level - graph.nodes[source].level
        colour = CLIMB if change > 0 else DESCENT if change < 0 else LEVEL
        _arrow(axes, _rim(start, end, graph.nodes[source]), _rim(end, start, graph.nodes[target]), colour)


def _draw_nodes(axes: Axes, graph: Wiring, places: dict[str, Point]) -> None:
    letters = symbols(graph)
    for name, node in graph.nodes.items():
        x, y = places[name]
        _rounded(axes, places[name], _width(node), HEIGHT, node.kind)
        if node.kind in ENDS:
            axes.text(x, y, name, size=10.5, color=INK, ha="center", va="center")
            continue
        count = f"{node.blocks} block{'' if node.blocks == 1 else 's'}"
        if name in letters:
            axes.text(x, y + 0.12, f"${letters[name]}$", size=16, color=INK, ha="center", va="center")
        else:
            axes.text(x, y + 0.13, node.kind, size=10.5, weight="bold", color=INK, ha="center", va="center")
        axes.text(
            x, y - 0.17, "FFM" if node.kind == "FFM" else count, size=9.5, color=INK, ha="center", va="center"
        )


def _draw_legend(axes: Axes, graph: Wiring, model: M3SNet, left: float, y: float) -> None:
    boxes = {
        "NAFBlock": "NAFBlocks",
        "FFM": "FFM: a NAFBlock fuses two levels",
        "MHAMB": "MHAMB: attention between channels",
        "Conv2d": f"{_kernel(model.intro)} convolution",
    }
    arrows = {
        CLIMB: f"{_kernel(model.downs[0])} convolution, stride 2",
        DESCENT: f"1 {TIMES} 1 convolution, pixel shuffle",
        LEVEL: "same resolution",
    }
    kinds = {node.kind for node in graph.nodes.values()}
    for kind, meaning in boxes.items():
        if kind in kinds:
            _rounded(axes, (left + 0.19, y), 0.38, 0.2, kind)
            axes.text(left + 0.55, y, meaning, size=10, color=INK, va="center")
            y -= 0.34
    for colour, meaning in arrows.items():
        _arrow(axes, (left, y), (left + 0.4, y), colour)
        axes.text(left + 0.55, y, meaning, size=10, color=INK, va="center")
        y -= 0.34
    axes.text(left, y - 0.03, "Arrows that meet are added.", size=10, color=GRAY, va="center")


def _arrow(axes: Axes, start: Point, end: Point, colour: str) -> None:
    head = "-|>,head_length=0.45,head_width=0.24"
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": head, "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 1.5}
    )


def _rounded(axes: Axes, centre: Point, width: float, height: float, kind: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    fill, line = COLOURS[kind]
    corner = centre[0] - width / 2, centre[1] - height / 2
    round_off = f"round,pad=0,rounding_size={min(0.09, height / 4)}"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=round_off, fc=fill, ec=line, lw=1.4))


def _rim(centre: Point, other: Point, node: Node) -> Point:
    """Where the line from the centre of a box towards another point leaves the box."""
    dx, dy = other[0] - centre[0], other[1] - centre[1]
    share = 1 / max(abs(dx) / (_width(node) / 2), abs(dy) / (HEIGHT / 2))
    return centre[0] + dx * share, centre[1] + dy * share


def _width(node: Node) -> float:
    return SMALL_BOX if node.kind in ENDS else BOX


def _kernel(conv: nn.Module) -> str:
    return f" {TIMES} ".join(map(str, conv.kernel_size)) if isinstance(conv, nn.Conv2d) else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="M3SNet-32")
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True)
    arguments = parser.parse_args(argv)
    draw(create_model(arguments.size), arguments.size, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    run_program(main)
