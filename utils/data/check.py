"""May the data sets on disk be trained and scored on? What tools/check_data.py finds out."""
from __future__ import annotations

import hashlib
import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..images import ImageError, read_image
from ..tasks import Task
from .pairs import PairError, PairFolders, converted, find_folders, list_images, match_names
from .scenes import SAME_SCENE_BITS, perceptual_hash

ERROR, NOTE = "error", "note"

_WIDTH = 80
_SHOWN = 10
# One photograph saved twice (PNG and JPEG) differs by at most 4 of the 240 bits of its hash, measured on the images
# that BSD500 and Rain800 share; other photographs by 31 and more.
_SAME_IMAGE_BITS = 12
# Hashes of photographs that are mostly sky can be as close as two shots of one view: there the thumbnails decide. They
# correlate by 0.99 for two shots of one view in Rain800, by 0.93 and less for different views with close hashes.
_SAME_VIEW_CORRELATION = 0.95
_THUMBNAIL = 32


@dataclass(frozen=True)
class Finding:
    """One thing there is to say: an error forbids using the data, a note does not."""

    level: str  # ERROR or NOTE
    place: str  # a set, or two
    text: str
    files: Sequence[str] = ()


@dataclass(frozen=True)
class Look:
    """What one image looks like, without its pixels."""

    path: Path
    size: tuple[int, int]  # width, height
    digest: bytes  # of the pixels
    mean: float
    hash: np.ndarray
    thumbnail: np.ndarray  # standardised
    changes: tuple[str, ...]  # what was converted as it was read


@dataclass
class SetReport:
    """One set: its images as they were found."""

    name: str
    folder: str  # below the root
    published: tuple[int, ...]
    training: bool
    pairs: dict[str, tuple[Look, Look]] = field(default_factory=dict)  # name -> degraded, target; both readable
    counts: Counter[str] = field(default_factory=Counter)  # images, unpaired, unreadable, sizes, repeated
    findings: list[Finding] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.name} {'train' if self.training else 'test'}"

    def add(self, level: str, text: str, files: Iterable[str] = ()) -> None:
        self.findings.append(Finding(level, self.title, text, tuple(files)))


def examine(root: str | Path, task: Task, allow_overlap: bool = False) -> tuple[list[SetReport], list[Finding]]:
    """Every set of `task` found below `root`, and all findings: those of each set, then those between sets.

    With `allow_overlap`, scenes that training and test sets share are a note and no error.

    Raises:
        PairError: there is no such folder, or no set in it.
    """
    root = Path(root)
    known = [(name, known.folder, known.images, True) for name, known in task.train_sets.items()]
    known += [(name, known.folder, known.images, False) for name, known in task.test_sets.items()]
    reports = [SetReport(*facts) for facts in known if (root / facts[1]).is_dir()]
    if not reports:
        places = "\n  ".join(facts[1] for facts in known)
        raise PairError(f"{root}: holds no {task.name.lower()} set; looked for\n  {places}")
    for report in reports:
        _examine_set(root, report)
    findings = [finding for report in reports for finding in report.findings]
    tests = [report for report in reports if not report.training]
    for train in reports:
        if train.training:
            findings += _leaks(train, tests, NOTE if allow_overlap else ERROR)
    findings += _shared_targets(tests)
    return reports, findings


