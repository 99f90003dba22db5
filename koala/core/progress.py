"""Progress that fits where it is read: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import Any

_LOG_INTERVAL_S = 20.0


class Progress:
    """Counts towards a total, on standard error.

    Args:
        total: what is counted to.
        what: a word or two for what goes on.
        unit: what is counted.
        start: what was done before.
        show: False says nothing (all processes but the first).
    """

    def __init__(self, total: int, what: str, unit: str = "images", start: int = 0, show: bool = True) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._start, self._done, self._show = start, start, show
        self._began = self._said = time.monotonic()
        self._bar = self._make_bar() if show and sys.stderr.isatty() else None

    def _make_bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(total=self._total, initial=self._start, desc=self._what, unit=f" {self._unit}", dynamic_ncols=True)

    def advance(self, count: int, note: str = "") -> None:
        """Count on; `note` is shown beside the count."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._said > _LOG_INTERVAL_S:
            self._say(note)

    def say(self, line: str) -> None:
        """Say a line without disturbing the bar."""
        if not self._show:
            return
        line = line.encode("utf-8", "backslashreplace").decode()  # a file's name may be no text
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _say(self, note: str) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._began
        rate = (self._done - self._start) / seconds if seconds else 0.0
        left = f", {_duration((self._total - self._done) / rate)} left" if rate else ""
        note = f", {note}" if note else ""
        self.say(f"{self._what}: {self._done} of {self._total} {self._unit}, {rate:.1f}/s{left}{note}")

    def close(self) -> None:
        """End the bar, or say the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._show and self._done != self._start:
            self._say("")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Counter:
    """Counts what has no known total, in a line now and then once it takes long."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit, self._count = what, unit, 0
        self._said = time.monotonic()

    def advance(self, count: int) -> None:
        """Count on."""
        self._count += count
        if time.monotonic() - self._said > _LOG_INTERVAL_S / 4:
            self._said = time.monotonic()
            print(f"{self._what}: {self._count} {self._unit} so far", file=sys.stderr, flush=True)

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to say."""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
