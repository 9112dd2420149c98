"""What imports what, how long files and functions are, and that all scripts know the same models."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import product

import pytest

import check_submission
import main
import random_generation
import train_script
import visualization
from evaluation.models import RECONSTRUCTS, SAMPLES, TABLE, training_command
from generators.completion import QUADRANTS
from training import PROJECT, flags

SCRIPTS = {"MLPAE_train_script", "train_script", "main", "visualization", "random_generation", "check_submission"}
SCRIPTS |= {"playground"}
MODELS = {"Autoencoder", "VarAutoencoder", "model", "data"}
LAYERS = [{"autograd"}, {"training"}, {"datasets"}, MODELS | {"generators"}, {"evaluation"}, SCRIPTS]  # going up
PATHS = [*PROJECT.glob("*.py"), *(path for init in PROJECT.glob("*/__init__.py") for path in init.parent.rglob("*.py"))]
NAMES = [".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in PATHS]
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, PATHS, strict=True)}
FUNCTIONS, IMPORTS = (ast.FunctionDef, ast.AsyncFunctionDef), (ast.Import, ast.ImportFrom)


def nodes(tree, kinds):
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def imports(tree, modules):
    """The names of the modules that a file imports; modules: the product's, which "from package import" may name."""
    found = {alias.name for node in nodes(tree, ast.Import) for alias in node.names}
    for node in nodes(tree, ast.ImportFrom):
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        found |= {name if name in modules else node.module for name in names}
    return found


def functions_that_import(tree):
    return {function.name for function in nodes(tree, FUNCTIONS) if nodes(function, IMPORTS)}


def upward_imports(graph):
    """The imports of a higher layer, and those from one script to another."""
    level = {name: i for name in graph for i, layer in enumerate(LAYERS) if name.partition(".")[0] in layer}
    return {(a, b) for a in graph for b in graph[a] & graph.keys() if level[b] + (b in SCRIPTS) > level[a]}


GRAPH = {name: imports(tree, TREES) for name, tree in TREES.items()}


def test_imports_stand_at_the_top_and_point_downwards_without_a_circle():
    TopologicalSorter(GRAPH).prepare()  # CycleError for a circle
    exceptions = {("evaluation.models", "MLPAE_train_script")}
    exceptions |= {
        ("check_submission", script) for script in SCRIPTS - {"check_submission", "playground"}
    }  # it runs them
    assert upward_imports(GRAPH) == exceptions
    assert {name for name in GRAPH if any(i.startswith("matplotlib") for i in GRAPH[name])} == {"training.figures"}
    assert {name for name in GRAPH if any(i.startswith("gradio") for i in GRAPH[name])} == {"playground"}
    assert {i for name in GRAPH if name.startswith("autograd") for i in GRAPH[name]} - GRAPH.keys() == {"numpy"}
    assert [name for name, tree in TREES.items() for node in nodes(tree, ast.ImportFrom) if node.level] == []
    inside = {(name, function) for name, tree in TREES.items() for function in functions_that_import(tree)}
    assert inside == {("datasets.mnist", "import_torchvision"), ("playground", "import_gradio")}


def test_planted_circles_and_upward_imports_are_caught():
    tree = ast.parse("from training import loop\ndef f():\n    import main")
    planted = {"data": imports(tree, {"training.loop"}), "main": {"train_script"}, "train_script": {"torch"}}
    TopologicalSorter(planted).prepare()
    assert upward_imports(planted) == {("data", "main"), ("main", "train_script")}
    assert functions_that_import(tree) == {"f"}
    with pytest.raises(CycleError):
        TopologicalSorter({**planted, "training.loop": {"data"}}).prepare()


def test_the_files_at_the_top_and_the_length_of_files_and_functions():
    assert {path.stem for path in PROJECT.glob("*.py")} == SCRIPTS | MODELS
    assert [path.name for path in PATHS if len(path.read_text(encoding="utf-8").splitlines()) > 300] == []
    lengths = {(name, f.name): f.end_lineno - f.lineno + 1 for name in TREES for f in nodes(TREES[name], FUNCTIONS)}
    assert {function: lines for function, lines in lengths.items() if lines > 40} == {}


def test_all_scripts_know_the_same_models():
    commands = {name: training_command(name, PROJECT) for name in TABLE}
    for script, prefix in ((train_script, ""), (main, "MNIST_")):
        names = [name for name in script.DEFAULTS if name != "NN"]  # which only --given has
        expected = {f"{prefix}{name}": f"python {script.__name__}.py --model {name}" for name in names}
        if script is main:
            for name, given in product(main.COMPLETES, QUADRANTS):
                expected[f"MNIST_{name}_given{given}"] = f"python main.py --model {name} --given {given}"
        assert {n: c for n, c in commands.items() if f" {script.__name__}.py" in c} == expected
    for name, script in flags.SCRIPT_OF.items():
        key = name if name in TABLE else f"MNIST_{name}"
        assert TABLE[key].script.startswith(script)
    assert [*visualization.MODELS] == [name for name in TABLE if TABLE[name].data == "flowers"]
    assert [*random_generation.MODELS] == [name for name in TABLE if SAMPLES in TABLE[name].roles]
    assert [*check_submission.MODELS] == [name for name in TABLE if RECONSTRUCTS in TABLE[name].roles]
