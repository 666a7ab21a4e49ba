"""Check: find rows of finished text that hold a benchmark or a held-out prompt.

Writes `excluded.json` beside the shards; training leaves those rows out. Run it again whenever a
benchmark gains prompts.
"""

import argparse
import json
import logging
from pathlib import Path

from exclusion import benchmark_exclusion
from safetensors.torch import load_file
from transformers import AutoTokenizer

EXCLUDED = "excluded.json"


def main() -> None:
    """Check every shard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text shards")
    parser.add_argument("--chat-prompts", type=Path, default=Path("chat.jsonl"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    tokenizer = AutoTokenizer.from_pretrained(options.target)
    exclusion = benchmark_exclusion(options.chat_prompts)
    excluded: dict[str, list[int]] = {}
    checked = 0
    for path in sorted(options.text.glob("text_*.safetensors")):
        shard = load_file(path)
        rows = shard["tokens"].split(shard["lengths"].tolist())
        texts = [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in rows]
        refused = [index for index, text in enumerate(texts) if exclusion.refuses(text)]
        checked += len(rows)
        if refused:
            excluded[path.name] = refused
    (options.text / EXCLUDED).write_text(json.dumps(excluded, indent=1))
    logging.info("%d rows checked, %d refused", checked, sum(map(len, excluded.values())))


if __name__ == "__main__":
    main()
