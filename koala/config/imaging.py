"""Settings of what reads pictures."""

from dataclasses import dataclass
from typing import Annotated

from koala.config.fields import Advanced, Count, Strict

MAX_PIXELS = 100_000_000  # unless a setting says otherwise


@dataclass(frozen=True)
class PictureLimits(Strict):
    """How large a picture may be. Larger ones are named and left out, so that they cannot fill memory."""

    max_pixels: Annotated[Count, Advanced] = MAX_PIXELS
    """Largest picture, in pixels. Larger ones are named and left out before they are decoded."""
    max_bytes: Annotated[Count, Advanced] = 2**30
    """Largest file. Larger ones are named and left out unread."""
