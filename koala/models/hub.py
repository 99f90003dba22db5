"""Models on the Hugging Face hub: found by their names, put there, described.

A model there is what `koala export` writes: weights and description (see `koala.models.checkpoint`), and a card.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from koala.core.errors import UserError, first_line
from koala.core.version import __version__

FILES = ("checkpoint.json", "model.safetensors", "README.md")

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CARD = """---
library_name: koala
pipeline_tag: image-to-image
tags:
- image-colorization
---

# A network that colours photographs

A [Deep Koalarization](https://arxiv.org/abs/1712.03400) network, trained with koala.

```python
import koala

model = koala.load_model("USER/NAME")  # this page's name, or a folder of its files
colored = koala.colorize("grandmother.jpg", model)  # (H, W, 3) uint8
```

| | |
|---|---|
{rows}

koala is under the MIT licence; which one holds for these weights is for their owner to say here.
"""


def is_hub_name(name: str) -> bool:
    """Whether it has the form USER/NAME."""
    return _NAME.fullmatch(name) is not None


def resolve_model(name_or_path: str | Path, **options: Any) -> Path:
    """The folder of a model: the one at that path, or else a copy of the one that has that name on the hub.

    Args:
        name_or_path: a path, or USER/NAME.
        options: for `huggingface_hub.snapshot_download`: `revision`, `token`, `cache_dir`, `local_files_only`, ...

    Raises:
        UserError: it is neither, or the hub cannot be reached and no copy is at hand.
    """
    name = str(name_or_path)
    if Path(name).exists():
        return Path(name)
    if not is_hub_name(name):
        raise UserError(
            f"there is no folder {name}, and this is no name on the Hugging Face hub; name a folder, USER/NAME, or "
            "builtin"
        )
    folder = _fetch(name, options)
    if not (folder / "checkpoint.json").exists():
        raise UserError(f"{name} on the Hugging Face hub has no checkpoint.json; name a model that koala made")
    return folder


def push_folder(folder: Path, name: str) -> str:
    """Put a model's folder on the hub as it is, into a repository that is made if there is none.

    Returns:
        The commit's address.

    Raises:
        UserError: it cannot be put there.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="koala", library_version=__version__)
    with explain_push_error(name):
        repository = api.create_repo(name, exist_ok=True).repo_id
        return api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message=f"A model of koala {__version__}",
        )


@contextmanager
def explain_push_error(name: str) -> Iterator[None]:
    """Tell in a sentence why a model cannot be put on the hub.

    Raises:
        UserError: nobody is logged in, or may not write there, or the hub cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        with quiet_hub():
            yield
    except TypeError:  # a call that does not fit
        raise
    except HFValidationError as error:
        raise UserError(f"{name} cannot be a name on the Hugging Face hub ({first_line(error)})") from None
    except Exception as error:  # whatever the network does
        answer = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if answer in (401, 403) or isinstance(error, LocalTokenNotFoundError):
            reason = 'lets you not write there; run "hf auth login" with a token that may write, or set HF_TOKEN'
        elif answer is not None:
            reason = f"does not take it ({first_line(error)}); try again later"
        else:
            reason = f'cannot be reached from here; from a machine that can, run "hf upload {name} FOLDER"'
        raise UserError(f"{name} is not pushed: the Hugging Face hub {reason}") from None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Let the hub's client not tell of its retries, where one sentence tells of how they end."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def model_card(facts: Mapping[str, str]) -> str:
    """A model's page on the hub, for its owner to complete.

    Args:
        facts: what is told of the model, in a word each.
    """
    return _CARD.format(rows="\n".join(f"| {name} | {fact} |" for name, fact in facts.items()))


def _fetch(name: str, options: Mapping[str, Any]) -> Path:
    """A model's files from the hub, or from the cache of an earlier fetch."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        with quiet_hub():
            return Path(snapshot_download(name, allow_patterns=list(FILES), **options))
    except RepositoryNotFoundError:  # or one that is not for everybody
        reason = 'shows no such model; check the name, or run "hf auth login" if it is a private one'
    except RevisionNotFoundError:
        reason = f"has no revision {options.get('revision')} of such a model; name another one"
    except Exception:  # whatever the network does, the remedy is the same
        reason = "cannot be reached from here; check the path, or bring the model's folder to this machine"
    raise UserError(f"there is no folder {name}, and the Hugging Face hub {reason}")
