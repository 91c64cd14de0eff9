"""Run read_exports.py, which a plain pytest leaves out: python tests/transformers4/run.py."""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__).with_name("read_exports.py")), "-q", "-rP"]))
