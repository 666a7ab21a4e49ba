"""Settings of graphs, models and the two methods that need no paper. Light: no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from fivefold import UserError, nearest

from ._words import Balance, DebianSplit, Direction, Split, Wire
from .settling import settle

MODELS = ("gcn", "sage", "gcnii", "resgcn", "gat")
SOURCES = (
    "auto",
    "debian",
    "digits",
    "karate",
    "lesmis",
    "florentine",
    "blocks",
    "preferential",
    "grid",
    "rmat",
    "fake",
    "pyg",
)
DTYPES = ("float32", "float64")
_READS_PATH = ("auto", "debian", "pyg")
_MOST_NODES, _MOST_ENDS = 2**31 - 1, 2**40
"""Vertices of a graph, and ends of edges of one that is made: beyond is a slip of the pen."""
_MOST_THREADS = 1024
"""Above it, starting the threads can end the process without a word."""
_DEVICE = re.compile(r"(auto|cpu|cuda(:\d+)?)")


def require(holds: bool, problem: str, setting: str, value: object, remedy: str) -> None:
    """Refuse a setting.

    Raises:
        UserError: when what must hold does not.
    """
    if not holds:
        raise UserError(problem, setting=setting, value=value, remedy=remedy)


@dataclass
class ModelConfig:
    """Which graph network is trained."""

    name: str = "gcnii"
    """`gcn`, `sage`, `gcnii`, `resgcn` (ResGCN+), `gat`, or `module:function`: a function of your
    own that is given the number of features and of classes and returns a `LayerPlan`, or a
    `torch.nn.ModuleList` of PyG convolutions."""
    layers: int = 8
    """Message-passing layers."""
    hidden: int = 64
    """Width of the hidden layers."""
    dropout: float = 0.2
    """Share of entries that are zeroed before each layer, from 0 to below 1."""
    alpha: float = 0.1
    """GCNII: share of the initial embedding in each layer."""
    theta: float = 0.5
    """GCNII: λ of the paper; layer l mixes its weight in by log(θ/l + 1)."""
    heads: int = 4
    """GAT: attention heads; `hidden` is divided among them."""
    encoder: bool = True
    """GCN, GraphSAGE and GAT: a linear layer before the first aggregation, which then reads
    `hidden` columns instead of the features."""

    def __post_init__(self) -> None:
        settle(self, "model.")
        known = self.name in MODELS or ":" in self.name
        require(known, "unknown model", "model.name", self.name, nearest(self.name, MODELS))
        require(self.layers >= 1, "no layers", "model.layers", self.layers, "give 1 or more")
        require(self.hidden >= 1, "no width", "model.hidden", self.hidden, "give 1 or more")
        drop, remedy = self.dropout, "give a share from 0 to below 1"
        require(0 <= drop < 1, "not a share", "model.dropout", drop, remedy)
        require(0 <= self.alpha <= 1, "not a share", "model.alpha", self.alpha, "from 0 to 1")
        theta, remedy = self.theta, "give a number above 0"
        require(0 < theta < math.inf, "not a strength", "model.theta", theta, remedy)
        require(self.heads >= 1, "no heads", "model.heads", self.heads, "give 1 or more")
        fits = self.name != "gat" or self.hidden % self.heads == 0
        remedy = f"give a multiple of model.heads={self.heads}"
        require(fits, "the heads do not divide the width", "model.hidden", self.hidden, remedy)


@dataclass
class DataConfig:
    """Which graph is trained on."""

    source: str = "auto"
    """`debian`, a bundled graph, a generator (`blocks`, `preferential`, `grid`, `rmat`, `fake`),
    `pyg` for a data set of PyTorch Geometric, or `auto`: the file or folder in `path`."""
    path: str = ""
    """An npz, safetensors or `.pt` file, a folder with `edges.csv` and `nodes.csv`, a `Packages`
    file for `debian`, or the folder in which PyG keeps its data sets."""
    name: str = ""
    """For `pyg`: `Planetoid/Cora`, `Reddit`, `Flickr`, `Coauthor/Physics`,
    `WikipediaNetwork/squirrel`, `ogb/ogbn-arxiv`."""
    direction: Direction = Direction.UNDIRECTED
    """How edges are read: both ways, as they point, or against."""
    features: int = 512
    """Feature columns: hashed words of Debian's descriptions, or what a generator makes."""
    min_class: int = 200
    """Debian: sections with fewer packages stay unlabelled."""
    split: DebianSplit = DebianSplit.SOURCE
    """Debian: split by source package, or by binary package (which leaks)."""
    nodes: int = 10_000
    """Generators: vertices."""
    degree: float = 20.0
    """Generators: mean degree."""
    blocks: int = 10
    """Generators: blocks (classes)."""
    homophily: float = 0.8
    """`blocks`: share of a vertex's edges that stay in its block."""
    signal: float = 1.0
    """Generators: distance of class means in the features, in standard deviations."""
    seed: int = 0
    """Generators: same seed, same graph."""

    def __post_init__(self) -> None:
        settle(self, "data.")
        remedy = nearest(self.source, SOURCES)
        require(self.source in SOURCES, "unknown graph", "data.source", self.source, remedy)
        for name in ("features", "min_class", "nodes", "blocks"):
            value = getattr(self, name)
            require(value >= 1, "too few", f"data.{name}", value, "give 1 or more")
        degree, remedy = self.degree, "give a number from 0 on"
        require(0 <= degree < math.inf, "not a degree", "data.degree", degree, remedy)
        nodes, remedy = self.nodes, f"at most {_MOST_NODES}"
        require(nodes <= _MOST_NODES, "too many vertices", "data.nodes", nodes, remedy)
        fits, remedy = nodes * degree <= _MOST_ENDS, f"give at most {_MOST_ENDS // nodes}"
        require(fits, "too many edges", "data.degree", degree, remedy)
        share = self.homophily
        require(0 <= share <= 1, "not a share", "data.homophily", share, "from 0 to 1")
        signal = self.signal
        require(math.isfinite(signal), "not a distance", "data.signal", signal, "give a number")
        require(0 <= self.seed < 2**32, "no seed", "data.seed", self.seed, "from 0 to 2^32 - 1")

    def require_named(self) -> None:
        """Refuse settings that name no graph, as the defaults alone do, or two.

        Raises:
            UserError: no file, or no data set's name; a file beside a source that reads none.
        """
        is_named = self.source != "auto" or bool(self.path)
        remedy = "give data=FILE, or data=debian and the like"
        require(is_named, "no graph is named", "data.path", self.path, remedy)
        is_named = self.source != "pyg" or bool(self.name)
        remedy = "give one such as data.name=Planetoid/Cora"
        require(is_named, "no data set is named", "data.name", self.name, remedy)
        reads = self.source in _READS_PATH or not self.path
        problem, remedy = f"data={self.source} reads no file", "leave it out, or give data=FILE"
        require(reads, problem, "data.path", self.path, remedy)


