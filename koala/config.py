"""Every setting: frozen dataclasses whose defaults a TOML file replaces, and flags after it."""

import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from tyro.conf import OmitArgPrefixes, Positional, Suppress, UseAppendAction, arg

from koala.core.errors import UserError

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)] | None

Geometry = Literal["pad", "crop", "random_crop", "squash", "legacy"]
LightnessSource = Literal["grey", "color"]
MixedPrecision = Literal["no", "fp16", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
SplitName = Literal["train", "val"]


class _Strict:
    """A setting that does not exist is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Split(_Strict):
    """How the images are divided between training and validation: by sub-folder, by number or by share.

    Where one sub-folder is named, all other images are the other set; where both are, what lies in neither is left out.
    """

    train_folder: str = ""
    """Sub-folder of the source whose images are the training set."""
    val_folder: str = ""
    """Sub-folder of the source whose images are the validation set."""
    val_count: Annotated[int, Field(ge=0)] = 0
    """Validation images, drawn at random by the seed."""
    val_share: Share = 0.0
    """Share of the images that is drawn for validation, where no number is given."""


@dataclass(frozen=True)
class Resize(_Strict):
    """Making images smaller before they are stored; they are never made larger."""

    side: Literal["none", "short", "long"] = "none"
    """Which side is brought to `pixels`; with none the bytes are taken as they are."""
    pixels: Count = 256
    """Length of that side."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality of images that must be encoded again, always in 4:4:4."""


@dataclass(frozen=True)
class Recipe(_Strict):
    """How a folder of images becomes shards."""

    name: str = "photos"
    """What the data set is called."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the shuffle over all images and of the split."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Take this many images, drawn by the seed; 0 takes all."""
    samples_per_shard: Count = 1000
    """Images in each shard."""
    split: Split = field(default_factory=Split)
    resize: Resize = field(default_factory=Resize)


@dataclass(frozen=True)
class WriteShards(_Strict):
    """Write shards: `koala shards write RECIPE.toml --source DIR --out DIR`."""

    source: Path
    """Folder of images, list of files (text or CSV), tar, zip, or folder of webdataset tars."""
    out: Path
    """Folder for the shards."""
    recipe: Recipe = field(default_factory=Recipe)
    workers: Count = 1
    """Processes that write."""
    part: str = "1/1"
    """I/N writes every N-th shard, beginning with the I-th; koala shards finish puts the parts together."""


@dataclass(frozen=True)
class FinishShards(_Strict):
    """Check that all parts of a folder of shards are written, and write its manifest."""

    shards: Positional[Path]
    """Folder of shards."""


@dataclass(frozen=True)
class VerifyShards(_Strict):
    """Check shards against their manifest, byte for byte, and decode every image."""

    shards: Positional[Path]
    """Folder of shards."""
    quick: bool = False
    """Look at records and sizes only."""
    workers: Count = 1
    """Processes that check."""


@dataclass(frozen=True)
class RepairShards(_Strict):
    """Verify shards, and write those with faults again from the source."""

    shards: Positional[Path]
    """Folder of shards."""
    source: Path
    """What they were written from."""
    workers: Count = 1
    """Processes that check."""


@dataclass(frozen=True)
class AuditShards(_Strict):
    """Measure every image: size, colour model, chroma, what is grey or toned."""

    shards: Positional[Path]
    """Folder of shards; those that are whole and not audited yet are looked at."""
    split: SplitName | None = None
    """Which part of the shards; by default both."""
    workers: Count = 1
    """Processes that measure."""


@dataclass(frozen=True)
class Prior(_Strict):
    """Measure how often each colour occurs, for the objectives by which rare ones count more."""

    shards: Positional[Path]
    """Folder of shards; those that are not audited yet are looked at."""
    workers: Count = 1
    """Processes that measure."""


@dataclass(frozen=True)
class Data(_Strict):
    """What is trained on, and how a photo becomes a square."""

    shards: Path = Path("shards/data")
    """Folder of shards."""
    geometry: Geometry = "pad"
    """pad to a square with black; crop the middle; random_crop with mirroring; squash; legacy pads the wrong axes."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] = 224
    """Height and width of the network's input."""
    lightness: LightnessSource = "grey"
    """L* of the grey-scaled picture, or (the original paper's way) of the colour picture."""
    threads: Count = 4
    """Threads that decode, in each process."""
    mirror: bool = False
    """Mirror at random in training; random_crop always does, and evaluation never."""
    where: str = ""
    """Leave out samples that do not meet this condition on the audit's columns: "chroma >= 5 and not sepia"."""
    aging: Share = 0.0
    """Share of the photos that in training the network sees as old ones: toned, faded, blurred, grainy, unevenly
    exposed, compressed; what it is to predict stays the same."""


@dataclass(frozen=True)
class View(_Strict):
    """How a photo becomes a square, as in `Data`."""

    geometry: Geometry = "pad"
    """pad to a square with black; crop the middle; squash; legacy pads the wrong axes."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] = 224
    """Height and width of the square."""
    lightness: LightnessSource = "grey"
    """L* of the grey-scaled picture, or of the colour picture."""
    threads: Count = 4
    """Threads that decode, in each process."""


@dataclass(frozen=True)
class Extractor(_Strict):
    """The frozen network whose view of the whole picture is fused in."""

    name: str = "inception_resnet_v2"
    """A timm model, or "none"."""
    features: Literal["logits", "pooled"] = "logits"
    """What is taken from it."""
    weights: str = "pretrained"
    """"pretrained", "random", or a file of the model's weights."""
    batch_statistics: bool = False
    """The report's mistake: batch normalisation in training mode, so that colours depend on the rest of the batch."""
    cache: bool = False
    """Train with the embeddings that koala shards embed made, rather than run the extractor in every step."""


@dataclass(frozen=True)
class Objective(_Strict):
    """What training makes small; in a file, `objective = "NAME"` says the same as a table that says no more."""

    name: Annotated[Literal["mse", "huber", "weighted-mse", "classification"], arg(name="")] = "mse"
    """mse; huber; weighted-mse, in which rare colours count more; classification of ab into bins. The last two need
    koala shards prior."""
    rebalancing: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """How much more rare colours count in those two: 0 no more than others, towards 1 as much more as they are rarer.
    Less gives paler pictures and fewer wrong colours; Zhang et al. take 0.5."""
    colorfulness: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a term for pictures that are not as colourful as their photos; it joins over the first half of a
    training."""
    perceptual: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a distance between features of a frozen network."""
    perceptual_network: str = "vgg16_bn"
    """That network: a timm model."""
    perceptual_weights: str = "pretrained"
    """Its weights: "pretrained", "random", or a file."""


def _named(value: Any) -> Any:
    """An objective's name alone, as a table."""
    return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Weights(_Strict):
    """Where the extractor's weights lie now."""

    weights: str = ""
    """File of its weights; by default where the training found them."""


@dataclass(frozen=True)
class WeightsOrCache(Weights):
    """The extractor's weights, or what it saw of the pictures."""

    cache: bool = False
    """Take the embeddings that koala shards embed made, rather than run the extractor."""


@dataclass(frozen=True)
class Train(_Strict):
    """Train the fusion network: `koala train RUN.toml [--section.field VALUE]`."""

    data: Data = field(default_factory=Data)
    extractor: Extractor = field(default_factory=Extractor)
    objective: Annotated[Objective, BeforeValidator(_named)] = field(default_factory=Objective)
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
class Doctor(Train):
    """Look at machine, data and run folder before a training: `koala doctor RUN.toml [koala train's flags]`."""


@dataclass(frozen=True)
class Ids(_Strict):
    """Which images, by their names without folder and suffix; where nothing is said, all of the split."""

    pattern: str = ""
    """A name with its number in braces, as in "ILSVRC2012_val_{:08d}"; `first` and `last` are the numbers' range."""
    first: Annotated[int, Field(ge=0)] = 0
    """First number."""
    last: Annotated[int, Field(ge=0)] = 0
    """Last number."""
    file: str = ""
    """Text file with a name a line, relative to the protocol's own file; with a pattern, names must be within it."""
    count: Annotated[int, Field(ge=0)] = 0
    """How many images there must be; 0 asks for no number."""
    sha256: str = ""
    """What the sorted names must hash to, joined by line feeds; by default no hash is asked for."""


@dataclass(frozen=True)
class Protocol(_Strict):
    """All that scores depend on, but for the network and the shards."""

    name: str = ""
    """What it is called."""
    about: str = ""
    """Where it comes from."""
    departures: str = ""
    """In what koala is known to differ from where it comes from."""
    geometry: Geometry = "pad"
    """How a photo becomes a square."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] = 224
    """Height and width of the square."""
    lightness: LightnessSource = "grey"
    """What the network sees: L* of the grey-scaled picture, or of the colour picture."""
    assembly: LightnessSource = "color"
    """What predicted ab is joined with to make the picture that is judged."""
    padding: Literal["counted", "left out"] = "left out"
    """Whether the black around a padded photo counts; networks that judge pictures see it in any case."""
    features: Literal["inception_2015", "inception_torchvision", "tf_efficientnet_lite0", "none"] = "inception_2015"
    """The network between whose features distances are taken; see koala.evaluation.features."""
    normalization: Literal["own", "ddcolor"] = "own"
    """What it is fed: what it was trained with, or (inception_torchvision) what CT2 and DDColor feed it."""
    colorfulness: Literal["signed", "absolute"] = "signed"
    """Hasler and Suesstrunk's, or with absolute values taken first; `cf` in the scores."""
    dcf: Literal["of_means", "of_pictures"] = "of_means"
    """The difference of mean colourfulness, or the mean of the pictures' absolute differences."""
    ids: Ids = field(default_factory=Ids)
    """The images."""
    reference: Ids = field(default_factory=Ids)
    """The true images whose features the predictions' are compared with; by default the same images."""


@dataclass(frozen=True)
class Evaluate(_Strict):
    """Score a network on validation shards, and colour their pictures; or score pictures made by someone else.

    Training's --data.where is not taken over: give --where where the same samples are to be left out here.
    """

    model: Positional[Path]
    """Run folder (its best checkpoint), checkpoint folder, or a folder of coloured pictures named as in the shards."""
    shards: Path
    """Folder of shards."""
    out: Path | None = None
    """Where scores and pictures go; by default "evaluation" in the run or checkpoint folder."""
    protocol: str = ""
    """report, val5k, val50k, ctest10k, coltran, imagenet64, or a TOML file; by default as in training."""
    ids: Path | None = None
    """Text file of the images' names, for a protocol that leaves them open."""
    split: SplitName = "val"
    """Which part of the shards."""
    where: str = ""
    """Leave out samples that do not meet this condition on the audit's columns."""
    geometry: Geometry | None = None
    """Instead of the protocol's (by default the training's, with crop for random_crop)."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] | None = None
    """Height and width, instead of the protocol's (by default the training's)."""
    lightness: LightnessSource | None = None
    """L* that the network sees, instead of the protocol's (by default the training's)."""
    assembly: LightnessSource | None = None
    """L* that predicted ab is joined with, instead of the protocol's (by default that of the colour picture)."""
    features: Literal["protocol", "none"] = "protocol"
    """none leaves out the distances between features of networks, which take longer than all else."""
    inception: Path | None = None
    """File of the Inception weights that the protocol's features ask for; by default looked for in torch's cache."""
    lpips: Path | None = None
    """File of torchvision's AlexNet weights, for LPIPS; by default looked for in torch's cache."""
    batch: Count = 32
    """Images at a time, in each process."""
    threads: Count = 4
    """Threads that decode, and threads that score, in each process."""
    pictures: Annotated[int, Field(ge=0)] | None = None
    """Coloured pictures that are written; by default all."""
    sheet_rows: Annotated[int, Field(ge=0)] = 12
    """Rows of the contact sheet."""
    temperature: Temperature = None
    """Of a network that predicts bins: 1 gives the mean colour, less goes towards the likeliest; by default 0.38."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """What a network's colours are multiplied by."""
    extractor: WeightsOrCache = field(default_factory=WeightsOrCache)
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation."""
    device: Device = "auto"
    """cuda where there is a GPU."""


@dataclass(frozen=True)
class Compare(_Strict):
    """Lay evaluations of the same images side by side, with intervals of their differences."""

    runs: Positional[tuple[str, ...]] = ()
    """Run folders that koala evaluate has been through, or folders that it wrote; NAME=FOLDER gives one a name."""
    pictures: tuple[str, ...] = ()
    """NAME=FOLDER of pictures that another colouriser made, named as the shards' images: judged by the same rules."""
    out: Path = Path("comparison")
    """Folder for the table and the sheet."""
    baseline: str = ""
    """Name of the column that others are compared with; by default the first."""
    shards: Path | None = None
    """For pictures: folder of shards; by default the runs'."""
    protocol: str = ""
    """For pictures: name or TOML file; by default the runs'."""
    inception: Path | None = None
    """For pictures: as in koala evaluate."""
    lpips: Path | None = None
    """For pictures: as in koala evaluate."""
    batch: Count = 32
    """For pictures: images at a time."""
    threads: Count = 4
    """For pictures: threads that decode."""
    device: Device = "auto"
    """For pictures: cuda where there is a GPU."""


