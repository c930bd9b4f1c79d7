"""What a task is: the few facts in which deblurring and deraining differ, and the configuration they share."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from yacs.config import CfgNode

DATA_ROOT = "Datasets"  # where data sets lie unless told otherwise

Degrade = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # H x W x 3 uint8 RGB, and the same comes back


@dataclass(frozen=True)
class Degradation:
    """What a task undoes, made on sharp photographs by pure functions of the photograph and a random generator."""

    name: str  # as people say it on the command line: rain, blur
    apply: Degrade  # for training: any kind, any strength
    margin: int  # pixels around a patch that shape what is inside it: a crop is degraded that much larger, then trimmed
    sample: Degrade  # for the bundled samples
    visible: tuple[float, float]  # dB of a degraded sample: plainly visible, and yet not hopeless


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where it lies below DATA.ROOT, how it is scored, and what the paper reports."""

    folder: str  # holds input/ and target/
    protocol: str  # a key of utils.scoring.metrics.PROTOCOLS
    paper: Mapping[str, tuple[float, float]]  # network size -> (PSNR, SSIM)
    images: tuple[int, ...] = ()  # how many pairs the published set has, every count in use; (): none is published


@dataclass(frozen=True)
class TrainingSet:
    """One training set: where it lies below DATA.ROOT, and how many pairs the published one has."""

    folder: str  # holds input/ and target/
    images: tuple[int, ...] = ()  # as in Benchmark


@dataclass(frozen=True)
class Task:
    """A restoration task, as the training and evaluation programs need to know it."""

    name: str  # MODEL.MODE: Deblurring or Deraining
    degradation: Degradation  # for sharp photographs without a degraded partner
    protocol: str  # how validation images are scored
    weights: str  # the released weights that test.py uses unless told otherwise
    test_sets: Mapping[str, Benchmark]
    train_sets: Mapping[str, TrainingSet] = field(default_factory=dict)

    def is_test_set(self, folder: str | Path) -> bool:
        """Whether a folder holds test images of a known benchmark, as far as its path tells; it need not exist.

        It does when it lies where docs/data.md puts them (GoPro/test, Rain13K/test/NAME), or is called after a set
        (Rain100L, RealBlur-J, HIDE_test), which may be followed by test, input or target. Folders of train or val
        images below do not, nor does any other folder called test: it is somebody's own.
        """
        # Absolute, for "test" alone may be GoPro/test; links are not followed, for they bear the name.
        path = Path(os.path.abspath(folder)).as_posix().lower()  # noqa: PTH100
        path = re.sub(r"(/(input|target|blur|sharp))?/?$", "", path)
        folders = {PurePosixPath(benchmark.folder.lower()) for benchmark in self.test_sets.values()}
        for place in folders | {place.parent for place in folders if len(place.parts) > 2}:  # Rain13K/test itself too
            _, found, below = f"{path}/".partition(f"/{place}/")
            if found:
                return not re.search(r"(^|/)(train|val)", below)
        last = re.sub(r"[-_ ]", "", PurePosixPath(path.removesuffix("/test")).name)
        names = (re.sub(r"[-_ ]", "", name.lower()) for name in self.test_sets)
        return any(last in (name, f"test{name}", f"{name}test") for name in names)