@dataclass
class RuntimeConfig:
    """Where and how training runs."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: each rank takes its own GPU where there is one."""
    threads: int = 0
    """CPU threads a process; 0 leaves the choice to torch, or to torchrun."""
    dtype: str = "float32"
    """Number format of weights and activations: float32 or float64."""

    def __post_init__(self) -> None:
        settle(self, "runtime.")
        fits = _DEVICE.fullmatch(self.device) is not None
        require(fits, "unknown device", "runtime.device", self.device, "give cpu, cuda or auto")
        count, remedy = self.threads, f"from 0 to {_MOST_THREADS}"
        fits = 0 <= count <= _MOST_THREADS
        require(fits, "no number of threads", "runtime.threads", count, remedy)
        known, remedy = self.dtype in DTYPES, nearest(self.dtype, DTYPES)
        require(known, "unknown number format", "runtime.dtype", self.dtype, remedy)


@dataclass
class TrainOptions:
    """How long and by which rule weights change; the same for every method."""

    epochs: int = 200
    """Passes over the graph, one optimizer step each."""
    lr: float = 0.01
    """Learning rate."""
    optimizer: str = "adam"
    """`adam`, `adamw` or `sgd`."""
    weight_decay: float = 0.0
    """Decay of weights, as the optimizer defines it."""
    clip_norm: float = 0.0
    """Scale gradients down to this norm over all weights; 0 leaves them."""
    seed: int = 0
    """Seed of weights, dropout masks and chunk orders."""
    eval_every: int = 10
    """Epochs between exact evaluations; the last epoch is always evaluated. The checkpoint with
    the best validation score is kept, the earliest of equals."""
    checkpoint_every: int = 50
    """Epochs between trainer states from which a run resumes; 0 leaves only the last."""

    def __post_init__(self) -> None:
        settle(self, "")
        require(self.epochs >= 1, "nothing to train", "epochs", self.epochs, "give 1 or more")
        lr_fits = 0 < self.lr < math.inf
        require(lr_fits, "not a learning rate", "lr", self.lr, "give more than 0")
        known = ("adam", "adamw", "sgd")
        remedy = nearest(self.optimizer, known)
        require(self.optimizer in known, "unknown optimizer", "optimizer", self.optimizer, remedy)
        decay, remedy = self.weight_decay, "give a number from 0 on"
        require(0 <= decay < math.inf, "not a decay", "weight_decay", decay, remedy)
        clip = self.clip_norm
        require(0 <= clip < math.inf, "not a norm", "clip_norm", clip, remedy)
        require(0 <= self.seed < 2**63, "no seed", "seed", self.seed, "from 0 to 2^63 - 1")
        require(self.eval_every >= 1, "never", "eval_every", self.eval_every, "give 1 or more")
        every = self.checkpoint_every
        require(every >= 0, "negative", "checkpoint_every", every, "give 0 or more")


