"""Servers of files on this machine: moto's S3, with faults where a test asks for them, and a plain web server."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


class S3:
    """moto's S3 server.

    Attributes:
        url: of the server.
        faults: what happens to the next requests whose path holds a word, one after the other: (word, fault), where a
            fault is a status, "cut" in mid-body, or seconds to wait.
        asked: how often each path was got.
    """

    def __init__(self):
        self.faults: list[tuple[str, int | str | float]] = []
        self.asked: Counter[str] = Counter()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def make_bucket(self, name: str) -> None:
        urlopen(Request(f"{self.url}/{name}", method="PUT")).close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ, start_response):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        self.asked[f"{method} {path}"] += 1
        fault = self._next_fault(f"{method} {path}")
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            start_response(f"{fault} Fault", [("Content-Length", "0")])
            return [b""]
        elif fault == "cut":
            body = b"".join(self._moto(environ, start_response))
            return [body[: len(body) // 2]]
        return self._moto(environ, start_response)

    def _next_fault(self, request):
        for number, (word, fault) in enumerate(self.faults):
            if word in request:
                del self.faults[number]
                return fault
        return None


class Ranges(SimpleHTTPRequestHandler):
    """Python's web server, which does not know of ranges; here it does."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        begin, end = map(int, wanted.removeprefix("bytes=").split("-"))
        data = path.read_bytes()
        part = data[begin : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(part)


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
