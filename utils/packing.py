"""Packing a training for another machine: code, configuration, weights and images in archives of limited size.

Each archive is a plain tar that unpacks by itself; a manifest beside them has the hash of every archive and file, and
utils/unpack.py, copied there too, checks, unpacks and trains. Packed twice, the same files give the same bytes.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from tqdm import tqdm
from yacs.config import CfgNode

from models import load_model
from models.weights import released, to_published
from utils import unpack
from utils.config import save_config
from utils.images import read_image
from utils.metrics import psnr
from utils.pairs import Pair, check_pairs
from utils.provenance import code_version, sha256
from utils.recipe import training_pairs
from utils.tasks import Task
from utils.trainer import find_resume

MB = 10**6
CONFIG = "packed.yml"
_DATA = "Datasets"
_CODE = ("models", "utils", "Deblurring", "Deraining", "pretrained")  # without git: these folders, and
_BESIDE = (".py", ".toml", ".txt", ".md")  # such files beside them
# Written without loss, so that what JPEG takes away is known. WebP may be either.
_LOSSLESS = frozenset({".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})


class PackError(ValueError):
    """A training that cannot be packed; the message names the file or key and says what to do."""


@dataclass(frozen=True)
class Member:
    """A file to pack: where it goes below the unpacked folder, and where it is."""

    place: str
    source: Path
    reencode: bool = False  # as JPEG


def pack(config: CfgNode, task: Task, root: Path, out: Path, limit: int, quality: int | None = None) -> None:
    """Pack the code below `root`, the training that `config` describes and its images into `out`.

    No archive is larger than `limit` bytes. Images are packed as they are; with `quality` (1 to 100, JPEG's) pairs and
    photographs that are stored without loss are packed as JPEG, and what that costs is measured, printed and written
    into the manifest. `out` gets its name when everything is in it, not before.

    Raises:
        PackError: `out` is not empty, a folder is a test set, or a file is larger than an archive may be.
        TrainingError, PairError, CheckpointError, WeightsError: what the training itself would stop at.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PackError(f"{out}: is there already and not empty; delete it or choose another --out")
    places = data_places(config, task)
    work = out.with_name(f".packing-{out.name}")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        staged = work / ".staged"
        staged.mkdir(parents=True)
        states = _states(config, task, staged)
        save_config(packed_config(config, places, states), staged / CONFIG)
        code = [*code_members(root), Member(CONFIG, staged / CONFIG)]
        _check_sizes([*code, *states], limit)  # before minutes of reading
        print("reading every image, as the training will ...", flush=True)
        pairs, held = training_pairs(config, task, print)
        check_pairs([*dict.fromkeys([*pairs, *held])])
        print(f"{len(pairs):,} training images, {len(held):,} for validation")
        images = image_members([*pairs, *held], places, reencode=quality is not None)
        name = re.sub(r"[^\w.-]", "_", config.MODEL.SESSION)
        writer = _Writer(work, name, limit)
        progress = tqdm(total=len(images), desc=name, unit="image", dynamic_ncols=True, disable=None)
        for group in (code, states, images):  # so that new code changes the first archives alone
            for member in sorted(group, key=lambda member: member.place):
                if member.reencode and quality is not None:
                    encoded, loss = _encode(member, quality, staged)
                    writer.add(member.place, encoded, member.source, psnr=loss)
                else:
                    writer.add(member.place, member.source, member.source)
                progress.update(group is images)
            writer.close()
        progress.close()
        losses = {file["name"]: file["psnr"] for file in writer.files() if "psnr" in file}
        manifest = {
            "task": task.name,
            "config": CONFIG,
            "code": code_version(),
            "reencoded": _loss(losses, quality) if losses else None,
            "archives": writer.archives,
        }
        (work / unpack.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(unpack.__file__, work / "unpack.py")
        shutil.rmtree(staged)
        if out.is_dir():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _report(manifest, places.values(), out, quality)


def data_places(config: CfgNode, task: Task) -> dict[Path, str]:
    """The folders of images that `config` names, each with its place below the unpacked folder.

    Those below DATA.ROOT, or below one another, keep their place there; others keep their name.

    Raises:
        PackError: one of them is a test set.
    """
    training = config.TRAINING
    places: dict[Path, str] = {}
    named = [("TRAIN_DIR", training.TRAIN_DIR), ("VAL_DIR", training.VAL_DIR)]
    for key, folder in [*named, *(("SHARP_DIRS", folder) for folder in training.SHARP_DIRS if folder != "samples")]:
        if not folder:
            continue
        if task.is_test_set(folder):
            raise PackError(f"TRAINING.{key} {folder}: a test set, which no training may see; name another folder")
        path = _absolute(folder)
        above = {_absolute(config.DATA.ROOT): _DATA, **places}
        if holder := next((holder for holder in above if path.is_relative_to(holder)), None):
            place = (Path(above[holder]) / path.relative_to(holder)).as_posix()
        else:
            place, number = f"{_DATA}/{path.name}", 1
            while place in places.values():
                number += 1
                place = f"{_DATA}/{path.name}-{number}"
        places[path] = place
    return places


def packed_config(config: CfgNode, places: dict[Path, str], states: Sequence[Member]) -> CfgNode:
    """`config` with the paths that it has in the unpacked folder; a run there goes on where it stopped."""
    packed = config.clone()
    packed.defrost()
    training = packed.TRAINING

    def moved(folder: str) -> str:
        return places.get(_absolute(folder), folder) if folder else folder

    training.TRAIN_DIR, training.VAL_DIR = moved(training.TRAIN_DIR), moved(training.VAL_DIR)
    training.SHARP_DIRS = [folder if folder == "samples" else moved(folder) for folder in training.SHARP_DIRS]
    training.WEIGHTS = next((state.place for state in states if state.place == _WEIGHTS), training.WEIGHTS)
    training.SAVE_DIR, training.CACHE_DIR, training.RESUME = "checkpoints", "", "auto"
    packed.DATA.ROOT = _DATA
    packed.freeze()
    return packed


def code_members(root: Path) -> list[Member]:
    """The files below `root` that git knows, as they are now; where there is no git, the packages and scripts."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, timeout=60)
        names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    except (OSError, subprocess.SubprocessError):
        names = []
    paths: Iterable[Path] = (root / name for name in names)
    if not names:
        inside = (path for folder in _CODE for path in (root / folder).rglob("*") if "__pycache__" not in path.parts)
        paths = [*inside, *(path for path in root.iterdir() if path.suffix in _BESIDE or path.name == "LICENSE")]
    return [Member(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]


def image_members(pairs: Iterable[Pair], places: dict[Path, str], reencode: bool) -> list[Member]:
    """The images of `pairs`, each once; the bundled samples are left out, scikit-image has them.

    With `reencode`, the images of a pair become JPEG if both are stored without loss, so that what JPEG does to them
    is not what the network learns to undo.

    Raises:
        PackError: two files would get one place.
    """
    groups = [[_absolute(path) for path in (pair.input, pair.target) if path is not None] for pair in pairs]
    lossy = {path for group in groups for path in group if any(p.suffix.lower() not in _LOSSLESS for p in group)}
    members: dict[str, Member] = {}
    for path in (path for group in groups for path in group):
        folder = next((folder for folder in places if path.is_relative_to(folder)), None)
        if folder is None:
            continue
        encode = reencode and path not in lossy
        inside = path.relative_to(folder)
        place = f"{places[folder]}/{(inside.with_suffix('.jpg') if encode else inside).as_posix()}"
        member = members.setdefault(place, Member(place, path, encode))
        if member.source != path:
            raise PackError(f"{member.source} and {path} would both become {place}; rename one of their folders")
    return list(members.values())


_WEIGHTS = "weights.pth"


def _states(config: CfgNode, task: Task, staged: Path) -> list[Member]:
    """What the training starts from: the weights alone of TRAINING.WEIGHTS, and the checkpoint to resume from."""
    training, members = config.TRAINING, []
    if training.WEIGHTS and training.WEIGHTS not in released():  # those lie in pretrained/, with the code
        model = load_model(training.WEIGHTS)
        content = {"params": to_published(model.state_dict()), "config": {"TRAINING": {"TRAIN_PS": model.patch_size}}}
        torch.save(content, staged / _WEIGHTS)
        members.append(Member(_WEIGHTS, staged / _WEIGHTS))
    run = Path(training.SAVE_DIR) / task.name / config.MODEL.SESSION
    if str(training.RESUME).lower() not in ("", "false", "none"):
        found = find_resume(training.RESUME, run, print)
        if found is not None:
            path, state = found
            members.append(Member(f"checkpoints/{task.name}/{config.MODEL.SESSION}/model_latest.pth", path))
            print(f"to be resumed from {path}: {state['epoch']} of {config.OPTIM.NUM_EPOCHS} epochs done")
    return members


def _check_sizes(members: Iterable[Member], limit: int) -> None:
    for member in members:
        size = member.source.stat().st_size
        if _end(0, _entry(member.place, size)) > limit:
            raise _too_large(member.source, member.place, size, limit)


def _too_large(source: Path, place: str, size: int, limit: int) -> PackError:
    anew = ", or start anew there with --opts TRAINING.RESUME false" if place.startswith("checkpoints/") else ""
    return PackError(
        f"{source}: {size / MB:,.1f} MB, too large for an archive of {limit / MB:g} MB; "
        f"raise --limit-mb to {size // MB + 1}{anew}"
    )


def _encode(member: Member, quality: int, staged: Path) -> tuple[Path, float]:
    """The image as a JPEG file, and its PSNR in dB over RGB, at most 100."""
    image, path = read_image(member.source), staged / "image.jpg"
    # With Pillow, which takes RGB as it is. 4:4:4: rain is thin, and colour at half the resolution would smear it.
    Image.fromarray(image).save(path, quality=quality, subsampling=0)
    return path, round(min(psnr(read_image(path), image), 100.0), 3)


def _loss(losses: dict[str, float], quality: int | None) -> dict[str, Any]:
    worst = min(losses, key=lambda name: losses[name])
    return {
        "quality": quality,
        "images": len(losses),
        "psnr_mean": round(sum(losses.values()) / len(losses), 3),
        "psnr_worst": losses[worst],
        "worst": worst,
    }


class _Writer:
    """Archives NAME-00.tar, NAME-01.tar, ... in `folder`, one begun where the next file does not fit any more."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.archives: list[dict[str, Any]] = []  # as in the manifest
        self._tar: tarfile.TarFile | None = None

    def add(self, place: str, source: Path, origin: Path, **facts: Any) -> None:
        """Append `source`, piece by piece; `origin` is what it was made from, `facts` go into the manifest too."""
        with source.open("rb") as file:
            entry = _entry(place, os.fstat(file.fileno()).st_size)
            if self._tar is not None and _end(self._tar.offset, entry) > self.limit:
                self.close()
            if _end(0, entry) > self.limit:
                raise _too_large(origin, place, entry.size, self.limit)
            if self._tar is None:
                archive = f"{self.name}-{len(self.archives):02d}.tar"
                self._tar = tarfile.open(self.folder / archive, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
                self.archives.append({"name": archive, "files": []})
            reader = _HashingReader(file)
            self._tar.addfile(entry, reader)
        digest = reader.digest.hexdigest()
        self.archives[-1]["files"].append({"name": place, "size": entry.size, "sha256": digest, **facts})

    def close(self) -> None:
        """Finish the archive that is being written, if one is."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            path = self.folder / self.archives[-1]["name"]
            self.archives[-1].update(size=path.stat().st_size, sha256=sha256(path))

    def files(self) -> Iterator[dict[str, Any]]:
        """All files so far, as in the manifest."""
        return (file for archive in self.archives for file in archive["files"])


class _HashingReader:
    """Hashes a file while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        part = self.file.read(size)
        self.digest.update(part)
        return part


def _entry(place: str, size: int) -> tarfile.TarInfo:
    """A member without a date or an owner, so that archives depend on names and contents alone."""
    entry = tarfile.TarInfo(place)
    entry.size = size
    return entry


def _end(offset: int, entry: tarfile.TarInfo) -> int:
    """How large an archive that is `offset` bytes long is when `entry` has been added and it is closed."""
    block, record = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
    filled = offset + len(entry.tobuf(tarfile.PAX_FORMAT)) + -(-entry.size // block) * block
    return -(-(filled + 2 * block) // record) * record


def _absolute(path: str | Path) -> Path:
    # Links are not followed, for they bear the name.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _report(manifest: dict[str, Any], places: Iterable[str], out: Path, quality: int | None) -> None:
    archives = manifest["archives"]
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    folders = sorted({*places}, key=len, reverse=True)  # the innermost first
    for file in (file for archive in archives for file in archive["files"]):
        what = next((folder for folder in folders if file["name"].startswith(f"{folder}/")), "code and weights")
        counts[what] += 1
        sizes[what] += file["size"]
    width = max(map(len, counts))
    print(f"\n{'':{width}}   files       MB")
    for what in sorted(counts, key=lambda what: (what in folders, what)):
        print(f"{what:{width}}  {counts[what]:>6,}  {sizes[what] / MB:>7,.1f}")
    total = sum(archive["size"] for archive in archives)
    largest = max(archive["size"] for archive in archives)
    first, last = archives[0]["name"], archives[-1]["name"]
    names = f"the largest {largest / MB:,.1f} MB: {first} to {last}" if len(archives) > 1 else str(first)
    print(f"\n{len(archives)} archive{'s' * (len(archives) > 1)}, {total / MB:,.1f} MB, {names}")
    if loss := manifest["reencoded"]:
        print(
            f"{loss['images']:,} images re-encoded as JPEG of quality {quality}; PSNR to what they were:\n"
            f"  mean {loss['psnr_mean']:.2f} dB, worst {loss['psnr_worst']:.2f} dB ({loss['worst']})\n"
            "  training sees other pixels, and may split off other validation images, than here"
        )
    else:
        print("every image is packed as it is, byte for byte")
    print(f"\ncopy {out} to the other machine, and there, in that folder:\n  python unpack.py --train")
