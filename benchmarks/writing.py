"""Writing shards: koala against a plain loop with webdataset, and against tar and sha256sum.

    python benchmarks/writing.py PHOTOS [--workers 2] [--rounds 5] [--copies 10]

PHOTOS is a folder of photographs. "resizing" brings the short side to 256: koala against `webdataset.ShardWriter` in a
plain loop with Pillow, in one process. "copying" is of those photographs whose bytes are taken as they are (no foreign
colour profile, upright): koala, which looks at all the data of every image, against `tar` plus `sha256sum`, which look
at none; each photograph is there ten times, so that what koala takes to begin (its processes' imports) counts as in a
small data set, and not as in a tiny one. The last lines are the ratios of images per second.
"""

import argparse
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import webdataset
from PIL import Image
from side_by_side import measure, ratio, report

from koala.config.data import ResizeRule, ShardRecipe, WriteShards
from koala.data import shard_writer
from koala.imaging.jpeg_intake import validate_or_transcode

KOALA_RESIZING, LOOP = "koala, resizing", "ShardWriter and Pillow in a loop"
KOALA_COPYING, TAR = "koala, copying", "tar and sha256sum"
SAMPLES_PER_SHARD = 100


def koalas_way(photos: Path, out: Path, workers: int, resize: ResizeRule) -> Callable[[], int]:
    recipe = ShardRecipe(samples_per_shard=SAMPLES_PER_SHARD, resize=resize)

    def write() -> int:
        shutil.rmtree(out, ignore_errors=True)
        manifest = shard_writer.write_shards(WriteShards(photos, out, recipe, workers=workers))
        assert manifest is not None
        return manifest.written

    return write


def plain_loop(files: list[Path], out: Path) -> Callable[[], int]:
    def write() -> int:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with webdataset.ShardWriter(f"{out}/%06d.tar", maxcount=SAMPLES_PER_SHARD, verbose=0) as writer:
            for number, path in enumerate(files):
                image = Image.open(path).convert("RGB")
                scale = min(1, 256 / min(image.size))
                size = (round(image.width * scale), round(image.height * scale))
                buffer = io.BytesIO()
                resized = image.resize(size, Image.Resampling.LANCZOS)
                resized.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
                writer.write({"__key__": f"{number:08d}", "jpg": buffer.getvalue(), "json": {"source": str(path)}})
        return len(files)

    return write


def tar_and_sha256sum(photos: Path, files: list[Path], out: Path) -> Callable[[], int]:
    command = f'tar cf "{out}" -C "{photos}" . && find "{photos}" -type f -print0 | xargs -0 sha256sum > "{out}.sha256"'

    def write() -> int:
        subprocess.run(command, shell=True, check=True)
        return len(files)

    return write


def copy_as_they_are(files: list[Path], out: Path, copies: int) -> Path:
    """The photographs that koala does not have to change, each so many times."""
    out.mkdir()
    for number, path in enumerate(files):
        if not validate_or_transcode(path.read_bytes(), ResizeRule()).changes:
            for copy in range(copies):
                shutil.copy(path, out / f"{copy:02d}-{number:06d}{path.suffix}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=10, help="how often each photograph is there for copying")
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.photos.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        short = ResizeRule(side="short", pixels=256)
        plain = copy_as_they_are(files, out / "plain", arguments.copies)
        plain_files = sorted(plain.iterdir())
        ways = {
            KOALA_RESIZING: koalas_way(arguments.photos, out / "resized", arguments.workers, short),
            LOOP: plain_loop(files, out / "loop"),
            KOALA_COPYING: koalas_way(plain, out / "copied", arguments.workers, ResizeRule()),
            TAR: tar_and_sha256sum(plain, plain_files, out / "photos.tar"),
        }
        rates = measure(ways, arguments.rounds)
    print(f"writing {len(files)} photographs, copying {len(plain_files)}; {arguments.workers} workers")
    report(rates)
    print(f"writing ratio {ratio(rates, KOALA_RESIZING, LOOP):.2f}")
    print(f"copying ratio {ratio(rates, KOALA_COPYING, TAR):.2f}")


if __name__ == "__main__":
    main()
