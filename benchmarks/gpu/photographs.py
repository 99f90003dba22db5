"""The photographs that a GPU is measured on, and shards of them."""

import importlib.util
import itertools
from pathlib import Path

from PIL import Image

from benchmarks.gpu.bench import Bench, samples
from koala.config.data import ResizeRule, ShardRecipe, SplitRule, WriteShards
from koala.data import shard_writer
from koala.data.shards import Shards
from koala.demo import PHOTOGRAPHS

_WIDTH, _HEIGHT = 500, 375  # of most photographs of ImageNet
_STEP = 37  # pixels between two cuts of one photograph


def prepare(bench: Bench, source: Path | None) -> str:
    """Write the shards that are not there yet.

    Args:
        bench: where they are to lie.
        source: folder or tar of photographs; by default those that packages carry are cut into as many as are needed.

    Returns:
        Where the photographs are from.
    """
    scale = bench.scale
    told = str(source) if source else "photographs that packages carry, cut at several places"
    source = source or _packaged(bench.work / "photographs", max(scale.resized, scale.plain))
    split = SplitRule(val_count=max(2, scale.plain // 4))
    short = ResizeRule(side="short", pixels=256)
    for out, limit, resize in ((bench.resized, scale.resized, short), (bench.plain, scale.plain, ResizeRule())):
        if not (out / "manifest.json").exists():
            recipe = ShardRecipe(limit=limit, samples_per_shard=50, split=split, resize=resize)
            shard_writer.write_shards(WriteShards(source, out, recipe, workers=scale.threads[-1]))
    return f"{told}: {samples(bench.resized)} at a short side of 256, {samples(bench.plain)} as they are"


def _packaged(folder: Path, count: int) -> Path:
    """As many JPEGs in 4:2:0 of the size of ImageNet's, cut out of the photographs of installed packages."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [path for path in _files() if _is_large(path)]
    for number, path in zip(range(count), itertools.cycle(files), strict=False):
        picture = Image.open(path).convert("RGB")
        left = number // len(files) * _STEP % (picture.width - _WIDTH + 1)
        top = number // len(files) * _STEP % (picture.height - _HEIGHT + 1)
        cut = picture.crop((left, top, left + _WIDTH, top + _HEIGHT))
        cut.save(folder / f"{number:04d}.jpg", quality=90, subsampling="4:2:0")
    return folder


def _files() -> list[Path]:
    """Of the packages of koala's demo that are installed."""
    found = []
    for package, inside, names, _ in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / inside
            found += [path for name in names for path in sorted(folder.glob(name))]
    return found


def _is_large(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.width >= _WIDTH and picture.height >= _HEIGHT


def jpegs(folder: Path) -> list[bytes]:
    """The bytes of all training samples of a folder of shards."""
    shards = Shards.open(folder, "train")
    return [shards.read(sample).tobytes() for sample in range(len(shards))]


def files(bench: Bench) -> Path:
    """The photographs as they are, as files."""
    folder = bench.work / "files"
    folder.mkdir(exist_ok=True)
    for number, jpeg in enumerate(jpegs(bench.plain)):
        (folder / f"{number:04d}.jpg").write_bytes(jpeg)
    return folder