@dataclass(frozen=True)
class Ablation(_Strict):
    """Variants of one training at equal budget, and how each is evaluated."""

    train: Train = field(default_factory=Train)
    """What the variants have in common; batch and epochs are always the same."""
    variants: Annotated[dict[str, dict[str, Any]], Suppress] = field(default_factory=dict)
    """Each variant's name and the settings that differ, as in a run file; others are compared with the first."""
    evaluations: Annotated[dict[str, dict[str, Any]], Suppress] = field(default_factory=dict)
    """Ways to evaluate every variant, each with settings of koala evaluate; by default one, as each was trained."""
    seeds: tuple[int, ...] = (0, 1)
    """Each variant is trained once with each."""


@dataclass(frozen=True)
class Ablate(_Strict):
    """Train and evaluate variants of one training at equal budget, and lay them side by side."""

    out: Path
    """Folder for the runs and the tables."""
    ablation: Ablation = field(default_factory=Ablation)
    part: str = "1/1"
    """I/N trains every N-th run, beginning with the I-th; the part that ends last lays all side by side."""


@dataclass(frozen=True)
class Embed(_Strict):
    """Keep the extractor's embeddings of all samples, and of their mirror images, beside the shards.

    Training then takes them with --extractor.cache. What is there already is kept.
    """

    shards: Positional[Path]
    """Folder of shards."""
    extractor: Extractor = field(default_factory=Extractor)
    data: View = field(default_factory=View)
    batch: Count = 50
    """Images at a time, in each process."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of random weights: the training's."""
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation; embeddings are kept in fp16."""
    device: Device = "auto"
    """cuda where there is a GPU."""
    training: Path | None = None
    """TOML file of the training they are for: extractor, view of a photo, precision and seed are taken from it."""


@dataclass(frozen=True)
class Dials(_Strict):
    """How photos are coloured."""

    size: Annotated[int, Field(ge=0, le=2048)] = 0
    """Short side at which the network works, in pixels; 0 takes the size it was trained at."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """What the network's colours are multiplied by: 0 is grey."""
    strength: Share = 1.0
    """Share of the coloured photo in the result; the rest is the photo as it was."""
    temperature: Temperature = None
    """Of a network that predicts bins: 1 gives the mean colour, less goes towards the likeliest; by default 0.38."""
    flip: bool = False
    """Colour the photo and its mirror image, and take the mean: takes the network twice as long."""


