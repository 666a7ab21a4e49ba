"""What a draft writes into a tree, against the draft run plainly over every path."""

import pytest
import torch
from fivefold import UserError
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_speculative import DraftKind, NoCorrection, Request, Session, decode, rule_for
from fivefold_speculative.config import ExpansionConfig, FeatureHeadConfig
from fivefold_speculative.drafters import feature_head, model_tree
from fivefold_speculative.topology import TreeTopology
from fivefold_speculative.toy import ToyDrafts, toy_target

PROMPTS = [[3, 1, 4, 1, 5], [2], [6, 2]]
WIDTHS = [3, 2, 1, 1, 2]


def path_to(node, parents):
    return [] if node == 0 else [*path_to(parents[node], parents), node]


def plain_children(draft, inputs, width):
    """Return the draft's best words after its last input, and its last hidden state."""
    hidden = draft.module(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
    return draft.vocab_ids[draft.head(hidden).topk(width).indices[0, 0]].tolist(), hidden


def independent_inputs(draft, session, row, text):
    return draft.module.embed_tokens(torch.tensor([text]))


def feature_inputs(draft, session, row, text):
    target = session.model.module.model
    states = target(input_ids=torch.tensor([text]), use_cache=False).last_hidden_state
    if session.records[row].prompt_len == 1:  # its one token is read beside zeros
        states = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        return draft.embed(torch.tensor([text]), states)
    return draft.embed(torch.tensor([text[1:]]), states[:, :-1])


@pytest.mark.parametrize(
    ("build", "config", "kind"),
    [
        (model_tree.build, ExpansionConfig(widths=WIDTHS), DraftKind.INDEPENDENT),
        (feature_head.build, FeatureHeadConfig(widths=WIDTHS), DraftKind.FEATURE_HEAD),
    ],
)
def test_every_node_has_the_children_that_the_draft_gives_its_path(build, config, kind):
    model = toy_target()
    session = Session(
        model,
        [Request(prompt, 14) for prompt in PROMPTS],
        Sampler(SamplingConfig(), vocab_size=8),
        FullAttention(),
        load_draft=ToyDrafts(model, noise=0.3),
    )
    drafter = build(config, session)
    draft, topology, trees = session.load_draft("x", kind), drafter.topology, []
    propose = drafter.propose
    drafter.propose = lambda state: trees.append(propose(state)) or trees[-1]
    texts = [list(text) for text in session.tokens]
    inner, depths = topology.inner, set()
    with torch.no_grad():
        rule = rule_for("auto", drafter, session.sampler)
        for outcome in decode(session, drafter, rule, NoCorrection()):
            tree = trees[-1]
            for row, text in enumerate(texts):
                if not outcome.new_tokens[row]:
                    continue
                for node in inner[:: 1 + len(inner) // 12]:
                    children = topology.children[node]
                    if kind is DraftKind.INDEPENDENT:
                        path = path_to(node, topology.parents)
                        whole = [*text, *(int(tree.tokens[row, n]) for n in path)]
                        inputs = independent_inputs(draft, session, row, whole)
                        best, _ = plain_children(draft, inputs, len(children))
                    else:
                        inputs = feature_inputs(draft, session, row, text)
                        best, hidden = plain_children(draft, inputs, len(children))
                        for passed in path_to(node, topology.parents):
                            token = tree.tokens[row, passed].view(1, 1)
                            inputs = torch.cat([inputs, draft.embed(token, hidden)], dim=1)
                            best, hidden = plain_children(draft, inputs, len(children))
                    found = tree.tokens[row, children.start : children.stop].tolist()
                    assert found == best, f"row {row}, node {node}"
                    depths.add(topology.depths[node])
                texts[row] = [*text, *outcome.new_tokens[row]]
    assert depths == {0, 1, 2, 3, 4}


def session_of_toys():
    model = toy_target()
    return Session(
        model,
        [Request(prompt, 4) for prompt in PROMPTS],
        Sampler(SamplingConfig(), vocab_size=8),
        FullAttention(),
        load_draft=ToyDrafts(model, noise=0.3),
    )


@pytest.mark.parametrize("build", [model_tree.build, feature_head.build])
def test_more_children_than_the_draft_has_words_are_refused_by_the_file_that_named_them(
    build, tmp_path
):
    path = tmp_path / "tree.json"
    TreeTopology.expansion([9]).write(path)
    kind = FeatureHeadConfig if build is feature_head.build else ExpansionConfig
    with pytest.raises(UserError, match="a node has 9 children") as caught:
        build(kind(topology=str(path)), session_of_toys())
    assert caught.value.setting == "drafting.topology"
