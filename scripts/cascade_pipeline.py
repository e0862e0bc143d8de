"""Run ``cascade.commands.evaluation.evaluate`` from any folder, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.commands.evaluation.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
