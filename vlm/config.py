"""The whole config of vision-language training: pretraining's sections, with this stage's own."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.config import StageConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.schedule import ScheduleConfig
from mobilellama.pretrain.sections import BatchConfig, DataConfig, OptimizerConfig
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
    """Records that are held out, their images in the same folder; None validates on nothing."""
    verify: bool = False
    """Check the sha256 of the tokenised records before training."""
    leave_out: str | None = None
    """What 'vlm check-data --output' wrote: records that are not taken."""
    missing: Missing = "refuse"
    """What to do where images are missing, which is found before the first step. refuse: stop and
    name them; skip: train without the samples that need them. A resume keeps what it began with."""
    template: str = "vicuna_v1"
    """Chat template's name or YAML file; plain is the first stage's, of captions alone."""
    aspect_ratio: AspectRatio = "pad"
    """square: the image's centre; pad: all of it, on a square of the mean colour; squash: all of
    it, distorted to a square."""
    grouping: Grouping = "modality_length"
    """modality_length: a step's samples all have images or none has, and a micro-batch's have
    similar lengths; none: as they are drawn."""
    pack: bool = False
    """Put several samples of a step into a row of train.seq_len tokens, none seeing another.
    Changes the loss by rounding only. A micro-batch's rows are then all that long: lower
    train.micro_batch_size to keep its memory."""
    workers: int = 4
    """Threads that decode images and read batches ahead; 0 reads each when it is needed. As many
    processes tokenise at the start. Changes no sample."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(BatchConfig):
    """The batch, how far, and what trains beside the projector."""

    global_batch_size: int = 128
    """Samples per optimizer step over all ranks."""
    seq_len: int = 2048
    """Tokens of a sample at most, its images' included; what is longer is cut at its end."""
    epochs: float = 1.0
    """How often every sample is seen; an epoch's last step may be short."""
    max_steps: int | None = None
    """Optimizer steps of the run, instead of epochs; None goes by epochs."""
    language_model: bool = True
    """Whether the language model trains too (with lora.rank: updates of it); the projector
    always does, the tower never."""

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
    """AdamW, with a rate of the projector's own where the recipe has one."""

    projector_learning_rate: float | None = None
    """Peak learning rate of the projector; None is learning_rate."""

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
    """as_shown: turn photographs as their EXIF orientation says, as viewers show them; as_stored:
    do not, as CLIP's processor and the published recipes. null: that of a vision-language model
    that --init is, and of a new one as_shown."""


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """The part between tower and language model."""

    kind: ProjectorKind | None = None
    """Which projector: ldpnet is MobileVLM's, ldpnetv2 its second version's, mlp2x_gelu
    LLaVA-1.5's. None: that of --init or --projector.weights."""
    pooling: Pooling | None = None
    """Of ldpnetv2. 12x12: to 12 x 12 tokens whatever the grid of patches, as the original; 2x2: the
    mean of each 2 x 2 patches. Both are the same for 24 x 24 patches. null: that of --init, and
    of a new projector 12x12."""
    squeeze: Squeeze | None = None
    """Of ldpnet: the width of its squeeze. rounded: a quarter of the model's width, rounded as
    MobileNet does, as the original; quarter: a quarter. Both are the same for widths that 32
    divides. null: that of --init or --projector.weights, and of a new projector rounded."""
    weights: str | None = None
    """A first stage's mm_projector.bin; None takes --init's, or new ones where it has none."""


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Vision-language training, either stage."""

    init: str
    """What to start from: a language model (a Hugging Face folder, or a run of 'pretrain run' or
    'sft run'), or a vision-language model (a run or an export of this stage, or a published
    MobileVLM folder). A folder may be given by its name on the Hub, OWNER/NAME or
    OWNER/NAME@REVISION. A resume does not read it."""
    tokenizer_as_is: bool = False
    """Take the ids that --init's tokenizer.json gives, although the model that it was made from
    gives others; false corrects or refuses such a folder (docs/finetuning.md). A resume has the
    run's own tokenizer."""
    vision: str | None = None
    """Folder of the vision tower or its name on the Hub, such as CLIP ViT-L/14-336's; None takes
    --init's. Of a published folder whose own tower nothing describes, its config alone is taken."""
    data: ImageTextData
    """Which samples, in which order."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """How images are read; data.aspect_ratio says how they are made square."""
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    """The part between tower and language model."""
    train: TuneConfig = field(default_factory=TuneConfig)
    """Batch, how far, and what trains."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Whether all weights of the language model train, or low-rank updates of some."""
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(compile=False))
    """What optimises, and in which precision. Compiling is off: rows differ in length."""
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
