"""Speed and memory of a training step, beside the published network's: `python benchmarks/train_step.py`.

This project's side is what its training programs do, utils.training.step; the other is the published implementation,
as spandrel and spandrel_extra_arches (extra `test`) build it from a weights file, trained as a plain user would: eager
float32 in contiguous memory, Adam as torch has it by default, from a batch that is float and oriented already. Both
start from the same weights and the same batch, and must give the same loss. In one process, they take turns step by
step, so that whatever else the machine does meets both alike; peak memory is measured before, in a process of its own
for each.
"""
from __future__ import annotations

import argparse
import importlib.util
import math
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils import get_total_norm

from m3snet.benchmarks.cost import in_new_process, peak_bytes
from m3snet.benchmarks.loader import conditions
from m3snet.Deblurring.config import DEFAULTS
from m3snet.models import SIZES, M3SNet, create_model, save_weights
from m3snet.models.weights import to_published
from m3snet.utils.cli import UserError, run_program
from m3snet.utils.config import load_config
from m3snet.utils.data.augment import ORIENTATIONS, orient
from m3snet.utils.data.patches import Patch
from m3snet.utils.provenance import code_version
from m3snet.utils.restoring.backends import find_device
from m3snet.utils.training.build import build_optimizer, compile_model
from m3snet.utils.training.loss import PSNRLoss
from m3snet.utils.training.state import TrainState
from m3snet.utils.training.step import TrainStep, on_device

Step = Callable[[], None]
Images = tuple[torch.Tensor, torch.Tensor]  # degraded, target: N x 3 x S x S float32 in [0, 1]

CONFIG = load_config(DEFAULTS)
PEER = ("spandrel", "spandrel_extra_arches")  # packages
TOLERANCE = 1e-4  # relative, of the losses
WARM_UP = 2  # steps


# The two sides


def this_project(model: M3SNet, batch: Patch, args: argparse.Namespace) -> Step:
    """A step as Deblurring/train.py and Deraining/train.py take it."""
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision={"fp32": "no", "bf16": "bf16"}[args.precision])
    model = model.train().to(accelerator.device).to(memory_format=torch.channels_last)
    model.set_grad_checkpointing(args.grad_checkpointing)
    state = TrainState(model, build_optimizer(model, CONFIG), None, accelerator.scaler, order=[], validation="")
    shape = (args.batch, 3, args.patch, args.patch)
    network = compile_model(model, shape, accelerator, print) if args.compile else model
    train_step = TrainStep(network, state, accelerator, CONFIG, CONFIG.OPTIM.ACCUMULATE)
    if args.device == "cuda":  # as the data loader does
        batch = Patch(*(torch.as_tensor(part).pin_memory() for part in batch))  # type: ignore[arg-type]
    return lambda: train_step(batch)


