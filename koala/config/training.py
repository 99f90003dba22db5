"""Settings of training, doctor and ablations."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from tyro.conf import Positional, Suppress, arg

from koala.config.data import DataSettings
from koala.config.fields import Advanced, Count, Device, Dir, File, MixedPrecision, Strict
from koala.config.models import ExtractorSettings, NetworkSettings, ObjectiveSettings, _named

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "aim", "clearml", "comet_ml", "dvclive", "swanlab"]


def _listed(value: Any) -> Any:
    """One name alone, as a list of names."""
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class OptimizerSettings(Strict):
    """The optimizer.

    In a file, optimizer = "adamw" is short for a table with that name.
    """

    name: Annotated[str, arg(name="", metavar="NAME")] = "adam"
    """Its name in timm: adam, adamw, sgd, lamb, lion, muon, ... Each wants a learning rate of its own."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay of the weights. Biases and normalisation do not decay."""
    layer_decay: Annotated[float, Field(gt=0, le=1), Advanced] = 1.0
    """Share of the next layer's learning rate that each layer has, counted back from the output."""
    options: Annotated[dict[str, Any], Suppress] = field(default_factory=dict)
    """Its further options, as in [optimizer.options] betas = [0.9, 0.95]."""


@dataclass(frozen=True)
class TrainSettings(Strict):
    """Train a network, or resume a training.

    Run the same command again with --run DIR to resume, also with another number of processes.
    """

    name: Annotated[str, Advanced] = ""
    """Name of the run, which begins its folder's; by default that of RUN.toml."""
    data: DataSettings = field(default_factory=DataSettings)
    extractor: ExtractorSettings = field(default_factory=ExtractorSettings)
    network: Annotated[NetworkSettings, BeforeValidator(_named)] = field(default_factory=NetworkSettings)
    objective: Annotated[ObjectiveSettings, BeforeValidator(_named)] = field(default_factory=ObjectiveSettings)
    init: Annotated[str, arg(metavar="MODEL")] = ""
    """Begin with the weights of a model: "builtin", a run, a checkpoint, an exported folder, or USER/NAME on the hub.
    By default with random ones."""
    init_partial: Annotated[bool, Advanced] = False
    """Take what fits of --init, such as all but the output of another objective. What does not fit is named."""
    optimizer: Annotated[OptimizerSettings, BeforeValidator(_named)] = field(default_factory=OptimizerSettings)
    batch_size: Count = 50
    """Images in a step, over all processes (the global batch)."""
    gradient_accumulation_steps: Annotated[int, Field(ge=0), Advanced] = 1
    """Pieces in which each process computes its part of the batch, to need less memory. The batch stays the same. 0
    takes the fewest that fit the GPU."""
    epochs: Annotated[float, Field(gt=0)] = 40.0
    """Times through the training set."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate after the warm-up. Adam's; others want another one."""
    learning_rate_scaling: Annotated[Literal["none", "linear", "sqrt"], Advanced] = "none"
    """Multiply the learning rate by batch_size / 50 (linear) or its square root (sqrt)."""
    warmup_images: Annotated[int, Field(ge=0)] = 0
    """Images over which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """What the learning rate does after the warm-up."""
    decay_rate: Annotated[float, Field(gt=0, le=1), Advanced] = 0.1
    """Factor of the learning rate at each step of --schedule step."""
    decay_every: Annotated[Count, Advanced] = 500_000
    """Images between these steps."""
    clip_grad_norm: Annotated[float, Field(ge=0), Advanced] = 0.0
    """Largest norm of the gradient; longer ones are shortened to it. 0 does not clip."""
    ema: Annotated[int, Field(ge=0), Advanced] = 0
    """Half-life, in images, of a moving average of the weights (EMA) that is saved and validated; 0 uses none."""
    on_nan: Annotated[Literal["stop", "skip"], Advanced] = "stop"
    """What to do with a step whose gradient is not finite. Its samples are written to the run folder."""
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation. Weights stay in fp32."""
    tf32: Annotated[bool, Advanced] = False
    """Allow TF32 in fp32 products on the GPU: faster, and less precise."""
    compile: bool = False
    """Use torch.compile: a slow start, then faster steps."""
    deterministic: Annotated[bool, Advanced] = False
    """Use only algorithms that give the same bits each time: slower on a GPU."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the weights, the order of the samples and the crops."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    run: Dir | None = None
    """Run folder. If it holds a training, that is resumed. By default a new folder runs/NAME-DATE."""
    resume: bool = False
    """Resume the newest run of this name in runs/."""
    processes: Annotated[int, Field(ge=0), Advanced] = 0
    """Refuse to start unless the launcher started this many processes; 0 takes any number."""
    tracker: Annotated[tuple[TrackerName, ...], BeforeValidator(_listed)] = ("tensorboard",)
    """Experiment trackers, one or several; metrics.jsonl is always written."""
    notify: Annotated[str, arg(metavar="COMMAND")] = ""
    """Shell command that is run at the end, a failure and an alarm. It finds KOALA_EVENT, KOALA_RUN and KOALA_MESSAGE
    in its environment."""
    log_every: Count = 100
    """Steps between entries in trackers and metrics.jsonl."""
    validate_every: Count = 1
    """Epochs between validations, each with a checkpoint."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Steps between further checkpoints; 0 writes none."""
    keep_checkpoints: Annotated[Count, Advanced] = 3
    """Newest checkpoints to keep, besides the best."""
    log_pictures: Annotated[int, Field(ge=0), Advanced] = 8
    """Pictures in each entry in trackers."""
    log_samples: Annotated[bool, Advanced] = False
    """Write the numbers of each step's samples to the run folder."""
    peak_tflops: Annotated[float, Field(ge=0), Advanced] = 0.0
    """TFLOP/s that one device reaches at best, for MFU; 0 takes those of known GPUs."""
    profile: Annotated[int, Field(ge=0), Advanced] = 0
    """Steps to trace for TensorBoard or Perfetto."""
    dry_run: bool = False
    """Say what the training will take (memory, steps, arithmetic), and stop. No shards are needed."""
    dry_run_images: Annotated[int, Field(ge=0)] = 0
    """Training images for --dry-run, if there are no shards yet."""
    images_per_second: Annotated[float, Field(ge=0)] = 0.0
    """Speed for --dry-run, over all devices: it then says how many hours the training takes."""
    dry_run_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for which --dry-run measures that speed: steps of one process on noise, as if data were always there."""


@dataclass(frozen=True)
class BenchmarkSettings(TrainSettings):
    """Measure this machine: decoding, feeding, steps, all together, each beside its limit.

    It takes a training's own file and options. Without shards, some photos are made up.
    """

    seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds for which each line is measured."""
    out: File | None = None
    """Write the table to this file, too, as JSON."""


