"""`python -m koala`, which is what `accelerate launch -m koala train ...` runs."""

import sys

from koala.cli import main

sys.exit(main())
