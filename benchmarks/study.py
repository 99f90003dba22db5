"""The realness study under load, on one machine: 200 participants at once, and a server that is killed.

    python benchmarks/study.py [--participants 200] [--shown 24] [--think 1.0] [--kills 3]

The server is `koala study serve` in a process of its own; the participants share another. Each takes part from consent
to thanks over a connection of their own, loads every picture, and thinks for `--think` seconds on average (exponential)
before each answer. The first part says how long answers took, from the first byte sent to the last received, the
commit to the disk among it. In the second part the server is killed (SIGKILL) and started again `--kills` times in the
middle, and participants send again what was not acknowledged. After each part the database must hold every acknowledged
answer, once, as it was given.
"""

import argparse
import asyncio
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from koala.config.study import BuildStudy, StudySettings
from koala.study import build
from koala.study.folder import StudyFolder

SCENES = 48
HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
ACTION, PICTURE = re.compile(r'action="(\w+)"'), re.compile(r'src="(pictures/\w+)"')


@dataclass
class Times:
    """Seconds that requests took, by what they were for."""

    of: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> None:
        self.of.setdefault(what, []).append(seconds)

    def print(self) -> None:
        print(f"{'':10} {'requests':>9} {'median':>9} {'99 %':>9} {'most':>9}  ms")
        for what, values in self.of.items():
            milliseconds = np.array(values) * 1e3
            middle, late = np.quantile(milliseconds, [0.5, 0.99])
            print(f"{what:10} {len(values):9} {middle:9.1f} {late:9.1f} {milliseconds.max():9.1f}")


class Participant:
    """Somebody with a connection of their own, who does not give up."""

    def __init__(self, port: int, think_s: float, times: Times) -> None:
        self.port, self.think_s, self.times = port, think_s, times
        self.cookie, self.page, self.connection = "", "", None
        self.acknowledged: dict[int, str] = {}

    async def take_part(self) -> None:
        await asyncio.sleep(random.random() * self.think_s)
        await self.go("GET", "/", "page")
        await self.send("start", agree="yes")
        await self.send("questions", expert="no", color_vision="good")
        while (action := self.fields()[0]) in ("practice", "answer"):
            if picture := PICTURE.search(self.page):
                await self.request("GET", f"/{picture[1]}", "picture")
            await asyncio.sleep(random.expovariate(1 / self.think_s))
            await self.send(action, answer=random.choice(["real", "fake"]))
        assert "Thank you!" in self.page, self.page

    def fields(self) -> tuple[str, dict[str, str]]:
        found = ACTION.search(self.page)
        return (found[1] if found else ""), dict(HIDDEN.findall(self.page))

    async def send(self, action: str, **fields: str) -> None:
        hidden = self.fields()[1]
        form = {**hidden, **fields}
        status, headers, _ = await self.request("POST", f"/{action}", action, urlencode(form))
        assert status == 303, status
        if action == "answer":
            self.acknowledged[int(hidden["position"])] = fields["answer"]
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].partition(";")[0]
        await self.go("GET", f"/{headers['location'].lstrip('.')}", "page")

    async def go(self, method: str, path: str, what: str) -> None:
        status, headers, body = await self.request(method, path, what)
        while status == 303:
            status, headers, body = await self.request("GET", f"/{headers['location'].lstrip('.')}", what)
        assert status == 200, (status, body)
        self.page = body.decode()

    async def request(self, method: str, path: str, what: str, body: str = "") -> tuple[int, dict[str, str], bytes]:
        """One request, again and again until there is an answer."""
        while True:
            try:
                began = time.perf_counter()
                result = await self.exchange(method, path, body)
                if result[0] < 500:
                    self.times.add(what, time.perf_counter() - began)
                    return result
            except (OSError, asyncio.IncompleteReadError):
                self.connection = None
            await asyncio.sleep(0.1)

    async def exchange(self, method: str, path: str, body: str) -> tuple[int, dict[str, str], bytes]:
        if self.connection is None:
            self.connection = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.connection
        kind = "content-type: application/x-www-form-urlencoded\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncookie: {self.cookie}\r\n{kind}"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        content = await reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, content

    def close(self) -> None:
        if self.connection:
            self.connection[1].close()


