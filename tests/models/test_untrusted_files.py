"""A stranger's files hold data: wherever koala reads one, code in it does not run."""

import ast
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import koala
from koala.cli import main
from koala.core.errors import UserError
from koala.evaluation.partial_results import PartialResults
from koala.models import checkpoint

REFUSED = "only tensors and plain values are taken: a pickle of anything else could run code"


def put(file: Path, folder: Path, name: str) -> None:
    """Lay a file into a checkpoint, as whole as its own would be."""
    shutil.copy(file, folder / name)
    description = json.loads((folder / "checkpoint.json").read_text())
    description["sha256"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps(description))


def test_the_pickle_would_run_its_code(strangers_pickle):
    with pytest.raises(pytest.fail.Exception, match="code of a weights file ran"):
        torch.load(strangers_pickle, weights_only=False)


def test_as_weights_of_a_checkpoint(strangers_pickle, run, tmp_path):
    folder = shutil.copytree(checkpoint.find_checkpoint(run).path, tmp_path / "model")
    put(strangers_pickle, folder, "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors holds no weights that can be read"):
        koala.load_model(folder)


def test_as_state_of_a_training_that_goes_on(strangers_pickle, run, tmp_path, capsys):
    own = shutil.copytree(run, tmp_path / "run")
    put(strangers_pickle, checkpoint.find_checkpoint(own).path, "training.pt")
    assert main(["train", str(own / "config.toml"), "--run", str(own), "--epochs", "1"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("koala: ") and told.endswith(f"training.pt holds no weights that can be read ({REFUSED})")


def test_as_weights_of_the_extractor(strangers_pickle, shard_folder, tmp_path, capsys):
    words = ["train", "--data.shards", str(shard_folder), "--data.size", "16", "--run", str(tmp_path / "run")]
    extractor = ["--extractor.name", "tf_efficientnet_lite0", "--extractor.weights", str(strangers_pickle)]
    assert main(words + extractor) == 2
    assert f"{strangers_pickle} holds no weights that can be read ({REFUSED})" in capsys.readouterr().err


def test_as_part_of_long_work(tmp_path):
    class Stranger:
        def __reduce__(self):
            return (pytest.fail, ("code of an array ran",))

    np.savez(tmp_path / "a.npz", x=np.array([Stranger()], dtype=object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        list(PartialResults(tmp_path).read(["a"]))


def test_nothing_in_koala_unpickles():
    """torch.load with tensors only, numpy.load without pickles, and nothing else that could run what it reads."""
    seen = []
    for path in Path(koala.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call, settings = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            place = f"{path}:{node.lineno}"
            assert call.partition(".")[0] not in ("pickle", "dill", "joblib", "marshal", "shelve", "eval", "exec"), (
                place
            )
            assert settings.get("allow_pickle", "False") == "False", place
            if call == "torch.load":
                assert settings["weights_only"] == "True", place
                seen.append(path.stem)
    assert seen == ["extractor"]
