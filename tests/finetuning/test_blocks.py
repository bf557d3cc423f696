"""Blocks, found in the trees of modules of many kinds of networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from runmodel_ext.finetuning import find_blocks
from runmodel_ext.finetuning.plan import block_of_each
from runmodel_ext.finetuning.selection import Tree, literal
from tests.finetuning.architectures import ARCHITECTURES, Of, gpt, mlp


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_blocks_of_a_network_are_found_from_its_input_to_its_output(name: str):
    build, blocks = ARCHITECTURES[name]
    assert [" ".join(block) for block in find_blocks(build())] == blocks


def partition(model: nn.Module) -> list[list[int]]:
    """The numbers of the parameters that the paths of each block name; a shared one in the last of them."""
    tree = Tree.of(model)
    named = [tree.select([literal(path) for path in block]).leaves for block in find_blocks(model)]
    later: set[int] = set()
    parts = []
    for leaves in reversed(named):
        parts.append(sorted(leaves - later))
        later |= leaves
    return parts[::-1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_parameter_lies_in_exactly_one_block_and_each_block_has_some(name: str):
    model = ARCHITECTURES[name][0]()
    tree, parts = Tree.of(model), partition(model)
    assert sorted(n for part in parts for n in part) == list(range(len(tree.leaves)))
    assert all(parts)
    assert block_of_each(model, tree) == {n: place for place, part in enumerate(parts) for n in part}


def test_a_shared_parameter_counts_for_the_block_nearest_to_the_output():
    model = gpt()
    tree = Tree.of(model)
    (shared,) = (n for n, leaf in enumerate(tree.leaves) if len(leaf.names) > 1)
    assert tree.leaves[shared].names == ("transformer.wte.weight", "lm_head.weight")
    assert block_of_each(model, tree)[shared] == len(find_blocks(model)) - 1


def test_compiling_a_network_does_not_change_its_blocks():
    assert find_blocks(torch.compile(mlp(), backend="eager")) == find_blocks(mlp())


def test_modules_without_parameters_have_no_blocks():
    assert find_blocks(nn.Sequential(nn.ReLU(), nn.Dropout())) == []


LEAVES = st.sampled_from(["linear", "norm", "none", "shared"])
KINDS = st.sampled_from(["sequential", "list", "own"])
SHAPES = st.recursive(
    LEAVES, lambda inner: st.tuples(KINDS, st.booleans(), st.lists(inner, max_size=3)), max_leaves=12
)  # fmt: skip


def built(shape: object, shared: nn.Module | None = None) -> nn.Module:
    shared = shared or nn.Linear(2, 2)
    if not isinstance(shape, tuple):
        leaves = {"linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "none": nn.ReLU(), "shared": shared}
        return leaves[str(shape)]
    kind, owns, inner = shape
    parts = [built(each, shared) for each in inner]
    if kind == "sequential":
        return nn.Sequential(*parts)
    if kind == "list":
        return nn.ModuleList(parts)
    own = {"weight": nn.Parameter(torch.ones(2))} if owns else {}
    return Of(**own, **{f"part{n}": part for n, part in enumerate(parts)})


@settings(deadline=None)
@given(SHAPES)
def test_any_tree_of_modules_is_parted_into_blocks(shape: object):
    model = built(shape)
    parts = partition(model)
    assert sorted(n for part in parts for n in part) == list(range(len(Tree.of(model).leaves)))
    assert all(parts)


@settings(deadline=None)
@given(SHAPES)
def test_blocks_stand_in_the_order_in_which_modules_are_defined(shape: object):
    model = built(shape)
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    modules = [order[path] for block in find_blocks(model) for path in block if path in order]
    assert modules == sorted(modules)
