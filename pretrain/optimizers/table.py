"""The optimizers, by name: the one list that configs, engines, checkpoints and cards read.

To add one, write its class in a file beside this one and add its line here.
"""

OPTIMIZERS = {
    "adamw": "mobilellama.pretrain.optimizers.adamw:AdamW",
    "lion": "mobilellama.pretrain.optimizers.lion:Lion",
}
"""The class, as MODULE:CLASS, by the value of ``optimizer.kind``. A module is imported when its
kind is asked for: a command line is read without torch."""
