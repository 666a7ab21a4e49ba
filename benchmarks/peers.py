"""Two peers on the same GGUF file: llama.cpp, by `node-llama-cpp`, and OpenVINO GenAI.

`python benchmarks/peers.py [--folder DIR]` prints the tokens/s of each at every setting and number
of threads, and whether the two write the same texts.

They are installed from the package indexes, once, each into a folder of its own: llama.cpp as the
prebuilt CPU library of its npm package, OpenVINO into a virtual environment. Each setting is a
child process that loads the model once and answers prompts of token ids, batch 1, greedily.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bounds import num_cores
from contestants import Answered
from fivefold import UserError
from fivefold.cache import cache_folder
from fivefold_lm import ModelConfig, load_model
from fivefold_lm.smollm2 import FILE, FILE_SHA256, fetch, installed_file, sha256
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts, spread

Say = Callable[[str], None]

NODE_LLAMA_CPP = "3.22.1"
OPENVINO_GENAI = "2026.4.1.0"
LLAMA_SETTINGS: list[dict[str, object]] = [{"flashAttention": True}, {"flashAttention": False}]
OPENVINO_SETTINGS: list[dict[str, object]] = [
    {},  # where the processor has bfloat16, it computes in it
    {"ENABLE_CPU_PINNING": False},
    {"ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"},
]
"""What is tried, as the peer itself calls it; whatever else was, was slower or the same."""
TOKENS = 96
_HERE = Path(__file__).parent


class Peer:
    """A peer at one setting, in a process that starts with the first prompt.

    Idle it takes no processor time: llama.cpp ends its threads after each pass, and those of
    OpenVINO wait asleep. So it may stay while others are measured.

    Args:
        name: what the table calls it.
        settings: what it was set to.
        command: starts the process.
    """

    def __init__(self, name: str, settings: Mapping[str, object], command: Sequence[str]) -> None:
        self.name = name
        self.settings = settings
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answered:
        """Continue a prompt greedily; start and loading are not in the seconds.

        Raises:
            UserError: the process ended.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        asked = {"prompt": list(prompt), "max_new_tokens": max_new_tokens}
        try:
            print(json.dumps(asked), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"{self.name} ended: {self._ended()}")
        told = json.loads(line)
        return Answered(told["tokens"], told["seconds"])

    def close(self) -> None:
        """End the process, if it runs; another prompt starts it anew."""
        if self._process is not None:
            self._ended()

    def _start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        return self._process

    def _ended(self) -> str:
        """End the process and return the line of its errors that says most."""
        assert self._process is not None
        self._process.kill()
        _, errors = self._process.communicate()
        self._process = None
        return telling_line(errors)


@contextmanager
def peers(
    file: Path, folder: Path, threads: Sequence[int], say: Say
) -> Iterator[dict[str, list[Peer]]]:
    """Install the peers, give each at every setting and number of threads, and end them.

    Args:
        file: the GGUF file that they read.
        folder: where they are installed.
        threads: the numbers of threads.
        say: told what is installed, and in one line why a peer cannot be or does not run here; it
            has an empty list.
    """
    made: dict[str, list[Peer]] = {}
    for name, make in (("llama.cpp", llama_peers), ("openvino", openvino_peers)):
        try:
            made[name] = make(file, folder, threads, say)
            for one in made[name][:1]:
                one.answer([1], 1)
                one.close()
        except UserError as error:
            say(f"{name} is not measured: {error}")
            made[name] = []
    try:
        yield made
    finally:
        for one in (one for group in made.values() for one in group):
            one.close()


def llama_peers(file: Path, folder: Path, threads: Sequence[int], say: Say) -> list[Peer]:
    """Install llama.cpp with its binding for Node, and return it at every setting.

    Raises:
        UserError: it cannot be installed.
    """
    place = folder / f"node-llama-cpp-{NODE_LLAMA_CPP}"
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    packages = ("node-llama-cpp", f"@node-llama-cpp/linux-{machine}")

    def install() -> None:
        say(f"installing node-llama-cpp {NODE_LLAMA_CPP} with npm (85 MB, once)")
        # The prebuilt library is asked for by name: the optional packages include those for GPUs,
        # and the script after the install would compile one from a download.
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional"]
        patience = ["--fetch-retries=1", "--fetch-timeout=60000"]
        wanted = [f"{package}@{NODE_LLAMA_CPP}" for package in packages]
        run("npm", ["npm", "install", f"--prefix={place}", *quiet, *patience, *wanted])

    run("node", ["node", "--version"])
    made_whole(place, install)
    release = place / "node_modules" / "node-llama-cpp" / "llama" / "binariesGithubRelease.json"
    version = f"{NODE_LLAMA_CPP} (llama.cpp {json.loads(release.read_text())['release']})"
    # With Node's own four workers the threads of a pass often share a core, where one spins while
    # the other should run: two threads wrote 55 tokens/s so, and over 80 with one worker.
    node = ["env", "UV_THREADPOOL_SIZE=1", "node"]
    command = [*node, str(_HERE / "peer_llama.mjs"), str(place), str(file)]
    return at_every_setting("llama.cpp", version, command, "threads", threads, LLAMA_SETTINGS)


