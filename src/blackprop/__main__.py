"""`python -m blackprop`: the command `blackprop`."""

import sys

from blackprop_cli import main

sys.exit(main())
