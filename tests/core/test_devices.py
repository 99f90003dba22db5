"""Devices: what is set for a while is set back."""

import threading

import torch

from koala.core.devices import cores_set_back


def test_what_a_thread_sets_for_itself_is_not_what_later_ones_begin_with():
    """Torch's number of cores is the process's, and sums in another order are other sums."""
    before = torch.get_num_threads()
    found = []
    with cores_set_back():
        for work in (lambda: torch.set_num_threads(before + 1), lambda: found.append(torch.get_num_threads())):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    assert found == [before + 1]
    assert torch.get_num_threads() == before
