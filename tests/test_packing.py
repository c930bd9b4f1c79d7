"""A packed training is whole, is checked when it is unpacked, and computes there what it would have computed here."""
import hashlib
import io
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from runs import assert_same, configuration, metrics, options, train

from Deraining.config import DEFAULTS
from Deraining.dataset import TASK
from models import create_model, load_model, save_weights
from utils.checkpoint import load_checkpoint, newest_checkpoint
from utils.config import load_config
from utils.images import read_image
from utils.metrics import psnr
from utils.packing import PackError, pack
from utils.pairs import find_pairs
from utils.unpack import UnpackError, missing_packages, unpack

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = runpy.run_path(str(ROOT / "pack.py"))
LIMIT = 45_000  # bytes


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A few files that stand for the project's, without git."""
    for name in ("models/m3snet.py", "Deraining/train.py", "Deraining/__pycache__/train.pyc", "pack.py", "notes.log"):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(f"# {name}\n")
    return tmp_path / "code"


@pytest.fixture
def packed(folder: Path, code: Path, tmp_path: Path) -> Path:
    """Nine pairs in archives of at most 45 kB."""
    pack(configuration(folder, tmp_path), TASK, code, tmp_path / "packed", LIMIT)
    return tmp_path / "packed"


def manifest(packed: Path) -> dict:
    return json.loads((packed / "MANIFEST.json").read_text())


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_training_there_computes_what_it_computes_here(
    folder: Path, tmp_path: Path, fresh_process: None, capsys: pytest.CaptureFixture
) -> None:
    save_weights(create_model("M3SNet-T"), tmp_path / "start.safetensors")
    keys = {"MODEL__NAME": "M3SNet-T", "OPTIM__NUM_EPOCHS": 2, "TRAINING__EPOCH_STEPS": 1}
    keys |= {"TRAINING__WEIGHTS": tmp_path / "start.safetensors", "TRAINING__SHARP_DIRS": [str(folder / "target")] * 2}
    words = ["--out", str(tmp_path / "packed"), *options(folder, tmp_path / "here", MODEL__MODE="Deraining", **keys)]
    PROGRAM["main"](words)
    assert "python unpack.py --train" in capsys.readouterr().out
    there = tmp_path / "there"
    there.mkdir()

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-I", tmp_path / "packed/unpack.py", *words],
            cwd=there,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run()
    with (there / "m3snet/utils/recipe.py").open("a") as file:
        file.write("print('the unpacked code')\n")
    folder.rename(tmp_path / "gone")
    output = run("--train", "--", "--opts", "MODEL.SESSION", "run")
    assert "the unpacked code" in output
    assert "differ from the packed ones:\n  utils/recipe.py\n" in output
    (tmp_path / "gone").rename(folder)
    here = train(folder, tmp_path / "here", **keys)
    runs = here, there / "m3snet/checkpoints/Deraining/run"
    steps = [[(row["psnr"], row["gradient_norm"]) for row in metrics(run)] for run in runs]
    assert len(steps[0]) == 2
    assert steps[0] == steps[1]
    assert_same(*(load_checkpoint(run / "model_best.pth")["state_dict"] for run in runs))


def test_archives_are_small_unpack_alone_and_hold_every_byte(packed: Path, folder: Path, tmp_path: Path) -> None:
    archives = sorted(packed.glob("run-*.tar"))
    assert [path.name for path in archives[:2]] == ["run-00.tar", "run-01.tar"]
    assert len(archives) == len(manifest(packed)["archives"]) > 3
    for path in archives:
        assert path.stat().st_size <= LIMIT
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "by_hand", filter="data")
    unpack(packed, tmp_path / "m3snet")
    found = hashes(tmp_path / "m3snet")
    assert found == hashes(tmp_path / "by_hand")
    images = {name.removeprefix("Datasets/pairs/"): digest for name, digest in found.items() if "Datasets" in name}
    assert images == hashes(folder)
    assert found.keys() - {f"Datasets/pairs/{name}" for name in images} == {
        "models/m3snet.py", "Deraining/train.py", "pack.py", "packed.yml"
    }  # fmt: skip


