"""How often each colour occurs in a data set, so that training can let rare ones count more.

    SHARDS/prior.csv     a row for each bin of the ab plane: how much of the training pictures lies in it, and the
                         prior, which is the same smoothed and as shares of 1

All samples to train on count, whatever a training's --data.filter leaves out.

References:
    Zhang, Isola, Efros: Colorful Image Colorization, arXiv:1603.08511.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from koala.config.data import MeasurePrior
from koala.config.fields import Location
from koala.core.errors import UserError
from koala.core.wording import counted
from koala.data import audit
from koala.data.mirror import local_folder, write_file
from koala.data.shards import read_manifest
from koala.imaging import ab_bins

FORMAT = "koala-prior/1"
COLUMNS = ("a", "b", "pictures", "prior")


def prior_path(folder: Path) -> Path:
    """Where the prior of a folder of shards lies."""
    return folder / "prior.csv"


def prior_command(settings: MeasurePrior) -> int:
    """`koala shards prior`: audit the training shards that are not audited yet, and put their colours together.

    Returns:
        0.
    """
    folder = local_folder(settings.shards)
    stamp = _stamp(folder)
    found = audit.bin_frequencies(folder, audit.audit_shards(folder, "train", settings.workers, with_bins=True))
    prior = ab_bins.smooth(torch.from_numpy(found))
    rows = np.column_stack([ab_bins.centers().numpy(), found, prior])
    text = io.StringIO()
    text.write(stamp)
    np.savetxt(text, rows, ["%d", "%d", "%.6f", "%.9g"], ",", header=",".join(COLUMNS), comments="")
    write_file(prior_path(folder), text.getvalue().encode())
    pictures, bins = counted(round(found.sum()), "picture"), int((found > 0).sum())
    print(f"{settings.shards}/prior.csv: {pictures} in {bins} of {len(found)} bins")
    return 0


def read_prior(folder: Location) -> Tensor:
    """The prior that was measured: `(Q,)`.

    Raises:
        UserError: there is no prior, it is damaged, or it is of other shards.
    """
    path = prior_path(local_folder(folder))
    try:
        with path.open(encoding="utf-8") as file:
            measured = file.readline()
        prior = torch.from_numpy(audit.read_bins(path, "prior")).float()
        if abs(prior.sum() - 1) > 1e-3:
            raise ValueError("no shares of 1")
    except FileNotFoundError:
        raise UserError(f"{folder}/prior.csv is not there; measure it with koala shards prior {folder}") from None
    except ValueError:
        raise UserError(f"{folder}/prior.csv is damaged; measure it again with koala shards prior {folder}") from None
    if measured != _stamp(folder):
        remedy = f"measure it again with koala shards prior {folder}"
        raise UserError(f"{folder}/prior.csv was measured on other shards; {remedy}")
    return prior


def _stamp(folder: Location) -> str:
    """A prior's first line."""
    shards = json.dumps([entry.sha256 for entry in read_manifest(folder).splits.get("train", [])])
    return f"# {FORMAT} of training shards with sha256 {hashlib.sha256(shards.encode()).hexdigest()}\n"


def prior_sha256(prior: Tensor) -> str:
    """sha256 of a prior."""
    return hashlib.sha256(prior.numpy().tobytes()).hexdigest()
