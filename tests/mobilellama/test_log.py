"""One policy for what is told: our records, and what libraries say that is worth it, once."""

import os
import pty
import subprocess
import sys

from tests.helpers.pseudo_terminal import read_all

SPEAK = """
import logging
import sys
import mobilellama.log

late = sys.argv[1] == "late"
if late:
    mobilellama.log.configure(rank=int(sys.argv[2]))
# As libraries do when they are imported: a handler of their own, and the root's too or not.
for name, propagates in (("huggingface_hub", True), ("transformers", False), ("DeepSpeed", False)):
    logger = logging.getLogger(name)
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = propagates
if not late:
    mobilellama.log.configure(rank=int(sys.argv[2]))
for name in (
    "huggingface_hub.utils._http", "transformers.modeling_utils", "DeepSpeed", "datasets.builder",
    "httpx", "httpcore.connection", "PIL.PngImagePlugin", "matplotlib.font_manager", "somebody",
    "mobilellama.pretrain.loop", "__main__",
):
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "from %s", name)
"""


def told(when: str, rank: int = 0) -> dict[str, str]:
    """Return the first letters of the levels that each logger told, by its name."""
    command = [sys.executable, "-c", SPEAK, when, str(rank)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    found: dict[str, str] = {}
    for line in done.stderr.splitlines():
        _, _, level, *rest = line.split()  # date, time: every line is in our format
        found[rest[-1]] = found.get(rest[-1], "") + level
    return found


POLICY = {
    "huggingface_hub.utils._http": "WE",  # its retries
    "transformers.modeling_utils": "E",
    "DeepSpeed": "E",
    "datasets.builder": "E",
    "httpx": "WE",  # a request a line is INFO
    "httpcore.connection": "WE",
    "PIL.PngImagePlugin": "WE",
    "matplotlib.font_manager": "WE",
    "somebody": "WE",
    "mobilellama.pretrain.loop": "IWE",
    "__main__": "IWE",
}


def test_libraries_tell_what_is_worth_a_warning_once_and_ours_tell_all() -> None:
    assert told("late") == POLICY


def test_libraries_that_were_imported_before_keep_to_the_policy_too() -> None:
    assert told("early") == POLICY


def test_other_ranks_tell_warnings_alone() -> None:
    assert told("late", rank=3) == {name: levels.lstrip("I") for name, levels in POLICY.items()}


def test_a_warning_of_the_hubs_client_is_told_once_after_its_import() -> None:
    code = """
import mobilellama.log
mobilellama.log.configure()
from huggingface_hub.utils import logging
logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("Retrying") == 1 and done.stderr.endswith(
        "W Retrying in 1s [Retry 1/5].\n"
    )


def test_in_a_terminal_a_long_message_is_broken_between_words() -> None:
    code = (
        "import logging, mobilellama.log; mobilellama.log.configure(); "
        "logging.getLogger('mobilellama').info('a message of more than %d letters', 20)"
    )
    reader, writer = pty.openpty()
    environment = os.environ | {"COLUMNS": "42", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=writer, env=environment, check=True)
    os.close(writer)
    first, second = read_all(reader).splitlines()
    assert first.endswith(" I a message of more") and len(first) <= 42
    assert second == "    than 20 letters"


def test_a_message_without_a_bar_has_no_escapes() -> None:
    code = "import mobilellama.log as logs; logs.configure(); logs.logging.info('a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.endswith(" I a\n") and "\x1b" not in done.stderr
