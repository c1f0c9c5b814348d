"""docs/tour.ipynb: a clean notebook, whose cells run in order and show what its text claims."""

import json
import re
import sys

import matplotlib
import pytest
from conftest import ROOT


PATH = ROOT / 'docs' / 'tour.ipynb'
NOTEBOOK = json.loads(PATH.read_text(encoding='utf-8'))
CODE = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']


def source(cell):
    return ''.join(cell['source'])


def test_it_is_a_small_clean_notebook_with_outputs():
    assert NOTEBOOK['nbformat'] == 4
    assert NOTEBOOK['metadata']['kernelspec']['name'] == 'python3'
    assert PATH.stat().st_size < 200_000
    text = PATH.read_text(encoding='utf-8')
    assert not re.search(r'(/home|/Users|/tmp|/work|/root|site-packages|[A-Z]:\\\\)', text)
    assert [cell['execution_count'] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in NOTEBOOK['cells']:
        assert cell['metadata'] == {}
    outputs = [output for cell in CODE for output in cell['outputs']]
    assert {output['output_type'] for output in outputs} == {'stream', 'display_data'}
    assert {output.get('name', 'stdout') for output in outputs} == {'stdout'}  # nothing on stderr
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 1


def test_its_cells_are_short_and_plain_python():
    for cell in CODE:
        compile(source(cell), 'cell', 'exec')
        lines = source(cell).split('\n')
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 100
        assert not any(line.lstrip().startswith(('%', '!')) for line in lines)


def test_code_comes_after_words():
    """Before every cell but the first two, which set things up, somebody says what it is for."""
    kinds = [cell['cell_type'] for cell in NOTEBOOK['cells']]
    assert kinds[0] == 'markdown'
    assert 'code code code' not in ' '.join(kinds)


@pytest.mark.slow
def test_its_cells_show_what_its_text_claims(tmp_path, monkeypatch, capsys):
    docs = tmp_path / 'docs'
    docs.mkdir()
    monkeypatch.chdir(docs)  # the first cell goes one folder up: the runs are in tmp_path/out
    monkeypatch.setattr(sys, 'path', [*sys.path])
    matplotlib.use('Agg')
    names = {}
    for cell in CODE:
        exec(compile(source(cell), 'cell', 'exec'), names)
    assert [path.name for path in tmp_path.glob('out/*')] == ['tour']

    # train, load, sample
    assert names['final']['acc'] > 0.99 and names['final']['chance'] < 0.06
    out = capsys.readouterr().out
    assert 'the model writes 10 15 11 3\n' in out
    assert re.findall(r'hop \d: (\d+)', out) == ['10', '15', '11', '3']

    # attention: by hand as in the model, and the own cell is left out
    assert names['difference'] < 1e-3
    assert names['share_least'] > 0.99 and names['weight'] < 0.025
    assert names['said']['true'] > 0.99
    assert names['said']['changed'] < 0.5 < names['said']['old node']
    changed = names['tokens'] != names['batch'].tokens
    assert changed.sum(dim=1).eq(1).all()
    assert not (changed[:, :20] & names['on_path']).any()

    # the probe
    found = names['found']
    for place, next_node in (('embedding', False), ('after attention', True),
                             ('after the MLP', True)):
        assert found[place]['current'] > 0.99
        assert (found[place]['next'] > 0.98) == next_node
        assert max(found[place]['after that'], found[place]['shuffled']) < 0.1
    assert found['embedding']['next'] < 0.1

    # the mask
    right = names['right']
    assert right['full chain', 0] > 0.9 and right['full chain', 3] > 0.9
    assert right['answer only', 0] < 0.12 < 0.3 < right['answer only', 3]
