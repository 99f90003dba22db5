"""Reading ahead: how it ends."""

from queue import SimpleQueue

from koala.data import read_ahead


def test_the_end_does_not_wait_when_a_thread_takes_the_last_block_first():
    class Taken(SimpleQueue):
        """A queue that seems to hold a block which a thread has just taken."""

        def empty(self):
            return False

        def get(self, *_):
            raise AssertionError("this would wait for ever")

    wanted = Taken()
    read_ahead._end(wanted)
    assert wanted.qsize() == read_ahead._THREADS
