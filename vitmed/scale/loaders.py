"""Other libraries' loaders, each over the same scans in the files that it reads, to be timed in turn with ours.

Both shuffle, batch and hand over arrays as their own manuals show it, with worker processes, and do no more to an
image than decode it.
"""

from collections.abc import Callable
from pathlib import Path


def pytorch(what: dict, batch: int, workers: int) -> Callable[[], None]:
    """Takes ``what["turn"]`` batches of PyTorch's DataLoader over PNG files, read by Pillow."""
    import numpy as np
    import torch
    from PIL import Image

    class Scans(torch.utils.data.Dataset):
        files = _files(what, "png")

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            with Image.open(self.files[index]) as image:
                return torch.from_numpy(np.array(image))[None]

    return _turn(Scans(), torch.utils.data.DataLoader, what, batch, workers)


def monai(what: dict, batch: int, workers: int) -> Callable[[], None]:
    """Takes ``what["turn"]`` batches of MONAI's Dataset and DataLoader over DICOM files, read by pydicom."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage

    read = Compose([LoadImage(reader="PydicomReader", image_only=True), EnsureChannelFirst()])
    return _turn(Dataset(_files(what, "dcm"), read), DataLoader, what, batch, workers)


def _files(what: dict, kind: str) -> list[str]:
    return sorted(map(str, Path(what["folder"], kind).iterdir()))


def _turn(dataset, loader, what: dict, batch: int, workers: int) -> Callable[[], None]:
    """A function that takes the next batches of an endless shuffled pass, one worker process after another ahead."""
    import torch

    # One random order after another, without end: the workers never stand still between two epochs.
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=10**6 * len(dataset))
    batches = iter(loader(dataset, batch_size=batch, sampler=sampler, num_workers=workers, drop_last=True))

    def turn():
        for _ in range(what["turn"]):
            assert len(next(batches)) == batch

    return turn
