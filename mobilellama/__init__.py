"""MobileLLaMA: a pretraining pipeline, one folder per stage.

The stage folders (``tokenize/``, ``shards/``, ``pretrain/``, ``sft/``) sit at the repository
root and are linked in here, so that ``tokenize/encoder.py`` is imported as
``mobilellama.tokenize.encoder``.

Stage folders hold no ``__init__.py``: a root-level ``tokenize/__init__.py`` would
shadow the standard library's ``tokenize``, and with it ``inspect``, pytest and torch.
"""

__version__ = "0.1.0"
