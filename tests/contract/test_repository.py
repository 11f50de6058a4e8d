"""What holds for the whole repository: who imports whom, and no pickles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAME, COMPONENTS = "nmt", ("modules", "criterions")
PRODUCT = (FRAME, *COMPONENTS, "scripts")

LAYERS = [
    ["__init__"],
    ["commands"],
    ["reproduction"],
    ["benchmark"],
    ["compression", "interchange"],
    ["training"],
    ["tasks"],
    ["generation"],
    ["checkpoints"],
    ["parallel"],
    ["models"],
    ["data", "metrics"],
    ["text"],
]
"""Folders of ``nmt``, from the top: they import from lines below their own only, and from the files beside them."""
RANK = {part: line for line, parts in enumerate(LAYERS) for part in parts}


def sources(*folders: str) -> list[Path]:
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert found, f"no Python file below {folders}"
    return found


def module_name(path: Path) -> str:
    """Importable name of a product's file: ``modules/norm/x.py`` is ``nmt.modules.norm.x``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == FRAME else (FRAME, *parts))


def imports(tree: ast.AST, name: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported, at any depth; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                package = package[: len(package) - (node.level - 1)]
                base = ".".join([*package, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imports_of(path: Path) -> list[tuple[str, str]]:
    """(place, absolute name) of everything that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = imports(tree, module_name(path), path.name == "__init__.py")
    return [(f"{path.relative_to(ROOT)}:{line}", target) for line, target in found]


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize(
    ("code", "name", "is_package", "expected"),
    [
        ("from ..modules.norm import x", "nmt.models.y", False, "nmt.modules.norm.x"),
        ("from . import modules", "nmt", True, "nmt.modules"),
        ("from .interfaces import A", "nmt.models", True, "nmt.models.interfaces.A"),
        ("def f():\n    import nmt.criterions.a", "nmt.models.y", False, "nmt.criterions.a"),
    ],
)
def test_imports_are_resolved(code: str, name: str, is_package: bool, expected: str) -> None:
    assert [target for _, target in imports(ast.parse(code), name, is_package)] == [expected]


def test_frame_never_imports_a_component() -> None:
    bad = [
        f"{place} imports {target}"
        for path in sources(FRAME)
        for place, target in imports_of(path)
        if below(target, "nmt.modules", "nmt.criterions")
    ]
    assert not bad, "\n".join(bad)


def test_frame_never_names_a_component_module() -> None:
    """``importlib.import_module("nmt.modules.norm.x")`` would be an import in disguise."""
    bad = []
    for path in sources(FRAME):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.match(r"nmt\.(modules|criterions)\.\w", str(node.value)):
                bad.append(f"{path.relative_to(ROOT)}:{node.lineno} names {node.value!r}")
    assert not bad, "\n".join(bad)


def test_imports_go_down() -> None:
    bad = []
    for path in sources(FRAME):
        own = module_name(path).split(".")
        part = own[1] if len(own) > 1 else "__init__"
        is_file = path.parent == ROOT / FRAME and part != "__init__"
        assert is_file or part in RANK, f"{path.relative_to(ROOT)}: say in LAYERS where nmt/{part} stands"
        for place, target in imports_of(path):
            names = target.split(".")
            if names[0] != FRAME or len(names) < 2 or names[1] == part or names[1] not in RANK:
                continue
            if is_file or RANK[names[1]] <= RANK[part]:
                bad.append(f"{place} imports {target}, which does not stand below nmt.{part}")
    assert not bad, "\n".join(bad)


def test_no_circle_of_files() -> None:
    """Imports within functions count: they only hide a circle."""
    files = {module_name(path): path for path in sources(FRAME, *COMPONENTS)}
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        found = {target if target in files else target.rpartition(".")[0] for _, target in imports_of(path)}
        edges[name] = (found & files.keys()) - {name}
    assert sum(map(len, edges.values())) > len(files)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_run_does_not_know_its_trainer() -> None:
    """``nmt/training/run`` stands below the rest of ``nmt/training``."""
    bad = [
        f"{place} imports {target}"
        for path in sources("nmt/training/run")
        for place, target in imports_of(path)
        if below(target, "nmt.training") and not below(target, "nmt.training.run")
    ]
    assert not bad, "\n".join(bad)


def test_components_import_no_command() -> None:
    bad = [
        f"{place} imports {target}"
        for path in sources(*COMPONENTS)
        for place, target in imports_of(path)
        if below(target, "nmt.commands")
    ]
    assert not bad, "\n".join(bad)


def test_components_import_each_other_relatively() -> None:
    bad = []
    for path in sources(*COMPONENTS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(below(name, "nmt.modules", "nmt.criterions") for name in names):
                bad.append(f"{path.relative_to(ROOT)}: {names}")
    assert not bad, "\n".join(bad)


def test_nothing_imports_scripts_or_tests() -> None:
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    banned = {"scripts", "tests", "modules", "criterions", "conf"}
    bad = []
    for path in sources(*PRODUCT):
        own = banned if path.is_relative_to(ROOT / "scripts") else banned | scripts  # scripts may share a file
        bad += [f"{place} imports {name}" for place, name in imports_of(path) if name.split(".")[0] in own]
    assert not bad, "\n".join(bad)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def is_false(call: ast.Call, keyword: str) -> bool:
    values = [item.value for item in call.keywords if item.arg == keyword]
    return len(values) == 1 and isinstance(values[0], ast.Constant) and values[0].value is False


def pickles_in(code: str) -> list[str]:
    """Uses of pickle in a source text: imports, ``torch.load`` and ``torch.save``, numpy's object arrays."""
    tree = ast.parse(code)
    banned = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch.load", "torch.save")
    found = [f"line {line}: import of {name}" for line, name in imports(tree, "nmt.x", False) if below(name, *banned)]
    for call, name in calls(tree):
        numpy_file = re.fullmatch(r"(np|numpy)\.(load|save)|.*\.(read|write)_array", name)
        if name in ("torch.load", "torch.save") or (numpy_file and not is_false(call, "allow_pickle")):
            found.append(f"line {call.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("import pickle", 1),
        ("from pickle import loads", 1),
        ("from torch import load", 1),
        ("torch.load('x', weights_only=True)", 1),
        ("np.load('x')", 1),
        ("np.load('x', allow_pickle=True)", 1),
        ("np.lib.format.read_array(f)", 1),
        ("np.load('x', allow_pickle=False)", 0),
        ("model.load('x')", 0),
    ],
)
def test_pickles_are_seen(code: str, count: int) -> None:
    assert len(pickles_in(code)) == count


def test_no_pickle_in_the_product() -> None:
    found = {str(path.relative_to(ROOT)): pickles_in(path.read_text(encoding="utf-8")) for path in sources(*PRODUCT)}
    assert not {path: lines for path, lines in found.items() if lines}


def code_in(code: str) -> list[str]:
    """Uses of what can run a program or read a file's own wishes: ``eval``, unsafe YAML, readers without limits."""
    banned = r"eval|exec|compile|__import__|os\.system|.*\.extractall"
    banned += r"|yaml\.(?!parse$).*|OmegaConf\.(load|register_new_resolver)"
    found = []
    for call, name in calls(ast.parse(code)):
        shell = any(item.arg == "shell" for item in call.keywords)
        if re.fullmatch(banned, name) or shell:
            found.append(f"line {call.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("eval('1')", 1),
        ("exec(x)", 1),
        ("yaml.load(f, Loader=yaml.UnsafeLoader)", 1),
        ("yaml.safe_load(f)", 1),
        ("yaml.parse(f, Loader=yaml.SafeLoader)", 0),
        ("OmegaConf.load(path)", 1),
        ("subprocess.run('x', shell=True)", 1),
        ("os.system('x')", 1),
        ("archive.extractall()", 1),
        ("model.eval()", 0),
        ("re.compile('x')", 0),
        ("torch.compile(model)", 0),
    ],
)
def test_code_is_seen(code: str, count: int) -> None:
    assert len(code_in(code)) == count


def test_nothing_runs_what_a_file_says() -> None:
    found = {str(path.relative_to(ROOT)): code_in(path.read_text(encoding="utf-8")) for path in sources(*PRODUCT)}
    found["nmt/untrusted.py"] = [line for line in found["nmt/untrusted.py"] if not line.endswith("OmegaConf.load")]
    assert not {path: lines for path, lines in found.items() if lines}


def test_json_has_one_reader() -> None:
    """``nmt.untrusted`` has the limits; what processes send each other needs none."""
    allowed = {"nmt/untrusted.py", "nmt/parallel/ranks.py"}
    bad = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in sources(FRAME, *COMPONENTS)
        for call, name in calls(ast.parse(path.read_text(encoding="utf-8")))
        if re.fullmatch(r"json\.loads?", name) and str(path.relative_to(ROOT)) not in allowed
    ]
    assert not bad


