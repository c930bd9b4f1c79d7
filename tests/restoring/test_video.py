"""Videos through a network: utils.restoring.video. Every clip is made here."""
from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from m3snet.models import M3SNet, save_weights
from m3snet.restore import main
from m3snet.utils.cli import UserError
from m3snet.utils.files import OutputError
from m3snet.utils.images import ImageError, write_image
from m3snet.utils.restoring.restorer import Restorer
from m3snet.utils.restoring.video import CONTAINERS, Part, Report, Source, VideoError, clock, restore_video

av = pytest.importorskip("av")
os.environ.setdefault("SVT_LOG", "0")  # or it tells of the clips that are made here

PHOTOGRAPH = data.astronaut()
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)  # weights of red and blue in luma
SIZE = (64, 48)


def same(image: np.ndarray) -> np.ndarray:
    return image


def negative(image: np.ndarray) -> np.ndarray:
    return ~image


def pictures(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """A camera that pans over a photograph."""
    width, height = size
    wide = np.tile(cv2.GaussianBlur(PHOTOGRAPH, (0, 0), 1), (1 + height // 512, 2 + width // 512, 1))
    return [np.ascontiguousarray(wide[:height, i : i + width]) for i in range(count)]


def clip(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 6,
    size: tuple[int, int] = SIZE,
    pixels: str = "yuv420p",
    audio: str | None = None,
    times: Sequence[int] | None = None,
    unit: Fraction = Fraction(1, 15360),
    matrix: int = 2,
    limited: bool = True,
    **tags: Any,
) -> Path:
    """Write a clip; `times` are time stamps in `unit`s, else there are 30 frames per second."""
    quality = {"libx265": {"x265-params": "log-level=error"}, "libx264": {"crf": "10"}}.get(codec, {})
    with av.open(
        str(path), "w", format=CONTAINERS[path.suffix.lower()], container_options=tags.get("options")
    ) as container:
        container.metadata.update(tags.get("metadata", {}))
        container.set_chapters(tags.get("chapters", []))
        video = container.add_stream(codec, 30, quality)
        video.width, video.height, video.pix_fmt = *size, pixels
        context = video.codec_context
        context.time_base = unit
        context.colorspace, context.color_range = matrix, 1 if limited else 2
        for name, value in tags.get("context", {}).items():
            setattr(context, name, value)
        if "rotation" in tags:
            video.set_display_rotation(tags["rotation"])
        sound = container.add_stream(audio, 48000) if audio else None
        for number, image in enumerate(pictures(frames, size)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
                format=pixels, dst_colorspace={1: 1, 9: 9}.get(matrix, 5), dst_color_range=1 if limited else 2
            )
            frame.pts, frame.time_base = times[number] if times else number * int(1 / unit / 30), unit
            container.mux(video.encode(frame))
            if sound:
                wave = (np.sin(np.arange(1600) * 0.05 * (1 + number)) * 9000).astype(np.int16)
                heard = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], "s16", "stereo")
                heard.sample_rate, heard.pts = 48000, 1600 * number
                container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        if sound:
            container.mux(sound.encode(None))
    return path


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def packets(path: Path, kind: str = "audio") -> list[tuple[Any, ...]]:
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        return [(p.stream.index, p.pts, p.duration, bytes(p)) for p in container.demux(streams) if p.size]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    peak = np.iinfo(one.dtype).max
    return 10 * np.log10(peak**2 / np.mean((one.astype(float) - other) ** 2))


def luma(frame: Any) -> np.ndarray:
    depth = np.uint16 if "10" in frame.format.name else np.uint8
    plane = np.frombuffer(frame.planes[0], depth).reshape(frame.height, -1)
    return plane[:, : frame.width]


@pytest.mark.parametrize(
    ("name", "codec", "audio"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.m4v", "libx265", "aac"),
        ("a.mov", "libx264", "pcm_s16le"),
        ("a.mkv", "libx264", "flac"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.mkv", "libsvtav1", "libopus"),
    ],
)
def test_frames_are_restored_and_the_audio_stays_byte_for_byte(
    name: str, codec: str, audio: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = clip(tmp_path / name, codec, audio=audio, size=(80, 64))
    made = capfd.readouterr()
    out = tmp_path / "new" / name
    assert restore_video(negative, source, out, lambda *_: None) == 6
    assert len(packets(out)) >= 3
    assert packets(out) == packets(source)
    before, after = decoded(source), decoded(out)
    assert [(f.pts, f.time_base) for f in after] == [(f.pts, f.time_base) for f in before]
    for one, other in zip(before, after, strict=True):
        assert psnr(255 - one.to_ndarray(format="rgb24"), other.to_ndarray(format="rgb24")) > 30
    with av.open(str(source)) as a, av.open(str(out)) as b:
        assert a.streams.video[0].name == b.streams.video[0].name
        assert a.duration == pytest.approx(b.duration, abs=5000)  # microseconds
    assert capfd.readouterr().err == "", made  # nor do the encoders talk


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_time_stamps_of_a_variable_rate_stay(name: str, tmp_path: Path) -> None:
    times = [0, 500, 1100, 1101, 9000, 9020, 40000]
    unit = Fraction(1, 1000 if name == "a.mkv" else 600)
    options = {"video_track_timescale": "600"} if name != "a.mkv" else {}
    source = clip(tmp_path / name, frames=len(times), times=times, unit=unit, options=options)
    restore_video(same, source, out := tmp_path / f"out{source.suffix}", lambda *_: None)
    frames = decoded(out)
    assert [frame.pts for frame in frames] == times
    assert {frame.time_base for frame in frames} == {unit}
    with av.open(str(source)) as a, av.open(str(out)) as b:
        assert a.streams.video[0].duration == b.streams.video[0].duration  # how long the last frame stands


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_what_a_player_is_told_stays(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = clip(
        tmp_path / name,
        audio="aac",
        matrix=1,
        rotation=90,
        context={"sample_aspect_ratio": Fraction(4, 3), "color_trc": 1, "color_primaries": 9},
        metadata={"title": "Rain", "comment": "größer"},
        chapters=[
            {"id": 1, "start": 0, "end": 100, "time_base": Fraction(1, 1000), "metadata": {"title": "Drizzle"}},
            {"id": 2, "start": 100, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "Shower"}},
        ],
    )
    seen: list[np.ndarray] = []
    restore_video(lambda image: seen.append(image) or image, source, out := tmp_path / f"out{source.suffix}")
    assert capsys.readouterr().err == ""
    assert seen[0].shape == (SIZE[1], SIZE[0], 3)  # as stored, not as shown
    (before, *_), (after, *_) = decoded(source), decoded(out)
    assert after.rotation == before.rotation == 90
    assert bytes(after.side_data["DISPLAYMATRIX"]) == bytes(before.side_data["DISPLAYMATRIX"])
    for tag in ("colorspace", "color_range", "color_trc", "color_primaries", "width", "height"):
        assert getattr(after, tag) == getattr(before, tag)
    assert (after.colorspace, after.color_trc, after.color_primaries) == (1, 1, 9)
    with av.open(str(source)) as a, av.open(str(out)) as b:
        assert b.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert [stream.type for stream in b.streams] == [stream.type for stream in a.streams]
        assert b.metadata.get("title", b.metadata.get("TITLE")) == "Rain"
        assert b.metadata.get("comment", b.metadata.get("COMMENT")) == "größer"
        assert [chapter["metadata"]["title"] for chapter in b.chapters()] == ["Drizzle", "Shower"]
        assert [chapter["start"] for chapter in b.chapters()] == [chapter["start"] for chapter in a.chapters()]
        assert [stream.disposition for stream in b.streams] == [stream.disposition for stream in a.streams]


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize(("matrix", "weights"), [(1, BT709), (6, BT601), (5, BT601), (9, BT2020), (2, BT601)])
def test_the_network_sees_the_colours_that_the_tags_mean(
    matrix: int, weights: tuple[float, float], limited: bool, tmp_path: Path
) -> None:
    colour = np.array([200, 60, 30])
    red, blue = weights
    y = np.dot([red, 1 - red - blue, blue], colour)
    numbers = [y, (colour[2] - y) / (2 - 2 * blue), (colour[0] - y) / (2 - 2 * red)]
    scale, offset = ([219 / 255, 224 / 255, 224 / 255], [16, 128, 128]) if limited else ([1, 1, 1], [0, 128, 128])
    frame = av.VideoFrame(*SIZE, "yuv444p")
    for plane, number, times, plus in zip(frame.planes, numbers, scale, offset, strict=True):
        plane.update(np.full((plane.height, plane.line_size), round(number * times + plus), np.uint8))
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", 30, {"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1 if limited else 2
        container.mux([*stream.encode(frame), *stream.encode(None)])
    seen: list[np.ndarray] = []
    restore_video(lambda image: seen.append(image) or image, source, out := tmp_path / "out.mkv", lambda *_: None)
    assert np.abs(seen[0].astype(int) - colour).max() <= 2
    (before,), (after,) = decoded(source), decoded(out)
    assert (after.colorspace, after.color_range) == (before.colorspace, before.color_range)
    for one, other in zip(before.planes, after.planes, strict=True):
        assert np.abs(np.frombuffer(one, np.uint8).astype(int) - np.frombuffer(other, np.uint8)).max() <= 2


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("matrix", [1, 6])
def test_frames_that_a_network_leaves_alone_stay(matrix: int, limited: bool, pixels: str, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", size=(160, 120), pixels=pixels, matrix=matrix, limited=limited)
    seen: list[np.ndarray] = []
    restore_video(lambda image: seen.append(image) or image, source, out := tmp_path / "out.mp4", lambda *_: None)
    assert {image.dtype for image in seen} == {np.dtype(np.uint16 if "10" in pixels else np.uint8)}
    for before, after in zip(decoded(source), decoded(out), strict=True):
        assert after.format.name == before.format.name
        assert psnr(before.to_ndarray(format="rgb24"), after.to_ndarray(format="rgb24")) > 40
        assert abs(luma(before).mean() - luma(after).mean()) < (4 if "10" in pixels else 1)


@pytest.mark.parametrize(
    ("codec", "pixels", "size"), [("libvpx-vp9", "yuv420p", (65, 49)), ("libx264", "yuv444p", (33, 17))]
)
def test_odd_sizes_stay(codec: str, pixels: str, size: tuple[int, int], tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv", codec, size=size, pixels=pixels)
    restore_video(same, source, out := tmp_path / "out.mkv", lambda *_: None)
    for frame in decoded(out):
        assert ((frame.width, frame.height), frame.format.name) == (size, pixels)


def test_what_an_encoder_cannot_take_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = clip(tmp_path / "a.mkv", "libvpx-vp9", size=(65, 49))
    restore_video(same, source, out := tmp_path / "out.mov", lambda *_: None)
    assert capsys.readouterr().err == (
        f"warning: {source}: vp9 becomes h264\n"
        f"warning: {source}: pixel format yuv420p becomes yuv444p, which libx264 takes\n"
    )
    assert (decoded(out)[0].width, decoded(out)[0].height) == (65, 49)
    source = clip(tmp_path / "b.mkv", "mpeg4")
    restore_video(same, source, tmp_path / "b.webm", lambda *_: None)
    assert capsys.readouterr().err == f"warning: {source}: mpeg4 becomes vp9\n"


def remuxed(source: Path, path: Path, frames: bool = True, extras: bool = False) -> Path:
    """Copy a file into a Matroska file, without its frames, or with two subtitles and a font."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        copies = [write.add_stream_from_template(stream, opaque=True) for stream in read.streams]
        if extras:
            words = write.add_mux_stream("subrip")
            write.add_attachment("font.ttf", "application/x-truetype-font", b"glyphs")
        for packet in read.demux():
            if packet.size and (frames or packet.stream.type != "video"):
                packet.stream = copies[packet.stream.index]
                write.mux(packet)
        for start, text in ((0, b"It rains."), (100, b"It still rains.")) if extras else ():
            packet = av.Packet(text)
            packet.stream, packet.pts, packet.dts, packet.duration = words, start, start, 90
            packet.time_base = Fraction(1, 1000)
            write.mux(packet)
    return path


def test_subtitles_and_fonts_are_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = remuxed(clip(tmp_path / "plain.mkv", audio="libopus"), tmp_path / "a.mkv", extras=True)
    restore_video(same, source, out := tmp_path / "out.mkv", lambda *_: None)
    assert [words for *_, words in packets(source, "subtitle")] == [b"It rains.", b"It still rains."]
    assert packets(out, "subtitle") == packets(source, "subtitle")
    assert packets(out) == packets(source)
    with av.open(str(out)) as container:
        assert [(file.name, file.data) for file in container.streams.attachments] == [("font.ttf", b"glyphs")]
    assert capsys.readouterr().err == ""
    restore_video(same, source, tmp_path / "out.webm", lambda *_: None)
    said = capsys.readouterr().err.splitlines()
    assert f"warning: {source}: not kept, .webm cannot hold it: attachment, subtitle" in said


def test_sound_that_goes_on_is_copied_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3snet.utils.restoring.video.MANY", 3)
    source = clip(tmp_path / "a.mp4", frames=60, times=range(0, 15360, 256), audio="aac")  # half as long as the sound
    sizes: list[int] = []
    parts = Source.parts

    def counted(video: Source) -> Iterator[Part]:
        for part in parts(video):
            sizes.append(len(part.packets))
            yield part

    monkeypatch.setattr(Source, "parts", counted)
    restore_video(same, source, out := tmp_path / "out.mp4", lambda *_: None)
    assert packets(out) == packets(source) != []
    assert max(sizes[1:]) == 3


def test_a_cover_and_a_time_code_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        video, cover = container.add_stream("libx264", 30), container.add_stream("mjpeg")
        video.metadata["timecode"] = "01:02:03:04"
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        cover.width, cover.height, cover.pix_fmt = 40, 40, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.Packet(cv2.imencode(".jpg", PHOTOGRAPH[:40, :40])[1].tobytes())
        picture.stream, picture.pts, picture.dts, picture.time_base = cover, 0, 0, Fraction(1, 1000)
        container.mux(picture)
        for image in pictures(3, SIZE):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(video.encode(None))
    restore_video(same, source, out := tmp_path / "out.mp4", lambda *_: None)
    assert capsys.readouterr().err == ""
    assert packets(out, "data") == packets(source, "data") != []
    with av.open(str(source)) as a, av.open(str(out)) as b:
        assert [s.metadata.get("timecode") for s in b.streams] == [s.metadata.get("timecode") for s in a.streams]
        assert [s.disposition for s in b.streams] == [s.disposition for s in a.streams]
        pictures_ = [[bytes(p) for p in c.demux(c.streams[2]) if p.size] for c in (a, b)]
    assert pictures_[0] == pictures_[1] != []
    restore_video(same, source, tmp_path / "out.mkv", lambda *_: None)
    assert capsys.readouterr().err == f"warning: {source}: not kept, .mkv cannot hold it: cover\n"


def test_what_a_telephone_says_of_itself_stays(tmp_path: Path) -> None:
    said = {"com.apple.quicktime.model": "a telephone", "title": "Rain"}
    source = clip(tmp_path / "a.mov", metadata=said, options={"movflags": "use_metadata_tags"})
    restore_video(same, source, out := tmp_path / "out.mov", lambda *_: None)
    with av.open(str(out)) as container:
        assert said.items() <= container.metadata.items()


def refused(source: Path, out: Path, words: str) -> None:
    """It ends in one line, and nothing is left of it."""
    before = {path: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    with pytest.raises(VideoError, match=words) as caught:
        restore_video(same, source, out, lambda *_: None)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in source.parent.iterdir() if path.is_file()} == before


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.mp4"
    contents = {"text.mp4": b"#EXTM3U\n/etc/passwd\n", "empty.mkv": b"", "noise.mov": bytes(range(256)) * 99}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, out, rf"{name}: not a video, damaged, or of another kind: expected MP4, MOV, MKV or W")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", 48000)
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.int16), "s16", "stereo")
        heard.sample_rate = 48000
        container.mux([*stream.encode(heard), *stream.encode(None)])
    refused(sound, out, "sound.mp4: no video in it, only audio")
    none = remuxed(clip(tmp_path / "a.mkv", audio="aac"), tmp_path / "none.mkv", frames=False)
    refused(none, out, "none.mkv: the video has no frame that can be decoded")
    whole = clip(tmp_path / "whole.mp4", audio="aac")
    refused(whole, tmp_path / "out.avi", r"out.avi: expected MP4, MOV, MKV or WebM, found .avi")
    refused(whole, tmp_path / "out", r"out: expected MP4, MOV, MKV or WebM, found no suffix")
    refused(whole, tmp_path / "out.webm", r"out.webm: cannot hold the aac audio of .*whole.mp4: write an MKV")
    with pytest.raises(OutputError, match="is an input"):
        restore_video(same, whole, whole)
    monkeypatch.setenv("M3SNET_MAX_PIXELS", "3000")
    with pytest.raises(ImageError, match=r"whole.mp4: 64 x 48 pixels"):
        restore_video(same, whole, out)


def test_an_interlaced_video_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", 25, {"x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for image in pictures(4, SIZE):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    refused(source, tmp_path / "out.mp4", "a.mp4: interlaced: deinterlace it first")


@pytest.mark.parametrize(
    ("name", "codec", "spoilt", "byte"),
    [
        ("a.mp4", "libx264", 24, b"\0"),  # the decoder fails
        ("a.mp4", "libx264", 0, b"\xff"),  # it makes something up, and says so
        ("a.mp4", "libx265", 24, b"\0"),  # it leaves out the frame
        ("a.mkv", "libsvtav1", 24, b"\0"),
    ],
)
def test_damage_is_told_with_its_time(name: str, codec: str, spoilt: int, byte: bytes, tmp_path: Path) -> None:
    whole = clip(tmp_path / f"whole{name[1:]}", codec, frames=60, size=(128, 96))
    source, out = tmp_path / name, tmp_path / "out.mp4"
    with av.open(str(whole)) as read, av.open(str(source), "w") as write:
        copy = write.add_stream_from_template(read.streams[0], opaque=True)
        for number, packet in enumerate(packet for packet in read.demux() if packet.size):
            if number == spoilt:
                head = packet.size // 3
                bad = av.Packet(bytes(packet)[:head] + byte * (packet.size - head))
                bad.pts, bad.dts, bad.time_base, bad.is_keyframe = packet.pts, packet.dts, packet.time_base, not spoilt
                packet, seconds = bad, float(packet.pts * packet.time_base)
            packet.stream = copy
            write.mux(packet)
    with pytest.raises(VideoError, match=rf"{name}: damaged (at|near) 0:0\d\.\d$") as caught:
        restore_video(same, source, out, lambda *_: None)
    assert abs(float(str(caught.value)[-3:]) - seconds) < 0.5
    assert not out.exists()


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_file_that_was_cut_off_is_refused_at_once(name: str, tmp_path: Path) -> None:
    source = clip(tmp_path / name, frames=60, audio="aac")
    content = source.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 100):
        source.write_bytes(content[:length])
        refused(source, tmp_path / "out.mp4", f"{name}: cut off: it is shorter than it says")
    source.write_bytes(content + bytes(100))  # some cameras append what is no part of it
    assert restore_video(same, source, tmp_path / "out.mp4", lambda *_: None) == 60


def test_frames_that_are_missing_at_the_end_are_noticed(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv", frames=90)
    content = bytearray(source.read_bytes())
    duration = content.index(b"\x44\x89\x88") + 3
    content[duration : duration + 8] = struct.pack(">d", 30_000)  # milliseconds
    source.write_bytes(content)
    refused(source, tmp_path / "out.mp4", r"a.mkv: ends at 0:03.0 of 0:30.0: it was cut off, or is damaged")


def test_an_error_of_the_network_leaves_nothing(tmp_path: Path) -> None:
    source, out = clip(tmp_path / "a.mp4"), tmp_path / "new/out.mp4"

    def fail(image: np.ndarray) -> np.ndarray:
        raise RuntimeError("the network")

    with pytest.raises(RuntimeError, match="the network"):
        restore_video(fail, source, out)
    assert list(out.parent.iterdir()) == []
    out.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="the network"):
        restore_video(fail, source, out)
    assert out.read_bytes() == b"old"


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv", frames=40, size=(160, 120))
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from m3snet.utils.cli import run_program\n"
        "from m3snet.utils.restoring.video import restore_video\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "run_program(lambda: restore_video(lambda image: image, Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    words = [sys.executable, "-c", script, str(source), str(tmp_path / "out/out.mkv")]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {tmp_path / 'out/out.mkv'}: File too large\n"
    assert list((tmp_path / "out").iterdir()) == []


STOPPED = """
import sys, time
from pathlib import Path
from m3snet.utils.cli import run_program
from m3snet.utils.restoring.video import restore_video

def slow(image):
    print("a frame", flush=True)
    time.sleep(0.05)
    return image

run_program(lambda: restore_video(slow, Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_program_leaves_nothing(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    source, out = clip(tmp_path / "a.mkv", frames=200), tmp_path / "out/out.mkv"
    words = [sys.executable, "-c", STOPPED, str(source), str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert process.stdout.readline() == "a frame\n"
        assert len(list(out.parent.iterdir())) == 1  # the temporary file
        process.send_signal(sent)
        process.stdout.read()
        assert process.stderr.read() == ("stopped\n" if sent == signal.SIGINT else "")
    assert process.returncode == code
    assert list(out.parent.iterdir()) == []


MEMORY = """
import resource, sys
from pathlib import Path
from m3snet.utils.restoring.video import restore_video

for source in map(Path, sys.argv[1:]):
    restore_video(lambda image: image, source, source.with_name("out.mp4"), lambda *_: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_the_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    clips = [clip(tmp_path / f"{count}.mp4", frames=count, size=(320, 240), audio="aac") for count in (100, 500)]
    words = [sys.executable, "-c", MEMORY, *map(str, clips)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    short, long = (int(line) / 1024 for line in ended.stdout.split())  # MiB
    assert long - short < 15  # 400 frames more are 88 MiB of RGB


def test_the_av1_encoder_is_silent(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv", "libsvtav1")
    quiet = {name: value for name, value in os.environ.items() if name != "SVT_LOG"}
    script = MEMORY.replace("out.mp4", "out.mkv")
    ended = subprocess.run(
        [sys.executable, "-c", script, str(source)], env=quiet, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == "av1"


def test_progress(tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []
    source = clip(tmp_path / "a.mp4")
    restore_video(same, source, tmp_path / "out.mp4", lambda *state: told.append(state))
    assert told == [(number, pytest.approx(number / 6)) for number in range(1, 7)]
    told.clear()
    source = clip(tmp_path / "a.mkv", times=[0, 100, 200, 300, 900, 1000], unit=Fraction(1, 1000))
    restore_video(same, source, tmp_path / "out.mkv", lambda *state: told.append(state))  # no count: by time
    assert [share for _, share in told] == pytest.approx([0, 0.1, 0.2, 0.3, 0.9, 1], abs=0.05)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_shown_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Report("a.mp4") as report:
        for number in range(1, 51):
            now[0] += 0.5
            report(number, number / 50)
    with Report("a.mkv") as report:
        now[0] += 11
        report(1, None)
    assert capsys.readouterr().err.splitlines() == [
        "a.mp4: 20 frames, 40%, 00:15 left",
        "a.mp4: 40 frames, 80%, 00:05 left",
        "a.mkv: 1 frame",
    ]
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Report("a.mp4") as report:
        report(1, 0.5)
        report._bar.refresh()
    assert "a.mp4:  50%|" in terminal.getvalue()
    assert "| 1 frame [" in terminal.getvalue()


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.96, 61, 3600, 36061.25)] == [
        "0:00.0",
        "1:00.0",
        "1:01.0",
        "1:00:00.0",
        "10:01:01.2",
    ]


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"videos need PyAV: pip install 'm3snet\[video\]', with Python 3.11 or newer"):
        restore_video(same, tmp_path / "a.mp4", tmp_path / "out.mp4")


def test_restore_takes_videos_and_folders_that_hold_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = M3SNet(width=8, enc_blk_nums=(1, 1, 1, 1))
    save_weights(network, tmp_path / "tiny.safetensors")
    options = ["--weights", str(tmp_path / "tiny.safetensors"), "--device", "cpu", "--precision", "float32"]
    folder, out = tmp_path / "holiday", tmp_path / "dry"
    source = clip(tmp_path / "clip.MP4", frames=3, audio="aac")
    main(["rain", str(source), "-o", str(tmp_path / "clip.mkv"), *options])
    assert f"{source}  3 frames  " in capsys.readouterr().out
    assert [data for *_, data in packets(tmp_path / "clip.mkv")] == [data for *_, data in packets(source)]
    before, after = (decoded(path)[2].to_ndarray(format="rgb24") for path in (source, tmp_path / "clip.mkv"))
    # A network of random weights colours single pixels, and chroma is halved.
    assert psnr(Restorer(network, "cpu", "float32")(before), after) > psnr(before, after) + 5
    write_image(folder / "a.png", PHOTOGRAPH[:20, :30])
    (folder / "day").mkdir()
    clip(folder / "day/b.mov", frames=2)
    (folder / "broken.webm").write_bytes(b"rain")
    command = ["rain", str(folder), "-o", str(out), "--format", "jpg", "--compare", *options]
    for summary in ("2 restored, 1 failed", "2 were there already, 1 failed"):
        with pytest.raises(UserError, match=summary):
            main(command)
        assert "broken.webm: not a video, damaged, or of another kind" in capsys.readouterr().err
        files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
        assert files == ["a-compare.jpg", "a.jpg", "day/b.mov"]
    for photo, target, words in (
        (source, "out.png", r"out\.png: unknown suffix; a file needs one of \.m4v, \.mkv, \.mov, \.mp4, \.webm"),
        (folder / "a.png", "out.mp4", r"out\.mp4: unknown suffix; a file needs one of \.avif"),
        (folder, "out.mp4", r"out\.mp4 is one file; 3 files need a folder"),
        (source, "-", "a video needs names of files"),
    ):
        with pytest.raises(UserError, match=words):
            main(["rain", str(photo), "-o", target if target == "-" else str(tmp_path / target), *options])


@pytest.mark.slow
def test_ten_seconds_of_720p(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", frames=300, size=(1280, 720), audio="aac", matrix=1)
    network, seen = Restorer("derain", device="cpu"), [0]

    def restorer(image: np.ndarray) -> np.ndarray:  # the network for some frames: all would take many minutes
        seen[0] += 1
        return network(image) if seen[0] % 100 == 1 else image

    restore_video(restorer, source, out := tmp_path / "out.mp4", lambda *_: None)
    assert packets(out) == packets(source) != []
    with av.open(str(source)) as a, av.open(str(out)) as b:
        for number, (before, after) in enumerate(zip(a.decode(video=0), b.decode(video=0), strict=True)):
            assert (after.pts, after.width, after.height) == (before.pts, 1280, 720)
            one = before.to_ndarray(format="rgb24")
            expected = network(one) if number % 100 == 0 else one
            assert psnr(expected, after.to_ndarray(format="rgb24")) > 38
