"""What `docs/which.py` and `docs/measured.py` say is what the records hold."""

import documents
import pytest

HOUSE = documents.HOUSE
WHERE = {"cores": 2, "cpu": "a processor", "torch": "2"}


@pytest.fixture
def which(monkeypatch):
    monkeypatch.syspath_prepend(HOUSE / "docs")
    import which

    return which


@pytest.fixture
def measured(which):
    import measured

    return measured


def cell(planned, ratio, *, temperature=0.0, batch=1, prompts="chat", half=0.05):
    return {
        "planned": planned,
        "ratio": ratio,
        "lower": ratio - half,
        "upper": ratio + half,
        "temperature": temperature,
        "batch": batch,
        "prompts": prompts,
    }


def timed(*cells):
    return {"rows": [*cells], "environment": WHERE}


def streamed(draft, ratio, *, temperature=0.0, rate=None, error=0.3):
    return {
        "what": "ratio",
        "draft": draft,
        "rate_mb_s": rate,
        "temperature": temperature,
        "budget": 32,
        "logit_error": error,
        "tokens_per_pass": 3.0,
        "ratio": ratio,
    }


def words(text):
    """Return a text as if it were not wrapped."""
    return " ".join(text.split())


def advice(text):
    """Return what a page says for each case of its first table."""
    _, _, table = text.partition("| --- | --- | --- |\n")
    rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
    return {case: (take, because) for case, take, because in rows}


def test_pages_are_those_of_the_records(which, measured):
    """As `python docs/generate.py` writes them; quick, unlike the command line's page."""
    assert which.PAGE.read_text("utf-8") == which.page()
    for place, text in measured.pages():
        assert place.read_text("utf-8") == text, place


def test_advice_in_memory_is_what_was_faster(which):
    drafting = timed(
        cell("sequoia (kind=feature_head, nodes=8, levels=3)", 1.4),
        cell("specexec (draft=shipped, budget=4)", 1.5, prompts="code"),
        cell("chain (length=2)", 1.2, batch=2),
        cell("chain (length=2)", 1.02, batch=2, prompts="code"),
        cell("none", 1.1, batch=4),
        cell("chain (length=2)", 1.3, batch=4, prompts="code"),
        cell("chain (draft=quantised, bits=6)", 1.3, temperature=1.0),
        cell("new_method", 1.3, temperature=0.6),
    )
    said = advice(which.text_of(drafting, {}, {}))
    assert said["in memory, greedy"] == (
        "batch 1: [`specexec`](specexec.md) or [`sequoia`](sequoia.md) (`kind=feature_head`); "
        "batch 2, 4: [`none`](none.md)",
        "surely faster in 4 of 6 cells, there 1.20 to 1.50 times plain decoding",
    )
    assert said["in memory, temperature 0.6"][0] == "batch 1: `new_method`"
    quantised = "batch 1: [`chain`](chain.md) (`draft=quantised`)"
    assert said["in memory, temperature 1"][0] == quantised


def test_advice_says_none_where_nothing_was_faster(which):
    said = advice(which.text_of(timed(cell("chain", 1.01), cell("none", 1.2)), {}, {}))
    assert said["in memory, greedy"] == (
        "batch 1: [`none`](none.md)",
        "surely faster in 0 of 2 cells",
    )


def test_advice_on_disk_is_the_draft_that_gained_most(which):
    offload = {
        "rows": [
            streamed("shipped", 1.7),
            streamed("shipped head", 1.9, error=None),
            streamed("quantised 5 bits", 6.0, rate=289.0),
            streamed("shipped", 9.0, rate=2183.0, temperature=0.6),
            streamed("quantised 5 bits", 5.0, rate=289.0, temperature=0.6),
            {"what": "rate", "draft": "shipped"},
        ],
        "environment": WHERE,
    }
    said = advice(which.text_of({}, {}, offload))
    assert said["weights stream from disk"] == (
        "[`specexec`](specexec.md), `drafting.draft=shipped drafting.kind=feature_head`",
        "1.90 (greedy, 32 nodes) times plain decoding",
    )
    take, because = said["weights stream, and a pass costs 100 of the draft's"]
    assert "drafting.draft=quantised drafting.bits=5" in take
    assert because.startswith("6.00 (greedy, 32 nodes, `logit_error` 0.3) and 5.00 (temperature")


def test_advice_of_a_disk_on_which_nothing_pays_is_plain(which):
    offload = {"rows": [streamed("shipped", 0.9)], "environment": WHERE}
    said = advice(which.text_of({}, {}, offload))
    assert said["weights stream from disk"][0] == "[`none`](none.md)"


