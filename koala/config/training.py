"""Settings of training, doctor and ablations."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from tyro.conf import Suppress

from koala.config.data import DataSettings
from koala.config.fields import Count, Device, MixedPrecision, Strict
from koala.config.models import ExtractorSettings, ObjectiveSettings, _named


@dataclass(frozen=True)
class TrainSettings(Strict):
    """Train the fusion network: `koala train RUN.toml [--section.field VALUE]`."""

    data: DataSettings = field(default_factory=DataSettings)
    extractor: ExtractorSettings = field(default_factory=ExtractorSettings)
    objective: Annotated[ObjectiveSettings, BeforeValidator(_named)] = field(default_factory=ObjectiveSettings)
    batch: Count = 50
    """Images in a step, over all processes (the global batch)."""
    accumulation: Count = 1
    """Pieces in which each process computes its part of the batch, to need less memory."""
    epochs: Annotated[float, Field(gt=0)] = 40.0
    """Times through the training set."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of Adam."""
    scaling: Literal["none", "linear", "sqrt"] = "none"
    """Make the learning rate larger with the batch: times batch/50, or its square root (the rule for Adam)."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Images over which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """What the learning rate does after the warm-up."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What it is multiplied by at each step of the step schedule."""
    decay_every: Count = 500_000
    """Images between these steps."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient; what is longer is shortened to it. 0 does not clip."""
    ema: Annotated[int, Field(ge=0)] = 0
    """Half-life, in images, of the moving average of the weights that is saved and validated; 0 takes the weights."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do before a step whose gradient is not finite; its samples are written to the run folder."""
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation; weights stay in fp32."""
    tf32: bool = False
    """Let the GPU shorten the factors of fp32 products to 10 bits: faster, where mixed precision does not apply."""
    compile: bool = False
    """Compile network and extractor with torch.compile: a slow start, then faster steps."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time: slower on a GPU."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the weights, the order and the crops."""
    device: Device = "auto"
    """cuda where there is a GPU."""
    run: Path | None = None
    """Run folder; when it exists, training goes on where it stopped. Without one: log/koala/DATE."""
    resume: bool = False
    """Go on in the newest folder of log/koala."""
    processes: Annotated[int, Field(ge=0)] = 0
    """Refuse to start unless there are this many processes (0: as many as the launcher says)."""
    log_every: Count = 100
    """Steps between entries in TensorBoard."""
    validate_every: Count = 1
    """Epochs between validations, each with a checkpoint."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Steps between further checkpoints; 0 writes none."""
    keep: Count = 3
    """Newest checkpoints that are kept, besides the best."""
    pictures: Annotated[int, Field(ge=0)] = 8
    """Pictures in each TensorBoard entry."""
    log_samples: bool = False
    """Keep the numbers of the samples of each step, by process, in the run folder."""
    peak_tflops: Annotated[float, Field(ge=0)] = 0.0
    """What one device could compute at best, for MFU; 0 looks known GPUs up."""
    profile: Annotated[int, Field(ge=0)] = 0
    """Steps of which a trace is written for TensorBoard or Perfetto, after some steps to get going."""
    dry_run: bool = False
    """Say what the training will take, and stop."""


@dataclass(frozen=True)
class DoctorSettings(TrainSettings):
    """Look at machine, data and run folder before a training: `koala doctor RUN.toml [koala train's flags]`."""


@dataclass(frozen=True)
class AblationSettings(Strict):
    """Variants of one training at equal budget, and how each is evaluated."""

    train: TrainSettings = field(default_factory=TrainSettings)
    """What the variants have in common; batch and epochs are always the same."""
    variants: Annotated[dict[str, dict[str, Any]], Suppress] = field(default_factory=dict)
    """Each variant's name and the settings that differ, as in a run file; others are compared with the first."""
    evaluations: Annotated[dict[str, dict[str, Any]], Suppress] = field(default_factory=dict)
    """Ways to evaluate every variant, each with settings of koala evaluate; by default one, as each was trained."""
    seeds: tuple[int, ...] = (0, 1)
    """Each variant is trained once with each."""


@dataclass(frozen=True)
class AblateSettings(Strict):
    """Train and evaluate variants of one training at equal budget, and lay them side by side."""

    out: Path
    """Folder for the runs and the tables."""
    ablation: AblationSettings = field(default_factory=AblationSettings)
    part: str = "1/1"
    """I/N trains every N-th run, beginning with the I-th; the part that ends last lays all side by side."""
