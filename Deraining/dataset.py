"""The deraining benchmarks: where each lies below DATA.ROOT, how it is scored, what the paper reports."""
from utils.tasks import Benchmark, Task

TASK = Task(
    name="Deraining",
    degradation="rain",
    protocol="y",
    weights="derain",
    test_sets={
        "Test100": Benchmark(
            "Rain13K/test/Test100", "y", {"M3SNet-32": (31.29, 0.903), "M3SNet-64": (31.25, 0.901)}
        ),
        "Rain100H": Benchmark(
            "Rain13K/test/Rain100H", "y", {"M3SNet-32": (30.64, 0.892), "M3SNet-64": (30.54, 0.889)}
        ),
        "Rain100L": Benchmark(
            "Rain13K/test/Rain100L", "y", {"M3SNet-32": (39.62, 0.984), "M3SNet-64": (40.04, 0.985)}
        ),
        "Test1200": Benchmark(
            "Rain13K/test/Test1200", "y", {"M3SNet-32": (33.46, 0.924), "M3SNet-64": (33.52, 0.925)}
        ),
        "Test2800": Benchmark("Rain13K/test/Test2800", "y", {}),
    },
)
