"""The settings both tasks share: every key with its default, the values it takes, and what it means."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from yacs.config import CfgNode

from ..models import SIZES
from .tasks import DATA_ROOT
from .values import Listed, Name, Number, Switch, SwitchOr, Text, Whole, Word

CACHES = ("none", "ram", "disk")
PADDINGS = ("reflect", "zeros")  # those of utils.restoring.padding
PERCEPTUAL = ("lpips", "lpips-vgg", "dists", "niqe")  # pyiqa's names; in all of them lower is better
_MANY = 1_000_000_000
_SEED = Whole(0, 2**32 - 1)  # what numpy takes


def default_config(mode: str) -> CfgNode:
    """The schema of both tasks' configuration files: KEY = (default, the values it takes, what it means).

    Upper half: the keys of MPRNet's and the published files; the rest is this project's. `load_config` makes a
    configuration of it. docs/settings.md shows it as a table.
    """
    config = CfgNode()
    config.GPU = ([0], Listed(Whole(0, 1023), distinct=True), "CUDA devices, counted in CUDA_VISIBLE_DEVICES; []: all")

    model = config.MODEL = CfgNode()
    model.MODE = (mode, Word(("Deblurring", "Deraining")), "the task that the file is for")
    model.SESSION = ("m3snet32", Name(), "name of the run")
    model.NAME = ("M3SNet-32", Word(SIZES), "size of the network")
    model.FFM = (True, Switch(), "false: plain skips (ablation)")
    model.MHAMB = (True, Switch(), "false: a NAFBlock as bridge (ablation)")
    model.ENC_BLK_NUMS = (
        [],
        Listed(Whole(1, 100), lengths=(0, 4)),
        "NAFBlocks of each encoder level, finest first; []: those of NAME",
    )

    optim = config.OPTIM = CfgNode()
    optim.NAME = ("Adam", Word(("Adam", "AdamW")), "optimizer")
    optim.BATCH_SIZE = (32, Whole(1, 65536), "images per optimizer step, over all processes")
    optim.ACCUMULATE = (1, Whole(1, 65536), "parts each process cuts its share of the batch into, to save memory")
    optim.NUM_EPOCHS = (8000, Whole(1, 10_000_000), "epochs of the whole training")
    optim.WARMUP_EPOCHS = (3, Whole(0, 10_000_000), "of them with a rising learning rate")
    optim.LR_INITIAL = (1e-3, Number(0, 10, above=True), "learning rate after the warm-up")
    optim.LR_MIN = (1e-6, Number(0, 10), "learning rate at the end")
    optim.BETA1 = (0.9, Number(0, 1, below=True), "of Adam")
    optim.BETA2 = (0.999, Number(0, 1, below=True), "of Adam")
    optim.WEIGHT_DECAY = (0.0, Number(0, 1), "of Adam")
    optim.CLIP_NORM = (0.0, Number(0, 1_000_000), "largest gradient norm; 0: no clipping")
    optim.LOSS_EPS = (
        1e-8,
        Number(0, 1, above=True),
        "the loss is 10 log10(MSE + LOSS_EPS); 1e-4 keeps clean patches from ruling a batch",
    )
    optim.LOSS_FOURIER = (
        0.0,
        Number(0, 1_000_000),
        "adds so much times the error of the Fourier transform to the loss, as MIMO-UNet does",
    )

    training = config.TRAINING = CfgNode()
    training.VAL_AFTER_EVERY = (20, Whole(1, _MANY), "epochs between validations")
    training.RESUME = ("auto", SwitchOr("auto"), "auto: go on where SESSION stopped, if it did; or from a checkpoint")
    training.TRAIN_PS = (256, Whole(8, 4096), "side of the training patches in pixels")
    training.ZERO_BORDERS = (
        0.0,
        Number(0, 1),
        "share of the patches that end in up to 15 rows and columns of zeros, as images that the network pads do",
    )
    training.VAL_PS = (256, Whole(11, 8192), "side of the validation crops in pixels; SSIM needs 11")
    training.TRAIN_DIR = (
        "",
        Listed(Text(empty=False), alone=True),
        "folder that holds input/ and target/, or a list of such; '': none",
    )
    training.VAL_DIR = ("", Text(), "such a folder to validate on; '': split from the training images, by scene")
    training.SAVE_DIR = ("./checkpoints", Text(empty=False), "where the folders of runs are made")
    training.SAVE_IMAGES = (False, Switch(), "write the restored images at every validation")

    training.SHARP_DIRS = (
        [],
        Listed(Text(empty=False)),
        "folders of sharp photographs, degraded on the fly; samples: the bundled ones",
    )
    training.SHARES = (
        [],
        Listed(Number(0, 1_000_000, above=True)),
        "how much of the patches comes from each folder of TRAIN_DIR, then of SHARP_DIRS: [3, 1] is three quarters "
        "from the first; []: all images are looked at alike",
    )
    training.TRAIN_ON_TEST_SET = (False, Switch(), "train on a folder that is a test set: no honest score then")
    training.WEIGHTS = ("", Text(), "start from these weights (a file or a released name): fine-tuning")
    training.WIDEN = (0, Whole(0, 4), "times to double the channels of WEIGHTS first; the function stays the same")
    training.VAL_COUNT = (64, Whole(0, _MANY), "images split from the training set for validation")
    training.VAL_ON_TEST_SET = (False, Switch(), "use a VAL_DIR that is a test set: no honest score then")
    training.EPOCH_STEPS = (0, Whole(0, 10_000_000), "optimizer steps in an epoch; 0: one pass over the images")
    training.SEED = (1234, _SEED, "of the first weights, the patches, their degradation and order")
    training.VAL_SEED = (
        1234,
        _SEED,
        "of which images are held out, and their degradation: runs of different SEEDs compare",
    )
    training.NUM_WORKERS = (8, Whole(0, 512), "processes that load images; 0: none beside the training")
    training.CACHE = (
        "none",
        Word(CACHES),
        "ram: decoded images in memory; disk: in files that all processes map",
    )
    training.CACHE_DIR = ("", Text(), "where CACHE disk keeps them; '': in SAVE_DIR/cache")
    training.PRECISION = ("fp32", Word(("fp32", "bf16", "fp16")), "of the features; fp16 needs a GPU")
    training.EMA_DECAY = (
        0.0,
        Number(0, 1, below=True),
        "e.g. 0.999: validate and release an exponential moving average of the weights; 0: none",
    )
    training.CHECKPOINT_EVERY = (100, Whole(1, _MANY), "epochs between numbered checkpoints")
    training.KEEP = (3, Whole(0, _MANY), "numbered checkpoints that stay")
    training.SAVE_STEPS = (0, Whole(0, _MANY), "steps between savings of the latest checkpoint; 0: after every epoch")
    training.LOG_EVERY = (50, Whole(1, _MANY), "steps between lines of the log")
    training.NONFINITE_LIMIT = (
        1,
        Whole(1, _MANY),
        "skipped steps in a row (loss or gradient not finite) before the run stops",
    )
    training.AUTO_BATCH = (False, Switch(), "raise ACCUMULATE until a step fits into the GPU's memory")
    training.GRAD_CHECKPOINTING = (False, Switch(), "compute blocks again in the backward pass: less memory, slower")
    training.COMPILE = (False, Switch(), "torch.compile, where it works")
    training.OVERFIT = (0, Whole(0, 65536), "learn so many fixed patches, which must reach 40 dB: a check of the loop")
    training.WANDB = ("", Text(), "Weights & Biases project to log to as well; '': none")

    config.DATA = CfgNode()
    config.DATA.ROOT = (DATA_ROOT, Text(empty=False), "where test sets lie")

    test = config.TEST = CfgNode()
    test.DATASETS = ([], Listed(Text(empty=False)), "test sets of the task, or folders; []: all that are there")
    test.REPORT = (False, Switch(), "write a page with before/after sliders, report.html")
    test.PERCEPTUAL = ([], Listed(Word(PERCEPTUAL), distinct=True), "scores of pyiqa, whose licence is non-commercial")
    test.TLC = (True, Switch(), "test-time local converter")
    test.PADDING = (
        "reflect",
        Word(PADDINGS),
        "beyond the border of images whose sides are no multiples of 16; zeros: as published",
    )
    return config


def conflicts(config: CfgNode) -> Iterator[str]:
    """What is wrong between the values of several keys, in a line each."""
    optim, training = config.OPTIM, config.TRAINING
    if optim.WARMUP_EPOCHS >= optim.NUM_EPOCHS:
        yield f"OPTIM.WARMUP_EPOCHS {optim.WARMUP_EPOCHS}: expected less than OPTIM.NUM_EPOCHS {optim.NUM_EPOCHS}"
    if optim.LR_MIN > optim.LR_INITIAL:
        yield f"OPTIM.LR_MIN {optim.LR_MIN:g}: expected at most OPTIM.LR_INITIAL {optim.LR_INITIAL:g}"
    if training.WIDEN and not training.WEIGHTS:
        yield f"TRAINING.WIDEN {training.WIDEN} grows the network of TRAINING.WEIGHTS, which is not set"
    pairs = folders_of(training.TRAIN_DIR)
    if training.VAL_DIR and Path(training.VAL_DIR).resolve() in (Path(folder).resolve() for folder in pairs):
        yield (
            f"TRAINING.VAL_DIR {training.VAL_DIR} is a TRAIN_DIR as well: scores on images that are trained on say "
            "little; name another folder, or '' to hold some of the training images out"
        )
    folders = [*pairs, *training.SHARP_DIRS]
    if len(training.SHARES) not in (0, len(folders)):
        yield (
            f"TRAINING.SHARES {training.SHARES}: expected one number above 0 for each of the {len(folders)} folders "
            f"{', '.join(folders)}, or [] to look at all images alike"
        )


def folders_of(folders: str | list[str]) -> list[str]:
    """What TRAIN_DIR names: one folder, several, or none."""
    return [folders] * bool(folders) if isinstance(folders, str) else folders