def test_files_take_their_places_in_one_way() -> None:
    """``nmt.files`` flushes and replaces, ``nmt.leftovers`` clears; the store of a run moves what has its own lock."""
    allowed = {"nmt/files.py", "nmt/leftovers.py", "nmt/checkpoints/store.py"}
    banned = (
        r".*\.(rename|rmtree|rmdir|unlink|symlink_to|mkstemp|NamedTemporaryFile)|(os|shutil)\.(replace|remove|move)"
    )
    bad = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
        for path in sources(FRAME, *COMPONENTS)
        for call, name in calls(ast.parse(path.read_text(encoding="utf-8")))
        if re.fullmatch(banned, name) and str(path.relative_to(ROOT)) not in allowed
    ]
    assert not bad


def test_every_folder_is_a_package() -> None:
    """A folder without ``__init__.py`` is skipped in silence by discovery and by packaging."""
    folders = {parent for path in sources(FRAME, *COMPONENTS) for parent in path.parents if ROOT in parent.parents}
    missing = sorted(str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file())
    assert not missing


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile("|".join(("pypi" + r"\.org", "python" + "hosted", "download" + r"\.pytorch", "index" + "-url")))
    files = [path for path in ROOT.glob("*") if path.is_file()]
    files += [path for folder in (*PRODUCT, "tests", "docs", "conf", ".ci") for path in (ROOT / folder).rglob("*.*")]
    files += [ROOT / ".ci/run"]
    kept = [path for path in files if "__pycache__" not in path.parts and path.is_file()]  # others come and go
    named = [
        str(path.relative_to(ROOT)) for path in kept if hosts.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not named
