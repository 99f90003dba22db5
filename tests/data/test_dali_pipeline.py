"""The DALI graph: geometry against Pillow, colours against scikit-image, and that the GPU has every operator."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from koala.config.data import DataSettings
from koala.config.evaluation import EvaluateSettings
from koala.core.errors import UserError
from koala.data import dali_pipeline, loader
from koala.data.counter_rng import uniforms
from koala.data.crop_windows import crop_windows, source_rectangles
from koala.data.sampler import EpochSampler, micro_batches, sequential_batches
from koala.data.shards import Shards
from koala.training import components

GEOMETRIES = ("pad", "crop", "random_crop", "squash", "legacy")


@pytest.fixture(scope="module")
def train(shard_folder):
    return Shards.open(shard_folder, "train")


def all_batches(shards, data, device="cpu", **options):
    places = sequential_batches(len(shards), 16, rank=0, world_size=1)
    return list(loader.load_batches(shards, places, data, device, batch=16, **options))


def decode(shards, sample: int) -> Image.Image:
    return Image.open(io.BytesIO(shards.read(sample).tobytes())).convert("RGB")


def sizes(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths."""
    return np.array([height for height, _ in pairs]), np.array([width for _, width in pairs])


def rectangle(geometry: str, height: int, width: int, random: np.ndarray | None = None) -> tuple[float, ...]:
    """Of one photo."""
    return tuple(float(edge[0]) for edge in source_rectangles(geometry, *sizes((height, width)), random))


def with_pillow(photo: Image.Image, geometry: str, size: int, random: np.ndarray) -> np.ndarray:
    """The same view made by padding with black, cutting and resizing with Pillow."""
    top, left, bottom, right = rectangle(geometry, photo.height, photo.width, random)
    if geometry == "random_crop":
        square = photo.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        return np.asarray(square)[:, ::-1] if random[0, 3] >= 0.5 else np.asarray(square)
    top, left, bottom, right = map(int, (top, left, bottom, right))
    padded = Image.new("RGB", (right - left, bottom - top))
    padded.paste(photo, (-left, -top))
    return np.asarray(padded.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometry_is_pillows(train, geometry):
    """All but the two lines at each border of the cut, beyond which koala looks at the photo and never at black."""
    for batch in all_batches(train, DataSettings(geometry=geometry, size=32, threads=2), with_rgb=True, seed=3):
        for sample, rgb in zip(batch.samples, batch.rgb, strict=True):
            random = uniforms(3, np.zeros(1, np.int64), np.array([sample]))
            expected = with_pillow(decode(train, sample), geometry, 32, random)
            difference = np.abs(rgb.permute(1, 2, 0).numpy().astype(int) - expected).max(axis=-1)
            windows = crop_windows(geometry, train.height[[sample]], train.width[[sample]], 32, random)
            for axis in (0, 1):
                first = windows.place[0, axis]
                last = first + windows.shape[0, axis]
                lines = {border + beside for border in (first, last) for beside in (-2, -1, 0, 1)}
                difference = np.delete(difference, sorted(lines & set(range(32))), axis=axis)
            assert difference.size > 400
            assert difference.max() <= 2


@pytest.mark.parametrize(
    ("geometry", "height", "width", "expected"),
    [
        ("pad", 375, 500, (-62, 0, 438, 500)),
        ("pad", 500, 375, (0, -62, 500, 438)),
        ("crop", 375, 500, (0, 62, 375, 437)),
        ("squash", 375, 500, (0, 0, 375, 500)),
        ("legacy", 375, 500, (0, -62, 375, 562)),  # 375 x 624, as the report's code made it
        ("legacy", 500, 375, (-62, 0, 562, 375)),
    ],
)
def test_views(geometry, height, width, expected):
    assert rectangle(geometry, height, width) == expected


def test_random_crops_stay_inside_and_vary():
    random = uniforms(0, np.zeros(200, np.int64), np.arange(200))
    views = [rectangle("random_crop", 300, 400, random[[row]]) for row in range(200)]
    for top, left, bottom, right in views:
        assert 0 <= top < bottom <= 300 and 0 <= left < right <= 400
        assert bottom - top == pytest.approx(right - left)
        assert 150 <= bottom - top <= 300
    assert len(set(views)) == 200


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (7, 3), (4000, 9)])
def test_absurd_sizes_have_a_window(geometry, height, width):
    windows = crop_windows(geometry, *sizes((height, width)), 64, np.zeros((1, 4)))
    for length, place in zip(windows.shape[0], windows.place[0], strict=True):
        assert 1 <= length <= 64 and 0 <= place <= 64 - length


