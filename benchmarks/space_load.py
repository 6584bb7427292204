"""The Space under load: concurrent clients through its queue, then memory over many pictures. Prints two tables.

    python benchmarks/space_load.py [--checkpoint NAME] [--clients 20] [--seconds 60] [--pictures 200] [--side 256]

Every client sends its own picture again and again, and every answer is compared with what the picture gave when it was
alone: an answer counts only if it is the right one.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from gradio_client import Client, handle_file
from PIL import Image
from tqdm import tqdm


ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def running_space(checkpoint: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The app in a process of its own; yields its address and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, ROOT / "space" / "app.py", "--checkpoint", checkpoint, "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise SystemExit(f"The app did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def derained(client: Client, path: Path) -> bytes:
    """The pixels that come back for a picture."""
    result = Path(client.predict(handle_file(path), api_name="/derain"))
    pixels = Image.open(result).tobytes()
    result.unlink()
    return pixels


def pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Small photographs-like pictures that differ: smooth noise."""
    paths = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        paths.append(folder / f"picture-{seed}.png")
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def load(address: str, paths: list[Path], seconds: float, folder: Path) -> None:
    clients = [Client(address, verbose=False, download_files=folder / f"client-{n}") for n in range(len(paths))]
    expected = [derained(client, path) for client, path in zip(clients, paths, strict=True)]
    sent, times, wrong, failed = [0], [], [0], []
    lock, end = threading.Lock(), time.monotonic() + seconds

    def visit(number: int) -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            with lock:
                sent[0] += 1
            try:
                pixels = derained(clients[number], paths[number])
            except Exception as error:  # whatever a client meets is a loss, and is shown
                failed.append(repr(error))
                continue
            with lock:
                times.append(time.monotonic() - started)
                wrong[0] += pixels != expected[number]

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - end + seconds
    print("| clients | seconds | sent | answered | wrong | failed | pictures / s | median wait (s) | 95 % (s) |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {len(paths)} | {took:.0f} | {sent[0]} | {len(times)} | {wrong[0]} | {len(failed)} | {len(times) / took:.2f} "
        f"| {np.median(times):.1f} | {np.percentile(times, 95):.1f} |\n"
    )
    for error in sorted(set(failed)):
        print(f"failed: {error}")


def memory(address: str, process: psutil.Process, paths: list[Path], count: int, folder: Path) -> None:
    client = Client(address, verbose=False, download_files=folder / "memory")
    marks = {0: process.memory_info().rss}
    for number in tqdm(range(1, count + 1), unit="pictures"):
        derained(client, paths[number % len(paths)])
        if number % max(1, count // 8) == 0:
            marks[number] = process.memory_info().rss
    print("| pictures | resident memory (MiB) |\n| --- | --- |")
    for number, resident in marks.items():
        print(f"| {number} | {resident / 2**20:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="unirain")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = pictures(folder, arguments.clients, arguments.side)
        with running_space(arguments.checkpoint, folder) as (address, process):
            load(address, paths, arguments.seconds, folder)
            memory(address, process, paths, arguments.pictures, folder)


if __name__ == "__main__":
    main()
