"""Which samples each process takes: numbered through all epochs, so that a number says all there is to know of a batch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset

from .data import RainDataset


class NumberedSamples(Dataset):
    """A training set whose samples are numbered through all epochs, so that no worker has to be told of a new epoch."""

    def __init__(self, samples: RainDataset):
        self.samples = samples

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, index = divmod(number, len(self.samples))
        self.samples.set_epoch(epoch)
        return self.samples[index]


class BatchNumbers:
    """The numbers of one process's part of every batch from `start` on, without end."""

    def __init__(self, start: int, batch_size: int, process_index: int, num_processes: int):
        self.start, self.batch_size = start, batch_size
        self.share = batch_size // num_processes
        self.offset = process_index * self.share

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.offset
        while True:
            yield list(range(first, first + self.share))
            first += self.batch_size