def format_report(reports: Sequence[SetReport], findings: Sequence[Finding]) -> str:
    """A table with one line per set, then errors, then notes; 80 columns unless a file name is longer."""
    header = ("Set", "Pairs", "Published", "Unpaired", "Unreadable", "Sizes differ", "Twice")
    rows: list[tuple[str, ...]] = [header]
    for report in reports:
        published = " or ".join(map(str, report.published)) or "-"
        counts = (report.counts[key] for key in ("unpaired", "unreadable", "sizes", "repeated"))
        rows.append((report.title, str(report.counts["pairs"]), published, *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    for finding in sorted(findings, key=lambda finding: finding.level != ERROR):
        text = f"{finding.level}: {finding.place}: {finding.text}"
        lines += ["", *textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False)]
        lines += [f"    {name}" for name in finding.files[:_SHOWN]]
        if len(finding.files) > _SHOWN:
            lines.append(f"    ... and {len(finding.files) - _SHOWN:,} more")
    errors = sum(finding.level == ERROR for finding in findings)
    verdict = f"not to be used as it is: {errors} error{'s' * (errors > 1)}" if errors else "may be used"
    return "\n".join([*lines, "", f"verdict: {verdict}"])


def _examine_set(root: Path, report: SetReport) -> None:
    folder = root / report.folder
    try:
        places = find_folders(folder)
    except PairError as error:
        report.add(ERROR, str(error).removeprefix(f"{folder}: "))
        return
    listed = [[list_images(side) if side.is_dir() else ([], []) for side in place[1:]] for place in places]
    inputs, targets = ([path for sides in listed for path in sides[side][0]] for side in (0, 1))
    others = [path for sides in listed for _, others in sides for path in others]
    looks, unreadable = _look_at([*inputs, *targets], report.title)

    def shown(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    matches = [match_names(degraded, sharp) for (degraded, _), (sharp, _) in listed]
    pairs = [
        (place.full_name(pair.name), pair.input, pair.target)
        for place, match in zip(places, matches, strict=True)
        for pair in match.pairs
    ]
    lonely = [path for match in matches for path in match.lonely]
    repeated_names = [path for match in matches for paths in match.repeated for path in paths]
    for name, *files in pairs:
        degraded, target = (looks.get(path) for path in files if path)
        if degraded and target:
            report.pairs[name] = (degraded, target)
    differing = [(a, b) for a, b in report.pairs.values() if a.size != b.size]
    by_input: dict[bytes, list[tuple[Look, Look]]] = defaultdict(list)
    for looked in report.pairs.values():
        by_input[looked[0].digest].append(looked)
    groups = [group for group in by_input.values() if len(group) > 1]
    repeated = [" = ".join(shown(degraded.path) for degraded, _ in group) for group in groups]
    contradicting = [
        ", ".join(shown(target.path) for _, target in group)
        for group in groups
        if len({target.digest for _, target in group}) > 1
    ]

    report.counts.update(
        pairs=len(pairs),
        unpaired=len(lonely),
        unreadable=len(unreadable),
        sizes=len(differing),
        repeated=sum(len(group) - 1 for group in groups),
    )
    if not pairs:
        report.add(ERROR, "no pairs: expected images of the same names in input/ and target/")
    if lonely:
        report.add(ERROR, f"{_count(len(lonely), 'file')} without a partner of the same name", map(shown, lonely))
    if repeated_names:
        report.add(ERROR, "files of one name but another suffix: keep one of them", map(shown, repeated_names))
    if unreadable:
        reasons = [f"{shown(path)}: {reason.removeprefix(f'{path}: ')}" for path, reason in unreadable.items()]
        report.add(ERROR, f"{_count(len(unreadable), 'file')} cannot be read", reasons)
    if differing:
        sizes = [f"{shown(a.path)} {_size(a)}, {shown(b.path)} {_size(b)}" for a, b in differing]
        report.add(ERROR, f"{_count(len(differing), 'pair')} of two sizes", sizes)
    if repeated:
        meaning = "are trained on more often than others" if report.training else "count more than once in every mean"
        report.add(NOTE, f"degraded images that are equal to the last bit; they {meaning}", repeated)
    if contradicting:
        report.add(NOTE, "equal degraded images have ground truths that differ", contradicting)
    if report.published and len(pairs) not in report.published:
        expected = " or ".join(f"{number:,}" for number in report.published)
        meaning = "" if report.training else ": scores do not compare with published ones"
        report.add(NOTE, f"{len(pairs):,} pairs where the published set has {expected}{meaning}")
    if told := converted([what for look in looks.values() for what in look.changes], len(looks)):
        report.add(NOTE, told)
    if others:
        report.add(NOTE, f"{_count(len(others), 'file')} left out, not images of a known kind", map(shown, others))
    _compare_gammas(report, places)


def _look_at(paths: Sequence[Path], title: str) -> tuple[dict[Path, Look], dict[Path, str]]:
    """What every file looks like, and why others cannot be read."""
    looks: dict[Path, Look] = {}
    failures: dict[Path, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_look, paths)
        for path, result in tqdm(
            zip(paths, results, strict=True),
            desc=title,
            total=len(paths),
            unit="image",
            dynamic_ncols=True,
            disable=None,
            leave=False,
        ):
            if isinstance(result, Look):
                looks[path] = result
            else:
                failures[path] = result
    return looks, failures


def _look(path: Path) -> Look | str:
    changes: list[str] = []
    try:
        image = read_image(path, changes)
    except ImageError as error:
        return str(error)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(gray, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    thumbnail = (thumbnail - thumbnail.mean()) / (thumbnail.std() + 1e-6)
    height, width = image.shape[:2]
    digest = hashlib.sha256(image.data).digest()
    return Look(path, (width, height), digest, float(image.mean()), perceptual_hash(image), thumbnail, tuple(changes))


def _leaks(train: SetReport, tests: Sequence[SetReport], level: str) -> list[Finding]:
    """Scenes that `train` shares with a test set."""
    findings = []
    for test in tests:
        same, near = _shared_scenes(train, test)
        both = f"{train.title} and {test.title}"
        for what, shared in (("the same photograph", same), ("nearly the same view", near)):
            if shared:
                trained, tested = ({pair[side] for pair in shared} for side in (0, 1))
                names = [f"{a} = {b}" if shared is same else f"{a} ~ {b}" for a, b in shared]
                text = (
                    f"{_count(len(tested), 'test image')} and {_count(len(trained), 'training image')} show {what}: "
                    "scores would be too good. Remove them from the training set, or run with --allow-overlap to "
                    "use both as published"
                )
                findings.append(Finding(level, both, text, names))
    return findings


def _shared_scenes(train: SetReport, test: SetReport) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(training name, test name) of the same photographs, and of nearly the same views, by their ground truths."""
    same: list[tuple[str, str]] = []
    near: list[tuple[str, str]] = []
    if not train.pairs or not test.pairs:
        return same, near
    names = list(train.pairs)
    hashes = np.stack([train.pairs[name][1].hash for name in names])
    for test_name, (_, target) in test.pairs.items():
        bits = np.bitwise_count(hashes ^ target.hash).sum(axis=1)
        for i in np.flatnonzero(bits <= SAME_SCENE_BITS):
            other = train.pairs[names[i]][1]
            if float(np.mean(other.thumbnail * target.thumbnail)) >= _SAME_VIEW_CORRELATION or (
                other.digest == target.digest
            ):
                (same if bits[i] <= _SAME_IMAGE_BITS else near).append((names[i], test_name))
    return same, near


def _shared_targets(tests: Sequence[SetReport]) -> list[Finding]:
    """Ground truths that two test sets share: no harm, but their scores are not independent."""
    findings = []
    for i, first in enumerate(tests):
        for second in tests[i + 1 :]:
            digests = [{target.digest for _, target in report.pairs.values()} for report in (first, second)]
            if count := len(digests[0] & digests[1]):
                text = f"share {_count(count, 'ground truth')}: their scores are not independent of each other"
                findings.append(Finding(NOTE, f"{first.title}, {second.title}", text))
    return findings


def _compare_gammas(report: SetReport, places: Sequence[PairFolders]) -> None:
    """GoPro comes with two kinds of blur; averaging light (blur_gamma) gives brighter images than averaging pixels."""
    gammas = {
        place.full_name(pair.name): pair.input
        for place in places
        if (folder := place.degraded.parent / "blur_gamma").is_dir() and place.sharp.is_dir()
        for pair in match_names(list_images(folder)[0], list_images(place.sharp)[0]).pairs
        if pair.input
    }
    looks, _ = _look_at([path for name, path in gammas.items() if name in report.pairs], f"{report.title}, blur_gamma")
    both = [(report.pairs[name][0], looks[path]) for name, path in gammas.items() if path in looks]
    compared = len(both)
    equal = sum(plain.digest == gamma.digest for plain, gamma in both)
    darker = sum(gamma.mean < plain.mean for plain, gamma in both)
    if not compared:
        return
    if equal:
        report.add(
            ERROR,
            f"{equal:,} of {compared:,} degraded images are those of blur_gamma; published scores are for blur",
        )
    elif darker > compared / 2:
        report.add(
            ERROR,
            f"blur and blur_gamma seem to be exchanged: blur_gamma, an average of light, is the brighter one, but here "
            f"it is darker in {darker:,} of {compared:,} images",
        )
    else:
        text = f"blur_gamma is there too ({_count(compared, 'image')}) and is not used; published scores are for blur"
        report.add(NOTE, text)


def _size(look: Look) -> str:
    return f"{look.size[0]}x{look.size[1]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
