"""Linear probes: can something be read off a vector?

    fit          probes of many cells at once, each with a penalty of its own choice
    correct      what they get right
    random_step  a control for the exchange of vectors

A probe is a ridge regression of the one-hot label: least squares with a penalty on large weights.
The penalty is chosen by cross-validation. Used by probe.py and train_latent.py.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # in units of a cell's mean variance; ties: the first


class Sums(NamedTuple):
    """Sums over examples: all that a ridge regression needs to know of its data."""
    xx: torch.Tensor  # (G, C, C) X^T X
    xy: torch.Tensor  # (G, C, M) X^T Y
    x: torch.Tensor   # (G, C)
    y: torch.Tensor   # (M,)
    n: int            # examples


def fit(x, y, fold, classes, penalties=PENALTIES):
    """Ridge regression of one-hot labels in every cell at once. Each cell and target takes the
    penalty that wins its cross-validation.

    x (G, N, C) float: N examples in each of G cells. y (N, J) int64: J targets, the j-th with
    classes[j] classes. fold (N,) int64 from 0: the part of an example in the cross-validation.
    Minimises |x W + b - onehot(y)|^2 + penalty |W|^2, with penalties in units of the mean variance
    of a cell. Returns W (G, C, M) and b (G, M), M = sum(classes), the targets side by side, and the
    penalties chosen, (G, J), as plain numbers.

    It is fast for two reasons. Sums over the folds add up to those over all examples, so leaving a
    fold out is a subtraction. And one eigendecomposition of X^T X serves every penalty.
    """
    # float32 has digits to spare only near zero, so centre first
    shift = x.mean(1, keepdim=True)                                         # (G, 1, C)
    folds = split_into_folds(x, shift, y, fold, classes)
    sums = [sum_over_examples(x_fold, one_hot) for x_fold, _, one_hot in folds]
    total = Sums(*[sum(of_folds) for of_folds in zip(*sums, strict=True)])
    hits = cross_validate(folds, sums, total, classes, penalties)           # (penalties, G, J)

    # the winning penalty of each cell and target, and a last fit to everything
    mean_x, mean_y, eigenvalues, V, cross = decompose(total, classes)
    chosen = torch.tensor(penalties, dtype=torch.float64)[hits.argmax(0).cpu()]
    penalty = chosen * mean_variance(eigenvalues)                           # (G, J)
    target_of_column = torch.arange(len(classes)).repeat_interleave(torch.tensor(classes))  # (M,)
    W = cross / (eigenvalues[..., None] + penalty[:, None, target_of_column])
    W = (V @ W).float().to(x.device)                                        # (G, C, M)
    b = mean_y - ((shift + mean_x[:, None]) @ W)[:, 0]                      # (G, M)
    return W, b, penalty


def split_into_folds(x, shift, y, fold, classes):
    """[(x - shift (G, n, C), y (n, J), one-hot y (n, M)) of each fold]"""
    order = fold.argsort()
    sizes = fold.bincount().tolist()
    x = x.index_select(1, order).sub_(shift)
    y = y[order]
    one_hot = [F.one_hot(y[:, j], n_classes) for j, n_classes in enumerate(classes)]
    one_hot = torch.cat(one_hot, dim=1).float()
    parts = (x.split(sizes, dim=1), y.split(sizes), one_hot.split(sizes))
    return list(zip(*parts, strict=True))


def sum_over_examples(x, one_hot):
    """The Sums of x (G, n, C) and one_hot (n, M)."""
    # float64, as the smallest penalty shows digits that float32 loses; mps has none
    wide = torch.float32 if x.device.type == 'mps' else torch.float64
    x = x.to(wide)
    return Sums(x.mT @ x, x.mT @ one_hot.to(wide), x.sum(1), one_hot.sum(0), len(one_hot))


def cross_validate(folds, sums, total, classes, penalties):
    """How many examples are right when their fold is left out: (penalties, G, J)."""
    G = len(total.x)
    device = total.x.device
    hits = torch.zeros(len(penalties), G, len(classes), device=device)
    for (x, y, _), of_fold in zip(folds, sums, strict=True):
        others = Sums(*[a - b for a, b in zip(total, of_fold, strict=True)])
        mean_x, mean_y, eigenvalues, V, cross = decompose(others, classes)
        unit = mean_variance(eigenvalues)

        # predict in the basis of the eigenvectors, where a penalty only rescales
        V = V.float().to(device)
        z = V.mT @ x.mT                                                     # (G, C, n)
        mean_z = mean_x[:, None] @ V                                        # (G, 1, C)
        for i, penalty in enumerate(penalties):
            W = cross / (eigenvalues + penalty * unit)[..., None]           # (G, C, M)
            W = W.float().to(device)
            b = mean_y - mean_z @ W                                         # (G, 1, M)
            scores = torch.baddbmm(b.mT, W.mT, z)                           # (G, M, n)
            hits[i] += correct(scores, y, classes).float().sum(1)
    return hits


def decompose(sums, classes):
    """The means of x and y, the eigenvalues and eigenvectors V of the centred X^T X, and
    V^T X^T Y."""
    # where a cell says nothing, the first of equally frequent classes wins
    tie_break = [1e-7 * torch.arange(K, device=sums.x.device) for K in classes]
    mean_x = sums.x / sums.n
    mean_y = sums.y / sums.n - torch.cat(tie_break)

    # these matrices are small: on the CPU, which has float64 everywhere
    centred = sums.xx - sums.x[:, :, None] * mean_x[:, None]
    eigenvalues, V = torch.linalg.eigh(centred.cpu().double())
    cross = (sums.xy - mean_x[..., None] * sums.y).cpu().double()
    return mean_x.float(), mean_y, eigenvalues.clamp(min=0), V, V.mT @ cross


def mean_variance(eigenvalues):
    """The unit of the penalties: (G, C) -> (G, 1)"""
    return eigenvalues.mean(1, keepdim=True).clamp(min=1e-12)


def correct(scores, y, classes):
    """Does the label of each target have the largest score of its classes? A tie is wrong.

    scores (G, M, n), y (n, J) -> (G, n, J) bool. Classes stand before examples, because maxima over
    the last dimension are several times as slow.
    """
    hits = []
    for j, of_target in enumerate(scores.split(classes, dim=1)):            # (G, K, n)
        label = y[:, j].expand(len(of_target), 1, -1)                       # (G, 1, n)
        own = of_target.gather(1, label)[:, 0]
        others = of_target.scatter(1, label, -torch.inf).amax(1)
        hits.append(own > others)
    return torch.stack(hits, dim=-1)


def random_step(x, other, seed):
    """(n, C): as long as the step from x to other, in random directions."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    step = torch.randn(x.shape, generator=generator).to(x)
    step *= (other - x).norm(dim=1, keepdim=True) / step.norm(dim=1, keepdim=True)
    return step
