"""How fast training samples are made, and how long a training step waits for them.

    python benchmarks/data_loading.py --paired DIR --clean_day DIR --clean_night DIR [--corpus PATH] [--patch_size 128]

Prints how many samples of every kind of source one worker makes in a second of CPU time, then, with all of them mixed, the
share of a step that is spent waiting for the next batch while `unirain-tiny` (or `--model NAME`) trains on it.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_unirain.configuration_unirain import UniRainConfig
from modeling_unirain.modeling_unirain import UniRainForImageDeraining
from modeling_unirain.training.data import CleanSource, CorpusSource, DataConfig, PairedSource, RainDataset
from modeling_unirain.types import RainType


SAMPLES = 200


def types_of(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir() if next(folder.rglob("input"), None))


def sources_of(options) -> dict[str, tuple[list, list[str]]]:
    """Name -> sources and the types to draw from them."""
    kinds = {}
    if options.paired:
        kinds["paired folders"] = [PairedSource(options.paired)], types_of(options.paired)
    if options.corpus:
        kinds["corpus"] = [CorpusSource(options.corpus, types=options.corpus_types)], options.corpus_types
        stream = CorpusSource(options.corpus, types=options.corpus_types, streaming=True)
        kinds["corpus, streamed"] = [stream], options.corpus_types
    if options.clean_day or options.clean_night:
        clean = CleanSource(day=options.clean_day, night=options.clean_night, min_scale=0.5)
        for name in RainType:
            if options.clean_day or name in (RainType.NRS, RainType.NRD):
                kinds[f"rendered {name}"] = [clean], [str(name)]
    return kinds


def samples_per_second(sources: list, types: list[str], options, cache_gib: float) -> float:
    dataset = RainDataset(
        DataConfig(
            sources,
            types=types,
            patch_size=options.patch_size,
            samples_per_epoch=SAMPLES,
            cache_gib=cache_gib,
            verify_images=cache_gib > 0,
        )
    )
    dataset[0]
    start = time.process_time()
    for index in range(SAMPLES):
        dataset[index]
    return SAMPLES / (time.process_time() - start)


def waiting_share(dataset: RainDataset, options) -> tuple[float, float]:
    """(seconds a step, share of them spent waiting for data)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = UniRainForImageDeraining(UniRainConfig.from_name(options.model)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(dataset, options.batch_size, num_workers=options.workers)
    waited = 0.0
    batches = iter(loader)
    next(batches)  # the workers' start is not part of a step
    start = time.perf_counter()
    for _ in tqdm(range(options.steps), "Training"):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        model(batch["pixel_values"].to(device), labels=batch["labels"].to(device)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    return elapsed / options.steps, waited / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paired", type=Path)
    parser.add_argument("--corpus")
    parser.add_argument("--corpus_types", nargs="+", default=["DRS"])
    parser.add_argument("--clean_day", type=Path, nargs="*", default=[])
    parser.add_argument("--clean_night", type=Path, nargs="*", default=[])
    parser.add_argument("--patch_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="unirain-tiny")
    options = parser.parse_args()
    kinds = sources_of(options)
    if not kinds:
        parser.error("name at least one of --paired, --corpus, --clean_day, --clean_night")
    torch.set_num_threads(1)

    print(f"| source, {options.patch_size} x {options.patch_size} | samples per CPU second, cached | not cached |")
    print("| --- | ---: | ---: |")
    for name, (sources, types) in kinds.items():
        cached = "-" if "streamed" in name else f"{samples_per_second(sources, types, options, 8.0):.0f}"
        print(f"| {name} | {cached} | {samples_per_second(sources, types, options, 0.0):.0f} |", flush=True)

    sources = [source for name, (group, _) in kinds.items() if not name.startswith("rendered") for source in group]
    rendered = next((group for name, (group, _) in kinds.items() if name.startswith("rendered")), [])
    types = list(dict.fromkeys(name for _, group_types in kinds.values() for name in group_types))
    config = DataConfig(
        sources + rendered,
        types=types,
        patch_size=options.patch_size,
        samples_per_epoch=options.batch_size * (options.steps + 1),
    )
    seconds, share = waiting_share(RainDataset(config), options)
    print(
        f"\nAll mixed, {options.model}, batch {options.batch_size}, {options.workers} worker(s): "
        f"{seconds * 1000:.0f} ms a step, {share:.1%} of it waiting for data."
    )


if __name__ == "__main__":
    main()
