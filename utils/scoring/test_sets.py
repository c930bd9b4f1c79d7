"""The sets of a task that are there to be scored: benchmarks, somebody's own folders, the bundled samples."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import ConfigError
from ..data.pairs import Pair, find_pairs, pair_folders
from ..data.samples import sample_pairs
from ..tasks import DATA_ROOT, Benchmark, Task

SAMPLES = "samples"  # the name of the bundled set


class TestSet(NamedTuple):
    """A set to score: its name, its pairs, and what is known of it."""

    name: str
    pairs: list[Pair]
    benchmark: Benchmark


def find_test_sets(
    task: Task, root: Path, names: Sequence[str], samples: Path, log: Callable[[str], object] = print
) -> list[TestSet]:
    """The sets called `names` (TEST.DATASETS), else all that lie below `root` (DATA.ROOT), else the bundled samples.

    A name may also be a folder, below `root` or anywhere, that holds input/ and target/. The samples, which are laid
    out in the folder of that name, stand in only where `root` is the default one.

    Raises:
        ConfigError: a name is unknown or stands for two sets, no named set is there, or none is below `root`.
        PairError: a set's folder does not hold pairs.
    """
    known = dict(task.test_sets)
    for name in names:
        if name not in known and name != SAMPLES:
            folder = next((path for path in (root / name, Path(name)) if path.is_dir()), None)
            if folder is None:
                raise ConfigError(
                    f"TEST.DATASETS {name}: neither a folder nor a test set of this task "
                    f"({', '.join([*task.test_sets, SAMPLES])})"
                )
            known[name] = Benchmark(str(folder.resolve()), task.protocol, {})
    there = [name for name in names or known if name == SAMPLES or (root / known[name].folder).is_dir()]
    if missing := [name for name in names if name not in there]:
        where = ", ".join(f"{name} ({root / known[name].folder})" for name in missing)
        if not there:
            raise ConfigError(f"not found: {where}. Set DATA.ROOT to the folder that holds them")
        log(f"not found, and skipped: {where}")
    if not there and str(root) != DATA_ROOT:
        looked = ", ".join(benchmark.folder for benchmark in known.values())
        found = f"holds none of {task.name}'s test sets" if root.is_dir() else "no such folder"
        raise ConfigError(
            f"DATA.ROOT {root}: {found} (looked for {looked}). Set it to the folder that holds them, name a folder in "
            f"TEST.DATASETS, or use the bundled samples: TEST.DATASETS {SAMPLES}"
        )
    if not there:
        log(f"no test set below {root}: restoring the bundled samples")
        there = [SAMPLES]
    # Their results and restored images would overwrite each other's.
    for name, count in Counter(Path(name).name for name in there).items():
        if count > 1:
            raise ConfigError(f"TEST.DATASETS: {count} sets are called {name}; evaluate them in runs of their own")
    return [
        _samples(task, samples)
        if name == SAMPLES
        else TestSet(Path(name).name, find_pairs(root / known[name].folder), known[name])
        for name in there
    ]


def restored_set(restored: Path, target: Path, task: Task, root: Path) -> TestSet:
    """Images that another program has restored, beside their targets, as a set; its inputs are the restored images.

    It is a benchmark where the targets are those of one below `root`: any folder may be called Rain100L.

    Raises:
        PairError: a folder or a partner is missing.
    """
    for name, benchmark in task.test_sets.items():
        if target.resolve().parent == (root / benchmark.folder).resolve():
            return TestSet(name, pair_folders(restored, target), benchmark)
    return TestSet(restored.resolve().name, pair_folders(restored, target), Benchmark(str(target), task.protocol, {}))


def _samples(task: Task, folder: Path) -> TestSet:
    return TestSet(
        SAMPLES, find_pairs(sample_pairs(task.degradation, folder)), Benchmark(str(folder), task.protocol, {})
    )
