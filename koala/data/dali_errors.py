"""What it means that the DALI graph failed: the GPU's memory, its JPEG decoder, the GPU itself, or a sample.

DALI tells of an operator, its place in the program and, after "encountered:", the fact. Where that is a JPEG, it does
not say which.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from koala.config.data import ResizeRule
from koala.core.errors import UserError, first_line
from koala.data.shards import SampleInfo
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode

# in lower case, as DALI (libdali_core.so), nvJPEG and CUDA have them
_NO_ROOM_ON_GPU = ("bytes on device", "cuda allocation failed", "out of memory", "allocator_failure")
_NO_ROOM = ("bytes on host", "bad_alloc")
_DECODER = ("nvjpeg", "nvimagecodec", "nvimgcodec")
_FRAME = ("Critical error in pipeline:", "Current pipeline object is no longer valid.")  # around every fact

Encoded = tuple[int, NDArray[np.uint8]]


def explained(error: Exception, describe: Callable[[int], SampleInfo], jpegs: Sequence[Encoded]) -> UserError:
    """Say what stopped the graph.

    Args:
        error: DALI's.
        describe: what is known of a sample.
        jpegs: samples that are under way, and their bytes.
    """
    fact, whole = _fact(error), str(error).lower()
    text, line = fact.lower(), first_line(RuntimeError(fact))
    if _names(text, _NO_ROOM_ON_GPU):
        return UserError(
            f"DALI found no room in the GPU's memory ({line}); lower --batch-size, or choose --data.decoder cpu"
        )
    if isinstance(error, MemoryError) or _names(text, _NO_ROOM):
        return UserError(f"DALI found no room in memory ({line}); lower --batch-size or --data.threads")
    of_decoder = _names(text, _DECODER) and "cpu operator" not in whole
    if of_decoder or ("mixed operator" in whole and "cuda" not in text):  # that is what decodes on a GPU
        return _undecodable(describe, jpegs) or UserError(
            f"the GPU's JPEG decoder failed ({line}); choose --data.decoder cpu"
        )
    if "cuda" in text:
        return UserError(f"the GPU failed in DALI ({line}); look at nvidia-smi, and at koala doctor")
    names = sorted({describe(int(sample)).shard for sample, _ in jpegs})
    return _undecodable(describe, jpegs) or UserError(
        f"DALI stopped in one of {', '.join(names)}: {line}; check them with koala shards verify"
    )


def _names(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


def _fact(error: Exception) -> str:
    """What an error says beside where it was found: the program's lines, too, may hold any word."""
    found = str(error).rpartition("encountered:")[2]
    for words in _FRAME:
        found = found.replace(words, "")
    return found.strip()


def _undecodable(describe: Callable[[int], SampleInfo], jpegs: Sequence[Encoded]) -> UserError | None:
    """The first sample that does not decode, if there is one."""
    for sample, jpeg in jpegs:
        try:
            validate_or_transcode(jpeg.tobytes(), ResizeRule())
        except UnreadableImageError as reason:
            found = describe(int(sample))
            return UserError(
                f"{found.shard}: sample {found.key} ({found.source}) does not decode: {reason}; "
                "check the shards with koala shards verify"
            )
    return None