@dataclass(frozen=True)
class Colorize(_Strict):
    """Colour photos, at their own size and with their own lightness.

    The same command goes on where it stopped: photos whose coloured ones are there are left alone.
    """

    photos: Positional[tuple[Path, ...]]
    """Photos, or folders of them, whose sub-folders are kept."""
    out: Path
    """Folder for the coloured photos; names are kept."""
    model: Path | None = None
    """Run folder (its best checkpoint), checkpoint folder, or USER/NAME on the Hugging Face hub; by default the model
    that koala carries."""
    dials: OmitArgPrefixes[Dials] = field(default_factory=Dials)
    recolor: bool = False
    """Give photos that are in colour already others; without it they are copied as they are."""
    layers: Literal["none", "ora", "png"] = "none"
    """To go on by hand, a further file for each photo: NAME.ora, an OpenRaster picture of the grey photo and a layer of
    colours over it, or NAME.layer.png, a transparent layer to lay over the photo as it was."""
    overwrite: bool = False
    """Colour photos anew whose coloured ones are there."""
    jobs: Annotated[int, Field(ge=0)] = 0
    """Photos that are read, painted and written at a time; 0: as many as there are cores."""
    extractor: Weights = field(default_factory=Weights)
    device: Device = "auto"
    """cuda where there is a GPU."""