def test_packing_twice_gives_the_same_bytes(packed: Path, folder: Path, code: Path, tmp_path: Path) -> None:
    for path in [*folder.rglob("*.png"), *code.rglob("*.py")]:
        os.utime(path, (0, 0))
    pack(configuration(folder, tmp_path), TASK, code, tmp_path / "again", LIMIT)
    assert hashes(packed) == hashes(tmp_path / "again")


def test_weights_are_packed_alone_and_the_run_goes_on(
    folder: Path, code: Path, tmp_path: Path, fresh_process: None
) -> None:
    keys = {"OPTIM__NUM_EPOCHS": 1, "OPTIM__WARMUP_EPOCHS": 0, "TRAINING__EPOCH_STEPS": 1, "TRAINING__VAL_DIR": folder}
    run = train(folder, tmp_path / "first", **keys)
    keys["TRAINING__WEIGHTS"] = run / "model_best.pth"
    here = tmp_path / "here"
    pack(configuration(folder, here, **keys), TASK, code, tmp_path / "from_weights", 10**7)
    unpack(tmp_path / "from_weights", tmp_path / "a")
    weights = load_model(tmp_path / "a/weights.pth")
    assert_same(dict(weights.state_dict()), dict(load_model(run / "model_best.pth").state_dict()))
    assert weights.patch_size == 32
    assert (tmp_path / "a/weights.pth").stat().st_size < 0.6 * (run / "model_best.pth").stat().st_size
    assert not (tmp_path / "a/checkpoints").exists()

    pack(configuration(folder, tmp_path / "first", **keys), TASK, code, tmp_path / "resumed", 10**7)
    unpack(tmp_path / "resumed", tmp_path / "b")
    config = load_config(DEFAULTS, tmp_path / "b/packed.yml")
    found = newest_checkpoint(tmp_path / "b" / config.TRAINING.SAVE_DIR / "Deraining" / config.MODEL.SESSION)
    assert found is not None
    assert_same(found[1]["state_dict"], load_checkpoint(run / "model_latest.pth")["state_dict"])
    assert config.TRAINING.WEIGHTS == "weights.pth"
    assert config.TRAINING.TRAIN_DIR == config.TRAINING.VAL_DIR == "Datasets/pairs"
    assert config.TRAINING.RESUME == "auto"


def test_what_is_there_stays(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    into = tmp_path / "m3snet"
    unpack(packed, into)
    (into / "packed.yml").write_text("changed")
    (into / "pack.py").unlink()
    capsys.readouterr()
    unpack(packed, into)
    assert (into / "packed.yml").read_text() == "changed"
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"1 file unpacked into {into}", "left as they are, though they differ from the packed ones:", "  packed.yml"
    ]  # fmt: skip


def test_missing_and_damaged_archives_are_named(packed: Path, tmp_path: Path) -> None:
    (packed / "run-01.tar").unlink()
    damaged = bytearray((packed / "run-02.tar").read_bytes())
    damaged[700] ^= 1
    (packed / "run-02.tar").write_bytes(damaged)
    with (packed / "run-03.tar").open("ab") as file:
        file.truncate(10_000)
    done = subprocess.run([sys.executable, packed / "unpack.py"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 1
    assert "error: 3 of" in done.stderr
    assert "run-01.tar: missing" in done.stderr
    assert "run-02.tar: damaged" in done.stderr
    assert "run-03.tar: 10,000 bytes instead of" in done.stderr
    assert "run-00" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m3snet").exists()


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "C:/evil.py", "..\\evil.py"])
@pytest.mark.parametrize("named", [True, False])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str, named: bool) -> None:
    write_archive(tmp_path, name, name if named else "good.py")
    with pytest.raises(UnpackError, match="leads outside"):
        unpack(tmp_path, tmp_path / "in/m3snet")
    assert not list(tmp_path.rglob("*evil*"))


