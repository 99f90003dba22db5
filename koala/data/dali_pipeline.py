"""The DALI graph: JPEG bytes -> lightness and ab on the device.

The graph holds no random state. Which samples come, and which part of each is cut out, is decided in Python from
(seed, epoch, sample) and enters the graph as arguments (`koala.data.loader`), so that the clock alone resumes a run, on
any number of processes. The same graph runs on the GPU and on the CPU: each operator in it has both.
"""

import os
from collections.abc import Iterable
from typing import Any

# DALI takes memory above this size anew from the system for each batch, which costs the CPU backend a fifth of
# its time in page faults; it reads the variable when it first allocates.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")

from koala.config.data import DataSettings
from koala.core.extras import require_dali
from koala.data import augmentation
from koala.imaging import color


def build_graph(source: Iterable[Any], data: DataSettings, batch: int, device: str, with_rgb: bool = False) -> Any:
    """Define the DALI pipeline; it needs no GPU before it is built.

    Args:
        source: for each batch, lists or arrays with an entry per picture: the JPEG (1-D uint8); start, end and
            shape of its window and its position in the square (each y and x); whether it is mirrored; with aging, what
            age did to it (`koala.data.augmentation`), in two arrays.
        data: geometry, size, source of lightness, threads, and on a GPU what decodes.
        batch: pictures at the most.
        device: "cpu" or "gpu".
        with_rgb: give the photos themselves, too.

    Returns:
        A pipeline whose outputs are lightness, ab (and rgb), CHW.

    Raises:
        UserError: NVIDIA DALI is not installed.
    """
    require_dali("decoding")
    from nvidia.dali import Pipeline, fn, types

    def square(picture: Any, fill: float, channels: int, dtype: Any = types.FLOAT) -> Any:
        """Mirror, lay into the square, bring colours to the front."""
        return fn.crop_mirror_normalize(
            picture,
            crop=(data.size, data.size),
            crop_pos_y=position[0],
            crop_pos_x=position[1],
            mirror=mirror,
            fill_values=[fill] * channels,
            out_of_bounds_policy="pad",
            output_layout="CHW",
            dtype=dtype,
        )

    pipeline = Pipeline(
        batch_size=batch,
        num_threads=data.threads,
        device_id=_device_id() if device == "gpu" else None,
        prefetch_queue_depth=2,
        exec_dynamic=True,  # outputs belong to who holds them, and are handed over without a copy
    )
    with pipeline:
        inputs = [(types.UINT8, 1, ""), *[(types.FLOAT, 1, "")] * 4, (types.INT32, 0, "")]
        if data.aging:
            inputs += [(types.FLOAT, 1, ""), (types.FLOAT, 3, "HWC")]
        dtype, ndim, layout = map(list, zip(*inputs, strict=True))
        jpeg, start, end, shape, position, mirror, *age = fn.external_source(
            source, num_outputs=len(inputs), dtype=dtype, ndim=ndim, layout=layout
        )
        mixed = device == "gpu" and data.decoder != "cpu"
        photo = fn.decoders.image(
            jpeg,
            device="mixed" if mixed else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # chroma as libjpeg and Pillow have it
            hw_decoder_load=data.hardware_share,  # of mixed decoding
        )
        if device == "gpu" and not mixed:
            photo = photo.gpu()
        part = fn.resize(
            photo, size=shape, roi_start=start, roi_end=end, interp_type=types.INTERP_LINEAR, antialias=True
        )
        # the colour arithmetic comes before padding, and so is done for the photo only
        if age:
            numbers, field = age
            lightness = color.grey_to_lightness(
                augmentation.apply_aging(color.to_grey(part), numbers, field, shape, device)
            )
        else:
            lightness = color.to_lightness(part, data.lightness)
        outputs = [
            square(lightness, fill=-1, channels=1),
            square(color.to_ab(part), fill=0, channels=2),
        ]
        if with_rgb:
            outputs.append(square(part, fill=0, channels=3, dtype=types.UINT8))
        pipeline.set_outputs(*outputs)
    return pipeline


def _device_id() -> int | None:
    """The current GPU; none where there is no GPU, so that the graph can be defined and serialised anywhere."""
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else None