def default_config(mode: str) -> CfgNode:
    """The keys both tasks share. Upper half: those of MPRNet's and the published files; the rest is this project's."""
    config = CfgNode()
    config.GPU = [0]  # CUDA devices this run may see, counted within CUDA_VISIBLE_DEVICES; []: all

    config.MODEL = CfgNode()
    config.MODEL.MODE = mode
    config.MODEL.SESSION = "m3snet32"  # name of the run
    config.MODEL.NAME = "M3SNet-32"  # a size in models.SIZES
    config.MODEL.FFM = True  # false: plain skips (ablation)
    config.MODEL.MHAMB = True  # false: a NAFBlock as bridge (ablation)
    config.MODEL.ENC_BLK_NUMS = []  # NAFBlocks of each encoder level, finest first; []: those of NAME

    config.OPTIM = CfgNode()
    config.OPTIM.NAME = "Adam"  # or AdamW
    config.OPTIM.BATCH_SIZE = 32  # images per optimizer step, over all processes
    config.OPTIM.ACCUMULATE = 1  # parts each process cuts its share of the batch into, to save memory
    config.OPTIM.NUM_EPOCHS = 8000
    config.OPTIM.WARMUP_EPOCHS = 3
    config.OPTIM.LR_INITIAL = 1e-3
    config.OPTIM.LR_MIN = 1e-6
    config.OPTIM.BETA1 = 0.9
    config.OPTIM.BETA2 = 0.999
    config.OPTIM.WEIGHT_DECAY = 0.0
    config.OPTIM.CLIP_NORM = 0.0  # largest gradient norm; 0: no clipping
    config.OPTIM.LOSS_EPS = 1e-8  # the loss is 10 log10(MSE + LOSS_EPS); 1e-4 keeps clean patches from ruling a batch

    config.TRAINING = CfgNode()
    config.TRAINING.VAL_AFTER_EVERY = 20  # epochs
    config.TRAINING.RESUME = "auto"  # auto: go on where SESSION stopped, if it did; a path; or false
    config.TRAINING.TRAIN_PS = 256
    config.TRAINING.VAL_PS = 256
    config.TRAINING.TRAIN_DIR = ""  # a folder that holds input/ and target/, or a list of such; "": none
    config.TRAINING.VAL_DIR = ""  # "": validation images are split from the training images, by scene
    config.TRAINING.SAVE_DIR = "./checkpoints"
    config.TRAINING.SAVE_IMAGES = False  # write the restored validation images at every validation

    config.TRAINING.SHARP_DIRS = []  # folders of sharp photographs, degraded on the fly; "samples": the bundled ones
    # How much of the patches comes from each folder of TRAIN_DIR and then of SHARP_DIRS, e.g. [3, 1]: three quarters
    # from the first. []: all images are looked at alike.
    config.TRAINING.SHARES = []
    config.TRAINING.TRAIN_ON_TEST_SET = False  # use a TRAIN_DIR or SHARP_DIRS that is a test set: no honest score then
    config.TRAINING.WEIGHTS = ""  # start from these weights (a file or a released name): fine-tuning
    config.TRAINING.WIDEN = 0  # how many times to double the channels of WEIGHTS first; the function stays the same
    config.TRAINING.VAL_COUNT = 64  # images split from the training set for validation
    config.TRAINING.VAL_ON_TEST_SET = False  # use a VAL_DIR that is a test set: scores on it are then no test scores
    config.TRAINING.EPOCH_STEPS = 0  # optimizer steps in one epoch; 0: one pass over the training images
    config.TRAINING.SEED = 1234  # of the first weights, the patches, their degradation and their order
    config.TRAINING.VAL_SEED = 1234  # of which images are held out, and their degradation: runs of all SEEDs compare
    config.TRAINING.NUM_WORKERS = 8
    config.TRAINING.CACHE = "none"  # ram: decoded images in memory; disk: in files that all processes map
    config.TRAINING.CACHE_DIR = ""  # where CACHE disk keeps them; "": in SAVE_DIR/cache
    config.TRAINING.PRECISION = "fp32"  # or bf16, fp16
    config.TRAINING.EMA_DECAY = 0.0  # e.g. 0.999: validate and release an exponential moving average of the weights
    config.TRAINING.CHECKPOINT_EVERY = 100  # epochs between numbered checkpoints
    config.TRAINING.KEEP = 3  # numbered checkpoints that stay
    config.TRAINING.SAVE_STEPS = 0  # steps between savings of the latest checkpoint; 0: after every epoch
    config.TRAINING.LOG_EVERY = 50  # steps
    config.TRAINING.NONFINITE_LIMIT = 1  # skipped steps in a row (loss or gradient not finite) before the run stops
    config.TRAINING.AUTO_BATCH = False  # raise OPTIM.ACCUMULATE until a step fits into the GPU's memory
    config.TRAINING.GRAD_CHECKPOINTING = False  # recompute blocks in the backward pass: less memory, a third slower
    config.TRAINING.COMPILE = False  # torch.compile, where it works
    config.TRAINING.OVERFIT = 0  # learn only this many fixed patches: a check of the whole loop, they must reach 40 dB
    config.TRAINING.WANDB = ""  # name of a Weights & Biases project to log to as well (pip install wandb)

    config.DATA = CfgNode()
    config.DATA.ROOT = DATA_ROOT  # where test sets lie

    config.TEST = CfgNode()
    config.TEST.DATASETS = []  # names of the task's test sets; []: all that are there
    config.TEST.REPORT = False  # write a page with before/after sliders, report.html
    # Out of lpips, lpips-vgg, dists, niqe. They need pyiqa (pip install -e '.[perceptual]'), whose licence is
    # non-commercial and which downloads the weights of each at first use.
    config.TEST.PERCEPTUAL = []
    config.TEST.TLC = True  # test-time local converter, for the patch size TRAIN_PS
    return config
