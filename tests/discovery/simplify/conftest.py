"""The module beside the tests is imported by name, also by tests/benchmarks/simplify.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
