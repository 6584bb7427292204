"""What a step of the training loop costs beyond forward, backward and the optimizer's step.

    python benchmarks/training_loop.py [--model unirain] [--patch_size 128] [--batch_size 8] [--steps 20] [--bf16]

Times the loop's own step (objective, router balance, clipping, finiteness, average, log) and a bare one on the same
network and batch, in turns, in one process; then a checkpoint and the picture of a round.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from modeling_unirain.training.arguments import Arguments, ModelArguments, TrainingArguments
from modeling_unirain.training.loop import Trainer
from modeling_unirain.training.optimizer import build_optimizer
from modeling_unirain.training.start import build_accelerator, build_model


class NoisePairs:
    """Stands for the data, whose cost is measured elsewhere: the loop prints its own share of waiting."""

    types = ["DRS", "DRD", "NRS", "NRD"]


def batch_of(size: int, patch: int, device: torch.device) -> dict:
    clean = torch.rand(size, 3, patch, patch, device=device)
    return {
        "pixel_values": (clean + 0.1 * torch.rand_like(clean)).clamp(max=1),
        "labels": clean,
        "rain_type": torch.arange(size, device=device) % 4,
        "name": ["noise"] * size,
    }


def timed(accelerator, step) -> float:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    step()
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unirain")
    parser.add_argument("--patch_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        training = TrainingArguments(
            output_dir=folder, mixed_precision="bf16" if options.bf16 else "no", save_minutes=None, warmup_steps=10
        )
        arguments = Arguments(ModelArguments(options.model), training=training)
        accelerator = build_accelerator(training)
        trainer = Trainer(arguments, accelerator, build_model(arguments.model, {}, 0), NoisePairs(), [])
        trainer._start()
        bare = build_model(arguments.model, {}, 0).to(accelerator.device, memory_format=torch.channels_last).train()
        optimizer = build_optimizer(bare, training)
        batch = batch_of(options.batch_size, options.patch_size, accelerator.device)
        bar = tqdm(disable=True)

        def bare_step() -> None:
            pixel_values = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
            with accelerator.autocast():
                reconstruction = bare(pixel_values).reconstruction
            (reconstruction.float() - batch["labels"]).abs().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        times: dict[str, list[float]] = {"bare step": [], "step of the loop": []}
        for number in tqdm(range(options.steps + 2), desc="steps"):
            pair = timed(accelerator, bare_step), timed(accelerator, lambda: trainer._step([dict(batch)], 0.0, bar))
            if number >= 2:
                for name, milliseconds in zip(times, pair, strict=True):
                    times[name].append(milliseconds)
        saving = timed(accelerator, trainer._save)
        size = sum(file.stat().st_size for file in Path(folder).rglob("checkpoint-*/**/*") if file.is_file())

    rows = {name: (median(values), min(values)) for name, values in times.items()}
    rows["overhead"] = tuple(loop - bare for bare, loop in zip(*rows.values(), strict=True))
    print(
        f"\n{options.model}, {options.batch_size} x {options.patch_size} x {options.patch_size}, {accelerator.device.type}, "
        f"{'bf16' if accelerator.mixed_precision == 'bf16' else 'fp32'}, {torch.get_num_threads()} threads, {options.steps} steps\n\n"
        f"| what | median (ms) | minimum (ms) |\n| --- | --- | --- |"
    )
    for name, figures in rows.items():
        print(f"| {name} | {figures[0]:.1f} | {figures[1]:.1f} |")
    print(f"| checkpoint ({size / 2**20:.1f} MiB) | {saving:.0f} | |")


if __name__ == "__main__":
    main()
