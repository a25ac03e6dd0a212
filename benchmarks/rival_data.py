"""Reads batches of a folder of images by PyTorch's `DataLoader`, in a process.

Started by `data_workers.py` with the interpreter that it was given, which needs torch
and Pillow only; see `protocol.py` for what it answers.
"""

import argparse
import pathlib
import time

import numpy as np
import protocol
import torch
from PIL import Image


class Folder(torch.utils.data.Dataset):
    """Images of a folder of classes as uint8, half of them mirrored."""

    def __init__(self, folder: str):
        self.files = sorted(map(str, pathlib.Path(folder).glob("*/*.jpg")))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[number]) as image:
            pixels = image.convert("RGB")
        if torch.rand(()) < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(pixels)), number % 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch_size", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)  # of the process itself, as in its workers
    files = Folder(args.folder)
    endless = torch.utils.data.RandomSampler(files, True, num_samples=10**9)
    start = time.perf_counter()
    batches = iter(
        torch.utils.data.DataLoader(
            files, args.batch_size, sampler=endless, num_workers=args.workers
        )
    )
    next(batches)
    facts = {"first_batch_seconds": time.perf_counter() - start}
    protocol.serve(facts, {"batch": lambda: next(batches)})


if __name__ == "__main__":
    main()
