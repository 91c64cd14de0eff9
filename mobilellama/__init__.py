"""MobileLLaMA: from raw text to language and vision-language models, one folder per stage.

The stage folders (``tokenize/``, ``shards/``, ``pretrain/``, ...) are at the repository root. This
package has a link to each, so ``tokenize/encoding/encoder.py`` is imported as
``mobilellama.tokenize.encoding.encoder``.

Stage folders have no ``__init__.py``: a ``tokenize/__init__.py`` at the root would hide the
standard library's ``tokenize``, which ``inspect``, pytest and torch need.
"""

__version__ = "0.1.0"
