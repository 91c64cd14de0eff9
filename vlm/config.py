"""The whole config of vision-language training: pretraining's sections, with this stage's own."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.schedule import ScheduleConfig
from mobilellama.pretrain.sections import BatchConfig, DataConfig
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.vlm.data.images import AspectRatio
from mobilellama.vlm.data.missing import Missing
from mobilellama.vlm.data.order import Grouping
from mobilellama.vlm.data.orientation import Orientation
from mobilellama.vlm.projectors.rules import Pooling, Squeeze
from mobilellama.vlm.projectors.table import PROJECTORS

_MOST_EPOCHS = 10_000

# A type checker takes no Literal of values that are computed; the command line's parser does.
if TYPE_CHECKING:
    ProjectorKind = str
else:
    ProjectorKind = Literal[tuple(PROJECTORS)]


@dataclass(frozen=True, kw_only=True)
class ImageTextData(DataConfig):
    """Which samples, in which order."""

    path: str
    """LLaVA-format records: a .json or .jsonl file, or a folder of them."""
    images: str
    """Folder to which the records' image paths are relative."""
    validation: str | None = None
    """Records for validation, with images in the same folder. None: no validation."""
    verify: bool = False
    """Check the sha256 of the tokenised records before training."""
    leave_out: str | None = None
    """The file that 'vlm check-data --output' wrote. Its records are left out."""
    missing: Missing = "refuse"
    """What to do if images are missing. They are looked for before the first step. refuse: stop and
    name them; skip: train without the samples that need them. A resume keeps the first choice."""
    template: str = "vicuna_v1"
    """Chat template: a name or a YAML file. plain is the template of first stages, for captions;
    plain_no_bos is the same for tokenizers without a begin token."""
    aspect_ratio: AspectRatio = "pad"
    """square: cut out the centre; pad: put the whole image on a square of the mean colour; squash:
    distort the whole image to a square."""
    grouping: Grouping = "modality_length"
    """modality_length: the samples of a step either all have images or all have none, and those of
    a micro-batch have similar lengths; none: keep the drawn order."""
    pack: bool = False
    """Put several samples of a step into one row of train.seq_len tokens. No sample attends to
    another, and the loss changes only by rounding. All rows then have the full length: lower
    train.micro_batch_size if memory is short."""
    workers: int = 4
    """Threads that decode images and read batches ahead. 0: read each batch when it is needed. The
    same number of processes tokenise at the start. It changes no sample."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(BatchConfig):
    """Batch, number of epochs or steps, and what trains besides the projector."""

    global_batch_size: int = 128
    """Samples per optimizer step over all ranks."""
    seq_len: int = 2048
    """Most tokens of a sample, those of its images included. Longer samples are cut at their
    end."""
    epochs: float = 1.0
    """How often the run uses each sample. The last step of an epoch may have fewer samples."""
    max_steps: int | None = None
    """Optimizer steps of the run, instead of epochs. None: train.epochs decides."""
    language_model: bool = True
    """Whether the language model trains (with lora.rank: low-rank updates of it). The projector
    always trains, the tower never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("train.seq_len", self.seq_len, 1)
        if not 0 < self.epochs <= _MOST_EPOCHS:  # NaN is not, either
            rule = f"must be above 0 and at most {_MOST_EPOCHS:,}"
            raise ConfigError("train.epochs", self.epochs, rule, "Give e.g. 1")
        if self.max_steps is not None:
            require_at_least("train.max_steps", self.max_steps, 1)


@dataclass(frozen=True, kw_only=True)
class TwoRates(OptimizerConfig):
    """The optimizer, with a separate learning rate for the projector if the recipe has one."""

    projector_learning_rate: float | None = None
    """Peak learning rate of the projector. None: the same as learning_rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.projector_learning_rate
        if rate is not None and not rate > 0:
            rule = "must be above 0"
            raise ConfigError("optimizer.projector_learning_rate", rate, rule, "Give e.g. 1e-3")


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """How images are read."""

    orientation: Orientation | None = None
    """as_shown: turn photographs as their EXIF orientation says; as_stored: do not turn them, as
    CLIP's processor and the published recipes. null: the value of --init if it is a vision-language
    model, else as_shown."""


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """The part between tower and language model."""

    kind: ProjectorKind | None = None
    """Which projector, by its published mm_projector_type. vlm/projectors/table.py names the
    class of each kind. null: the kind of --init or --projector.weights."""
    pooling: Pooling | None = None
    """For ldpnetv2. 12x12: pool every grid of patches to 12 x 12 tokens, as the original; 2x2: the
    mean of each 2 x 2 patches. Both are the same for 24 x 24 patches. null: the value of --init;
    for a new projector 12x12."""
    squeeze: Squeeze | None = None
    """For ldpnet: the width of its squeeze. rounded: a quarter of the model's width, rounded as in
    MobileNet, as the original; quarter: exactly a quarter. Both are the same for widths that 32
    divides. null: the value of --init or --projector.weights; for a new projector rounded."""
    weights: str | None = None
    """A first stage's mm_projector.bin. None: the weights of --init; if it has none, new
    weights."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Vision-language training, either stage."""

    init: str
    """The model to start from: a language model (a Hugging Face folder, or a run of 'pretrain run'
    or 'sft run'), or a vision-language model (a run or an export of this stage, or a published
    MobileVLM folder). A folder may be given by its name on the Hub, OWNER/NAME or
    OWNER/NAME@REVISION. A resume does not read it."""
    tokenizer_as_is: bool = False
    """Use the ids of --init's tokenizer.json even if they differ from its sentencepiece model's.
    false: correct or refuse such a folder (docs/finetuning.md). A resume uses the run's
    tokenizer."""
    vision: str | None = None
    """Folder of the vision tower or its name on the Hub, such as CLIP ViT-L/14-336's. None: the
    tower of --init; if it is a published folder without one, the tower that its mm_vision_tower
    names, here or on the Hub. If --init is a published folder with a tower that nothing describes,
    only the config of this folder is read."""
    data: ImageTextData
    """Which samples, in which order."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """How images are read. data.aspect_ratio says how they are made square."""
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    """The part between tower and language model."""
    train: TuneConfig = field(default_factory=TuneConfig)
    """Batch, number of epochs or steps, and what trains."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Whether all weights of the language model train, or only low-rank updates of some."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(compile=False))
    """The engine and its precision. Compiling is off, because rows differ in length."""
    optimizer: TwoRates = field(
        default_factory=lambda: TwoRates(learning_rate=2e-5, beta2=0.999, weight_decay=0.0)
    )
    """AdamW."""
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(warmup_ratio=0.03, min_lr_ratio=0.0)
    )
    """The learning rate over the steps."""

    def __post_init__(self) -> None:
        if self.lora.rank is not None and not self.train.language_model:
            rule = "has no effect while train.language_model is false"
            remedy = "Set that to true, or leave lora.rank out"
            raise ConfigError("lora.rank", self.lora.rank, rule, remedy)
