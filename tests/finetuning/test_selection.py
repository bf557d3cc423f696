"""Selectors, and the parameters and modules that they name."""

import re
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from runmodel_ext import Stage
from runmodel_ext.finetuning import make_plan
from runmodel_ext.finetuning.selection import Selection, Tree, common_path, literal
from tests.finetuning.architectures import ARCHITECTURES, Of, gpt
from tests.finetuning.small import Net

MODELS = {name: build() for name, (build, _) in ARCHITECTURES.items()}
TREES = {name: Tree.of(model) for name, model in MODELS.items()}
PLACES = st.sampled_from([(name, path) for name, tree in TREES.items() for path in tree.paths])
NET = Tree.of(Net())


def names(tree: Tree, selection: Selection) -> set[str]:
    return {tree.leaves[n].name for n in selection.leaves}


@pytest.mark.parametrize(
    ("selector", "named"),
    [
        ("head", {"head.weight", "head.bias"}),
        ("head.bias", {"head.bias"}),
        ("*.bias", {"stem.0.bias", "stem.1.bias", "body.0.bias", "body.1.bias", "head.bias"}),
        ("[sb]*.0", {"stem.0.weight", "stem.0.bias", "body.0.weight", "body.0.bias"}),
        ("*.[!01]", set()),
        ("?ead.weight", {"head.weight"}),
        ("re:(stem|head)\\.(0\\.)?bias", {"stem.0.bias", "head.bias"}),
        ("re:stem", {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}),
        ("re:ste", None),
        ("hea", None),
        ("Head", None),
        ("type:BatchNorm1d", {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias"}),
        ("type:_BatchNorm", {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias"}),
        ("type:torch.nn.BatchNorm1d", {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias"}),
        (
            "type:torch.nn.modules.batchnorm.BatchNorm1d",
            {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias"},
        ),
        ("type:*Norm?d", {"stem.1.weight", "stem.1.bias", "body.1.weight", "body.1.bias"}),
        ("type:Dropout", set()),
        ("type:Net", None),
        ("", None),
    ],
)
def test_a_selector_names_what_it_says(selector: str, named: set[str] | None):
    selection = NET.select([selector])
    assert selection.unmatched == (() if named is not None else (selector,))
    assert names(NET, selection) == (named or set())


@settings(deadline=None)
@given(PLACES)
def test_a_path_names_itself_and_all_that_lies_below(place: tuple[str, str]):
    name, path = place
    model, tree = MODELS[name], TREES[name]
    selection = tree.select([literal(path)])
    if path in tree.modules:
        below = {id(parameter) for parameter in tree.modules[path].parameters()}
        assert {id(tree.modules[each]) for each in selection.modules} >= {id(m) for m in tree.modules[path].modules()}
    else:
        owner, _, last = path.rpartition(".")
        below = {id(getattr(tree.modules[owner], last))}
        assert selection.modules == frozenset()
    assert {id(tree.leaves[n].parameter) for n in selection.leaves} == below
    assert below <= {id(parameter) for parameter in model.parameters()}


@settings(deadline=None)
@given(st.sampled_from(list(TREES)), st.lists(st.text("abcdehlnrst.*?01", min_size=1, max_size=8), max_size=4))
def test_several_selectors_name_what_each_of_them_names(name: str, selectors: list[str]):
    tree = TREES[name]
    single = [tree.select([selector]) for selector in selectors]
    together = tree.select(selectors)
    assert together.leaves == frozenset().union(*(each.leaves for each in single))
    assert together.modules == frozenset().union(*(each.modules for each in single))
    assert together.unmatched == tuple(selector for each in single for selector in each.unmatched)


@settings(deadline=None)
@given(st.sampled_from(list(TREES)), st.text("abehlnorst.*?[]!01", min_size=1, max_size=8))
def test_globs_match_as_those_of_the_shell_whose_star_crosses_dots(name: str, glob: str):
    tree = TREES[name]
    selection = tree.select([glob])
    assert bool(selection.unmatched) == (not any(fnmatchcase(path, glob) for path in tree.paths))
    for n, leaf in enumerate(tree.leaves):
        own = [path for each in leaf.names for path in parents(each)]
        assert (n in selection.leaves) == any(fnmatchcase(path, glob) for path in own)


def parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


@settings(deadline=None)
@given(st.sampled_from(list(TREES)))
def test_leaves_are_the_parameters_of_the_model_in_their_order(name: str):
    tree = TREES[name]
    assert [id(leaf.parameter) for leaf in tree.leaves] == [id(parameter) for parameter in MODELS[name].parameters()]
    assert all(tree.number(leaf.parameter) == n for n, leaf in enumerate(tree.leaves))
    assert tree.number(nn.Parameter(tree.leaves[0].parameter.detach().clone())) is None


def test_a_shared_parameter_is_named_by_each_of_its_names():
    tree = Tree.of(gpt())
    assert tree.select(["lm_head"]).leaves == tree.select(["transformer.wte"]).leaves
    assert len(tree.select(["lm_head"]).leaves) == 1


def test_paths_leave_out_what_compiling_puts_into_them():
    whole, part = Of(net=torch.compile(Net(), backend="eager")), Net()
    part.body = torch.compile(part.body, backend="eager")
    assert Tree.of(whole).paths == Tree.of(Of(net=Net())).paths
    assert Tree.of(part).paths == NET.paths
    assert len(Tree.of(whole).select(["type:Net"]).leaves) == 10
    assert Tree.of(part).select(["type:Sequential"]) == NET.select(["type:Sequential"])


def test_a_selector_with_brackets_is_made_literal():
    tree = Tree.of(nn.ModuleDict({"a[0]": nn.Linear(1, 1), "a0": nn.Linear(1, 1)}))
    assert names(tree, tree.select(["a[0]"])) == {"a0.weight", "a0.bias"}
    assert names(tree, tree.select([literal("a[0]")])) == {"a[0].weight", "a[0].bias"}


@settings(deadline=None)
@given(st.lists(st.text("ab.", min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_common_path_is_the_longest_that_all_begin_with(paths: list[str]):
    common = common_path(paths)
    starts = [set(parents(path)) for path in paths]
    shared = set.intersection(*starts)
    assert common == max(shared, key=len, default="")


@settings(deadline=None)
@given(st.sampled_from(list(TREES)), st.data())
def test_a_module_is_in_eval_mode_exactly_where_nothing_below_it_trains(name: str, data: st.DataObject):
    tree = TREES[name]
    trainable = [path for path in tree.paths if tree.select([literal(path)]).leaves]
    train = data.draw(st.lists(st.sampled_from(trainable), min_size=1, max_size=3))
    planned = make_plan([Stage("one", train=[literal(path) for path in train])], MODELS[name]).stages[0]
    trained = {id(tree.leaves[n].parameter) for n in planned.trained}
    named = tree.select([literal(path) for path in train]).modules
    for path, module in tree.modules.items():
        below = {id(parameter) for parameter in module.parameters()}
        if below and path:
            assert (path in planned.in_eval) == (not below & trained)
        elif path:
            assert (path in planned.in_eval) == (path not in named)
    assert "" not in planned.in_eval


@settings(deadline=None)
@given(st.sampled_from(list(TREES)), st.data())
def test_a_stage_trains_what_it_names_and_does_not_exclude(name: str, data: st.DataObject):
    tree = TREES[name]
    trainable = [path for path in tree.paths if tree.select([literal(path)]).leaves]
    chosen = data.draw(st.lists(st.sampled_from(trainable), min_size=1, max_size=4))
    excluded = data.draw(st.lists(st.sampled_from(trainable), max_size=2))
    wanted = tree.select(map(literal, chosen)).leaves - tree.select(map(literal, excluded)).leaves
    stage = Stage("one", train=list(map(literal, chosen)), exclude=list(map(literal, excluded)))
    if wanted:
        assert make_plan([stage], MODELS[name]).stages[0].trained == wanted
    else:
        with pytest.raises(ValueError, match="it trains nothing: `exclude` takes away all of the"):
            make_plan([stage], MODELS[name])


def test_the_nearest_paths_are_told():
    assert NET.nearest("hed")[0] == "head"
    assert "stem.0.bias" in NET.nearest("stem.0.bais")
    assert NET.nearest("type:BatchNorm") == ["BatchNorm1d"]
    assert NET.nearest(re.escape("zzzzzz")) == []
