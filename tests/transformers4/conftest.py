"""The run that is exported is that of tests/pretrain."""

from tests.pretrain.conftest import tiny_run

__all__ = ["tiny_run"]
