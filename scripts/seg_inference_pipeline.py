"""Run ``cascade.commands.evaluation.seg_eval`` from any folder, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.commands.evaluation.seg_eval import main

if __name__ == "__main__":
    sys.exit(main())
