"""What the network costs: `python benchmarks/network.py [--sizes unirain unirain-base] [--rounds 5] [--compile]`.

Prints one table of counts, one of times, one of batches and one of memory. All times of a device are taken in one
process, the variants in turn, so that they can be compared with one another; each is the best of the rounds. On a CPU
they are taken by the clock with all threads, and as CPU time with one: the latter is (nearly) the same however busy the
machine is. "All experts" runs the hard decoder with k = experts: what sparsity saves. Peak memory is taken in a process
of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from large_images import forget_peak, resident
from torch.utils.flop_counter import FlopCounterMode

from modeling_unirain.configuration_unirain import NAMED_SIZES, UniRainConfig
from modeling_unirain.modeling_unirain import UniRainForImageDeraining


SIZE = 256
BATCHES = (1, 2, 4, 8)
PAPER = "paper: 24.4 M parameters, 126.5 G multiply-accumulates at 3 x 256 x 256"


@dataclass
class Variant:
    """One way to run a network; `run` takes the images."""

    size: str
    name: str
    run: Callable[[torch.Tensor], object]
    images: torch.Tensor


def build(size: str, **overrides) -> UniRainForImageDeraining:
    torch.manual_seed(0)
    return UniRainForImageDeraining(UniRainConfig.from_name(size, **overrides)).eval()


def counts(size: str) -> str:
    """Parameters, and the operations of one forward pass; the attention's products are included."""
    rows = []
    for name, overrides in (("top-1", {}), ("all experts", {"num_experts_per_tok": 3})):
        model = build(size, **overrides)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.rand(1, 3, SIZE, SIZE))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        flops = counter.get_total_flops()
        rows.append(f"| {size} | {name} | {parameters / 1e6:.2f} M | {flops / 2e9:.2f} G | {flops / 1e9:.2f} G |")
    return "\n".join(rows)


def variants(size: str, device: str, compiled: bool) -> list[Variant]:
    """The ways to run one size on one image."""
    plain, fast = build(size).to(device), build(size).to(device, memory_format=torch.channels_last)
    dense = build(size, num_experts_per_tok=3).to(device, memory_format=torch.channels_last)
    image = torch.rand(1, 3, SIZE, SIZE, device=device)
    channels_last = image.contiguous(memory_format=torch.channels_last)

    def autocast(images: torch.Tensor) -> object:
        with torch.autocast(device, torch.bfloat16):
            return fast(images)

    ways = [
        Variant(size, "fp32", plain, image),
        Variant(size, "fp32, channels_last", fast, channels_last),
        Variant(size, "fp32, channels_last, all experts", dense, channels_last),
        Variant(size, "bf16, channels_last", autocast, channels_last),
    ]
    if compiled:
        torch._dynamo.config.recompile_limit = 128  # blocks of all widths share their code; at 8 it is run uncompiled
        ways.append(Variant(size, "fp32, channels_last, compiled", torch.compile(fast), channels_last))
    return ways


def seconds(variant: Variant, device: str, clock: Callable[[], float]) -> float:
    start = clock()
    with torch.inference_mode():
        variant.run(variant.images)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def best_times(
    ways: list[Variant], device: str, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The best of `rounds` for every variant, taken in turn after one warm-up each."""
    for way in ways:
        seconds(way, device, clock)
    taken = [[seconds(way, device, clock) for way in ways] for _ in range(rounds)]
    return [min(times) for times in zip(*taken, strict=True)]


def cpu_times(ways: list[Variant], rounds: int) -> list[float]:
    """CPU seconds of the process with one thread: several threads would also count what they wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return best_times(ways, "cpu", rounds, time.process_time)
    finally:
        torch.set_num_threads(threads)


def times(sizes: list[str], device: str, rounds: int, compiled: bool) -> None:
    ways = [way for size in sizes for way in variants(size, device, compiled)]
    if device == "cpu":
        columns = {f"time, {torch.get_num_threads()} threads": best_times(ways, device, rounds)}
        columns["CPU time, 1 thread"] = cpu_times(ways, rounds)
    else:
        columns = {f"time, {torch.cuda.get_device_name()}": best_times(ways, device, rounds)}
    base = next((i for i, way in enumerate(ways) if (way.size, way.name) == ("unirain-base", "fp32")), None)
    print(f"\n## One image of {SIZE} x {SIZE} on {device}\n")
    print("| size | variant |" + "".join(f" {name} | unirain-base fp32 takes |" for name in columns))
    print("| --- | --- |" + " --- | --- |" * len(columns))
    for i, way in enumerate(ways):
        cells = [
            f" {taken[i] * 1e3:.1f} ms | " + (f"{taken[base] / taken[i]:.1f} x |" if base is not None else "- |")
            for taken in columns.values()
        ]
        print(f"| {way.size} | {way.name} |" + "".join(cells), flush=True)

    print(f"\n## Images of {SIZE} x {SIZE} per second by batch on {device}, fp32, channels_last\n")
    print("| size |" + "".join(f" {batch} |" for batch in BATCHES) + "\n| --- |" + " --- |" * len(BATCHES))
    for size in sizes:
        model = build(size).to(device, memory_format=torch.channels_last)
        batches = [
            Variant(size, str(batch), model, torch.rand(batch, 3, SIZE, SIZE, device=device)) for batch in BATCHES
        ]
        rates = [
            batch / best for batch, best in zip(BATCHES, best_times(batches, device, max(2, rounds // 2)), strict=True)
        ]
        print(f"| {size} |" + "".join(f" {rate:.2f} |" for rate in rates), flush=True)


def peak_memory(size: str, device: str) -> float:
    """MiB that one image of 512 x 512 takes beyond the loaded network; on a CPU in a process that does nothing else."""
    if device == "cuda":
        model = build(size).to(device)
        image = torch.rand(1, 3, 512, 512, device=device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            model(image)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, "--measure-memory", size]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(size: str) -> float:
    model = build(size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64))
        before = forget_peak()
        model(torch.rand(1, 3, 512, 512))
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["unirain", "unirain-base"], choices=list(NAMED_SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile (minutes)")
    parser.add_argument("--measure-memory", metavar="SIZE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        print(measure_memory(arguments.measure_memory))
        return

    print(f"## Counts at 3 x {SIZE} x {SIZE} ({PAPER})\n")
    print("| size | hard decoder | parameters | multiply-accumulates | FLOPs |\n| --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        print(counts(size), flush=True)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        times(arguments.sizes, device, arguments.rounds, arguments.compile)
        print(f"\n## Peak memory of one image of 512 x 512 on {device}, fp32, beyond the network\n")
        print("| size | MiB |\n| --- | --- |")
        for size in arguments.sizes:
            print(f"| {size} | {peak_memory(size, device):.0f} |", flush=True)


if __name__ == "__main__":
    main()
