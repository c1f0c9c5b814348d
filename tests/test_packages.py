"""The lists of packages agree, and nothing else is imported."""

import ast
import re
import sys

from conftest import ROOT


def read_requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def test_pyproject_and_requirements_name_the_same_packages():
    # no toml reader: Python 3.10 has none
    text = (ROOT / 'pyproject.toml').read_text()
    block = re.search(r'^dependencies = \[.*?^\]', text, re.M | re.S)[0]
    assert re.findall(r'^    "(.*)",$', block, re.M) == read_requirements('requirements.txt')
    assert 'requires-python = ">=3.10"' in text


def test_the_oldest_set_is_the_lower_bounds():
    bounds = read_requirements('requirements.txt')
    oldest = read_requirements('requirements-oldest.txt')
    for bound, line in zip(bounds, oldest, strict=True):
        package, lowest = re.match(r'([a-z]+)>=([0-9.]+)', bound).groups()
        name, version = line.split('==')
        assert name == package
        assert version.split('.')[:len(lowest.split('.'))] == lowest.split('.')


def test_nothing_else_is_imported():
    allowed = {re.match('[a-z]+', line)[0] for line in read_requirements('requirements.txt')}
    folders = [ROOT / name for name in ('.', 'tests', 'results', 'results/studies')]
    files = [path for folder in folders for path in folder.glob('*.py')]
    own = {path.stem for path in files if path.parent in folders[:2]} | {'results'}
    for path in files:
        beside_it = {other.stem for other in files if other.parent == path.parent}
        modules = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split('.')[0])
        assert modules <= allowed | own | beside_it | set(sys.stdlib_module_names), path.name
