"""Train a vision-language model: either stage of MobileVLM, or one of your own.

    mobilellama vlm run --config mobilevlm_1_7b_align --init CHAT_MODEL --vision CLIP
        --data.path blip_laion_cc_sbu_558k.json --data.images IMAGES --run.folder RUN1
    mobilellama vlm run --config mobilevlm_1_7b_instruct --init RUN1
        --data.path llava_v1_5_mix665k.json --data.images IMAGES --run.folder RUN2

The data are records in LLaVA's published format. 'vlm check-data' finds bad records before the
run. The records are tokenised once into RUN/samples. Before the first step, the run looks for every
image (--data.missing). Images are decoded when they are needed. The projector trains, and the tower
never trains. train.language_model and lora.rank decide whether the language model trains. The loss
is the mean over all supervised tokens of the global batch.

The same command resumes the run on any number of processes. If nothing else has changed, the
result is the same bit for bit. Ctrl-C, SIGTERM or the file RUN/stop saves a checkpoint and ends
the run. A second Ctrl-C ends it at once. RUN/verdict.json says how the run ended. A crash writes no
verdict. Ranks that hang exit with code 75 and without a verdict (--watchdog.step_minutes;
docs/slurm.md). 'pretrain plot' draws the loss. A checkpoint holds the whole model. The next stage
starts from it with --init RUN. 'vlm export' exports it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import nn

from mobilellama import log as logs
from mobilellama.config import ConfigError, MachineError
from mobilellama.distributed import Ranks, World, close
from mobilellama.files.atomic import sha256_of_json, whole_file
from mobilellama.pretrain.attempt import run_attempt
from mobilellama.pretrain.hf.hub_names import open_on_all
from mobilellama.pretrain.identity import precision_of
from mobilellama.pretrain.loop import RunFacts, Training
from mobilellama.pretrain.optimizer import ParameterGroup, parameter_groups, trained
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.sinks.sink import require_modules
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.progress import format_count
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RunRecord
from mobilellama.sft.data.labels import special_tokens
from mobilellama.sft.data.sources import find_slices
from mobilellama.sft.data.template import Template, read_template
from mobilellama.vlm.config import Config
from mobilellama.vlm.data.batches import HeldOutSamples, ImageTextBatches, ImageTextInputs
from mobilellama.vlm.data.missing import (
    IDENTITY,
    ImageCheck,
    check_images,
    find_missing,
    open_samples,
    read_image_check,
)
from mobilellama.vlm.data.order import SampleOrder
from mobilellama.vlm.data.records import ImageTextConfig
from mobilellama.vlm.data.report import read_leave_out
from mobilellama.vlm.data.sample_file import Recipe, build_samples, report_refusals
from mobilellama.vlm.data.samples import verify_samples
from mobilellama.vlm.formats.published_tower import named_tower
from mobilellama.vlm.identity import identity_of, missing_identity, reading_identity, samples_path
from mobilellama.vlm.model import PROJECTOR, VisionLanguageModel, build_on
from mobilellama.vlm.start import VisionLanguageStart, open_start
from mobilellama.vlm.tuning import chosen_lora, first_weights, tune

log = logging.getLogger(__name__)

_ORIENTATIONS = {
    "as_stored": "as they are stored: no EXIF orientation turns them",
    "as_shown": "as viewers show them: EXIF orientation turns them",
}


def main(config: Config) -> int:
    """Check, start the processes, train, and leave a verdict."""
    logs.configure(rank=logs.rank_from_environment())
    # Before any process is started, so that mistakes are told once.
    run = RunFolder(config.run.folder)
    run.require_usable()
    require_modules(config.metrics.sinks)
    ranks = Ranks(config.distributed)
    named = [config.init, config.vision or named_tower(config.init)]
    start, commits = open_on_all(ranks, run, named, partial(open_start, config, run))
    lora = chosen_lora(config, start)
    config = replace(config, init=start.origin.init, vision=start.origin.vision, lora=lora)
    orientation = start.architecture.images.orientation
    log.info("images are taken %s (images.orientation)", _ORIENTATIONS[orientation])
    side, tokens = start.architecture.images.size_pixels, start.architecture.image_tokens
    log.info("each image is made %d x %d pixels, which become %d tokens", side, side, tokens)
    template = read_template(config.data.template, field="data.template")
    recipe = recipe_of(config, start, template)
    require_fit(config, start)
    special_tokens(template, start.tokenizer)  # refuses a template of other tokenizers
    config.train.grad_accum_steps(config.distributed.world_size)
    fingerprint = recipe.fingerprint() if logs.rank_from_environment() == 0 else ""
    world = ranks.join()
    logs.configure(rank=world.rank)
    precision = precision_of(config.engine, run, world.device)
    facts = facts_of(config, start, recipe, fingerprint, precision)
    facts = replace(facts, hub=commits)

    def build(checkpoint: Checkpoint | None) -> Training:
        if checkpoint is None:
            start.verify(world, config.init)
        began = checkpoint.manifest.identity if checkpoint else None
        prepare_samples(config, recipe, fingerprint, run, world, began)
        now = replace(facts, identity=facts.identity | missing_identity(run))
        return tuning(config, start, world, now)

    def save_texts(run: RunFolder) -> None:
        start.tokenizer.save(run.path)
        with whole_file(run.template) as file:
            file.write(template.to_yaml().encode())

    end = partial(end_of, config, recipe, fingerprint, run)
    run_attempt(config, world, facts, save_texts=save_texts, build=build, end=end)
    close()  # not after an error: leaving the group would wait for ranks that wait for us
    return 0


def recipe_of(config: Config, start: VisionLanguageStart, template: Template) -> Recipe:
    """Return what decides the samples.

    Raises:
        ConfigError: the records, the images' folder or the list of what to leave out is not there.
    """
    data = ImageTextConfig(path=config.data.path, images=config.data.images)
    data.require_images()
    data.require_path()
    if config.data.validation is not None:
        replace(data, path=config.data.validation).require_path(field="data.validation")
    find_slices(data)  # refuses a folder without files that can be read
    leave_out = config.data.leave_out
    return Recipe(
        data=data,
        tokenizer=str(start.tokenizer.path),
        tokenizer_sha256=start.tokenizer.sha256,
        template=template,
        image_tokens=start.architecture.image_tokens,
        seq_len=config.train.seq_len,
        leave_out=frozenset() if leave_out is None else read_leave_out(leave_out, data),
    )


def require_fit(config: Config, start: VisionLanguageStart) -> None:
    """Raise ConfigError unless the language model takes samples of this length."""
    most = start.architecture.max_seq_len
    if config.train.seq_len > most:
        rule = f"exceeds the {most:,} positions of the language model"
        raise ConfigError("train.seq_len", config.train.seq_len, rule, f"Give {most} or less")
    vocab_size = start.architecture.vocab_size
    ids = start.tokenizer.vocab_size
    if ids > vocab_size:
        rule = f"has {vocab_size:,} embeddings, but {ids:,} ids in its tokenizer"
        raise ConfigError("init", config.init, rule, "Give a model with its own tokenizer")


def end_of(
    config: Config, recipe: Recipe, fingerprint: str, run: RunFolder, newest: Manifest
) -> int:
    """Return how many samples a run by epochs has that goes on; rank 0 calls it first of all.

    It counts the samples that the run has. Lost ones are made again: only they say how many there
    are. The rest of the run is left as it is.

    Args:
        config: of the run.
        recipe: of the samples to train on.
        fingerprint: the recipe's.
        run: where the samples are.
        newest: the run's newest checkpoint.
    """
    path, workers = samples_path(run, "train"), max(config.data.workers, 1)
    num_samples = build_samples(path, recipe, fingerprint=fingerprint, workers=workers).samples
    if newest.identity.get(IDENTITY) is not None:
        found = read_image_check(path) or find_missing(path, config.data.images)
        num_samples -= len(found.left_out)
    return samples_of_epochs(config, num_samples)


def samples_of_epochs(config: Config, num_samples: int) -> int:
    """Return how many samples ``train.epochs`` are, of so many that are there."""
    return max(round(config.train.epochs * num_samples), 1)


def prepare_samples(
    config: Config,
    recipe: Recipe,
    fingerprint: str,
    run: RunFolder,
    world: World,
    began: Mapping[str, object] | None,
) -> None:
    """Tokenise the records where that is not done, and look for their images.

    Rank 0 does it; what it finds is in files, which every rank reads.

    Args:
        config: of the run.
        recipe: of the samples to train on.
        fingerprint: the recipe's (rank 0's counts).
        run: where the files go.
        world: the processes.
        began: identity of the run's newest checkpoint.
    """
    sets: dict[str, Recipe] = {"train": recipe}
    if config.data.validation is not None:
        held_out = replace(recipe.data, path=config.data.validation)
        sets["validation"] = replace(recipe, data=held_out, leave_out=frozenset())
    workers, checked = max(config.data.workers, 1), began is None or IDENTITY in began

    def prepare() -> None:
        for name, made in sets.items():
            given = fingerprint if name == "train" else made.fingerprint()
            path = samples_path(run, name)
            report_refusals(build_samples(path, made, fingerprint=given, workers=workers))
            if config.data.verify:
                verify_samples(path)
            if checked:
                check_images(
                    path,
                    config.data.images,
                    policy=config.data.missing,
                    began=began,
                    are_held_out=name == "validation",
                )

    world.run_on_main(prepare, takes_long=True)
    _require_agreement([read_image_check(samples_path(run, name)) for name in sets], run, world)


def _require_agreement(found: Sequence[ImageCheck | None], run: RunFolder, world: World) -> None:
    """Raise MachineError unless every rank reads what rank 0 wrote of the images."""
    digest = sha256_of_json([vars(check) if check else None for check in found])
    number = int(digest[:15], 16)  # fits into 64 bits
    if world.any(world.broadcast(number) != number):
        raise MachineError(
            f"{run.path / 'samples'}: ranks read different lists of missing images there; the file "
            "system is behind. Run the same command again"
        )


def facts_of(
    config: Config, start: VisionLanguageStart, recipe: Recipe, fingerprint: str, precision: str
) -> RunFacts:
    """Return what the run's attempts and checkpoints say of it.

    Args:
        config: of the run.
        start: what it begins from.
        recipe: of the samples to train on.
        fingerprint: the recipe's (rank 0's counts).
        precision: with ``auto`` resolved.
    """
    run = RunFolder(config.run.folder)
    identity = identity_of(config, start, recipe, fingerprint, precision)
    if logs.rank_from_environment() == 0:
        identity |= reading_identity(run, fingerprint)
    record = RunRecord(
        stage="vlm",
        origin=start.origin,
        template=config.data.template,
        lora=config.lora.adapters,
        trains_language_model=config.train.language_model,
    )
    parts = {"model": start.architecture.to_dict(), "origin": start.origin.parts()}
    return RunFacts(identity=identity, record=record, config=asdict(config) | parts)


def tuning(config: Config, start: VisionLanguageStart, world: World, facts: RunFacts) -> Training:
    """Return what this stage trains, on the samples that ``prepare_samples`` made."""
    train, data, optimizer = config.train, config.data, config.optimizer
    run = RunFolder(config.run.folder)
    inputs = open_inputs(config, start, run, "train")
    batches = batches_of(config, inputs, world)
    model = build_on(
        world.device,
        start.architecture,
        loss_chunk_tokens=train.loss_chunk_tokens,
        gradient_checkpointing=train.gradient_checkpointing,
        half_precision=facts.identity["engine.precision"] == "bf16",
        packed=data.pack,
        adapt=partial(tune, config=config),
    )
    rates = {"learning_rate": optimizer.learning_rate}
    if (rate := optimizer.projector_learning_rate) is not None:
        rates["learning_rate/projector"] = rate
    return Training(
        config=config,
        facts=facts,
        model=model,
        layers=layers_of(model),
        groups=groups_of(trained(model), config),
        optimizer=open_optimizer(optimizer),
        learning_rates=rates,
        weights=lambda: first_weights(start, config, model),
        batches=batches,
        order=f"{format_count(len(inputs.samples), 'sample')}, grouping {data.grouping}"
        + (", packed" if data.pack else ""),
        heldout=None
        if data.validation is None
        else HeldOutSamples(open_inputs(config, start, run, "validation")),
        max_steps=train.max_steps,
    )


def open_inputs(
    config: Config, start: VisionLanguageStart, run: RunFolder, name: str
) -> ImageTextInputs:
    """Open the samples of one file of records, with what makes the model's arguments of them."""
    architecture, pad_id = start.architecture, start.tokenizer.pad_id
    return ImageTextInputs(
        open_samples(samples_path(run, name), image_tokens=architecture.image_tokens),
        Path(config.data.images),
        architecture.images,
        image_tokens=architecture.image_tokens,
        pad_id=0 if pad_id is None else pad_id,
    )


