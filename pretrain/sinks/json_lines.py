"""metrics.jsonl: a JSON object a record. Primary: a run that cannot write it ends, and says so."""

import json
import math
import os
from typing import NoReturn

from mobilellama.config import one_line
from mobilellama.files.atomic import whole_file
from mobilellama.pretrain.sinks.sink import MetricsRecord
from mobilellama.run_folder import RunFolder


class JsonLines:
    """Appends to metrics.jsonl."""

    def __init__(self, run: RunFolder, *, resumed_step: int, interrupted: bool = False) -> None:
        """Cut the file back to the step resumed from.

        Args:
            run: the run's folder.
            resumed_step: the last step that is not done again.
            interrupted: whether the step lies within an interval, whose sums were restored. The
                line of the part before the stop is dropped: the next line holds the whole interval.

        Raises:
            OSError: it cannot be written; names it.
        """
        self._path = run.metrics
        try:
            cut_back(run, resumed_step, interrupted=interrupted)
        except OSError as error:
            self._fail(error)

    def write(self, record: MetricsRecord) -> None:
        """Append a record.

        Raises:
            OSError: it cannot be written; names the file.
        """
        # NaN is no JSON.
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.values.items()
        }
        line = json.dumps({"step": record.step, **values}) + "\n"
        try:
            with open(self._path, "a") as file:
                file.write(line)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        """Raise the error with the file's name, which a full disk's has not."""
        number = error.errno or 0
        raise OSError(number, error.strerror or one_line(error), os.fspath(self._path)) from None


def cut_back(run: RunFolder, step: int, *, interrupted: bool = False) -> None:
    """Drop the records of metrics.jsonl after a step, and a torn last line.

    Args:
        run: the run's folder.
        step: the last step whose records stay.
        interrupted: also drop that step's record of an interval. Its validation losses stay.
    """
    if run.metrics.exists():
        kept = [
            record
            for record in run.read_metrics()
            if record["step"] <= step
            and not (interrupted and record["step"] == step and "consumed" in record)
        ]
        with whole_file(run.metrics) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
