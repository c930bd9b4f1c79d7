"""A video through a network, frame by frame; what else its file holds stays as it is."""
from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np
from tqdm import tqdm

from ..cli import UserError, warn
from ..files import check_outputs, write_atomically
from ..images.headers import check_size, max_pixels

if TYPE_CHECKING:
    from av import Packet, VideoFormat, VideoFrame, VideoStream
    from av.stream import Stream

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
EXPECTED = "expected MP4, MOV, MKV or WebM"
# What a video is encoded with, by how it came; all else becomes the first that the container takes. The quality is one
# at which a frame can hardly be told from the restored one.
ENCODERS = {
    "h264": ("libx264", {"crf": "17"}),
    "hevc": ("libx265", {"crf": "17", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", {"crf": "18", "row-mt": "1", "cpu-used": "3"}),
    "av1": ("libsvtav1", {"crf": "18", "preset": "6"}),
}
EVEN = ("libx264", "libx265")  # those that halve the chroma of even sizes only
# AVColorSpace -> the matrix by its name in PyAV
MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
LIMITED, FULL = 1, 2  # AVColorRange
HARMLESS = {"DISPLAYMATRIX", "SEI_UNREGISTERED", "VIDEO_ENC_PARAMS", "GOP_TIMECODE", "S12M_TIMECODE"}
REPORT_EVERY = 10  # seconds
MANY = 500  # packets without a frame that are kept: sound can go on for long after the last one

Restore = Callable[[np.ndarray], np.ndarray]  # H x W x 3 uint8 or uint16 RGB; the same shape and type come back
Progress = Callable[[int, "float | None"], None]  # frames done, and the share of the video that they are
T = TypeVar("T")


class VideoError(UserError):
    """A video that cannot be restored; the message names it and says why."""


@dataclass(frozen=True)
class Part:
    """What comes next in a file: packets that are copied, then a frame; where there are many packets, none."""

    packets: list[Packet]
    frame: VideoFrame | None
    image: np.ndarray | None  # the frame: H x W x 3 RGB, uint8 or, of more than 8 bits, uint16


def restore_video(
    restorer: Restore, source: Path, out: Path, progress: Progress | None = None, overwrite: bool = True
) -> int:
    """Restore every frame of `source` into `out`; returns how many there are.

    Copied: audio, subtitles and all other streams that `out` can hold, packet by packet; time stamps, rotation, pixel
    aspect, colour tags, metadata, chapters. Frames are seen as they are stored, before a player rotates them. What
    cannot be kept is said in a warning. The memory does not grow with the length. Without `progress`, frames and time
    left are shown on stderr.

    Raises:
        VideoError: PyAV is missing; not a video, damaged, interlaced, or of a kind that `out` cannot hold.
        ImageError: its frames have too many pixels.
        OutputError: `out` is `source`; or, without `overwrite`, another program has written such a file.
        OSError: `out` cannot be written, or the disk is full.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise VideoError("videos need PyAV: pip install 'm3snet[video]', with Python 3.11 or newer") from error
    if out.suffix.lower() not in CONTAINERS:
        raise VideoError(f"{out}: {EXPECTED}, found {out.suffix or 'no suffix'}")
    check_outputs([out], [source], overwrite=True)
    try:
        with source.open("rb") as file, Source(source, file) as video, closing(ahead(video.parts())) as parts:
            first = next(parts, None)
            if first is None or first.frame is None:
                raise VideoError(f"{source}: the video has no frame that can be decoded")
            with (
                write_atomically(out, overwrite) as written,
                Target(out, written, video, first.frame) as target,
                nullcontext(progress) if progress else Report(source.name) as report,
            ):
                return _restore(restorer, video, target, chain([first], parts), report)
    except av.FFmpegError as error:
        raise VideoError(f"{source}: FFmpeg gave up: {error.strerror}") from error


def _restore(restorer: Restore, video: Source, target: Target, parts: Iterable[Part], progress: Progress) -> int:
    """Every part through the network; meanwhile the next one is decoded, and the one before it encoded."""
    done = 0
    with ThreadPoolExecutor(1) as thread:
        written: Future[None] | None = None
        for part in parts:
            restored = None if part.image is None else restorer(part.image)
            if written is not None:
                written.result()
            written = thread.submit(target.write, part, restored)
            if part.frame is not None:
                done += 1
                progress(done, video.share(done, part.frame))
        if written is not None:
            written.result()
    return done


class Source:
    """The file that is read: its streams, and its parts in order."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Open a video.

        Raises:
            VideoError: it is none, or of another container.
        """
        import av

        self.path = path
        if is_cut_off(file):
            raise VideoError(f"{path}: cut off: it is shorter than it says")
        try:
            # Of the file's bytes, not by its name: nothing it names is opened, be it a playlist or an address.
            self.container = av.open(file, options={"format_whitelist": "mov,matroska"}, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"{path}: not a video, damaged, or of another kind: {EXPECTED}") from error
        videos = [stream for stream in self.container.streams.video if not is_cover(stream)]
        if not videos:
            raise VideoError(f"{path}: no video in it, only {_kinds(self.container.streams) or 'an empty file'}")
        self.stream: VideoStream = videos[0]
        if self.stream.codec_context is None:
            raise VideoError(f"{path}: no decoder for this video")
        check_size(path, self.stream.width, self.stream.height)
        # Damage is an error: it would be painted over. The size is looked at again, for every frame brings its own.
        self.stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(max_pixels())}
        self.stream.thread_type = "AUTO"
        duration, base = self.stream.duration, self.stream.time_base
        if duration and base:
            self.duration: float | None = float(duration * base)
        else:
            self.duration = self.container.duration / av.time_base if self.container.duration else None

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def share(self, done: int, frame: VideoFrame) -> float | None:
        """How much of the video `done` frames are, up to `frame`; None where the file does not say how long it is."""
        if self.stream.frames:
            return done / self.stream.frames
        return min((frame.time or 0) / self.duration, 1) if self.duration else None

    def parts(self) -> Generator[Part, None, None]:
        """Frames and packets, in the order of the file.

        Raises:
            VideoError: damage, an interlaced frame, or one of another size.
        """
        import av

        packets: list[Packet] = []
        first: VideoFrame | None = None
        waiting: set[int] = set()  # time stamps of the frames that the decoder holds
        at = here = end = 0.0  # seconds: of the last frame, of the last packet, and of all that was read
        for packet in self.container.demux():
            if packet.is_corrupt:
                raise VideoError(f"{self.path}: damaged at {clock(at)}")
            if packet.pts is not None:
                here = float(packet.pts * packet.time_base)
                end = max(end, here + float((packet.duration or 0) * packet.time_base))
            if packet.stream is not self.stream:
                if packet.size:  # the last one of a stream is empty
                    packets.append(packet)
                if first is not None and len(packets) == MANY:
                    yield Part(packets, None, None)
                    packets = []
                continue
            if packet.size and not packet.is_discard and packet.pts is not None:
                waiting.add(packet.pts)
            try:
                frames = self.stream.decode(packet)
            except av.FFmpegError as error:
                raise VideoError(f"{self.path}: damaged near {clock(here)}") from error
            for frame in frames:
                first = first or frame
                self._check(frame, first, at)
                # Before the first frame there may be some that need one before it; after it each has to come.
                waiting -= {pts for pts in waiting if pts <= first.pts or pts == frame.pts}
                self._check_none_lost({pts for pts in waiting if pts < frame.pts})
                at = frame.time
                yield Part(packets, frame, to_rgb(frame))
                packets = []
        if first is not None:
            self._check_none_lost(waiting)
        length = (self.container.duration or 0) / av.time_base
        if end < length - 1:
            raise VideoError(f"{self.path}: ends at {clock(end)} of {clock(length)}: it was cut off, or is damaged")
        if packets:
            yield Part(packets, None, None)

    def _check_none_lost(self, lost: set[int]) -> None:
        if lost:
            raise VideoError(f"{self.path}: damaged at {clock(float(min(lost) * self.stream.time_base))}")

    def _check(self, frame: VideoFrame, first: VideoFrame, at: float) -> None:
        if frame.is_corrupt:
            raise VideoError(f"{self.path}: damaged at {clock(frame.time or at)}")
        if frame.pts is None:
            raise VideoError(f"{self.path}: a frame without a time stamp after {clock(at)}")
        if frame.interlaced_frame:
            raise VideoError(f"{self.path}: interlaced: deinterlace it first (ffmpeg -i VIDEO -vf bwdif NEW)")
        now, before = ((f.width, f.height, f.format.name) for f in (frame, first))
        if now != before:
            raise VideoError(f"{self.path}: {_named(*before)} becomes {_named(*now)} at {clock(frame.time)}")


class Target:
    """The file that is written: the streams of a source, one of them encoded anew."""

    def __init__(self, out: Path, file: BinaryIO, source: Source, first: VideoFrame) -> None:
        """Open it for a video that begins with the frame `first`.

        Raises:
            VideoError: the container cannot hold the audio of the source.
        """
        import av

        self._source, self._kind = source, CONTAINERS[out.suffix.lower()]
        options = {}
        if self._kind in ("mp4", "mov"):
            if source.stream.time_base.numerator == 1:  # or the muxer chooses a finer unit
                options["video_track_timescale"] = str(source.stream.time_base.denominator)
            if any("." in key for key in source.container.metadata):  # a telephone's: com.apple.quicktime.model
                options["movflags"] = "use_metadata_tags"
        self.container = av.open(file, "w", format=self._kind, container_options=options)
        self._streams: dict[int, Stream] = {}
        lost = []
        for stream in source.container.streams:
            if stream is source.stream:
                copy: Stream = self._add_encoder(first)
            elif is_written_anew(stream):
                continue
            elif can_hold(self._kind, stream):
                copy = self.container.add_stream_from_template(stream, opaque=True)
            elif stream.type == "audio":
                codec = getattr(stream, "name", "unknown")
                raise VideoError(f"{out}: cannot hold the {codec} audio of {source.path}: write an MKV")
            else:
                lost.append(stream)
                continue
            copy.metadata.update(kept(stream.metadata))
            copy.disposition = stream.disposition
            self._streams[stream.index] = copy
        if lost:
            self._note(f"not kept, {out.suffix} cannot hold it: {_kinds(lost)}")
        self.container.metadata.update(kept(source.container.metadata))
        self.container.set_chapters(source.container.chapters())

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what the encoder still holds, and the end of the file; after an error only close it."""
        import av

        if kind is not None:
            with suppress(av.FFmpegError, OSError):  # the error that is on its way is the one to tell
                self.container.close()
            return
        self.container.mux(self._stream.encode(None))
        self.container.close()

    def write(self, part: Part, restored: np.ndarray | None) -> None:
        """Append a part, its frame restored."""
        for packet in part.packets:
            if packet.stream.index in self._streams:
                packet.stream = self._streams[packet.stream.index]
                self.container.mux(packet)
        if part.frame is None or restored is None:
            return
        frame = from_rgb(restored, self._stream.pix_fmt, part.frame)
        frame.pts, frame.time_base, frame.duration = part.frame.pts, part.frame.time_base, part.frame.duration
        self.container.mux(self._stream.encode(frame))

    def _add_encoder(self, first: VideoFrame) -> VideoStream:
        """A stream for frames like `first`, encoded as those of the source were, if that can be."""
        from av.codec.context import Flags

        stream = self._source.stream
        codec = stream.codec_context.codec.canonical_name
        name, options = encoder_for(codec, self._kind, min(first.width, first.height))
        pixels = pixel_format(name, first)
        if name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "0")  # or it talks; there is no option for it
        self._stream = copy = self.container.add_stream(name, stream.average_rate or 25, options)
        copy.width, copy.height, copy.pix_fmt = first.width, first.height, pixels
        context = copy.codec_context
        context.time_base = stream.time_base
        context.flags |= Flags.frame_duration
        context.sample_aspect_ratio = stream.sample_aspect_ratio or 0
        context.color_range = FULL if is_full_range(first) else first.color_range
        context.colorspace, context.color_trc = first.colorspace, first.color_trc
        context.color_primaries = first.color_primaries
        if name == "libx265" and self._kind in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # what Apple's players ask for
        side_data = {data.type.name: data for data in first.side_data}
        if "DISPLAYMATRIX" in side_data:
            copy.set_display_matrix(np.frombuffer(side_data["DISPLAYMATRIX"], np.int32).tolist())
        if (written := context.codec.canonical_name) != codec:
            self._note(f"{codec} becomes {written}")
        if pixels != first.format.name.replace("yuvj", "yuv"):
            self._note(f"pixel format {first.format.name} becomes {pixels}, which {name} takes")
        if lost := sorted(side_data.keys() - HARMLESS):
            self._note(f"not kept: {', '.join(lost).lower().replace('_', ' ')}")
        return copy

    def _note(self, text: str) -> None:
        warn(f"{self._source.path}: {text}")


def is_video(path: Path) -> bool:
    """Whether `path` has the suffix of a video that can be restored."""
    return path.suffix.lower() in CONTAINERS


def encoder_for(codec: str, kind: str, side: int) -> tuple[str, dict[str, str]]:
    """Name and options of the encoder for a video that came as `codec`, into a container, of frames of a least side."""
    holds = {"mp4": ("h264", "hevc", "vp9", "av1"), "mov": ("h264", "hevc"), "webm": ("vp9", "av1")}
    taken = [name for name in ENCODERS if name in holds.get(kind, ENCODERS)]
    if codec not in taken or (codec == "hevc" and side < 64):  # libx265 breaks on some smaller sizes
        codec = taken[0]
    return ENCODERS[codec]


def pixel_format(encoder: str, frame: VideoFrame) -> str:
    """The pixel format of `frame`, or what an encoder takes that is nearest to it."""
    from av import Codec
    from av.codec.codec import find_best_pix_fmt_of_list

    odd = frame.width % 2 or frame.height % 2
    taken = [
        pixels
        for pixels in Codec(encoder, "w").video_formats
        if not pixels.name.startswith("yuvj") and not any(component.is_alpha for component in pixels.components)
        if not (odd and encoder in EVEN and is_subsampled(pixels))
    ]
    best, _ = find_best_pix_fmt_of_list(taken, frame.format.name.replace("yuvj", "yuv"))
    return best.name


def is_subsampled(pixels: VideoFormat) -> bool:
    """Whether the chroma planes are smaller than the picture."""
    return pixels.chroma_width(2) < 2 or pixels.chroma_height(2) < 2


def is_full_range(frame: VideoFrame) -> bool:
    """Whether black is 0 and white the largest number; untagged frames have the limited range of television."""
    return frame.color_range == FULL or frame.format.name.startswith("yuvj")


def to_rgb(frame: VideoFrame) -> np.ndarray:
    """H x W x 3 RGB: uint8, or uint16 of a frame of more than 8 bits."""
    pixels = "rgb48le" if max(component.bits for component in frame.format.components) > 8 else "rgb24"
    matrix, numbers = _colours(frame)
    return frame.reformat(
        format=pixels, src_colorspace=matrix, src_color_range=numbers, interpolation=_exactly()
    ).to_ndarray()


def from_rgb(image: np.ndarray, pixels: str, like: VideoFrame) -> VideoFrame:
    """The inverse of `to_rgb`, with the matrix and range of the frame `like`, in a pixel format."""
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb48le" if image.dtype == np.uint16 else "rgb24")
    matrix, numbers = _colours(like)
    return frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=numbers, interpolation=_exactly())


