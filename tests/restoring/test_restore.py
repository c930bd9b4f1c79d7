"""Photographs in, restored photographs out: utils.restoring.restorer and the command restore.py."""
from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data

import m3snet.Deblurring.dataset
import m3snet.Deraining.dataset
from m3snet.models import FusedM3SNet, M3SNet, load_model, save_weights
from m3snet.models.weights import WeightsError, released
from m3snet.restore import WEIGHTS, main
from m3snet.utils.cli import UserError
from m3snet.utils.images import (
    Photograph,
    read_image,
    read_photograph,
    suffix_of,
    to_tensor,
    write_image,
    write_photograph,
)
from m3snet.utils.restoring.backends import BackendError
from m3snet.utils.restoring.restorer import Restorer, RestoringError

SCRIPT = Path(__file__).parents[2] / "restore.py"
CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture
def model() -> M3SNet:
    torch.manual_seed(0)
    model = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    for name, parameter in model.named_parameters():
        # beta and gamma start at zero: the blocks would do nothing. With strong SCA it matters where means are taken.
        torch.nn.init.normal_(parameter, std=2 if ".sca." in name else 0.1)
    return model.eval()


@pytest.fixture
def weights(model: M3SNet, tmp_path: Path) -> str:
    path = tmp_path / "tiny.safetensors"
    save_weights(model, path)
    return str(path)


def exact(weights: str | Path | M3SNet, tlc: bool = True) -> Restorer:
    """The network that test.py takes."""
    return Restorer(weights, "cpu", "float32", "exact", tlc, tile=0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    write_image(path, data.astronaut()[:50, 150:221])
    return path


def test_restore_keeps_the_size_and_rounds_to_8_bits(model: M3SNet) -> None:
    image = data.astronaut()[:35, :52]
    restored = exact(model, tlc=False)(image)
    larger = np.pad(image, ((0, 13), (0, 12), (0, 0)), mode="reflect")
    with torch.no_grad():
        expected = model(to_tensor(larger))[0].permute(1, 2, 0).numpy()[:35, :52] * 255
    assert restored.dtype == np.uint8
    assert np.abs(restored - expected.clip(0, 255)).max() < 0.5 + 1e-3
    assert not np.array_equal(restored, image)


def test_restore_refuses_what_is_no_photograph(model: M3SNet) -> None:
    for image in (np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3), np.int16), np.zeros((3, 20, 20), np.uint8)):
        with pytest.raises(ValueError, match=r"expected an H x W x 3 uint8, uint16 or float32 image, found \("):
            exact(model, tlc=False)(image)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_an_error(model: M3SNet, value: float) -> None:
    torch.nn.init.constant_(model.ending.bias, value)
    with pytest.raises(RestoringError, match="the network's output is not finite"):
        exact(model, tlc=False)(data.astronaut()[:20, :20])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_out_of_memory_is_one_line_and_the_next_photograph_goes_on(
    error: Exception, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = FusedM3SNet.forward

    def small_only(model: FusedM3SNet, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] > 40:
            raise error
        return forward(model, image)

    monkeypatch.setattr(FusedM3SNet, "forward", small_only)
    photos = [tmp_path / "large.png", tmp_path / "small.png"]
    for photo, width in zip(photos, (50, 30), strict=True):
        write_image(photo, data.astronaut()[:20, :width])
    with pytest.raises(UserError, match=r"^1 restored, 1 failed$"):
        main(["rain", *map(str, photos), "-o", str(tmp_path / "out"), "--weights", weights])
    shown = capsys.readouterr()
    assert shown.err == f"error: {photos[0]}: not enough memory on cpu for 50 x 20 pixels\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.png"]


