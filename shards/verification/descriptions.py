"""Check the files that describe a dataset: dataset.json, plan.json and the receipts."""

from collections.abc import Collection, Iterator

from mobilellama.config import DataError
from mobilellama.shards.dataset import DATASET, PLAN, Plan, maker, read_receipt, tokenizer_file
from mobilellama.shards.manifest import fingerprint_of_rows, rebuild_manifest
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.sources.remote import SourcePath
from mobilellama.shards.verification.checked_files import COPY_TOKENIZER, CheckedFile, Fault
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER


def check_descriptions(dataset: TokenDataset) -> None:
    """Raise DataError unless dataset.json and plan.json say what the manifest says.

    Receipts may be missing, since only tokenising needs them, but not broken.
    """
    path, remedy = dataset.folder / DATASET, rebuild_manifest(dataset.folder)
    found = fingerprint_of_rows(dataset.identity, dataset.manifest)
    if found != dataset.fingerprint:
        raise DataError(
            f"{path}: its fingerprint is {dataset.fingerprint[:12]}..., but its identity and the "
            f"manifest give {found[:12]}.... {remedy}"
        )
    if dataset.described_totals != dataset.totals:
        raise DataError(f"{path}: its totals are not the manifest's. {remedy}")
    plan = dataset.folder / PLAN
    try:
        planned = Plan.read(dataset.folder)
    except FileNotFoundError:
        return  # only tokenising needs the plan
    except DataError as error:
        what = str(error).partition(". ")[0]
        raise DataError(f"{what}. Restore it from a copy (only tokenising reads it)") from None
    if planned.identity != dataset.identity:
        raise DataError(
            f"{plan}: its identity is not that of {DATASET}, which the fingerprint confirms. "
            "Restore it from a copy (only tokenising reads it)"
        )


def faults_of_receipts(dataset: TokenDataset) -> Iterator[Fault]:
    """Yield the receipts that are broken, or belong to another plan."""
    if not (dataset.folder / PLAN).is_file():
        return
    planned = Plan.read(dataset.folder)
    for slice_ in planned.slices:
        try:
            read_receipt(dataset.folder, slice_, planned.identity)
        except DataError as error:
            path = dataset.folder / f"{slice_.name}.json"
            fault = str(error).removeprefix(f"{path}: ").partition(". Remove ")[0]
            yield CheckedFile(path=path, size=None, sha256="", bucket=slice_.name), fault


def described_files(dataset: TokenDataset, known: Collection[SourcePath]) -> Iterator[CheckedFile]:
    """Yield the files for which dataset.json vouches.

    The plan and receipts may be missing, since only tokenising needs them.

    Args:
        dataset: the dataset.
        known: files that are known to be bad.
    """
    folder = dataset.folder
    made_again = f"Run the same 'mobilellama {maker(folder)}' again: it writes the file anew"
    for name, sha256 in dataset.described_files.items():
        path = folder / name
        is_receipt = path.suffix == ".json" and path.stem.isdigit()
        may_be_missing = name == PLAN or is_receipt
        if path in {tokenizer_file(folder), *known} or (may_be_missing and not path.exists()):
            continue
        bucket, remedy = (name.removesuffix(".json"), "") if is_receipt else (None, made_again)
        remedy = COPY_TOKENIZER if name.startswith(HF_FOLDER) else remedy
        yield CheckedFile(path=path, size=None, sha256=sha256, bucket=bucket, remedy=remedy)
