"""Time and working memory of deraining large images, from 2 to 33 megapixels.

    python benchmarks/large_images.py [--name unirain] [--device cpu] [--memory-budget-mb 1024] [--tile 512]

Each image, an example photograph enlarged, is derained in its own process: by the released checkpoint, or by random
weights for the other sizes of the network.
Working memory is the peak of what the process holds beyond the weights, the input and the output array; on a CUDA
device also what is allocated there.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path


PHOTOGRAPH = Path(__file__).parents[1] / "examples" / "drs_moose.jpg"
SIZES = [(1920, 1080), (2560, 1440), (3840, 2160), (5120, 2880), (7680, 4320)]


def resident(field: str) -> float:
    """Of /proc/self/status, in MiB."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def forget_peak() -> float:
    """Start VmHWM, the peak of VmRSS, anew (Linux); what is resident now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def measure(width: int, height: int, arguments: argparse.Namespace) -> str:
    """One row of the table; runs in a process of its own."""
    import numpy as np
    import torch
    from PIL import Image

    from modeling_unirain import (
        UniRainConfig,
        UniRainForImageDeraining,
        UniRainImageProcessor,
        UniRainPipeline,
        load_derainer,
    )

    if arguments.name == "unirain":
        pipe = load_derainer("unirain", arguments.device).pipeline
    else:
        torch.manual_seed(0)
        config = UniRainConfig.from_name(arguments.name)
        model = UniRainForImageDeraining(config).eval().to(memory_format=torch.channels_last)
        processor = UniRainImageProcessor(size_divisor=config.size_divisor)
        pipe = UniRainPipeline(model=model, image_processor=processor, device=torch.device(arguments.device))
    options = {
        "tile": arguments.tile,
        "memory_budget": arguments.memory_budget_mb and arguments.memory_budget_mb << 20,
    }

    pipe.restore([np.zeros((64, 64, 3), np.uint8)])  # what is loaded and allocated once
    with Image.open(PHOTOGRAPH) as photograph:
        image = np.asarray(photograph.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    steps = []
    before, started = forget_peak(), time.perf_counter()
    pipe.restore([image], on_progress=lambda count, total: steps.append(count), **options)
    seconds = time.perf_counter() - started
    working = resident("VmHWM") - before - image.nbytes / 2**20
    tiles = max(len(steps) - pipe.model.config.num_routers, 1)  # a step for each router first, where there are tiles
    row = f"| {width} x {height} | {width * height / 1e6:.1f} | {tiles} | {seconds:.1f} | "
    row += f"{width * height / 1e6 / seconds:.2f} | {working:.0f} |"
    if arguments.device.startswith("cuda"):
        row += f" {torch.cuda.max_memory_allocated() / 2**20:.0f} |"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="unirain", help="one of the named sizes of the network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-budget-mb", type=int)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--only", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="measure in this process")
    arguments = parser.parse_args()
    if arguments.only:
        print(measure(*arguments.only, arguments))
        return
    cuda = " device memory (MiB) |" if arguments.device.startswith("cuda") else ""
    print(f"| image | megapixels | tiles | seconds | megapixels / s | working memory (MiB) |{cuda}")
    print("| --- " * (6 + bool(cuda)) + "|", flush=True)
    for size in SIZES:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", *map(str, size)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