@dataclass(frozen=True)
class ReportRun(Strict):
    """Write one page of a training: curves, pictures, its evaluation, speed, alarms, settings, hashes, environment.

    The page holds all it needs. It may be written while the training goes.
    """

    run: Annotated[Positional[Dir], arg(metavar="RUN")]
    """Run folder."""
    out: File | None = None
    """The page; by default report.html in the run folder."""


@dataclass(frozen=True)
class DoctorSettings(TrainSettings):
    """Check machine, data and run folder before a training. It takes the training's own file and options."""


@dataclass(frozen=True)
class AblationSettings(Strict):
    """Variants of one training at equal budget, and how each is evaluated."""

    train: Annotated[TrainSettings, Advanced] = field(default_factory=TrainSettings)
    """What the variants have in common; batch size and epochs are always the same."""
    variants: Annotated[dict[str, dict[str, Any]], Suppress] = field(default_factory=dict)
    """Each variant's name and the settings that differ, as in a run file; others are compared with the first."""
    evaluations: Annotated[dict[str, dict[str, Any]], Suppress] = field(default_factory=dict)
    """Ways to evaluate every variant, each with settings of koala evaluate; by default one, as each was trained."""
    seeds: tuple[int, ...] = (0, 1)
    """Each variant is trained once with each seed."""


@dataclass(frozen=True)
class AblateSettings(Strict):
    """Train and evaluate variants of one training at equal budget, and lay them side by side.

    ABLATION.toml holds a table [variants.NAME] for each variant. Run the same command again to resume.
    """

    out: Dir
    """Folder for the runs and the tables."""
    ablation: AblationSettings = field(default_factory=AblationSettings)
    part: Annotated[str, arg(metavar="I/N"), Advanced] = "1/1"
    """Train only every N-th run, from the I-th on. The part that ends last writes the tables."""
