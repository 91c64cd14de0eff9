"""The fields of 'vlm import'."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.formats.import_config import Config


def test_a_folder_to_write_is_given_unless_nothing_is_written() -> None:
    with pytest.raises(ConfigError, match=r"^output = null: must be given\. Give --output FOLDER"):
        Config(model="m")
    assert Config(model="m", dry_run=True).output is None


def test_a_file_of_no_size_is_refused_and_the_template_is_the_originals() -> None:
    with pytest.raises(ConfigError, match=r"^max_shard_size_gb = 0: must be at least"):
        Config(model="m", output="o", max_shard_size_gb=0)
    assert Config(model="m", output="o").template == "vicuna_v1"
