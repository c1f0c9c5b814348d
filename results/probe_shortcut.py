"""Where does hop 2 go missing in the models that answer three hops? Two measurements, with the probes of probe.py, tested on either half of the questions:

1. At the last token after layer 2, is hop 2 there where c_2 < c_1, and where c_2 > c_1? The entry of c_1 in the table names c_2; with a causal mask, at that
   position the entry of c_2 has been read only if c_2 < c_1.
2. A guess why the halves differ: after layer 1 the position of c_1 has looked up c_3 itself, and hop 2 is skipped. Then "the entry of the entry" is decodable at
   the table's positions (a probe for each, the mean of them), better than in an untrained model.

    PYTHONPATH=. python results/probe_shortcut.py out/results/probe-{direct,loop}-model/seed*/ckpt.pt > results/probe_shortcut.txt
"""

import argparse
import contextlib
import sys
from types import SimpleNamespace

import torch

import common
import probe
from data import OPTIONS, make_task
from model import GPT

torch.set_grad_enabled(False)
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext())


def accuracy(x, q, node, backward):
    """Of the probe for node (N,) in residuals x (N, C): where backward (N,), and where not."""
    x, n = x[None], q.n_train
    names, y = node[:, None].unique(return_inverse=True)
    W, b, _ = probe.fit(x[:, :n], y[:n], torch.arange(n) % probe.FOLDS, [len(names)])
    hit = probe.right(torch.baddbmm(b[..., None], W.mT, x[:, n:].mT), y[n:], [len(names)])[0, :, 0].float()
    return hit[backward[n:]].mean().item(), hit[~backward[n:]].mean().item()


print('accuracy where c_2 < c_1 | where c_2 > c_1')
for path in sys.argv[1:]:
    model, state = common.load_checkpoint(path)
    task = make_task(argparse.Namespace(**{name: None for names in OPTIONS.values() for name in names} | state['args']))
    q = probe.questions(task, state['args']['arm'], 8000, 4000, state['args']['seed'])
    torch.manual_seed(0)
    backward, rows = q.node[:, 1] < q.node[:, 0], torch.arange(len(q.node))
    for name, m in (('trained', model.eval()), ('untrained', GPT(model.config).eval())):
        x = probe.collect(m, q, [1, 2], range(q.end), RUN)
        table = [accuracy(x[0, p], q, q.batch.instance[rows, q.batch.instance[:, p]], q.batch.instance[:, p] < p) for p in range(1, task.nodes - 1)]
        for what, both in (('the entry of the entry', [sum(a) / len(a) for a in zip(*table)]), ('hop 2', accuracy(x[1, -1], q, q.node[:, 1], backward)),
                           ('hop 3', accuracy(x[1, -1], q, q.node[:, 2], backward))):
            print(f'{path.split("/")[-3]} {path.split("/")[-2]} {name:9} {what:22}  ' + ' | '.join(f'{a:.3f}' for a in both), flush=True)