def _colours(frame: VideoFrame) -> tuple[str, int]:
    """Matrix and range of a frame; where there is no tag, the matrix that players take for its size."""
    untagged = "ITU709" if frame.width >= 1280 or frame.height > 576 else "ITU601"
    return MATRICES.get(frame.colorspace, untagged), FULL if is_full_range(frame) else LIMITED


def _exactly() -> int:
    """How swscale is to convert; without these flags it takes the nearest chroma sample, and rounds down."""
    from av.video.reformatter import Interpolation as Flag

    return Flag.BICUBIC | Flag.ACCURATE_RND | Flag.FULL_CHR_H_INT | Flag.FULL_CHR_H_INP


def is_cut_off(file: BinaryIO) -> bool:
    """Whether a file ends within a part of it that says how long it is: a box of an MP4, the segment of a Matroska."""
    end, place = file.seek(0, io.SEEK_END), 0
    matroska = file.seek(0) == 0 and file.read(4) == b"\x1a\x45\xdf\xa3"
    while place < end:
        file.seek(place)
        name, size = _element(file) if matroska else _box(file)
        if size is None:  # up to the end, or no part at all
            break
        place += size
        if place > end and name in (b"mdat", b"moov", b"moof", b"\x18\x53\x80\x67"):
            return True
    file.seek(0)
    return False