def openvino_peers(file: Path, folder: Path, threads: Sequence[int], say: Say) -> list[Peer]:
    """Install OpenVINO GenAI into an environment of its own, and return it at every setting.

    Raises:
        UserError: it cannot be installed.
    """
    place = folder / f"openvino-genai-{OPENVINO_GENAI}"
    python = str(place / "bin" / "python")

    def install() -> None:
        say(f"installing openvino-genai {OPENVINO_GENAI} with pip (300 MB, once)")
        run("venv", [sys.executable, "-m", "venv", str(place)])
        patience = ["--disable-pip-version-check", "--timeout=60", "--retries=1"]
        wanted = ["--only-binary=:all:", f"openvino-genai=={OPENVINO_GENAI}"]
        run("pip", [python, "-m", "pip", "install", "--quiet", *patience, *wanted])

    made_whole(place, install)
    command = [python, str(_HERE / "peer_openvino.py"), str(file)]
    return at_every_setting(
        "openvino", OPENVINO_GENAI, command, "INFERENCE_NUM_THREADS", threads, OPENVINO_SETTINGS
    )


def at_every_setting(
    name: str,
    version: str,
    command: Sequence[str],
    threads_key: str,
    threads: Sequence[int],
    tried: Sequence[Mapping[str, object]],
) -> list[Peer]:
    """Return a peer at each number of threads and setting, which end its command as JSON."""
    return [
        Peer(
            name,
            {"version": version, "threads": count, **settings},
            [*command, json.dumps({threads_key: count, **settings})],
        )
        for count in threads
        for settings in tried
    ]


def model_file(folder: Path, say: Say) -> Path:
    """Return the default model as the GGUF file it comes as, kept in a folder if not installed.

    Raises:
        UserError: it cannot be fetched.
    """
    kept = installed_file() or folder / FILE
    if not kept.is_file() or sha256(kept) != FILE_SHA256:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as room:
            fetch(Path(room), say).replace(kept)
    return kept


def made_whole(place: Path, make: Callable[[], None]) -> None:
    """Make a folder unless it was made before, to its end."""
    mark = place / "complete"
    if not mark.is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make()
        mark.touch()


def run(name: str, command: Sequence[str]) -> None:
    """Run a command in silence.

    Raises:
        UserError: it is not on this machine, or fails.
    """
    try:
        ended = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError(f"{name} is not on this machine") from error
    if ended.returncode:
        raise UserError(f"{name} failed: {telling_line(ended.stderr)}")


def telling_line(errors: str) -> str:
    """Return the first line that names an error, else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [line for line in lines if re.search("error:|^npm error", line, re.IGNORECASE)]
    return (telling or lines[-1:] or ["it said nothing"])[0]


def speed(peer: Peer, prompts: Sequence[Sequence[int]]) -> tuple[float, list[list[int]]]:
    """Return tokens/s over prompts, after one call that is not counted, and what was written."""
    peer.answer(prompts[0], 4)
    done = [peer.answer(prompt, TOKENS) for prompt in prompts]
    texts = [one.tokens for one in done]
    return sum(map(len, texts)) / sum(one.seconds for one in done), texts


def main() -> int:
    """Measure every peer at every setting, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the peers are installed")
    folder: Path = parser.parse_args().folder or cache_folder() / "peers"
    model = load_model(ModelConfig(name="smollm2", kernels="onednn"), print)
    chosen = [*spread(human_eval_prompts(), 1), *spread(chat_prompts(), 1)]
    prompts = [model.encode(prompt.content) for prompt in chosen]
    threads = range(1, num_cores() + 1)
    fastest: dict[str, tuple[float, list[list[int]]]] = {}
    with peers(model_file(folder, print), folder, threads, print) as everybody:
        for name, group in everybody.items():
            for one in group:
                done = speed(one, prompts)
                one.close()
                print(f"{name:10} {done[0]:6.1f} tokens/s  {dict(one.settings)}", flush=True)
                fastest[name] = max(done, fastest.get(name, done))
    texts = [done[1] for done in fastest.values()]
    if len(texts) > 1:
        same = sum(a == b for a, b in zip(*texts, strict=True))
        print(f"the same text by both, each at its fastest: {same} of {len(prompts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
