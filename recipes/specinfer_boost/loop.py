"""Make the loop of `recipes/smollm2_drafts` importable: import this module before its modules."""

import sys
from pathlib import Path

LOOP = Path(__file__).parents[1] / "smollm2_drafts"
"""Where text, features and training loop are."""

sys.path.insert(0, str(LOOP))
