"""Shards in a store: images per second with a cold and with a warm cache, against the same shards on the local disk.

    python benchmarks/remote.py SHARDS [--size 224] [--threads 2] [--rounds 5] [--gbit 0]

SHARDS is a folder of shards, whose training samples are read once in a training's order. moto's S3 server runs beside
it on this machine, in a process of its own; --gbit slows its answers to so many Gbit/s. "reading" hands the bytes over
and decodes nothing; "loading" is what a training gets from `koala.data.loader`, on the CPU. Each figure comes from a
new process: a cold one finds no cache at all, a warm one that of the cold one before it. Opening the shards is not
counted. The last lines are ratios of images per second to the local disk's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

from side_by_side import measure, ratio, report

from koala.config.data import DataSettings
from koala.config.fields import Location, as_location
from koala.core.object_store import open_store
from koala.data import loader
from koala.data.sampler import EpochSampler, micro_batches
from koala.data.shards import Shards

BATCH = 50
LOCAL, COLD, WARM = "local disk", "store, cold cache", "store, warm cache"


def read_once(location: Location, what: str, size: int, threads: int) -> tuple[int, float]:
    """Read the training samples once: how many, and in how many seconds."""
    shards = Shards.open(location, "train")
    places = micro_batches(EpochSampler(shards.shard_sizes, 0), 0, BATCH, rank=0, world_size=1)
    batches = -(-len(shards) // BATCH)
    began = time.perf_counter()
    if what == "reading":
        with shards.coming(next(places) for _ in range(batches)) as coming:
            images = sum(len(shards.read_many(place.samples)) for place in coming)
    else:
        data = DataSettings(location, size=size, threads=threads)
        stream = loader.load_batches(shards, places, data, "cpu", batch=BATCH)
        images = sum(len(next(stream).lightness) for _ in range(batches))
    return images, time.perf_counter() - began


# ---------------------------------------------------------------- the server


def serve(gbit: float) -> None:
    """Serve until the process is ended; the port is the first line."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ, start_response):
        body = list(moto(environ, start_response))
        if gbit:
            time.sleep(sum(map(len, body)) * 8 / (gbit * 1e9))
        return body

    class Quiet(WSGIRequestHandler):
        def log(self, *_):
            pass

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


def fill(url: str, folder: Path) -> None:
    """Put shards into a bucket."""
    urlopen(Request(os.environ["AWS_ENDPOINT_URL"] + "/koala", method="PUT")).close()
    store = open_store(url)
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            store.write(path.name, path)


# ---------------------------------------------------------------- side by side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gbit", type=float, default=0)
    parser.add_argument("--once", choices=("reading", "loading"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.shards == "serve":
        serve(arguments.gbit)
    elif arguments.once:
        print(*read_once(as_location(arguments.shards), arguments.once, arguments.size, arguments.threads))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    folder, url = Path(arguments.shards), "s3://koala/shards"
    command = [sys.executable, __file__, "serve", "--gbit", str(arguments.gbit)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{int(server.stdout.readline())}"
        os.environ.update(AWS_ACCESS_KEY_ID="somebody", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1")
        fill(url, folder)
        for what in ("reading", "loading"):
            rates = rates_of(what, folder, url, arguments)
            print(f"{what}, moto's S3 server on this machine, on the CPU")
            report(rates)
            for way in (COLD, WARM):
                print(f"{what} ratio, {way}: {ratio(rates, way, LOCAL):.2f}")
    finally:
        server.terminate()
        server.wait()


def rates_of(what: str, folder: Path, url: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as caches:
        newest = [Path(caches)]

        def way(name: str, location: str) -> Callable[[], int]:
            def work() -> int:
                if name == COLD:
                    newest[0] = Path(tempfile.mkdtemp(dir=caches))
                flags = ["--once", what, "--size", str(arguments.size), "--threads", str(arguments.threads)]
                environment = {**os.environ, "KOALA_CACHE": str(newest[0])}
                command = [sys.executable, __file__, location, *flags]
                printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
                images, took = printed.split()
                seconds.setdefault(name, []).append(int(images) / float(took))
                return int(images)

            return work

        measure({LOCAL: way(LOCAL, str(folder)), COLD: way(COLD, url), WARM: way(WARM, url)}, arguments.rounds)
    return {name: rates[1:] for name, rates in seconds.items()}  # the first round warms all up


if __name__ == "__main__":
    main()
