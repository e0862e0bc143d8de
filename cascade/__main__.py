"""``python -m cascade`` is the console command."""

import sys

from cascade.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
