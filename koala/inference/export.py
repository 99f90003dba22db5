"""A trained network for others: a folder of its weights, or a program that runs without koala.

A program, for ONNX or for `torch.export.load`, holds extractor, network and decoding, and takes any number of pictures
of any size. In goes "lightness", `(B, 1, H, W)` float32: L* in 0..100 of the photo turned grey, H and W multiples of
the network's stride (8, or 32 of a pyramid) from twice that on. Out comes "ab", `(B, 2, H, W)` float32: a* and b*,
units of CIE L*a*b* (D65) as well. Brought to the photo's size it is joined with the photo's own L*.
docs/guides/export.md does all this without koala.

What goes in, what comes out and what the network is also stands in the file: in ONNX's metadata, and in `koala.json` of
a program for torch.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from koala.config.inference import ExportSettings
from koala.config.load import load_tables
from koala.config.models import Preset
from koala.core import extras
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.imaging import color
from koala.models import checkpoint, hub, pretrained
from koala.models.network import Colorizer

TOLERANCE = 1e-3  # of a program against PyTorch, in units of a*b*

_AXES = {0: "batch", 2: "height", 3: "width"}  # that may have any length
_INTERFACE = {
    "input": "lightness: (B, 1, H, W) float32, L* of CIE L*a*b* (D65) in 0..100; H and W multiples of multiple_of "
    "from twice that on",
    "output": "ab: (B, 2, H, W) float32, a* and b* in the same units",
    "before": "L* of the photo (sRGB) turned grey (luma of ITU-R 601, Pillow's mode L), made smaller with "
    "antialiasing, its short side to about trained_at",
    "after": "ab made as large as the photo, joined with the photo's own L*, turned into sRGB",
}


class Program(nn.Module):
    """What is exported: a `Colorizer` from and to units of L*a*b*.

    Args:
        model: on the CPU; its weights' memory format becomes the usual one, which files can hold.
    """

    def __init__(self, model: Colorizer) -> None:
        super().__init__()
        self.model = model
        self.eval().to(memory_format=torch.contiguous_format)

    def forward(self, lightness: Tensor) -> Tensor:
        """`(B, 1, H, W)` L* in 0..100 to `(B, 2, H, W)` a*b*."""
        return color.to_units(self.model.predict(color.lightness_from_units(lightness)))


def trace(program: Program) -> ExportedProgram:
    """What the program computes, for any number of pictures and any multiples of the network's stride from two on."""
    stride = program.model.network.stride
    height, width = (stride * Dim(name, min=2) for name in ("rows", "columns"))
    with torch.no_grad():
        return torch.export.export(
            program,
            (torch.zeros(2, 1, 2 * stride, 3 * stride),),
            dynamic_shapes={"lightness": {0: Dim("batch"), 2: height, 3: width}},
        )


