"""Scripts are no package: their folder goes on the path, as it is when Python runs one of them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
