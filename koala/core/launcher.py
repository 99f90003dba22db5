"""`python -m koala.core.launcher`: torch's own launcher, with an exit code that tells what happened.

torchrun ends with 1 whatever its processes ended with. This one ends with the code of the process that failed first, or
with 128 + the signal's number, so that who started it knows what to try again: 2 is a command that cannot run as given.
"""

import sys
from collections.abc import Sequence


def launch(arguments: Sequence[str]) -> int:
    """Start processes, and wait for them.

    Args:
        arguments: of torchrun.

    Returns:
        0; the exit code of the process that failed first; or 128 + n if signal n ended it, or this launcher.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
