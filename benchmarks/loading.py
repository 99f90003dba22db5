"""Loading for training: koala's pipeline over shards against the report's way over files, on the CPU.

    python benchmarks/loading.py PHOTOS [--size 224] [--threads 2] [--rounds 5]

PHOTOS is a folder of full-size photographs. The report's way is Pillow, padding to a square, resizing and
scikit-image's rgb2lab (of the colours for ab, of the grey-scaled picture for L*) in a DataLoader with as many workers
as koala has threads. koala reads shards of the same photographs, made first and not counted. Both give batches of 50
tensors. The last line is the ratio of images per second.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import measure, ratio, report
from skimage.color import rgb2lab
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as transforms

from koala.config.data import DataSettings, WriteShards
from koala.data import loader, shard_writer, shards
from koala.data.sampler import EpochSampler, micro_batches

BATCH = 50
REPORT, KOALA = "the report's way", "koala"


class ReportsDataset(Dataset):
    """A photograph as the report prepares it (with the padding that it meant)."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        photo = Image.open(self.files[index]).convert("RGB")
        side = max(photo.size)
        left, top = (side - photo.width) // 2, (side - photo.height) // 2
        square = transforms.pad(photo, [left, top, side - photo.width - left, side - photo.height - top])
        square = transforms.resize(square, [self.size, self.size])
        ab = rgb2lab(np.asarray(square))[..., 1:] / 127
        lightness = rgb2lab(np.asarray(square.convert("L").convert("RGB")))[..., :1] / 50 - 1
        return tuple(torch.from_numpy(array.transpose(2, 0, 1)).float() for array in (lightness, ab))


def reports_way(folder: Path, size: int, threads: int) -> Callable[[], int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    loader = DataLoader(ReportsDataset(files, size), BATCH, shuffle=True, num_workers=threads)
    return lambda: sum(len(lightness) for lightness, _ in loader)


def koalas_way(folder: Path, size: int, threads: int) -> Callable[[], int]:
    opened = shards.Shards.open(folder, "train")
    data = DataSettings(folder, size=size, threads=threads)

    places = micro_batches(EpochSampler(opened.shard_sizes, 0), 0, BATCH, rank=0, world_size=1)
    stream = loader.load_batches(
        opened, places, data, "cpu", batch=BATCH
    )  # runs on from epoch to epoch, as in training
    return lambda: sum(len(batch.lightness) for batch in islice(stream, -(-len(opened) // BATCH)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shard_writer.write_shards(WriteShards(arguments.photos, Path(folder)))
        ways = {
            REPORT: reports_way(arguments.photos, arguments.size, arguments.threads),
            KOALA: koalas_way(Path(folder), arguments.size, arguments.threads),
        }
        rates = measure(ways, arguments.rounds)
    print(f"loading at {arguments.size}, {arguments.threads} threads, on the CPU")
    report(rates)
    print(f"loading ratio {ratio(rates, KOALA, REPORT):.2f}")


if __name__ == "__main__":
    main()