@dataclass(frozen=True)
class Gallery(_Strict):
    """Colour photos in a browser: a page on this machine, to which one drops them."""

    model: Path | None = None
    """Run folder (its best checkpoint), checkpoint folder, or USER/NAME on the Hugging Face hub; by default the model
    that koala carries."""
    host: str = "127.0.0.1"
    """Address to listen at; with another than this machine's own, everybody who can reach it may colour photos."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """Port to listen at."""
    megabytes: Count = 32
    """Largest upload."""
    megapixels: Count = 32
    """Largest photo."""
    extractor: Weights = field(default_factory=Weights)
    device: Device = "auto"
    """cuda where there is a GPU."""


@dataclass(frozen=True)
class Export(_Strict):
    """Write a trained network for others: a folder of weights to colour with, or a program that runs without koala.

    A program takes L* and gives a*b*, of pictures of any size; koala/inference/export.py has an example.
    """

    model: Positional[Path]
    """Run folder (its best checkpoint), checkpoint folder, or USER/NAME on the Hugging Face hub."""
    out: Path | None = None
    """Folder to write: the weights alone, in half precision; a model for koala colorize and koala evaluate."""
    push: str = ""
    """USER/NAME on the Hugging Face hub, where that folder is put as well."""
    onnx: Path | None = None
    """FILE.onnx to write: extractor, network and decoding, compared with PyTorch by onnxruntime."""
    program: Path | None = None
    """FILE.pt2 to write: the same for torch.export.load."""
    temperature: Temperature = None
    """In a program, of a network that predicts bins: 1 gives the mean colour, less the likelier; by default 0.38."""
    extractor: Weights = field(default_factory=Weights)


@dataclass(frozen=True)
class Demo(_Strict):
    """The main job from photos to colours, in a few minutes, without network, ImageNet or GPU."""

    dir: Positional[Path] = Path("demo")
    """Folder for all that it makes."""


@dataclass(frozen=True)
class Kit(_Strict):
    """Copy the launch, shards and slurm files out of the package, for editing."""

    dir: Positional[Path]
    """Folder to copy them to."""


@dataclass(frozen=True)
class Question(_Strict):
    """Something that participants are asked about themselves; its words stand in the study's language files."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    """What it is called in the answers and in the language files."""
    choices: tuple[str, ...] = ()
    """Names of the answers to choose from; without any, the answer is free text."""
    required: bool = True
    """Whether it must be answered."""


