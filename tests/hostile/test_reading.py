"""Damaged and malicious images, weights and archives: each is read or refused in one line, in limited memory."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Each prints {"read": count, "refused": count, "wrong": [what is neither], "peak": MiB}.
IMAGES = """
from m3snet.tests.hostile.corpus import bombs, damaged, images
from m3snet.utils.images import ImageError, look_at, read_photograph
files = images()
names = list(files)
for name, sound in files.items():
    for number in range(24):
        path = folder / f"{number} {name}"
        path.write_bytes(damaged(sound, number, files[names[number % len(names)]]))
        attempt(path, lambda: read_photograph(path).rgb(), ImageError)
        attempt(path, lambda: look_at(path), ImageError)
        path.unlink()
for name, content in bombs().items():
    path = folder / name
    path.write_bytes(content)
    refused = found["refused"]
    attempt(path, lambda: read_photograph(path), ImageError)
    if found["refused"] == refused:
        found["wrong"].append(f"{name}: read")
"""
WEIGHTS = """
import torch
from safetensors.torch import save_file
from m3snet.models import WeightsError, load_model
from m3snet.models.weights import to_published
from m3snet.tests.filled import tiny
from m3snet.tests.hostile.corpus import damaged
tensors = to_published(tiny().state_dict())
torch.save({"state_dict": tensors, "config": {"TRAINING": {"TRAIN_PS": 64}}}, folder / "new.pth")
torch.save({"state_dict": tensors}, folder / "old.pth", _use_new_zipfile_serialization=False)
save_file(tensors, folder / "safe.safetensors")
for sound in sorted(folder.iterdir()):
    content = sound.read_bytes()
    for number in range(60):
        path = sound.with_stem(f"{number}{sound.stem}")
        # Every second one is damaged where the names and shapes are.
        head = len(content) if number % 2 else 6000
        path.write_bytes(damaged(content[:head], number // 2, content) + content[head:])
        attempt(path, lambda: load_model(path), WeightsError)
        path.unlink()
"""
MALICIOUS = """
from m3snet.Deraining.test import main as test
from m3snet.models import WeightsError, load_model
from m3snet.models.weights import to_published
from m3snet.restore import main as restore
from m3snet.tests.filled import tiny
from m3snet.tests.hostile import malicious
from m3snet.tests.hostile.corpus import CASES
mark, photo, harmless = folder / "mark", CASES / "gray-rain.png", []
for number, (name, content) in enumerate(malicious.files(to_published(tiny().state_dict()), mark).items()):
    path = folder / name.replace("/", " ")
    path.write_bytes(content)
    refused = found["refused"]
    attempt(path, lambda: load_model(path), WeightsError)
    if found["refused"] == refused:
        harmless.append(path.stem)
    elif number % 20 == 0:
        weights = ["--weights", str(path)]
        attempt(path, lambda: restore(["rain", str(photo), "-o", str(folder / "out.png"), *weights]), WeightsError)
        attempt(path, lambda: test(["--results", str(folder / "results"), *weights]), WeightsError)
    path.unlink()
    if list(folder.iterdir()):
        found["wrong"].append(f"{name}: left {[path.name for path in folder.iterdir()]}")
if set(harmless) != malicious.HARMLESS:
    found["wrong"].append(f"read: {harmless}")
"""
ARCHIVES = """
import os, shutil
from m3snet.Deblurring.prepare import main as deblurring
from m3snet.Deraining.prepare import main as deraining
from m3snet.tests.hostile import archives
from m3snet.utils.data.download import ArchiveError
os.environ["M3SNET_MAX_PIXELS"] = str(10_000_000)
members = archives.sound()
root = folder / "deep" / "root"
(folder / "deep").mkdir()
harmless = set()
for name, content in archives.archives().items():
    path = folder / name
    path.write_bytes(content)
    for main, place in ((deraining, "Rain13K/train"), (deblurring, "GoPro/train")):
        refused = found["refused"]
        attempt(path, lambda: main(["--root", str(root), "--archive", str(path), "--folder", place]), ArchiveError)
        if found["refused"] == refused:
            harmless.add(name)
            unpacked = {member: (root / place / member.removeprefix("train/")).read_bytes() for member in members}
            if (unpacked != members and ".tar" not in name) or len(list((root / place / "target").iterdir())) != 4:
                found["wrong"].append(f"{name}: unpacked to something else")
            shutil.rmtree(root)
        if left := [other for other in folder.rglob("*") if other not in (path, root.parent) and other.is_file()]:
            found["wrong"].append(f"{name}: left {left}")
        shutil.rmtree(root, ignore_errors=True)
    path.unlink()
if harmless != archives.HARMLESS:
    found["wrong"].append(f"not as expected: {sorted(harmless ^ archives.HARMLESS)}")
"""
ATTEMPTS = """
import faulthandler, json, resource, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
folder, found = Path(sys.argv[1]), {"read": 0, "refused": 0, "wrong": []}

def attempt(path, work, refusal):
    faulthandler.dump_traceback_later(600, exit=True)
    try:
        work()
        found["read"] += 1
    except refusal as error:
        found["refused"] += 1
        if str(path) not in str(error) or len(str(error)) > 1500 + len(str(path)):
            found["wrong"].append(f"{path.name}: {error}")
        if any(ord(letter) < 32 and letter != "\\n" for letter in str(error)):
            found["wrong"].append(f"{path.name}: {error!r}")
    except Exception as error:
        found["wrong"].append(f"{path.name}: {error!r}")
"""
RESULT = """
faulthandler.cancel_dump_traceback_later()
found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="does not say how much memory a process took")
@pytest.mark.parametrize(
    ("attempts", "least"),
    [(IMAGES, 1800), (WEIGHTS, 180), (MALICIOUS, 360), (ARCHIVES, 280)],
    ids=["images", "damaged weights", "malicious weights", "archives"],
)
def test_damaged_files_are_read_or_refused(attempts: str, least: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS + attempts + RESULT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["read"] + found["refused"] >= least
    assert found["refused"] > least // 3
    assert found["peak"] < 1500  # MiB
