"""The modules beside the tests are imported by name, also by tests/benchmarks/fuzz.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