_QUESTIONS = (
    Question("expert", ("no", "hobby", "profession")),
    Question("color_vision", ("good", "limited", "unknown")),
)


@dataclass(frozen=True)
class Study(_Strict):
    """What participants of a realness study meet: the study.toml in its folder, for editing."""

    shown: Count = 24
    """Pictures that each participant judges."""
    original_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of originals among them."""
    checks: Annotated[int, Field(ge=0, le=20)] = 2
    """Attention checks for each participant."""
    time_limit_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for each picture; 0 sets no limit."""
    practice: bool = True
    """Begin with a picture that does not count."""
    show_score: bool = True
    """Tell participants at the end how many they judged rightly."""
    language: str = "en"
    """Language for those whose browser asks for none that there is."""
    questions: Annotated[tuple[Question, ...], Suppress] = _QUESTIONS
    """What participants are asked about themselves."""


@dataclass(frozen=True)
class BuildStudy(_Strict):
    """Make the folder of a realness study: the same scenes by several hands, which only colour tells apart."""

    dir: Positional[Path]
    """Folder to make."""
    originals: Path
    """Photographs as they were: a folder, a list of files, a tar or a zip."""
    pictures: Annotated[tuple[str, ...], UseAppendAction] = ()
    """NAME=DIR: what a model made of them; files of the same name, but for the suffix, show the same scene."""
    scenes: Count = 48
    """Scenes to take; one more is taken to practise with."""
    select: Literal["random", "curated"] = "random"
    """random draws scenes, evenly over the labels when these are known; curated takes the first of --list."""
    list: Path | None = None
    """File with one name a line, the best first."""
    side: Count = 512
    """Long side of the pictures, in pixels; smaller where one version of a scene is smaller."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality, always in 4:4:4."""
    lightness: Literal["own", "shared"] = "own"
    """shared gives every version of a scene the lightness (L*) of the original."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw of scenes."""
    study: OmitArgPrefixes[Study] = field(default_factory=Study)


@dataclass(frozen=True)
class ServeStudy(_Strict):
    """Serve a realness study to participants' browsers."""

    dir: Positional[Path]
    """Folder of the study."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen at."""
    url: str = ""
    """Address that participants open, if it is another, with its sub-path: https://example.org/colours/."""
    proxy: str = ""
    """Address of the proxy in front, whose word is taken for the participants' addresses."""