def _box(file: BinaryIO) -> tuple[bytes, int | None]:
    """Name and size of a part of an MP4 (ISO/IEC 14496-12)."""
    size, name = int.from_bytes(file.read(4), "big"), file.read(4)
    if size == 1:
        size = int.from_bytes(file.read(8), "big")
    return name, size if size >= 8 else None


def _element(file: BinaryIO) -> tuple[bytes, int | None]:
    """Name and size of a part of a Matroska (RFC 8794): the first set bit says of how many bytes each of them is."""
    start = file.tell()
    fields = []
    for _ in range(2):
        first = file.read(1)
        if first in (b"", b"\0"):
            return b"", None
        fields.append(first + file.read(8 - first[0].bit_length()))
    name, length = fields
    bits = 7 * len(length)
    size = int.from_bytes(length, "big") & (2**bits - 1)
    return name, None if size == 2**bits - 1 else file.tell() - start + size


def can_hold(kind: str, stream: Stream) -> bool:
    """Whether a container can hold a copy of a stream; found out by a trial."""
    import av

    # Other muxers say that they take these, and write nothing, or a second video.
    if stream.type == "attachment":  # a font
        return kind == "matroska"
    if stream.type == "video":
        return kind == "mp4" and is_cover(stream)
    try:
        with av.open(io.BytesIO(), "w", format=kind) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def is_cover(stream: Stream) -> bool:
    """Whether it is a picture that stands for the file, as of a piece of music."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def is_written_anew(stream: Stream) -> bool:
    """Whether it is a track of chapters or of time codes: the muxer makes one from the metadata."""
    if stream.type != "data":
        return False
    return "timecode" in stream.metadata or (stream.name == "bin_data" and bool(stream.container.chapters()))


def kept(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata without what describes the file that it was in, which a muxer writes anew."""
    anew = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "number_of_", "_stat")
    return {key: value for key, value in metadata.items() if not key.lower().startswith(anew)}


def ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """The same items; while one is in use, a thread makes the next one."""
    with closing(items), ThreadPoolExecutor(1) as thread:
        item = thread.submit(next, items, None)
        while (made := item.result()) is not None:
            item = thread.submit(next, items, None)
            yield made


class Report:
    """Shows on stderr how far a video is: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, name: str) -> None:
        self._name, self._start = name, time.monotonic()
        self._said = self._start
        hidden = not sys.stderr.isatty()
        self._bar = tqdm(total=1, desc=name, leave=False, dynamic_ncols=True, disable=hidden, bar_format="{desc}")

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, done: int, share: float | None) -> None:
        """Tell that `done` frames are restored, a share of all; None: nobody knows of how many."""
        now = time.monotonic()
        frames = f"{done} frame{'s' * (done > 1)}"
        if self._bar.disable:
            if now - self._said >= REPORT_EVERY:
                if share:
                    left = (now - self._start) * (1 - share) / share
                    frames += f", {share:.0%}, {tqdm.format_interval(round(left))} left"
                print(f"{self._name}: {frames}", file=sys.stderr, flush=True)
                self._said = now
            return
        known = "{percentage:3.0f}%|{bar}| " if share else ""
        self._bar.bar_format = f"{{desc}}: {known}{frames} [{{elapsed}}{'<{remaining}' * bool(share)}]"
        self._bar.update((share or 0) - self._bar.n)


def clock(seconds: float) -> str:
    """m:ss.s, or h:mm:ss.s from an hour on."""
    minutes, rest = divmod(round(max(seconds, 0), 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _kinds(streams: Iterable[Stream]) -> str:
    kinds = {"another video" if stream.type == "video" else stream.type for stream in streams if not is_cover(stream)}
    return ", ".join(sorted(kinds | {"cover" for stream in streams if is_cover(stream)}))


def _named(width: int, height: int, pixels: str) -> str:
    return f"{width}x{height} {pixels}"
