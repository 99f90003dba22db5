"""The processes that a launcher started, talking through its store: that works also where their network does not."""

import json
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

from koala.core.errors import UserError, first_line

PATIENCE_S = 60.0
MARGIN_S = 15.0  # more, until a process that has not answered is given up


class ProcessStore:
    """The processes, and which of them this one is.

    Args:
        rank: of this process; the first one, 0, gathers.
        size: number of processes.
        local_rank: of this process on its node.
        local_size: processes on its node.
        host: its node's name.
        store: of torch.distributed; none for a process that is alone.

    Attributes:
        hosts: each process's node, by rank; known to the first process.
        nodes: how many there are; known to all.
    """

    def __init__(
        self, *, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1, host: str, store: Any = None
    ) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._store = store
        self._lost: set[int] = set()
        known = self.gather("host", (host, local_rank))
        self.hosts = [known.get(number, ("an unknown node", 0))[0] for number in range(size)]
        self.nodes: int = self.broadcast("nodes", lambda: sum(first == 0 for _, first in known.values()))

    @classmethod
    def connect(cls) -> Self:
        """Find the others, as the launcher's variables say.

        Raises:
            UserError: they are not to be reached.
        """
        size, host = int(os.environ.get("WORLD_SIZE", "1")), socket.gethostname()
        if size == 1:
            return cls(host=host)
        from torch import distributed as dist

        try:
            store, rank, size = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=PATIENCE_S))))
        except (RuntimeError, ValueError) as error:
            place = f"{os.environ.get('MASTER_ADDR', 'nowhere')}:{os.environ.get('MASTER_PORT', '')}"
            raise UserError(
                f"{host} does not reach the first process at {place} ({first_line(error)}); launch with one of the "
                "files in launch/, and see that the nodes reach each other on that port"
            ) from None
        return cls(
            rank=rank,
            size=size,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            host=host,
            store=dist.PrefixStore("koala", store),
        )

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def gather(self, name: str, value: Any, patience_s: float = PATIENCE_S) -> dict[int, Any]:
        """Give the first process everybody's values; called by all.

        Args:
            name: of what is gathered; another each time.
            value: what JSON can hold.
            patience_s: how long the first process waits for the others; one that stays silent is waited for no more.

        Returns:
            In the first process, the values by rank but for those of silent processes; in the others, once it has
            them, their own.
        """
        found = {self.rank: json.loads(json.dumps(value))}
        if self.size == 1:
            return found
        if not self.is_main:
            self._put(f"{name}/{self.rank}", value)
            self._receive(f"{name}/all", 2 * (patience_s + MARGIN_S))
            return found
        until = time.monotonic() + patience_s
        for rank in set(range(1, self.size)) - self._lost:
            try:
                found[rank] = self._receive(f"{name}/{rank}", until - time.monotonic())
            except UserError:
                self._lost.add(rank)
        self._put(f"{name}/all", True)
        return found

    def broadcast(self, name: str, work: Callable[[], Any]) -> Any:
        """Let the first process do something, and give what comes of it to all; called by all.

        Args:
            name: of what is given; another each time.
            work: gives what JSON can hold.

        Raises:
            UserError: in the others, when the first process fails or is silent.
        """
        if not self.is_main:
            done, result = self._receive(name, PATIENCE_S - MARGIN_S)
            if not done:
                raise UserError("the first process failed, so that there is nothing to compare with; mend that first")
            return result
        try:
            result = work()
        except Exception:
            self._put(name, (False, None))
            raise
        self._put(name, (True, result))
        return result

    def _put(self, name: str, value: Any) -> None:
        if self._store is not None:
            self._store.set(name, json.dumps(value))

    def _receive(self, name: str, patience_s: float) -> Any:
        try:
            self._store.wait([name], timedelta(seconds=max(0.01, patience_s)))
            return json.loads(self._store.get(name))
        except RuntimeError as error:
            raise UserError(f"another process is silent ({first_line(error)}); see its log") from None
