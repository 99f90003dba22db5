"""Settings of what reads pictures."""

from dataclasses import dataclass

from koala.config.fields import Count, Strict


@dataclass(frozen=True)
class PictureLimits(Strict):
    """How large a picture may be: what is larger is left out before it takes memory."""

    megapixels: Count = 100
    """Largest picture, in megapixels."""
    megabytes: Count = 1024
    """Largest file, in megabytes."""
