"""A run says which command line composes the same again."""

import subprocess

from fivefold.again import as_written, same_again
from fivefold.literal import encode
from hydra.core.override_parser.overrides_parser import OverridesParser


def words_of(command: str) -> list[str]:
    """Return the words that bash makes of a command line."""
    script = f"for word in {command}; do printf '%s\\0' \"$word\"; done"
    line = ["bash", "-c", script]
    done = subprocess.run(line, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    return done.stdout.decode().split("\0")[:-1]


def test_a_shell_reads_the_very_words_that_were_typed(toys, awkward):
    command = same_again(toys.task("toy"), {}, [f"text={awkward}", "count=2"])
    assert len(command.splitlines()) == 1
    assert words_of(command) == ["fivefold", "toy", f"text={awkward}", "count=2"]


def test_what_was_chosen_stands_there_unless_it_was_typed(toys):
    choices = {"drafting": "bold", "shape": "wide", "fixed": None}
    given = ["+experiment=loud", "shape=org/x", "hydra.run.dir=out", "shape.token=hidden"]
    assert same_again(toys.task("toy"), choices, given) == (
        "fivefold toy drafting=bold +experiment=loud shape=org/x 'shape.token=(left out)'"
    )


def test_text_that_a_sweep_has_written_anew_is_known_again(awkward):
    line = f"text={encode(awkward)}"
    parsed = OverridesParser.create().parse_override(line)
    anew = [f"text={parsed.get_value_element_as_str()}", "count=1"]
    assert as_written(anew, {line: f"text={awkward}", "count=1,2": "count=1,2"}) == [
        f"text={awkward}",
        "count=1",
    ]


GIVEN = ["drafting=bold", "shape=org/x", "text=a\nb, ${c}", "words=[x, 'y z']", "mood=very-loud"]


def test_the_command_above_a_configuration_composes_the_same_again(here):
    status, out, _ = here("toy", *GIVEN, "--cfg", "job")
    assert status == 0
    command, _, _ = out.partition("\n")
    assert command.startswith("# fivefold toy ")
    assert " drafting=bold shape=org/x " in command
    again = words_of(command.removeprefix("# "))[1:]
    assert here(*again, "--cfg", "job")[1].partition("\n")[2] == out.partition("\n")[2]


def test_a_part_of_the_configuration_stands_alone(here):
    assert here("toy", "--cfg", "job", "-p", "fixed")[1] == "# @package fixed\n{}\n"
    assert here("toy", "--cfg", "hydra")[1].startswith("hydra:\n")


def test_each_job_of_a_sweep_says_which_command_it_was(here, tmp_path):
    words = ["-m", "toy", "shape=org/x", "text=it's ${c}", "count=1,2", "hydra.sweep.dir=all"]
    assert here(*words)[0] == 0
    (first, *_) = (tmp_path / "all" / "1" / "config.yaml").read_text().splitlines()
    assert words_of(first.removeprefix("# ")) == [
        "fivefold",
        "toy",
        "drafting=steady",
        "shape=org/x",
        "text=it's ${c}",
        "count=2",
    ]