def published(model: M3SNet, batch: Patch, args: argparse.Namespace) -> Step:
    """A step as a plain user of the published network would write it."""
    network = published_network(model).train().to(args.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=CONFIG.OPTIM.LR_INITIAL)
    images = plain_batch(batch)
    if args.device == "cuda":
        images = images[0].pin_memory(), images[1].pin_memory()

    def step() -> None:
        degraded, target = (tensor.to(args.device, non_blocking=True) for tensor in images)
        loss = plain_loss(network(degraded), target)
        optimizer.zero_grad()
        loss.backward()
        get_total_norm([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
        optimizer.step()
        loss.item()

    return step


def published_network(model: M3SNet) -> nn.Module:
    """The published network with the weights of `model`."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of what spandrel uses
        import spandrel
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
        save_weights(model, Path(folder) / "model.safetensors")
        return spandrel.ModelLoader(device="cpu").load_from_file(Path(folder) / "model.safetensors").model


def plain_batch(batch: Patch) -> Images:
    """The same images as the loader of a plain user gives them."""
    degraded, target = (
        orient(images.permute(0, 3, 1, 2), torch.as_tensor(batch.orientation)).float().div(255).contiguous()
        for images in (batch.degraded, batch.target)
    )
    return degraded, target


def plain_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """PSNR loss in the fewest words."""
    return (10 * torch.log10(((restored - target) ** 2).mean(dim=(1, 2, 3)) + 1e-8)).mean()


SIDES: dict[str, Callable[[M3SNet, Patch, argparse.Namespace], Step]] = {
    "this project": this_project,
    "published": published,
}


# What both start from


def initial_network(config: dict[str, object]) -> M3SNet:
    """A new network, always the same one, of which no part is idle."""
    torch.manual_seed(0)
    model = M3SNet(**config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if name.endswith((".beta", ".gamma")):  # a new block is the identity
            nn.init.normal_(parameter, std=0.3)
    return model


def random_batch(number: int, side: int) -> Patch:
    """A collated batch of noisy noise, always the same one."""
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(256, (number, side, side, 3), generator=rng)
    degraded = (target + torch.randint(-64, 64, target.shape, generator=rng)).clamp(0, 255)
    orientation = torch.randint(ORIENTATIONS, (number,), generator=rng)
    numbers = torch.arange(number)
    return Patch(degraded.to(torch.uint8), target.to(torch.uint8), orientation, numbers)  # type: ignore[arg-type]


def check_same(model: M3SNet, batch: Patch, device: str) -> None:
    """Make sure that a benchmark of `model` and the published network compares the same.

    Raises:
        ValueError: their parameters, batches or losses differ.
    """
    peer = published_network(model)
    expected, found = to_published(model.state_dict()), peer.state_dict()
    if expected.keys() != found.keys() or not all(torch.equal(found[name], expected[name]) for name in expected):
        raise ValueError("the published network has other parameters")
    model, peer = model.to(device).to(memory_format=torch.channels_last), peer.to(device)
    degraded, target = next(on_device(batch, 1, torch.device(device)))
    plain = [images.to(device) for images in plain_batch(batch)]
    if not (torch.equal(degraded, plain[0]) and torch.equal(target, plain[1])):
        raise ValueError("the two sides get other batches")
    # TensorFloat-32, which both may use later, rounds more than is allowed here.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        ours = float(PSNRLoss()(model(degraded), target))
        theirs = float(plain_loss(peer(plain[0]), plain[1]))
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE):
        raise ValueError(f"the losses differ at the start: {ours} dB here, {theirs} dB from the published network")


# Measuring


def peak_memory(side: str, name: str, args: argparse.Namespace) -> float:
    """Bytes at the peak of two steps, weights included; infinite: more than there is; nan: the device does not tell.

    CUDA's is what its allocator handed out, the CPU's by how much the process grew.
    """
    torch.set_num_threads(args.threads)
    small = argparse.Namespace(**{**vars(args), "batch": 1, "patch": 16, "compile": False})
    SIDES[side](initial_network({"width": 8, "enc_blk_nums": (1,) * 4}), random_batch(1, 16), small)()
    # Now the libraries are loaded, which are not the network's.
    device = torch.device(args.device)
    before = peak_bytes(device) if args.device == "cpu" else 0
    step = SIDES[side](initial_network(create_model(name).config), random_batch(args.batch, args.patch), args)
    try:
        step()
        step()
    except torch.OutOfMemoryError:
        return math.inf
    after = peak_bytes(device)
    return math.nan if before is None or after is None else after - before


def seconds_in_turn(steps: dict[str, Step], number: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """How long each of `number` steps of each side took; the sides take turns."""
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    clock = time.process_time if in_processor_time(args) else time.perf_counter
    for turn in range(-WARM_UP, number):
        for side, step in steps.items():
            start = clock()
            step()
            if args.device != "cpu":
                torch.accelerator.synchronize()
            if turn >= 0:
                seconds[side].append(clock() - start)
    return seconds


def in_processor_time(args: argparse.Namespace) -> bool:
    """Whether time is the processor's: with one thread, it is what the clock would show on an idle machine."""
    return args.device == "cpu" and args.threads == 1


def rows(name: str, args: argparse.Namespace) -> list[str]:
    """Measure one network; the lines of the table."""
    peaks = {side: in_new_process(peak_memory, side, name, args) for side in SIDES}
    config, batch = create_model(name).config, random_batch(args.batch, args.patch)
    check_same(initial_network(config), batch, args.device)
    steps = {side: SIDES[side](initial_network(config), batch, args) for side in SIDES if peaks[side] < math.inf}
    seconds = seconds_in_turn(steps, args.steps, args)
    lines: list[str] = []
    for side, precision in zip(SIDES, (args.precision, "fp32"), strict=True):
        taken = seconds.get(side)
        rate, each = (f"{args.batch / median(taken):.2f}", f"{median(taken):.3f}") if taken else ("-", "-")
        lines.append(line("" if lines else name, f"{side}, {precision}", rate, each, mebibytes(peaks[side])))
    mine, peer = SIDES
    less = peaks[mine] / peaks[peer]
    if len(seconds) == 2:
        faster = [b / a for a, b in zip(seconds[mine], seconds[peer], strict=True)]
        low, _, high = quantiles(faster) if len(faster) > 1 else (*faster, *faster, *faster)
        spread = f"ratio (quartiles {low:.2f}, {high:.2f})"
        lines.append(line("", spread, f"{median(faster):.2f}", "", f"{less:.2f}" if math.isfinite(less) else "-"))
    return lines


def mebibytes(number: float) -> str:
    """Bytes for the table."""
    if math.isinf(number):
        return "too much"
    return "unknown" if math.isnan(number) else f"{number / 2**20:,.0f}"


def line(name: str, label: str, rate: str, each: str, peak: str) -> str:
    """One line of the table, at most 80 columns."""
    return f"{name:<10}{label:<37}{rate:>10}{each:>10}{peak:>11}".rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    print(f"$ python benchmarks/train_step.py {shlex.join(sys.argv[1:] if argv is None else argv)}".rstrip())
    print(conditions())
    print(f"this project {code_version()}, {', '.join(f'{name} {version(name)}' for name in PEER)}")
    place = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.device}, {args.threads} thread(s)"
    print(f"{place}, batches of {args.batch} x 3 x {args.patch} x {args.patch}\n")
    print("A step: batch to the device, forward, PSNR loss, backward, gradient norm, Adam.")
    kind = "processor time" if in_processor_time(args) else "time by the clock"
    print(f"Median of {args.steps} steps in turn, {kind}. Peak memory: with weights.\n")
    print(line("Network", "Implementation", "samples/s", "s a step", "peak, MiB"))
    print("-" * 78)
    for name in args.sizes:
        try:
            print("\n".join(rows(name, args)), flush=True)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{name}: {str(error).splitlines()[0]} Lower --batch or --patch.") from error


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = find_device().type != "cpu"
    sizes = ["M3SNet-32", "M3SNet-64"] if gpu else ["M3SNet-T", "M3SNet-S"]
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=SIZES,
        default=sizes,
        metavar="NAME",
        help=f"any of {', '.join(SIZES)} (default: {' '.join(sizes)})",
    )
    parser.add_argument("--batch", type=positive, default=32 if gpu else 4, help="images (default: %(default)s)")
    parser.add_argument("--patch", type=positive, default=256 if gpu else 128, help="their side (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=30, help="measured of each side (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of this project's side")
    parser.add_argument("--compile", action="store_true", help="torch.compile on this project's side")
    parser.add_argument("--grad-checkpointing", action="store_true", help="on this project's side")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default=find_device().type)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.patch % 16:
        parser.error(f"--patch {args.patch}: the published network pads what is no multiple of 16, and does not crop")
    if args.device != "cpu" and args.device != find_device().type:
        parser.error(f"--device {args.device}: there is none; {find_device().type} is the best here")
    missing = [name for name in PEER if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the published network comes from {' and '.join(missing)}: pip install -e '.[test]'")
    return args


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


if __name__ == "__main__":
    run_program(main)