def test_without_records_only_what_is_not_measured_is_said(which):
    text = which.text_of({}, {}, {})
    assert set(advice(text)) == {case for case, _, _ in which.UNMEASURED}
    assert "## " not in text


def test_yields_come_from_the_record_of_trees(which):
    grown = {"growth": "chain", "nodes": 8, "prompts": "chat", "tokens_a_pass": 1.5}
    left_out = {"growth": "chain", "nodes": 16, "prompts": "chat", "left_out": "too large"}
    text = which.text_of({}, {"rows": [grown, left_out]}, {})
    assert "| chain | 1.50 |" in text


def planned(tree, tokens, **others):
    return {
        "draft": "independent",
        "temperature": 0.0,
        "prompts": "chat",
        "measured_on": "held_out",
        "ranked": True,
        "tree": tree,
        "nodes": 64,
        "tokens_a_pass": tokens,
        "standard_error": 0.1,
        "predicted": 2.5,
        **others,
    }


def of_trees(*rows):
    case = {"kinds": ["independent"], "temperatures": [0.0, 0.6], "classes": ["chat"]}
    return {"rows": [*rows], "environment": {**WHERE, **case, "prompts": 4, "dtype": "float32"}}


def test_sequoia_stands_beside_chains_and_its_prediction(measured):
    trees = of_trees(
        planned("sequoia", 2.4),
        planned("sequoia", 9.9, ranked=False),
        planned("sequoia", 9.8, measured_on="open"),
        planned("sequoia", 1.9, nodes=32),
        planned("chain", 1.5),
        planned("chain", 1.4, nodes=32),
    )
    text = measured.sequoia({}, trees)
    assert "| independent | chat | 0 | 2.40 ± 0.10 | 2.50 | 1.50 |  |" in text
    assert text.count("| independent") == 1
    assert "1 of 2 cells" in words(text)


def test_specinfer_shows_growth_and_its_rule_beside_others(measured):
    at = {"draft": "independent", "temperature": 0.6}
    trees = of_trees(
        {"growth": "specinfer", "nodes": 8, "prompts": "chat", "tokens_a_pass": 1.7},
        {"growth": "specinfer", "nodes": 2, "prompts": "chat", "tokens_a_pass": 1.3},
        {"growth": "sequoia", "nodes": 2, "prompts": "chat", "tokens_a_pass": 1.4},
        {"rule": "naive", **at, "children": 4, "acceptance": 0.5, "half_interval": 0.01},
        {"rule": "multi_step", **at, "children": 4, "acceptance": 0.6, "half_interval": 0.01},
        {"lead": "multi_step - naive", **at, "children": 4, "mean": 0.1, "half_interval": 0.02},
    )
    text = measured.specinfer({}, trees)
    assert "| tokens a pass | 1.30 | 1.70 |" in text
    assert "| independent | 0.6 | 0.500 | 0.600 |  | +0.100 ± 0.020 |" in text


def test_how_often_auto_took_a_method_is_counted(measured):
    drafting = timed(
        cell("sequoia (nodes=8)", 1.4),
        cell("sequoia (nodes=4)", 1.02),
        cell("specexec (budget=2)", 1.3),
    )
    assert "in 2 of 3 [cells]" in words(measured.taken("sequoia", drafting))
    assert "1.02 to 1.40 times" in words(measured.taken("sequoia", drafting))
    assert "above 1 in 1 " in words(measured.taken("sequoia", drafting))
    assert "in none of 3" in words(measured.taken("specinfer", drafting))


def test_blocks_without_records_say_so(measured):
    for text in (
        measured.sequoia({}, {}),
        measured.specinfer({}, {}),
        measured.specexec({}, {}),
        measured.specinfer(timed(), of_trees()),
    ):
        assert text.startswith("**Measured.** There is no record yet")


def test_block_takes_the_place_of_the_one_before(measured):
    page = f"a\n{measured.BEGIN}old\n{measured.END}b\n"
    once = measured.with_block(page, "new\n")
    assert once == f"a\n{measured.BEGIN}\nnew\n\n{measured.END}b\n"
    assert measured.with_block(once, "new\n") == once


@pytest.mark.parametrize("text", ["a\n", "{1}{0}", "{0}{1}{0}{1}"])
def test_page_without_its_two_marks_is_refused(measured, text):
    with pytest.raises(ValueError, match="written by"):
        measured.with_block(text.format(measured.BEGIN, measured.END), "new\n")
