"""What imports what, what stands at the top, that functions name their parameters, and the registry's commands."""

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile

import pytest

from common import PROJECT
from trained.registry import MODELS

SCRIPTS = {"train_script", "main", "visualization", "random_generation"}
LAYERS = [  # going up; modules of one layer may import each other, but not in a circle
    {"autograd"},
    {"common"},
    {"datasets"},
    {"data", "Autoencoder", "VarAutoencoder", "model", "generators", "MLPAE_train_script"},
    {"trained"},
    SCRIPTS,
    {"beyond"},
    {"grading", "playground"},
]
APART = SCRIPTS | {"grading", "playground"}  # these may not
LEVELS = {name: level for level, layer in enumerate(LAYERS) for name in layer}
PATHS = [*PROJECT.glob("*.py"), *(path for name in LEVELS for path in PROJECT.glob(f"{name}/**/*.py"))]
NAMES = [".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in PATHS]
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, PATHS, strict=True)}
IMPORTS = (ast.Import, ast.ImportFrom)


def nodes(tree, kinds):
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def imports(tree, modules):
    """The names of the modules that a file imports; modules: the product's, which "from package import" may name."""
    names = {alias.name for node in nodes(tree, ast.Import) for alias in node.names}
    for node in nodes(tree, ast.ImportFrom):
        qualified = {f"{node.module}.{alias.name}" for alias in node.names}
        names |= {name if name in modules else node.module for name in qualified}
    return names


def upward_imports(graph):
    """(module, import) of a higher layer, or of a module that stands apart."""
    wrong = set()
    for module, imported in graph.items():
        own, _, _ = module.partition(".")
        for name in imported & graph.keys():
            other, _, _ = name.partition(".")
            if LEVELS[other] + (other in APART and other != own) > LEVELS[own]:
                wrong.add((module, name))
    return wrong


def late_imports(tree):
    """The lines of imports below the first block of imports of the file (a `try` may surround an optional one)."""
    block = takewhile(lambda node: isinstance(node, (ast.Expr, ast.Try, *IMPORTS)), tree.body)
    early = {node for statement in block for node in nodes(statement, IMPORTS)}
    return [node.lineno for node in nodes(tree, IMPORTS) if node not in early]


def functions_that_take_args(tree):
    functions = nodes(tree, (ast.FunctionDef, ast.AsyncFunctionDef))
    return [function.name for function in functions if "args" in [parameter.arg for parameter in function.args.args]]


def findings(check):
    """{module: what the check found in its tree} where that is anything."""
    results = {name: check(tree) for name, tree in TREES.items()}
    return {name: result for name, result in results.items() if result}


def test_imports_stand_at_the_top_and_point_downwards_without_a_circle():
    graph = {name: imports(tree, TREES) for name, tree in TREES.items()}
    TopologicalSorter(graph).prepare()  # CycleError for a circle
    assert upward_imports(graph) == set()
    outside = {name for module in graph if module.startswith("autograd") for name in graph[module] - graph.keys()}
    assert outside == {"numpy"}
    assert findings(late_imports) == {}


def test_no_function_takes_the_parsed_arguments():
    taking = findings(functions_that_take_args)
    assert taking.keys() <= {"common.flags"}


def test_planted_mistakes_are_caught():
    tree = ast.parse("from common import run\nx = 1\nimport os\ndef f(args):\n    import main")
    assert imports(tree, {"common.run"}) == {"common.run", "os", "main"}
    planted = {"data": {"main"}, "main": {"train_script"}, "train_script": {"torch"}, "common.run": {"common"}}
    planted |= {"common": set(), "trained": {"MLPAE_train_script"}, "MLPAE_train_script": {"data"}}
    assert upward_imports(planted) == {("data", "main"), ("main", "train_script")}
    assert late_imports(tree) == [3, 5]
    assert functions_that_take_args(tree) == ["f"]
    with pytest.raises(CycleError):
        TopologicalSorter({**planted, "train_script": {"data"}}).prepare()


def test_the_courseworks_nine_files_stand_at_the_top():
    nine = SCRIPTS | {"MLPAE_train_script", "Autoencoder", "VarAutoencoder", "model", "data"}
    assert {path.stem for path in PROJECT.glob("*.py")} == nine


@pytest.mark.parametrize("name", MODELS)
def test_the_command_that_trains_a_model_is_one_that_its_script_understands(name):
    command = MODELS[name].command.format(name.removeprefix("MNIST_"))
    script, *flags = command.removeprefix("-m ").split()
    main = importlib.import_module(script.removesuffix(".py")).main
    with pytest.raises(SystemExit) as stop:
        main([*flags, "--help"])  # a --model that is no choice is an error before that
    assert stop.value.code == 0