class Server:
    """`koala study serve`, which can be killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.command = [sys.executable, "-m", "koala", "study", "serve", str(folder), "--port", str(port)]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def cpu_s(self) -> float:
        """Seconds of processor time until now: what a busy machine does not change."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


async def crowd(port: int, count: int, think_s: float, times: Times) -> list[Participant]:
    people = [Participant(port, think_s, times) for _ in range(count)]
    await asyncio.gather(*(person.take_part() for person in people))
    for person in people:
        person.close()
    return people


async def killed_crowd(server: Server, port: int, count: int, think_s: float, times: Times, kills: int, pause_s: float):
    async def killing() -> None:
        for _ in range(kills):
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    people, _ = await asyncio.gather(crowd(port, count, think_s, times), killing())
    return people


def check(folder: Path, people: list[Participant], shown: int) -> None:
    """Every acknowledged answer is in the database, once, as it was given."""
    given = sorted(json.dumps(person.acknowledged, sort_keys=True) for person in people)
    with closing(sqlite3.connect(StudyFolder.open(folder).answers_path)) as database:
        kept: dict[int, dict[int, str]] = {}
        for participant, position, answer in database.execute(
            "SELECT participant, position, answer FROM trial WHERE answer IS NOT NULL ORDER BY participant, position"
        ):
            kept.setdefault(participant, {})[position] = answer
    assert given == sorted(json.dumps(answers, sort_keys=True) for answers in kept.values()), "answers differ"
    answers = sum(len(person.acknowledged) for person in people)
    assert answers == len(people) * shown, (answers, len(people))
    print(f"{answers} answers acknowledged, {sum(map(len, kept.values()))} in the database, all as they were given")


def make_study(folder: Path, shown: int) -> None:
    """Pictures as large as photographs are: smooth colours with fine noise."""
    rng = np.random.default_rng(0)
    for number in range(SCENES + 1):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (512, 384), Image.Resampling.BICUBIC
        )
        noisy = np.clip(np.asarray(coarse) + rng.normal(0, 6, (384, 512, 1)), 0, 255).astype(np.uint8)
        for name in ("originals", "koala"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy if name == "originals" else noisy[..., ::-1]).save(folder / name / f"{number}.png")
    pictures = (f"koala={folder / 'koala'}",)
    study = StudySettings(shown=shown - 2, checks=2)
    for part in ("load", "kill"):
        build.build_command(BuildStudy(folder / part, folder / "originals", pictures, scenes=SCENES, study=study))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--shown", type=int, default=24)
    parser.add_argument("--think", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=3, help="0 leaves the second part out")
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(folder, arguments.shown)
        print(f"\n{arguments.participants} participants at once, {arguments.shown} trials each")
        server, times = Server(folder / "load", arguments.port), Times()
        server.start()
        began, began_cpu_s = time.perf_counter(), server.cpu_s()
        people = asyncio.run(crowd(arguments.port, arguments.participants, arguments.think, times))
        seconds, cpu_s = time.perf_counter() - began, server.cpu_s() - began_cpu_s
        server.stop()
        times.print()
        print(f"{1e3 * cpu_s / sum(map(len, times.of.values())):.2f} ms of the server's processor time a request")
        print(f"{len(times.of['answer']) / seconds:.0f} answers/s over {seconds:.0f} s")
        check(folder / "load", people, arguments.shown)

        if not arguments.kills:
            return
        print(f"\nthe same, the server killed {arguments.kills} times in the middle")
        server = Server(folder / "kill", arguments.port)
        server.start()
        pause_s = arguments.shown * arguments.think / (arguments.kills + 1)
        crowd_of_killed = killed_crowd(
            server, arguments.port, arguments.participants, arguments.think, Times(), arguments.kills, pause_s
        )
        people = asyncio.run(crowd_of_killed)
        server.stop()
        check(folder / "kill", people, arguments.shown)


if __name__ == "__main__":
    main()
