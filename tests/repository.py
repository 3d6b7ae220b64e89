"""Where this repository is, for tests of what is in it beside the service."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
