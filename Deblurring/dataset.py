"""The deblurring benchmarks: where each lies below DATA.ROOT, how it is scored, what the paper reports."""
from utils.tasks import Benchmark, Task

TASK = Task(
    name="Deblurring",
    degradation="blur",
    protocol="rgb",
    weights="deblur",
    test_sets={
        "GoPro": Benchmark("GoPro/test", "rgb", {"M3SNet-32": (32.91, 0.965), "M3SNet-64": (33.74, 0.967)}),
        "HIDE": Benchmark("HIDE/test", "rgb", {"M3SNet-32": (30.92, 0.948), "M3SNet-64": (31.49, 0.951)}),
        "RealBlur-J": Benchmark("RealBlur_J/test", "aligned", {}),
        "RealBlur-R": Benchmark("RealBlur_R/test", "aligned", {}),
        "REDS320": Benchmark("REDS320/test", "rgb", {}),
    },
)
