"""Settings of the shared nodes `model`, `sampling`, `cache` and `runtime` (imports no torch)."""

import math
import re
from dataclasses import dataclass

from fivefold import UserError, nearest
from fivefold_kernels.native.machine import INSTRUCTION_SETS

from .offload.sizes import parse_size

KERNELS = (
    "auto",
    "onednn",
    "torch",
    "triton",
    *(each.name for each in INSTRUCTION_SETS if not each.is_emulated),
)
EMULATED = tuple(each.name for each in INSTRUCTION_SETS if each.is_emulated)
"""Kernels that are taken where they are named, and proposed to nobody."""
WEIGHTS = ("float", "int8", "int4", "file")
OFFLOADS = ("none", "host", "disk")
DTYPES = ("float32", "bfloat16", "float16")
DEVICE = re.compile(r"(auto|cpu|(cuda|xpu)(:\d+)?)")


@dataclass
class ModelConfig:
    """Which language model is decoded, and where it runs."""

    name: str = "smollm2"
    """`smollm2`, a hub id such as `org/model`, a local folder, or a GGUF file."""

    revision: str = ""
    """Branch, tag or commit of a hub model; empty takes the newest."""

    dtype: str = "float32"
    """Number format of the weights: float32, bfloat16 or float16."""

    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, xpu, or auto for the first accelerator (not mps:
    it has no float64, in which laws are compared)."""

    trust_remote_code: bool = False
    """Allow a hub model to run Python code of its own."""

    token: str = ""
    """Hub access token; empty uses the one of `hf auth login`, if any."""

    chat_template: str = ""
    """Jinja chat template, or a file that holds one; empty uses the tokenizer's own."""

    kernels: str = "auto"
    """What computes on a CPU: auto (ours, else oneDNN's packed products), onednn, torch (stock), or
    one build of ours: amx, avx512_bf16, avx512_vnni, avx512, avx2, portable. Weights are packed
    once (one more copy of them in memory): a tree then costs little more than a token. On CUDA:
    auto (triton where Triton is installed, else torch), triton (passes in static shapes, recorded
    as CUDA graphs), or torch."""

    weights: str = "float"
    """How our CPU kernels hold the weights: float (in `dtype`), int8 (a scale a row), or int4 (a
    minimum and a scale for 32; the output layer 8 bits), or file: the blocks of a GGUF file as they
    are, never made floats of. Rounded weights are a model of their own: the text is exactly that
    model's."""

    offload: str = "none"
    """Where layers that do not fit wait for their turn: none (all are on the device), disk (they
    stream into a CPU's memory), or host (from there to an accelerator). The text is the same, bit
    for bit."""

    memory: str = ""
    """What weights may take on the device with `offload`, such as 200MiB or 2GiB: as many layers
    stay as fit; empty: as much as is free."""

    disk_rate: float = 0.0
    """Hold reads from disk to so many MB/s, to try out a slower disk; 0 reads as fast as it can."""

    def __post_init__(self) -> None:
        """Refuse what no model could satisfy.

        Raises:
            UserError: an empty name, an unknown word, or a budget that is none.
        """
        if not self.name.strip():
            raise UserError(
                "no model is named",
                setting="model.name",
                value=self.name,
                remedy="give a hub id, a folder, a GGUF file, or smollm2",
            )
        if self.dtype not in DTYPES:
            raise UserError(
                "unknown number format",
                setting="model.dtype",
                value=self.dtype,
                remedy=nearest(self.dtype, DTYPES),
            )
        words = (("kernels", KERNELS), ("weights", WEIGHTS), ("offload", OFFLOADS))
        for field, known in words:
            value = getattr(self, field)
            if value not in known and not (field == "kernels" and value in EMULATED):
                raise UserError(
                    f"unknown {field}",
                    setting=f"model.{field}",
                    value=value,
                    remedy=nearest(value, known),
                )
        if not DEVICE.fullmatch(self.device):
            raise UserError(
                "unknown device",
                setting="model.device",
                value=self.device,
                remedy="give cpu, cuda, cuda:1, xpu or auto",
            )
        self._check_offload()

    def _check_offload(self) -> None:
        """Refuse a budget or a rate that means nothing."""
        problem, field, remedy = "", "memory", "give a size such as 200MiB, or leave it out"
        if self.memory and self.offload == "none":
            problem = "a budget for weights, and no layers are streamed"
            remedy = "set model.offload=disk or host, or leave it out"
        elif self.memory:
            try:
                parse_size(self.memory)
            except ValueError as error:
                problem = str(error)
        if not 0 <= self.disk_rate < math.inf:
            problem, field, remedy = "no rate", "disk_rate", "give MB/s, or 0 for the disk's own"
        elif self.disk_rate and self.offload != "disk":
            problem, field = "no layers are read from disk", "disk_rate"
            remedy = "set model.offload=disk, or leave it out"
        if problem:
            raise UserError(
                problem, setting=f"model.{field}", value=getattr(self, field), remedy=remedy
            )


@dataclass
class SamplingConfig:
    """How the next token is drawn from the target's law."""

    temperature: float = 0.0
    """0 takes the most likely token (greedy); above 0 samples, 1 is the model's own law."""

    top_k: int = 0
    """Keep only the k most likely tokens; 0 keeps all."""

    top_p: float = 1.0
    """Keep the most likely tokens that hold this share of the law; 1 keeps all."""

    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the best one; 0 keeps all."""

    repetition_penalty: float = 1.0
    """Divide (above 1) the scores of tokens already in prompt or text; 1 changes nothing."""

    presence_penalty: float = 0.0
    """Subtract this from the scores of tokens already in the generated text; from -2 to 2."""

    seed: int = 0
    """Same seed, same text; from 0 to 2^63 - 1."""

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: names the setting and the range.
        """
        _require(0 <= self.temperature < math.inf, self, "temperature", "0 or more")
        _require(self.top_k >= 0, self, "top_k", "0 or more")
        _require(0 < self.top_p <= 1, self, "top_p", "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, self, "min_p", "from 0 to 1")
        _require(0 < self.repetition_penalty < math.inf, self, "repetition_penalty", "above 0")
        _require(-2 <= self.presence_penalty <= 2, self, "presence_penalty", "from -2 to 2")
        _require(0 <= self.seed < 2**63, self, "seed", "from 0 to 2^63 - 1")


@dataclass
class CacheConfig:
    """Room for keys and values."""

    max_len: int = 0
    """Most tokens a row may hold, prompt included; 0 takes what prompt and answer need."""

    def __post_init__(self) -> None:
        """Refuse a negative length.

        Raises:
            UserError: `max_len` is below 0.
        """
        if self.max_len < 0:
            raise UserError(
                "a cache cannot be shorter than nothing",
                setting="cache.max_len",
                value=self.max_len,
                remedy="give 0 (as long as needed) or more",
            )


@dataclass
class RuntimeConfig:
    """How the machine is used."""

    threads: int = 0
    """Threads for matrix products on the CPU; 0 leaves the choice to torch."""

    def __post_init__(self) -> None:
        """Refuse a negative count.

        Raises:
            UserError: `threads` is below 0.
        """
        if self.threads < 0:
            raise UserError(
                "a negative number of threads",
                setting="runtime.threads",
                value=self.threads,
                remedy="give 0 (torch's choice) or more",
            )


def _require(holds: bool, config: SamplingConfig, field: str, allowed: str) -> None:
    if not holds:
        raise UserError(
            f"{field} is out of range",
            setting=f"sampling.{field}",
            value=getattr(config, field),
            remedy=f"give a value {allowed}",
        )
