"""``python -m cascade`` is the console command."""

import sys

from cascade.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
