"""Features: read the text once with the target and store what a draft learns from.

For every token: the target's last hidden state after the final norm (fp16). For every token whose
successor was written by the target: the 16 largest logits with their ids, and the logsumexp of all.
Shards correspond to the text's; a second call goes on where the first stopped.
"""

import argparse
import logging
import time
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from text import Role
from torch import Tensor
from transformers import AutoModelForCausalLM
from writer import Writer

logger = logging.getLogger("features")

KEPT_LOGITS = 16
GROUPS = 768
"""Groups of words searched first: the largest logits lie in the groups of largest maxima."""


def largest(
    logits: Float[Tensor, "token vocab"],
) -> tuple[Float[Tensor, "token kept"], Int[Tensor, "token kept"]]:
    """Return the largest logits and their ids, exactly, several times faster than `topk`."""
    count = logits.shape[0]
    grouped = logits.view(count, GROUPS, -1)
    groups = grouped.amax(-1).topk(KEPT_LOGITS).indices  # [token, kept]
    size = grouped.shape[-1]
    candidates = grouped.gather(1, groups.unsqueeze(-1).expand(-1, -1, size)).flatten(1)
    values, places = candidates.topk(KEPT_LOGITS)
    ids = groups.gather(1, places // size) * size + places % size
    return values, ids


@torch.inference_mode()
def read_shard(writer: Writer, shard: dict[str, Tensor], budget: int) -> dict[str, Tensor]:
    """Return the features and the largest logits of a shard, in the order of its tokens.

    Args:
        writer: the target.
        shard: tokens, roles and lengths of a text shard.
        budget: tokens read at once.
    """
    lengths = shard["lengths"].tolist()
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    total = starts[-1]
    found = {
        "hidden": torch.zeros(total, writer.config.hidden_size, dtype=torch.float16),
        "top_logits": torch.zeros(total, KEPT_LOGITS, dtype=torch.float16),
        "top_ids": torch.zeros(total, KEPT_LOGITS, dtype=torch.int32),
        "logsumexp": torch.zeros(total),
    }
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    while order:
        rows = [order.pop()]
        width = lengths[rows[0]]
        while order and (len(rows) + 1) * width <= budget:
            rows.append(order.pop())
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : lengths[row]] = shard["tokens"][starts[row] : starts[row + 1]].long()
        positions = torch.arange(width, device=writer.device).expand(len(rows), -1)
        hidden = writer.forward(tokens.to(writer.device), positions, visible=None)
        for place, row in enumerate(rows):
            span = slice(starts[row], starts[row + 1])
            own = hidden[place, : lengths[row]]
            found["hidden"][span] = own.to("cpu", torch.float16)
            wanted = shard["roles"][span].roll(-1) != Role.GIVEN
            wanted[-1] = True
            logits = writer.logits(own[wanted.to(own.device)]).float()
            values, ids = largest(logits)
            places = torch.arange(span.start, span.stop)[wanted]
            found["top_logits"][places] = values.to("cpu", torch.float16)
            found["top_ids"][places] = ids.to("cpu", torch.int32)
            found["logsumexp"][places] = logits.logsumexp(-1).cpu()
    return found


def main() -> None:
    """Read every text shard that has no features yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text shards")
    parser.add_argument("--out", type=Path, required=True, help="folder of the features")
    parser.add_argument("--budget", type=int, default=6144, help="tokens read at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    options.out.mkdir(parents=True, exist_ok=True)
    target = AutoModelForCausalLM.from_pretrained(options.target)
    writer = Writer(target, torch.bfloat16, options.device)
    for source in sorted(options.text.glob("text_*.safetensors")):
        path = options.out / source.name.replace("text_", "features_")
        if path.exists():
            continue
        began = time.monotonic()
        shard = load_file(source)
        partial = path.with_suffix(".partial")
        save_file(read_shard(writer, shard, options.budget), partial)
        partial.rename(path)
        rate = shard["tokens"].numel() / (time.monotonic() - began)
        logger.info("%s: %d tokens, %.0f tokens/s", path.name, shard["tokens"].numel(), rate)


if __name__ == "__main__":
    main()