def to_onnx(traced: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """A traced program as an ONNX file with these facts among its metadata."""
    exported = torch.onnx.export(
        traced,
        dynamo=True,
        verbose=False,
        input_names=["lightness"],
        output_names=["ab"],
        dynamic_shapes={"lightness": _AXES},
    )
    assert exported is not None
    exported.model.metadata_props.update(facts)
    return exported.model_proto.SerializeToString()


def to_torch(traced: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """A traced program as a file for `torch.export.load`, with these facts in its `koala.json`."""
    buffer = io.BytesIO()
    torch.export.save(traced, buffer, extra_files={"koala.json": json.dumps(dict(facts), indent=1)})
    return buffer.getvalue()


def run_onnx(data: bytes) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function, computed by onnxruntime."""
    from onnxruntime import InferenceSession

    session = InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda lightness: torch.from_numpy(session.run(["ab"], {"lightness": lightness.numpy()})[0])


def run_torch(data: bytes) -> Callable[[Tensor], Tensor]:
    """A file of `to_torch` as a function."""
    return torch.export.load(io.BytesIO(data)).module()


def largest_difference(run: Callable[[Tensor], Tensor], program: Program) -> float:
    """Between what a file computes and what PyTorch does, for random pictures of three sizes: in units of a*b*."""
    generator, side, stride = torch.Generator().manual_seed(0), program.model.size, program.model.network.stride
    differences = []
    for shape in ((1, 1, max(2 * stride, side), max(2 * stride, side)), (2, 1, 96, 160), (1, 1, 320, 192)):
        lightness = 100 * torch.rand(shape, generator=generator)
        with torch.no_grad():
            differences.append((run(lightness) - program(lightness)).abs().max())
    return float(torch.stack(differences).max())  # not a number, where one is none


def export_command(settings: ExportSettings) -> int:
    """`koala export`: write a checkpoint for others.

    Returns:
        0.

    Raises:
        UserError: there is no whole checkpoint, a place holds something else, or what was made does not compute the
            same.
    """
    _check(settings)
    found = pretrained.find_model(settings.model)
    if settings.presets is not None:
        found = replace(found, presets=load_tables(Preset, settings.presets))
    if settings.out is not None:
        checkpoint.publish_weights(found, settings.out)
        size = sum(path.stat().st_size for path in settings.out.iterdir())
        print(f"{settings.out}: {settings.model} after {found.images_seen} images, {_megabytes(size)}", flush=True)
    if settings.onnx is not None or settings.program is not None:
        _write_programs(settings, found)
    if settings.push and settings.out is not None:
        print(hub.push_folder(settings.out, settings.push))
    return 0


def _check(settings: ExportSettings) -> None:
    """Refuse what cannot be done, before anything is."""
    out = settings.out
    if not (out or settings.onnx or settings.program):
        raise UserError("there is nothing to write; name a folder with --out, or a file with --onnx or --program")
    if settings.push and out is None:
        raise UserError("--push puts the folder of --out on the hub; name one")
    if settings.push and not hub.is_hub_name(settings.push):
        raise UserError(f"--push {settings.push} is no name on the Hugging Face hub; write USER/NAME")
    if out is not None and out.exists() and ((out / "training.pt").exists() or not (out / "checkpoint.json").exists()):
        raise UserError(f"{out} exists and is no exported model; name a new folder with --out")
    if out is not None and out.exists() and Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out} is the folder that you are in, and is to be replaced; run this from another one")
    for path, suffix in ((settings.onnx, ".onnx"), (settings.program, ".pt2")):
        if path is not None and path.suffix != suffix:
            raise UserError(f"{path} does not end in {suffix}; name the file so")


def _write_programs(settings: ExportSettings, found: checkpoint.Checkpoint) -> None:
    """Write the files that were asked for, each once it has been seen to compute what PyTorch does."""
    model = pretrained.PretrainedColorizer.of(found, settings.extractor.weights)
    model.preset = model.find_preset(temperature=settings.temperature)
    program, facts = Program(model), {**_INTERFACE, **found.facts(), "license": _licences(model)}
    facts["multiple_of"] = str(model.network.stride)
    traced = trace(program)
    for path, write, run in ((settings.program, to_torch, run_torch), (settings.onnx, to_onnx, run_onnx)):
        if path is None:
            continue
        data = write(traced, facts)
        if run is run_onnx and find_spec("onnxruntime") is None:
            verdict = f"not checked: onnxruntime is not installed ({extras.pip_line('onnx')})"
        else:
            verdict = _verdict(path, largest_difference(run(data), program))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        print(f"{path}: {_megabytes(len(data))}; {verdict}", flush=True)


def _verdict(path: Path, difference: float) -> str:
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path} is not written: it would differ from PyTorch by {difference:.1e} in a*b*, more than {TOLERANCE}; "
            "install the versions of torch, onnxscript and onnxruntime that constraints.txt names"
        )
    return f"differs from PyTorch by {difference:.1e} in a*b* at most, at three sizes"


def _licences(model: Colorizer) -> str:
    """What is known of licences; a pyramid holds its extractor itself."""
    built: Any = model.extractor or getattr(model.network, "extractor", None)
    if built is None:
        return "koala: MIT"
    return f"koala: MIT; the extractor's weights: {built.model.pretrained_cfg.get('license') or 'unknown'}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