@dataclass
class PartitionConfig:
    """How vertices are divided into parts."""

    method: Split = Split.AUTO
    """`auto` is METIS, or `bfs` where pymetis is missing."""
    balance: Balance = Balance.AUTO
    """What is kept equal between parts: `edges`, `nodes`, or `auto`: `edges` for chunks, and
    whichever sends less for the parts of graph parallelism."""
    seed: int = 0
    """Seed of METIS and of random parts."""
    file: str = ""
    """For `method=file`: an npy file, or text with one part number a vertex."""

    def __post_init__(self) -> None:
        settle(self, "training.partition.")
        named, setting = bool(self.file), "training.partition.file"
        remedy = "give the file that holds one part number a vertex"
        reads = self.method is Split.FILE
        require(named or not reads, "no partition file", setting, self.file, remedy)
        problem = f"method={self.method.value} reads no file"
        remedy = "set training.partition.method=file, or leave it out"
        require(reads or not named, problem, setting, self.file, remedy)
        fits, setting = 0 <= self.seed < 2**31, "training.partition.seed"
        require(fits, "no seed", setting, self.seed, "from 0 to 2^31 - 1")


@dataclass
class TransportConfig:
    """What carries messages between ranks."""

    kind: Wire = Wire.AUTO
    """`auto`: all ranks in one process, or gloo (CPU) and NCCL (GPU) under torchrun."""
    emulate_mbit: float | None = None
    """Rate of a simulated link, in Mbit/s each way; nothing: messages take no simulated time.
    Under torchrun a receiver waits in earnest until such a link would have delivered."""
    timeout: float = 300.0
    """Seconds after which a rank that waits for a message ends with the peer's name."""

    def __post_init__(self) -> None:
        settle(self, "training.transport.")
        rate = self.emulate_mbit
        fits = rate is None or 0 < rate < math.inf
        setting = "training.transport.emulate_mbit"
        require(fits, "a link without a rate", setting, rate, "give Mbit/s above 0, or null")
        wait, setting = self.timeout, "training.transport.timeout"
        require(0 < wait < math.inf, "no time to wait", setting, wait, "give seconds above 0")


@dataclass
class PlainConfig:
    """Settings of `training=plain`: there are none."""


@dataclass
class GraphParallelConfig:
    """Settings of `training=graph_parallel`."""

    ways: int = 0
    """Parts of the graph, one a device; 0: as many as torchrun has started, else 2 in one
    process."""
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    """How vertices are divided among the devices."""
    transport: TransportConfig = field(default_factory=TransportConfig)
    """What carries boundary rows and gradients."""

    def __post_init__(self) -> None:
        settle(self, "training.")
        require(self.ways >= 0, "no device", "training.ways", self.ways, "give 0 or more")
