"""The whole recipe: text, features, two drafts, coverage; goes on where it stopped."""

import argparse
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from fivefold_speculative.drafts import SHIPPED
from loop import LOOP

HERE = Path(__file__).parent
SPECULATIVE = HERE.parents[1] / "packages" / "speculative" / "src" / "fivefold_speculative"
CHAT = SPECULATIVE / "prompts" / "chat.jsonl"


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Args:
        shards: of text.
        rows: of a shard.
        minutes: of training, for each draft.
        limit: prompts of each set that judges.
        new_tokens: of the answers that judge.
    """

    shards: int
    rows: int
    minutes: float
    limit: int
    new_tokens: int


FULL = Size(shards=30, rows=128, minutes=30, limit=60, new_tokens=128)
QUICK = Size(shards=2, rows=24, minutes=1, limit=6, new_tokens=48)


def steps(options: argparse.Namespace, size: Size) -> list[list[str]]:
    """Return the commands of the recipe, in order."""
    out, start = options.out, ["--start", str(options.start)] if options.start else []
    common = ["--target", options.target, "--threads", str(options.threads)]
    text, features = ["--text", str(out / "text")], ["--features", str(out / "features")]
    chat = ["--chat-prompts", str(CHAT)]
    shards = ["--shards", str(size.shards), "--rows", str(size.rows)]
    drafts = [str(out / f"draft_{number}.safetensors") for number in (1, 2)]
    judged = ["--limit", str(size.limit), "--new-tokens", str(size.new_tokens)]
    return [
        [str(LOOP / "text.py"), *common, "--out", str(out / "text"), *shards, *chat],
        [str(LOOP / "features.py"), *common, *text, "--out", str(out / "features")],
        [str(LOOP / "check.py"), "--target", options.target, *text, *chat],
        [
            *(str(HERE / "boost.py"), *common, *text, *features, *start, "--out", str(out)),
            *("--minutes", str(size.minutes)),
        ],
        [
            *(str(HERE / "coverage.py"), *drafts, *common, *start, *judged, *chat),
            *("--answers", str(out / "answers.json"), "--out", str(out / "coverage.json")),
        ],
    ]


def main() -> None:
    """Run every step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything made")
    parser.add_argument("--start", type=Path, default=SHIPPED["smollm2_independent"].path)
    parser.add_argument("--minutes", type=float, help="of training, for each draft")
    parser.add_argument("--shards", type=int, help="of text, 128 rows each")
    parser.add_argument("--quick", action="store_true", help="minutes in all, to see that it works")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    size = replace(size, shards=options.shards or size.shards)
    size = replace(size, minutes=options.minutes or size.minutes)
    for step in steps(options, size):
        print("$", *step, flush=True)
        subprocess.run([sys.executable, *step], check=True)


if __name__ == "__main__":
    main()