def test_links_and_files_that_the_manifest_does_not_name_are_refused(tmp_path: Path) -> None:
    write_archive(tmp_path, "good.py", "good.py", tarfile.SYMTYPE)
    with pytest.raises(UnpackError, match=r"run-00\.tar: holds good\.py, which is no file"):
        unpack(tmp_path, tmp_path / "m3snet")
    write_archive(tmp_path, "other.py", "good.py")
    with pytest.raises(UnpackError, match=r"run-00\.tar: holds other\.py, which is no file"):
        unpack(tmp_path, tmp_path / "m3snet")
    write_archive(tmp_path, "good.py", "good.py", content=b"other")
    with pytest.raises(UnpackError, match=r"run-00\.tar: good\.py in it is not the file"):
        unpack(tmp_path, tmp_path / "m3snet")
    assert not hashes(tmp_path / "m3snet")


def write_archive(folder: Path, member: str, named: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x") -> None:
    """An archive with one member, and a manifest with the archive's hash that says it holds `named` with an x in it."""
    entry = tarfile.TarInfo(member)
    entry.type, entry.linkname, entry.size = kind, "/etc/passwd", len(content) if kind == tarfile.REGTYPE else 0
    with tarfile.open(folder / "run-00.tar", "w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    data = (folder / "run-00.tar").read_bytes()
    files = [{"name": named, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}]
    archive = {"name": "run-00.tar", "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "files": files}
    (folder / "MANIFEST.json").write_text(json.dumps({"archives": [archive]}))


def test_reencoding_says_what_it_costs_and_keeps_pairs(
    folder: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Image.open(folder / "target/3.png").save(folder / "target/3.jpg")  # this pair stays as it is
    (folder / "target/3.png").unlink()
    sharp = str(folder / "target")
    config = configuration(folder, tmp_path, TRAINING__SHARP_DIRS=sharp)
    pack(config, TASK, code, tmp_path / "packed", LIMIT, 90)
    unpack(tmp_path / "packed", tmp_path / "m3snet")
    there = tmp_path / "m3snet/Datasets/pairs"
    pairs, before = find_pairs(there), find_pairs(folder)
    assert [pair.name for pair in pairs] == [pair.name for pair in before]
    losses = {}
    for pair, original in zip(pairs, before, strict=True):
        for path, old in ((pair.input, original.input), (pair.target, original.target)):
            if pair.name == "3":
                assert path.read_bytes() == old.read_bytes()
            else:
                assert path.suffix == ".jpg"
                losses[f"Datasets/pairs/{path.parent.name}/{path.name}"] = psnr(read_image(path), read_image(old))
    stated = manifest(tmp_path / "packed")["reencoded"]
    worst = min(losses, key=losses.get)
    assert stated["images"] == len(losses) == 16
    assert stated["worst"] == worst
    assert stated["psnr_worst"] == pytest.approx(losses[worst], abs=1e-3)
    assert stated["psnr_mean"] == pytest.approx(sum(losses.values()) / 16, abs=1e-3)
    assert f"mean {stated['psnr_mean']:.2f} dB, worst {losses[worst]:.2f} dB ({worst})" in capsys.readouterr().out


def test_too_large_a_file_is_an_error_that_names_it(folder: Path, code: Path, tmp_path: Path) -> None:
    for side in ("input", "target"):
        Image.effect_noise((150, 150), 100).convert("RGB").save(folder / side / "5.png")
    (folder / "input/5.png").write_bytes((folder / "input/5.png").read_bytes() + bytes(2_000_000))
    config = configuration(folder, tmp_path)
    with pytest.raises(PackError, match=r"input/5\.png: 2\.\d MB, too large .* raise --limit-mb to 3$"):
        pack(config, TASK, code, tmp_path / "packed", LIMIT)
    assert not list(tmp_path.glob("*packed*")) + list(tmp_path.glob(".pack*"))
    with pytest.raises(PackError, match=r"pairs/input/5\.png: 0\.0 MB, too large"):
        pack(config, TASK, code, tmp_path / "packed", 10_240, 100)
    pack(config, TASK, code, tmp_path / "packed", 3_000_000)


def test_too_large_a_checkpoint_is_told_before_the_images_are_read(
    folder: Path, code: Path, tmp_path: Path, fresh_process: None
) -> None:
    train(folder, tmp_path, OPTIM__NUM_EPOCHS=1, OPTIM__WARMUP_EPOCHS=0, TRAINING__EPOCH_STEPS=1)
    (folder / "input/5.png").write_bytes(b"not an image")
    with pytest.raises(PackError, match=r"model_latest\.pth: .* or start anew there with --opts TRAINING.RESUME false"):
        pack(configuration(folder, tmp_path), TASK, code, tmp_path / "packed", LIMIT)
    (folder / "input/5.png").unlink()
    (folder / "target/5.png").unlink()
    pack(configuration(folder, tmp_path, TRAINING__RESUME="false"), TASK, code, tmp_path / "packed", LIMIT)
    unpack(tmp_path / "packed", tmp_path / "m3snet")
    assert not (tmp_path / "m3snet/checkpoints").exists()


@pytest.mark.parametrize("key", ["TRAIN_DIR", "VAL_DIR", "SHARP_DIRS"])
def test_test_sets_are_refused(folder: Path, code: Path, tmp_path: Path, key: str) -> None:
    config = configuration(folder, tmp_path, **{f"TRAINING__{key}": "Datasets/Rain13K/test/Rain100L/target"})
    with pytest.raises(PackError, match=rf"TRAINING\.{key} .*Rain100L/target: a test set"):
        pack(config, TASK, code, tmp_path / "packed", LIMIT)


def test_folders_keep_their_place_below_the_root_and_their_name_elsewhere(
    folder: Path, code: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other/target"
    other.mkdir(parents=True)
    (folder / "target/0.png").rename(other / "0.png")
    (folder / "input/0.png").rename(other / "00.png")
    sharp = [str(folder / "target"), str(other), "samples", str(folder / "target")]
    config = configuration(
        folder, tmp_path, TRAINING__SHARP_DIRS=sharp, DATA__ROOT=tmp_path / "pairs/..", OPTIM__BETA1=0.8
    )
    pack(config, TASK, code, tmp_path / "packed", LIMIT)
    unpack(tmp_path / "packed", tmp_path / "a")
    there = load_config(DEFAULTS, tmp_path / "a/packed.yml")
    assert there.TRAINING.SHARP_DIRS == [
        "Datasets/pairs/target", "Datasets/other/target", "samples", "Datasets/pairs/target"
    ]  # fmt: skip
    assert there.OPTIM.BETA1 == 0.8
    assert len(hashes(tmp_path / "a/Datasets")) == 18
    elsewhere = configuration(other, tmp_path, TRAINING__TRAIN_DIR="", TRAINING__SHARP_DIRS=sharp)
    pack(elsewhere, TASK, code, tmp_path / "packed2", LIMIT)
    unpack(tmp_path / "packed2", tmp_path / "b")
    there = load_config(DEFAULTS, tmp_path / "b/packed.yml")
    assert there.TRAINING.SHARP_DIRS == [
        "Datasets/target", "Datasets/target-2", "samples", "Datasets/target"
    ]  # fmt: skip
    assert len(hashes(tmp_path / "b/Datasets/target")) == 8
    assert len(hashes(tmp_path / "b/Datasets/target-2")) == 2


def test_a_folder_that_is_not_empty_is_left(packed: Path, folder: Path, code: Path, tmp_path: Path) -> None:
    before = hashes(packed)
    with pytest.raises(PackError, match=r"packed: is there already and not empty"):
        pack(configuration(folder, tmp_path), TASK, code, packed, LIMIT)
    assert hashes(packed) == before


def test_the_task_is_that_of_the_file_or_its_folder(tmp_path: Path) -> None:
    mode = PROGRAM["mode"]
    assert mode(str(ROOT / "Deblurring/configs/ablation/full.yml"), []) == "Deblurring"
    assert mode(str(ROOT / "Deblurring/configs/deblur_3.yml"), ["MODEL.MODE", "Deraining"]) == "Deraining"
    (tmp_path / "training.yml").write_text("MODEL: {MODE: Deblurring}")
    assert mode(str(tmp_path / "training.yml"), []) == "Deblurring"
    with pytest.raises(PackError, match=r"which task\? Add --opts MODEL\.MODE"):
        mode(None, [])


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# why\ntorch>=2.6\nno_such.package>=1\nopencv-python>=4\n")
    assert missing_packages(tmp_path / "requirements.txt") == ["no_such.package"]