def test_colors_are_exact_in_the_graph(train):
    for batch in all_batches(train, DataSettings(geometry="crop", size=32, threads=2), with_rgb=True):
        rgb = batch.rgb.permute(0, 2, 3, 1).numpy()
        expected = rgb2lab(rgb / 255)
        assert np.abs(batch.ab.permute(0, 2, 3, 1).numpy() * 127 - expected[..., 1:]).max() < 2e-4
        greys = np.stack([np.asarray(Image.fromarray(picture).convert("L").convert("RGB")) for picture in rgb])
        lightness = (batch.lightness[:, 0].numpy() + 1) * 50
        assert np.abs(lightness - rgb2lab(greys / 255)[..., 0]).max() < 2e-4


def test_lightness_of_the_colors_where_asked_for(train):
    data = DataSettings(geometry="crop", size=32, threads=2, lightness="color")
    for batch in all_batches(train, data, with_rgb=True):
        expected = rgb2lab(batch.rgb.permute(0, 2, 3, 1).numpy() / 255)[..., 0]
        assert np.abs((batch.lightness[:, 0].numpy() + 1) * 50 - expected).max() < 2e-4


def test_padding_is_black_without_color(train):
    batch = all_batches(train, DataSettings(size=32, threads=2))[0]
    for sample, lightness, ab in zip(batch.samples, batch.lightness, batch.ab, strict=True):
        windows = crop_windows("pad", train.height[[sample]], train.width[[sample]], 32)
        outside = torch.ones(32, 32, dtype=torch.bool)
        (y, x), (rows, columns) = windows.place[0], windows.shape[0]
        outside[y : y + rows, x : x + columns] = False
        assert (lightness[0][outside] == -1).all() and (ab[:, outside] == 0).all()


def test_a_last_batch_that_is_shorter(train):
    assert [len(batch.samples) for batch in all_batches(train, DataSettings(size=16, threads=2))] == [16, 16, 8]