@dataclass(frozen=True)
class ReportStudy(_Strict):
    """Analyse a realness study."""

    dir: Annotated[Path | None, Positional, arg(metavar="DIR")] = None
    """Folder of the study."""
    out: Path = Path("report")
    """Folder for the report."""
    csv: Path | None = None
    """Instead of a folder: answers that a Google form collected, one column a picture."""
    originals: str = ""
    """With --csv: columns of the original pictures, separated by commas."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Differences in realness smaller than this count as none, in the test of equality."""
    failed_checks: Annotated[int, Field(ge=0)] = 0
    """Attention checks that a participant may fail and still count."""
    exclude: Annotated[tuple[str, ...], UseAppendAction] = ()
    """QUESTION=ANSWER: leave out participants who answered so."""
    draws: Annotated[int, Field(ge=199)] = 4999
    """Draws of the bootstrap."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""


@dataclass(frozen=True)
class PowerStudy(_Strict):
    """How many participants and scenes a realness study needs, by simulation."""

    difference: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Difference in realness to be found between two models on the same scenes, or between one model and --realness."""
    realness: Annotated[float, Field(gt=0, lt=1)] = 0.45
    """Realness of the model that is compared with."""
    models: Annotated[int, Field(ge=1, le=10)] = 2
    """Models in the study; with 1 it is compared with a realness that is known."""
    participants: tuple[Count, ...] = (30, 60, 120, 240)
    """Numbers of participants to try."""
    scenes: tuple[Count, ...] = (24, 48, 96)
    """Numbers of scenes to try."""
    shown: Count = 24
    """Pictures that each participant judges."""
    original_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of originals among them."""
    simulations: Annotated[int, Field(ge=20)] = 400
    """Studies that are simulated for each combination."""
    participants_sd: Annotated[float, Field(ge=0)] = 0.6
    """How readily people answer "Real": standard deviation in logits."""
    scenes_sd: Annotated[float, Field(ge=0)] = 0.5
    """How real a scene looks in any version, in logits."""
    pictures_sd: Annotated[float, Field(ge=0)] = 0.6
    """How real one version of a scene looks, in logits."""
    tastes_sd: Annotated[float, Field(ge=0)] = 0.3
    """How people differ in what they hold of one model, in logits."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the simulation."""


def part_numbers(part: str) -> tuple[int, int]:
    """I and N of a part "I/N" of the work.

    Raises:
        UserError: it is nothing of the kind.
    """
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--part {part} is not I/N with I from 1 to N, as in 1/4")
    return int(number), int(parts)


def for_evaluation(data: Data) -> Data:
    """The same view of every photo each time: the middle where training cuts at random, nothing mirrored or aged."""
    geometry = "crop" if data.geometry == "random_crop" else data.geometry
    return replace(data, geometry=geometry, mirror=False, aging=0.0)


Settings = TypeVar("Settings")


def load(cls: type[Settings], path: Path) -> Settings:
    """Read settings from a TOML file.

    Raises:
        UserError: the file is absent, is not TOML, or names a setting that does not exist or a value that
            does not fit.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a TOML file of settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    return validate(cls, table, str(path))


def validate(cls: type[Settings], values: dict[str, Any], origin: str) -> Settings:
    """Turn plain values into settings; `origin` is named in errors."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(_fault(cls, fault) for fault in error.errors())
        raise UserError(f"{origin}: {faults}") from None


def _fault(cls: type, fault: Any) -> str:
    """One fault in words, with the nearest name for one that does not exist."""
    *sections, name = fault["loc"]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "unexpected_keyword_argument":
        return f"{place} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    known = _names(cls, [str(section) for section in sections])
    near = get_close_matches(str(name), known, n=1)
    return f"there is no setting {place}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def _names(cls: Any, sections: list[str]) -> list[str]:
    for section in sections:
        cls = next(f.type for f in fields(cls) if f.name == section)
        cls = get_args(cls)[0] if get_origin(cls) is Annotated else cls
    return [f.name for f in fields(cls)]


def dump(settings: Any) -> dict[str, Any]:
    """Settings as plain values that TOML can hold; what is not set is left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        return str(value) if isinstance(value, Path) else value

    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"settings are a dataclass, got {settings!r}")
    return plain(asdict(settings))


def save(settings: Any, path: Path) -> None:
    """Write settings as TOML, so that `load` gives them back."""
    import tomli_w

    path.write_text(tomli_w.dumps(dump(settings)), "utf-8")
