"""Text reaches the task exactly as the shell passes it."""

from pathlib import Path

import pytest
from fivefold.composing import composing
from fivefold.literal import decode, encode
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

any_text = st.one_of(
    st.text(alphabet=st.sampled_from("\\'\"${}[](),=~ \na1"), max_size=12),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
)


@pytest.fixture(scope="module")
def composer(toys):
    with composing(toys.task("toy"), toys) as opened:
        yield opened


@given(any_text)
@example("???")
@example("\\\n")
def test_any_text_survives_both_grammars(text):
    line = f"text={encode(text)}"
    parsed = OverridesParser.create().parse_override(line)
    again = OverridesParser.create().parse_override(f"text={parsed.get_value_element_as_str()}")
    for override in (parsed, again):
        config = OmegaConf.create({"text": override.value(), "line": override.input_line})
        assert OmegaConf.is_missing(config, "text") is False
        assert decode(config.text) == text


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(any_text)
@example("???")
@example("\\${x}'")
def test_any_text_reaches_the_task_as_it_is(composer, text):
    assert composer.compose([f"text={text}"]).config.text == text


def test_awkward_text_round_trips_in_every_kind_of_place(composer, awkward):
    keys = ["text", "maybe", "shape.name", "drafting.draft", "path"]
    lines = ["drafting=bold", f"labels.a={awkward}", *(f"{key}={awkward}" for key in keys)]
    made = composer.compose(lines)
    assert made.config.labels == {"a": awkward}
    assert {key: str(made.value(key)) for key in keys} == {
        key: str(Path(awkward)) if key == "path" else awkward for key in keys
    }


def test_a_free_name_is_text_too(composer, awkward):
    made = composer.compose([f"shape={awkward}"]).nodes["shape"]
    assert (made.name, made.sides) == (awkward, 3)


def test_text_passes_through_a_sweep_unsplit(command):
    done = command("-m", "toy", "text=a,b", "drafting=steady,bold", "hydra.sweep.dir=all")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a,b\na,b\n")


@pytest.mark.parametrize("text", ["a, b", "it's \\' ${x}", "Ü\n[", "  ", "~x", "--help"])
def test_text_of_the_shell_arrives_in_the_record(command, text):
    assert command("toy", f"text={text}", "hydra.run.dir=out").returncode == 0
    assert command.result("out")["rows"] == [{"number": 0, "text": text}]


def test_bytes_that_are_not_utf8_are_refused_with_their_setting(command):
    done = command("toy", b"text=\xff\xfe")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "(text)" in done.stderr