def test_crops_depend_on_seed_epoch_and_sample_alone(train):
    """The same places in another grouping, as another world size would have it, give the same pictures."""
    order = EpochSampler(train.shard_sizes, seed=1)
    data = DataSettings(geometry="random_crop", size=16, threads=2)

    def pictures(world_size, rank):
        places = micro_batches(order, 32, 16, rank=rank, world_size=world_size)
        stream = loader.load_batches(train, places, data, "cpu", batch=16 // world_size, seed=1)
        return [next(stream).ab for _ in range(3)]

    together = torch.cat(pictures(1, 0))
    apart = torch.cat([part for pair in zip(pictures(2, 0), pictures(2, 1), strict=True) for part in pair])
    assert torch.equal(together, apart)


def test_batches_are_kept_while_others_come(train):
    """DALI uses memory again; what was handed over must not change."""
    data = DataSettings(size=16, threads=2)
    kept = all_batches(train, data)
    for batch, again in zip(kept, all_batches(train, data), strict=True):
        assert torch.equal(batch.ab, again.ab)


def test_a_sample_that_does_not_decode_is_named(train, shard_folder, tmp_path):
    import shutil

    copied = shutil.copytree(shard_folder, tmp_path / "copied")
    shards = Shards.open(copied, "train")
    tar, sample = copied / "train-000001.tar", 13
    data = bytearray(tar.read_bytes())
    jpeg = shards.read(sample).tobytes()
    start = data.find(jpeg)
    data[start : start + len(jpeg)] = b"x" * len(jpeg)
    tar.write_bytes(data)
    description = train.describe(sample)
    with pytest.raises(UserError) as error:
        all_batches(Shards.open(copied, "train"), DataSettings(size=16, threads=2))
    for part in ("train-000001.tar", description.key, description.source, "does not decode"):
        assert part in str(error.value)


# ---------------------------------------------------------------- the GPU


@pytest.fixture(scope="session")
def pipeline_message():
    """DALI's serialised pipeline as a protobuf message with just the fields looked at here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="dali_subset.proto", package="subset")
    for message, fields in {
        "Argument": [("name", 1, "TYPE_STRING", ""), ("strings", 5, "TYPE_STRING", "")],
        "Operator": [("name", 1, "TYPE_STRING", ""), ("args", 4, "TYPE_MESSAGE", ".subset.Argument")],
        "Pipeline": [("operators", 5, "TYPE_MESSAGE", ".subset.Operator")],
    }.items():
        proto = file.message_type.add(name=message)
        for name, number, kind, of in fields:
            label = "LABEL_OPTIONAL" if name == "name" else "LABEL_REPEATED"
            proto.field.add(name=name, number=number, type=f"{kind}", label=label, type_name=of or None)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("subset.Pipeline"))


def operators(message, device: str, data: DataSettings) -> list[tuple[str, str]]:
    """Name and device of each operator of the production graph, from its serialised form."""
    graph = dali_pipeline.build_graph(iter([]), data, batch=4, device=device, with_rgb=True)
    found = []
    for operator in message.FromString(graph.serialize()).operators:
        device_of = {argument.name: argument.strings for argument in operator.args}["device"]
        found.append((operator.name, device_of[0]))
    return found


@pytest.mark.parametrize(
    "data", [DataSettings(), DataSettings(lightness="color"), DataSettings(aging=0.5)], ids=["grey", "color", "aging"]
)
def test_every_operator_of_the_gpu_graph_is_registered(pipeline_message, data):
    from nvidia.dali import backend

    registered = {
        "cpu": set(backend.RegisteredCPUOps()),
        "gpu": set(backend.RegisteredGPUOps()),
        "mixed": set(backend.RegisteredMixedOps()),
    }
    found = operators(pipeline_message, "gpu", data)
    assert len(found) > 15
    for name, device in found:
        assert name in registered[device], f"{name} has no {device} backend"


def test_the_gpu_graph_is_the_cpu_graph_on_the_gpu(pipeline_message):
    """The same operators; decoding is "mixed", all that touches pixels is on the GPU."""
    on_cpu, on_gpu = (operators(pipeline_message, device, DataSettings()) for device in ("cpu", "gpu"))
    assert sorted(name for name, _ in on_cpu) == sorted(name for name, _ in on_gpu if name != "MakeContiguous")
    devices = dict(on_gpu)
    assert devices["decoders__Image"] == "mixed"
    for name in ("Resize", "CoordTransform", "LookupTable", "Reinterpret", "CropMirrorNormalize"):
        assert {device for operator, device in on_gpu if operator == name} == {"gpu"}


def test_pixels_that_the_cpu_decodes_are_then_the_gpus(pipeline_message):
    devices = dict(operators(pipeline_message, "gpu", DataSettings(decoder="cpu")))
    assert (devices["decoders__Image"], devices["Resize"]) == ("cpu", "gpu")


@pytest.mark.parametrize(("asked", "deterministic", "decoder"), [("auto", True, "cpu"), ("gpu", True, "gpu")])
def test_what_is_to_be_the_same_everywhere_is_decoded_by_the_cpu(shard_folder, asked, deterministic, decoder):
    """Unless something else is asked for; an evaluation always."""
    opened = components.open_data(DataSettings(shard_folder, decoder=asked), seed=0, deterministic=deterministic)
    assert opened.settings.decoder == decoder
    assert EvaluateSettings(Path("run"), shard_folder).decoder == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_gpu_gives_what_the_cpu_gives(train, geometry, share):
    data = DataSettings(geometry=geometry, size=32, threads=2, aging=share)
    for cpu, gpu in zip(all_batches(train, data), all_batches(train, data, "gpu"), strict=True):
        assert gpu.ab.is_cuda and gpu.lightness.is_cuda
        assert (gpu.lightness.cpu() - cpu.lightness).abs().mean() * 50 < 0.5
        assert (gpu.ab.cpu() - cpu.ab).abs().mean() * 127 < 1
