"""A trained network for others."""

from koala import checkpoint, config
from koala.errors import UserError


def export_command(settings: config.Export) -> int:
    """`koala export`: write a checkpoint for others to colour with.

    Returns:
        0.

    Raises:
        UserError: there is no whole checkpoint, or the folder holds something else.
    """
    out = settings.out
    found = checkpoint.find(settings.model)
    if out.exists() and ((out / "training.pt").exists() or not (out / "checkpoint.json").exists()):
        raise UserError(f"{out} exists and is no exported model; name a new folder with --out")
    checkpoint.publish(found, out)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {found.path} after {found.images_seen} images, {size / 1e6:.1f} MB")
    return 0