def batches_of(config: Config, inputs: ImageTextInputs, world: World) -> ImageTextBatches:
    """Return this rank's samples in the order of the run.

    Raises:
        ConfigError: nothing of them would train.
    """
    train, samples = config.train, inputs.samples
    if not train.language_model and not samples.has_images.any():
        rule = "would train nothing: only the projector learns, and no sample has an image"
        raise ConfigError("train.language_model", False, rule, "Set it to true, or give images")
    by_epochs = train.max_steps is None
    order = SampleOrder(
        samples.lengths,
        samples.has_images,
        global_batch_size=train.global_batch_size,
        seed=config.data.seed,
        grouping=config.data.grouping,
        end=samples_of_epochs(config, len(samples)) if by_epochs else None,
    )
    return ImageTextBatches(
        inputs,
        order,
        micro_batch_size=train.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        row_tokens=train.seq_len if config.data.pack else None,
    )


def layers_of(model: VisionLanguageModel) -> Iterable[nn.Module]:
    """Return the decoder's layers, the parts that are compiled: its longest list of modules."""
    decoder = model.language_model.base_model
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())


def groups_of(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: Config
) -> list[ParameterGroup]:
    """Return the groups of the language model and, with its own rate, of the projector."""
    named = list(named_parameters)
    projector = [(name, value) for name, value in named if name.startswith(PROJECTOR)]
    language = [(name, value) for name, value in named if not name.startswith(PROJECTOR)]
    rate = config.optimizer.projector_learning_rate or config.optimizer.learning_rate
    own = [
        replace(group, name=f"projector {group.name}", learning_rate=rate)
        for group in parameter_groups(projector, config.optimizer)
    ]
    return [*parameter_groups(language, config.optimizer), *own]