def test_other_errors_of_a_network_are_not_taken_for_that(model: M3SNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: M3SNet, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr(M3SNet, "forward", fail)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        exact(model, tlc=False)(data.astronaut())


@pytest.mark.parametrize(("channels", "said"), [(1, "1 channel;"), (4, "4 channels;")])
def test_weights_for_other_images_than_rgb_are_refused(channels: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(M3SNet(img_channel=channels, width=8, enc_blk_nums=(1, 1, 1, 1)), path)
    with pytest.raises(WeightsError, match=rf"weights\.safetensors: for images of {said} photographs have 3"):
        Restorer(path)


def test_a_network_without_anything_to_pool_is_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(M3SNet(width=8, enc_blk_nums=(0, 0), dec_blk_nums=(0, 0), ffm=False), path)
    with pytest.raises(UserError, match="M3SNet has no"):
        Restorer(path)
    Restorer(path, tlc=False)


def test_a_restorer_with_and_without_tlc(model: M3SNet, weights: str, tmp_path: Path) -> None:
    image = data.astronaut()[:64, 100:260]
    plain = exact(weights, tlc=False)(image)
    assert np.array_equal(plain, exact(model, tlc=False)(image))
    model.patch_size = 32
    save_weights(model, tmp_path / "small.safetensors")
    local = exact(tmp_path / "small.safetensors")(image)
    assert local.shape == plain.shape
    assert not np.array_equal(local, plain)
    # A window that covers the image pools all of it.
    assert np.array_equal(exact(weights)(image), plain)


def test_one_photograph_to_a_file_in_a_new_folder(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "dry.png"
    main(["rain", str(photo), "-o", str(out), "--weights", weights])
    network, line = capsys.readouterr().out.splitlines()
    assert network in ("tiny: float32, torch on cpu", "tiny: bfloat16, torch on cpu")
    assert line.startswith(f"{photo}  71x50  ")
    assert line.endswith(f" s  -> {out}")
    assert np.array_equal(read_image(out), Restorer(weights)(read_image(photo)))


def test_the_precision_is_chosen_by_what_the_processor_has(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = []
    for has, choice, taken in (
        (True, "auto", "bfloat16"),
        (False, "auto", "float32"),
        (True, "float32", "float32"),
        (False, "bfloat16", "bfloat16"),
    ):
        monkeypatch.setattr("m3snet.utils.restoring.backends.has_bfloat16", lambda _, has=has: has)
        out = tmp_path / f"{has}{choice}.png"
        main(["rain", str(photo), "-o", str(out), "--weights", weights, "--precision", choice])
        assert capsys.readouterr().out.startswith(f"tiny: {taken}, torch on cpu\n")
        restored.append(read_image(out))
    assert np.array_equal(restored[1], restored[2]) and np.array_equal(restored[0], restored[3])
    assert not np.array_equal(restored[0], restored[1])
    assert np.array_equal(restored[1], exact(weights)(read_image(photo)))  # float32 is exact


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"precision": "int8"}, "precision int8: expected auto, float32, bfloat16, float16"),
        ({"precision": "float16"}, "precision float16: not on a CPU"),
        ({"backend": "exact", "precision": "bfloat16"}, "backend exact: computes in float32 only; bfloat16 needs"),
        ({"backend": "caffe"}, "backend caffe: expected auto, exact, torch, compile"),
        ({"device": "cuda:77"}, "device cuda:77: not to be had here; the best is cpu"),
        ({"device": "toaster"}, "device toaster: not to be had here"),
    ],
)
def test_what_is_not_to_be_had_here_is_one_line(
    asked: dict[str, Any], said: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(BackendError, match=said):
        Restorer(weights, **{"device": "cpu", **asked})


def test_16_bits_stay_16_bits(model: M3SNet) -> None:
    image = data.astronaut()[:35, :52].astype(np.uint16) * 257 + 100
    restored = Restorer(model, precision="float32", padding="zeros")(image)
    with torch.no_grad():
        expected = model(torch.from_numpy(image.astype(np.float32) / 65535).permute(2, 0, 1)[None])
    assert restored.dtype == np.uint16
    assert np.abs(restored - expected[0].permute(1, 2, 0).numpy().clip(0, 1) * 65535).max() < 2
    assert len(np.unique(restored % 257)) > 200


def test_tlc_is_on_until_turned_off(weights: str, tmp_path: Path) -> None:
    image = data.astronaut()[:400]  # larger than TLC's window
    photo, out = tmp_path / "large.png", tmp_path / "out.png"
    write_image(photo, image)
    for tlc, option in ((True, []), (False, ["--no-tlc"])):
        main(["rain", str(photo), "-o", str(out), "--weights", weights, "--overwrite", *option])
        assert np.array_equal(read_image(out), Restorer(weights, tlc=tlc)(image))
    assert not np.array_equal(read_image(out), Restorer(weights)(image))


def test_several_photographs_to_a_folder_and_a_bad_one_among_them(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, last = tmp_path / "broken.png", tmp_path / "last.png"
    broken.write_bytes(b"")
    write_image(last, data.astronaut()[:20, :30])
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"^2 restored, 1 failed$"):
        main(["blur", str(photo), str(broken), str(last), "-o", str(out), "--weights", weights])
    assert sorted(path.name for path in out.iterdir()) == ["last.png", "photo.jpg"]
    assert f"{broken}: the file is empty" in capsys.readouterr().err


def test_a_comparison_shows_before_and_after(weights: str, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    main(["rain", str(photo), "-o", str(out), "--weights", weights, "--compare"])
    shown, before, after = (read_image(path) for path in (tmp_path / "out-compare.png", photo, out))
    gap = np.full((len(before), 8, 3), 255, np.uint8)
    assert np.array_equal(shown, np.hstack([before, gap, after]))
    assert not np.array_equal(before, after)


def test_a_comparison_keeps_alpha_and_profile(weights: str, tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    image = data.astronaut()[:20, :30]
    profile = read_photograph(CASES / "photo-display-p3.jpg").profile
    write_photograph(photo, Photograph(image, alpha=image[..., 0], profile=profile))
    main(["rain", str(photo), "-o", str(out), "--weights", weights, "--compare"])
    shown = read_photograph(out / "photo-compare.png")
    assert shown.profile == profile
    assert shown.alpha is not None
    assert np.array_equal(shown.alpha, np.hstack([image[..., 0], np.full((20, 8), 255, np.uint8), image[..., 0]]))


def test_an_input_is_never_overwritten(photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    other = tmp_path / "other.png"
    write_image(other, data.astronaut()[:20, :30])
    (tmp_path / "new").mkdir()
    link = tmp_path / "new" / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    for photos, out in (
        ([photo], [photo]),
        ([other], [tmp_path]),
        ([other, photo], [tmp_path / "new" / ".."]),
        ([tmp_path / "*.[jp]*g"], [link]),
    ):
        with pytest.raises(UserError, match=r"is an input, and would be overwritten"):
            main(["rain", *map(str, photos), "--overwrite", "-o", *map(str, out)])
    assert photo.read_bytes() == before


def test_a_file_that_is_there_is_overwritten_only_when_asked(weights: str, photo: Path, tmp_path: Path) -> None:
    unrelated = tmp_path / "out.png"
    unrelated.write_text("somebody's")
    command = ["rain", str(photo), "-o", str(unrelated), "--weights", weights]
    with pytest.raises(UserError, match=r"out\.png exists: choose another output, or add --overwrite"):
        main(command)
    assert unrelated.read_text() == "somebody's"
    main([*command, "--overwrite"])
    assert read_image(unrelated).shape == read_image(photo).shape


def test_a_folder_goes_on_where_it_stopped(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album, out = tmp_path / "album", tmp_path / "album" / "dry"
    for name in ("1/a.jpg", "2/b.jpg", "2/c.jpg"):
        (album / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, album / name)
    (album / "notes.txt").write_text("rain")
    broken = album / "2" / "broken.jpg"
    broken.write_bytes(b"")
    command = ["rain", str(album), "-o", str(out), "--weights", weights]
    with pytest.raises(UserError, match=r"^3 restored, 1 failed$"):
        main(command)
    shown = capsys.readouterr()
    assert shown.err == f"error: {broken}: the file is empty (0 bytes)\n"
    lines = shown.out.splitlines()
    assert lines[0] == "neither images nor videos, left out: 1"
    assert [line.split("  ")[0] for line in lines[2:]] == [str(album / n) for n in ("1/a.jpg", "2/b.jpg", "2/c.jpg")]
    shutil.copy(photo, broken)
    (out / "2" / "b.jpg").write_text("finished")
    (out / "2" / "c.jpg").unlink()
    main(command)
    assert capsys.readouterr().out.endswith("2 restored, 2 were there already\n")
    assert (out / "2" / "b.jpg").read_text() == "finished"
    main(command)
    assert capsys.readouterr().out == "neither images nor videos, left out: 1\n4 were there already\n"
    main([*command, "--overwrite"])
    assert capsys.readouterr().out.endswith("4 restored\n")
    assert read_image(out / "2" / "b.jpg").shape == read_image(photo).shape
    (out / "2" / "b.jpg").unlink()
    (out / "2" / "c.jpg").unlink()
    (out / "1" / "a.jpg").unlink()
    main(command)
    assert capsys.readouterr().out.endswith("3 restored, 1 was there already\n")
    main([*command, "--compare"])  # what is missing is added, and nothing else is written
    assert len(list(out.rglob("*-compare.jpg"))) == 4


def test_every_file_is_looked_at_a_few_times_however_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not compared with every other: of 4,000 photographs into a folder of results that took a minute."""
    for number in range(300):
        for folder in ("album", "dry"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.jpg").touch()
    stat, calls = os.stat, []
    monkeypatch.setattr(os, "stat", lambda *words, **options: calls.append(1) or stat(*words, **options))
    main(["rain", *map(str, (tmp_path / "album").iterdir()), "-o", str(tmp_path / "dry")])
    assert capsys.readouterr().out == "300 were there already\n"
    assert 300 < len(calls) < 20 * 300


def test_ctrl_c_says_how_far_it_came(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, photograph: Photograph, overwrite: bool) -> None:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        write_photograph(path, photograph, overwrite)

    monkeypatch.setattr("m3snet.restore.write_photograph", stop)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy(photo, tmp_path / name)
    with pytest.raises(KeyboardInterrupt):
        main(["rain", str(tmp_path / "[abc].jpg"), "-o", str(tmp_path / "out"), "--weights", weights])
    assert capsys.readouterr().out.endswith("1 restored, 2 left to do\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_a_file_is_counted_once_when_stopped_at_its_line(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(text: object, flush: bool = False) -> None:
        print(text)
        if "->" in str(text):
            raise KeyboardInterrupt

    monkeypatch.setattr("m3snet.restore.print", stop, raising=False)
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photo, tmp_path / name)
    with pytest.raises(KeyboardInterrupt):
        main(["rain", str(tmp_path / "[ab].jpg"), "-o", str(tmp_path / "out"), "--weights", weights])
    assert capsys.readouterr().out.endswith("1 restored, 1 left to do\n")


def test_a_full_disk_ends_it_at_once(
    weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, photograph: Photograph, overwrite: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("m3snet.restore.write_photograph", full)
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photo, tmp_path / name)
    with pytest.raises(UserError, match=r"a\.jpg: No space left on device$"):
        main(["rain", str(tmp_path / "[ab].jpg"), "-o", str(tmp_path / "out"), "--weights", weights])
    assert capsys.readouterr().out.endswith("2 left to do\n")


def piped(photo: bytes, *words: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(SCRIPT), "rain", *words]
    return subprocess.run(command, cwd=folder, input=photo, capture_output=True, check=False)


def test_a_pipe(weights: str, photo: Path, tmp_path: Path) -> None:
    image = read_image(photo)
    done = piped(photo.read_bytes(), "-", "-o", "-", "--weights", weights, folder=tmp_path)
    assert done.returncode == 0
    main(["rain", str(photo), "-o", str(tmp_path / "file.jpg"), "--weights", weights])
    assert done.stdout == (tmp_path / "file.jpg").read_bytes()
    network, line = done.stderr.decode().splitlines()
    assert network.startswith("tiny: ")
    assert line.startswith("stdin  71x50  ") and line.endswith(" s  -> stdout.jpg")

    write_image(tmp_path / "same.png", image)
    done = piped(b"", "same.png", "-o", "-", "--format", "tif", "--weights", weights, folder=tmp_path)
    (tmp_path / "got").write_bytes(done.stdout)
    assert suffix_of(tmp_path / "got") == ".tif"
    assert np.array_equal(read_image(tmp_path / "got"), Restorer(weights)(image))

    piped((tmp_path / "same.png").read_bytes(), "-", "-o", "new/dry.png", "--weights", weights, folder=tmp_path)
    assert np.array_equal(read_image(tmp_path / "new/dry.png"), Restorer(weights)(image))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-", "-o", "-"], "stdin: the file is empty (0 bytes)"),
        (["-", "b.jpg", "-o", "-"], "- stands for one photograph, in a pipe: name no other"),
        (["-", "-o", "-", "--compare"], "--compare does not go with - here"),
        (["-", "-o", "a.jpg", "--format", "png"], "--format does not go with - here"),
        (["-", "-o", "."], ". is a folder: name a file in it"),
        (["-", "-o", "there.jpg"], "there.jpg exists: choose another output, or add --overwrite"),
    ],
)
def test_a_pipe_that_cannot_be(words: list[str], said: str, weights: str, tmp_path: Path) -> None:
    (tmp_path / "there.jpg").write_text("somebody's")
    done = piped(b"", *words, "--weights", weights, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines()[-1] == f"error: {said}"


def test_a_format_for_all(weights: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["rain", str(photo), "-o", str(tmp_path / "out"), "--weights", weights, "--format"]
    main([*command, "PNG"])
    assert np.array_equal(read_image(tmp_path / "out" / "photo.png"), Restorer(weights)(read_image(photo)))
    with pytest.raises(SystemExit, match="2"):
        main([*command, "xyz"])
    assert "expected one of avif, " in capsys.readouterr().err


def test_strength_and_ensemble_reach_the_network(weights: str, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    command = ["rain", str(photo), "-o", str(out), "--weights", weights, "--overwrite"]
    main([*command, "--strength", "0"])
    assert np.array_equal(read_image(out), read_image(photo))
    main([*command, "--ensemble"])
    assert np.array_equal(read_image(out), Restorer(weights, ensemble=True)(read_image(photo)))


def test_a_forgotten_task_is_named(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(photo), "-o", "out.png"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"expected rain or blur, found {photo}: restore.py rain {photo} -o OUT" in said


def test_an_empty_name_is_no_place(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["rain", str(photo), "-o", ""])
    assert "expected a name, found an empty one" in capsys.readouterr().err


def test_what_cannot_be_written_is_said_before_the_network_works(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(M3SNet, "forward", fail)
    transparent, colour = tmp_path / "transparent.png", tmp_path / "colour.png"
    image = data.astronaut()[:20, :30]
    write_photograph(transparent, Photograph(image, alpha=image[..., 0]))
    write_image(colour, image)
    for photo, out, reason in (
        (transparent, "out.jpg", "the photograph is transparent in part, which JPEG cannot hold; use .png"),
        (colour, "out.pgm", "'.pgm' holds gray images only; use .png"),
    ):
        with pytest.raises(UserError, match=f"{out}: {reason}$"):
            main(["rain", str(photo), "-o", str(tmp_path / out), "--weights", weights])
        assert not (tmp_path / out).exists()
    with pytest.raises(UserError, match="colour\\.png: Not a directory"):
        main(["rain", str(transparent), "-o", str(colour / "out.png"), "--weights", weights])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_and_profile_come_out_as_they_went_in(suffix: str, weights: str, tmp_path: Path) -> None:
    profile = read_photograph(CASES / "photo-display-p3.jpg").profile
    image = data.astronaut()[:30, 100:140]
    photo, out = tmp_path / "photo.png", tmp_path / f"out{suffix}"
    write_photograph(photo, Photograph(image, alpha=image[..., 2], profile=profile))
    main(["rain", str(photo), "-o", str(out), "--weights", weights])
    found = read_photograph(out)
    assert found.profile == profile
    assert found.alpha is not None and np.array_equal(found.alpha, image[..., 2])
    visible = found.alpha > 0  # WebP drops colours that nobody sees
    assert np.array_equal(found.pixels[visible], Restorer(weights)(image)[visible])


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_stays_gray(channels: int, tmp_path: Path) -> None:
    photo, out = CASES / "gray-rain.png", tmp_path / "out.png"
    if channels == 3:
        photo = tmp_path / "gray.png"
        write_image(photo, read_image(CASES / "gray-rain.png"))
    main(["rain", str(photo), "-o", str(out), "--weights", "derain"])
    found = read_photograph(out)
    assert found.gray == (channels == 1)
    assert np.ptp(found.pixels, axis=2).max() == 0
    coloured = Restorer("derain")(read_image(photo))
    assert np.ptp(coloured, axis=2).max() > 5
    assert np.abs(found.pixels.astype(int) - coloured).mean() < 2


def test_what_is_asked_wrongly_is_said_before_the_network_is_loaded(photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / "photo.jpg"
    write_image(twin, data.astronaut()[:20, :30])
    missing = tmp_path / "missing.jpg"
    for photos, out, message in (
        ([photo, missing], "out", "missing.jpg: no such file"),
        ([photo, twin], "one.png", "is one file; 2 files need a folder"),
        ([photo, twin], "out", "would both be written to"),
    ):
        with pytest.raises(UserError, match=message):
            main(["rain", *map(str, photos), "-o", str(tmp_path / out), "--weights", "not there"])
    with pytest.raises(UserError, match="not there"):
        main(["rain", str(photo), "-o", str(tmp_path / "out"), "--weights", "not there"])


def test_a_suffix_says_what_out_is(weights: str, photo: Path, tmp_path: Path) -> None:
    def run(name: str) -> None:
        main(["rain", str(photo), "-o", str(tmp_path / name), "--weights", weights])

    for name in ("out.xyz", "out.v2/", "photo.gif"):
        with pytest.raises(UserError, match=r"unknown suffix; a file needs one of \.avif, .*\.png, "):
            run(name)
        assert not (tmp_path / name).exists()
    (tmp_path / "out.v2").mkdir()
    (tmp_path / "like.png").mkdir()
    (tmp_path / "taken").write_text("a file")
    for folder in ("out.v2", "like.png", "new"):
        run(folder)
        assert (tmp_path / folder / "photo.jpg").is_file()
    run("file.PNG")
    assert (tmp_path / "file.PNG").is_file()
    with pytest.raises(UserError, match="taken is a file without a suffix"):
        run("taken")


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM that could be caught")
def test_sigterm_leaves_nothing_half_written(weights: str, photo: Path) -> None:
    code = (
        "import os, signal, sys; from m3snet import restore;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGTERM);"  # the bytes are there, the name is not
        "restore.run()"
    )
    command = [sys.executable, "-c", code, "rain", photo.name, "-o", "out", "--weights", weights]
    done = subprocess.run(command, cwd=photo.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")
    assert list((photo.parent / "out").iterdir()) == []


def test_the_command_itself_from_another_folder(weights: str, photo: Path) -> None:
    command = [sys.executable, str(SCRIPT), "rain", photo.name, "-o", "out", "--weights"]
    run = partial(subprocess.run, cwd=photo.parent, capture_output=True, text=True, check=False)
    done = run([*command, weights])
    assert (done.returncode, done.stderr) == (0, "")
    assert (photo.parent / "out" / "photo.jpg").is_file()
    failed = run([*command, "nothing.pth", "--overwrite"])
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: nothing.pth: ")
    assert "Traceback" not in failed.stderr


def test_released_weights_of_the_other_task_are_warned_of(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["rain", str(photo), "-o", str(tmp_path / "rain.png"), "--weights", "deblur"])
    assert capsys.readouterr().err == "warning: deblur was trained for Deblurring, and this is Deraining\n"
    main(["blur", str(photo), "-o", str(tmp_path / "blur.png")])
    assert capsys.readouterr().err == ""


def test_the_default_weights_are_those_of_the_tasks() -> None:
    tasks = (m3snet.Deraining.dataset.TASK, m3snet.Deblurring.dataset.TASK)
    assert {task.degradation.name: task.weights for task in tasks} == WEIGHTS
    assert all(released()[task.weights]["task"] == task.name for task in tasks)


def test_a_large_photograph_is_restored_in_tiles(weights: str, tmp_path: Path) -> None:
    image = data.astronaut()[:240, :260]
    photo, out = tmp_path / "large.png", tmp_path / "out.png"
    write_image(photo, image)
    slow = load_model(weights)
    slow.patch_size = 64
    save_weights(slow, weights)
    for tile in (192, 0, 500):
        main(["rain", str(photo), "-o", str(out), "--weights", weights, "--tile", str(tile), "--overwrite"])
        assert np.array_equal(read_image(out), Restorer(weights, tile=tile)(image))
        assert np.array_equal(read_image(out), Restorer(weights, tile=0)(image)) == (tile != 192)
    with pytest.raises(UserError, match="tile 191: with these weights expected 0, or at least 192 pixels"):
        main(["rain", str(photo), "-o", str(out), "--tile", "191", "--weights", weights, "--overwrite"])


@pytest.mark.parametrize(("patch_size", "overlap"), [(128, 192), (256, 384), (None, 384)])
@pytest.mark.parametrize("tlc", [True, False])
def test_tiles_overlap_by_the_window_of_tlc(
    patch_size: int | None, overlap: int, tlc: bool, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(weights)
    model.patch_size = patch_size
    save_weights(model, weights)
    overlaps: list[int] = []

    def note(network: object, image: np.ndarray, tile: int, overlap: int, grid: int, progress: object) -> np.ndarray:
        overlaps.append(overlap)
        return image

    monkeypatch.setattr("m3snet.utils.restoring.restorer.in_tiles", note)
    restorer = Restorer(weights, tlc=tlc, tile=2 * overlap)
    assert restorer.smallest_tile == 2 * overlap
    restorer(data.astronaut())
    assert overlaps == [overlap]
