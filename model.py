"""One tiny GPT, shared by every experiment.

What differs from nanoGPT, and why:
1. `forward(idx, loss_mask)` computes only what the loss needs. The last block turns every position into keys and
   values, but computes queries, attention output and MLP at the masked positions alone, and so does the head. On a task
   with a long prompt and a short chain most of a small model's work is skipped; gradients are the same to rounding.
   Rows that share a prompt can be worked through with one copy of it (`shared`).
2. `n_loop` runs the same stack of blocks several times (Universal Transformer, Dehghani et al. 2018, without its halting):
   FactorExe's question whether a deep model can be factorized into a small one, repeated.
3. `generate` prefills the prompt once and then decodes one token at a time from a key/value cache.
4. No biases anywhere, GPT-2 initialisation, the head tied to the token embedding, three kinds of position.

Shapes in comments: B batch, T sequence length, C = n_embd, H = n_head, D = C / H, V = vocab_size,
M the largest number of loss tokens in a row, N the number of loss tokens in the whole batch.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

@dataclass
class GPTConfig:
    vocab_size: int  # from the task
    block_size: int  # longest sequence, from the task
    n_layer: int = 1
    n_head: int = 1
    n_embd: int = 64
    n_loop: int = 1  # times the stack of blocks is applied, with the same weights
    causal: bool = True  # False: every position sees every other (needs no generate)
    pos: str = 'learned'  # 'learned' | 'rope' (Su et al. 2021) | 'none'
    dropout: float = 0.0

    def __post_init__(self):
        for name in ('vocab_size', 'block_size', 'n_layer', 'n_head', 'n_embd', 'n_loop'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.n_embd % self.n_head:
            raise ValueError(f'n_head={self.n_head} does not divide n_embd={self.n_embd}')
        if self.pos not in ('learned', 'rope', 'none'):
            raise ValueError(f"pos must be 'learned', 'rope' or 'none', got {self.pos!r}")
        if self.pos == 'rope' and self.n_embd // self.n_head < 2:
            raise ValueError(f'rope turns pairs of channels, but n_embd / n_head = {self.n_embd // self.n_head}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')

# ----------------------------------------------------------------------------- pieces

def rotate(x, cos, sin):
    """Rotary position embedding (Su et al. 2021, eq. 34): turn each pair (x_i, x_{i + D//2}) by its position's angle.

    x (B, H, T, D); cos, sin broadcastable to (B, H, T, D//2). The last channel of an odd D stays as it is.
    """
    a, b, *rest = x.split(cos.size(-1), dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos, *rest), dim=-1).type_as(x)

def attend(q, k, v, mask, causal, dropout):
    """softmax(q k^T / sqrt(D)) v for q (B, H, M, D), k and v (B, H, T, D), bool mask (B, 1, M, T) or None -> (B, H, M, D)."""
    if mask is None or q.size(2) >= 16 or dropout:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    # A few queries under a mask are quicker by hand than in the fused kernel: 12% of the default training step on two cores
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v

class Pick:
    """The masked positions of a batch, laid out so that attention still sees a rectangle: row b's loss positions come first,
    rows with fewer than the most are filled up with positions that `keep` then drops."""

    def __init__(self, loss_mask, causal, mask=None):
        fewest, M = torch.stack(loss_mask.sum(1).aminmax()).tolist() if len(loss_mask) else (0, 0)
        self.pos = loss_mask.byte().argsort(dim=1, descending=True, stable=True)[:, :M]  # (B, M) in order
        self.keep = loss_mask.gather(1, self.pos) if fewest < M else None  # (B, M)
        key = torch.arange(loss_mask.size(1), device=loss_mask.device)
        mask = mask[self.pos] if mask is not None else key <= self.pos[..., None] if causal else None  # (B, M, T)
        self.attn_mask = None if mask is None else mask[:, None]  # (B, 1, M, T)

    def rows(self, x):  # (B, T, C) -> (B, M, C)
        return x.gather(1, self.pos[..., None].expand(-1, -1, x.size(-1)))

def pack(idx, loss_mask, S, G):
    """Rows that share their first S tokens by G, as one row each: the shared tokens, then all that follow them, G times.

    idx, loss_mask (P * G, T) -> the same packed, (P, S + G * (T - S)); pos, the position each token had; mask, who may look at whom:
    at what came before it, and not at another continuation; where, for each masked token of idx its place among the packed ones.
    """
    (B, T), tokens = idx.shape, torch.arange(S + G * (idx.size(1) - S), device=idx.device)
    P, C, inside = B // G, T - S, tokens < S
    own = torch.where(inside, -1, (tokens - S) // max(C, 1))  # which continuation a token belongs to
    pos = torch.where(inside, tokens, S + (tokens - S) % max(C, 1))
    mask = ((own[:, None] == own) | inside) & (tokens[:, None] >= tokens)
    wanted = torch.cat((loss_mask[:, :S].view(P, G, S).any(1), loss_mask[:, S:].reshape(P, G * C)), 1)
    where = wanted.flatten().cumsum(0).view_as(wanted) - 1
    where = torch.cat((where[:, None, :S].expand(P, G, S), where[:, S:].view(P, G, C)), 2).reshape(B, T)[loss_mask]
    return torch.cat((idx[::G, :S], idx[:, S:].reshape(P, G * C)), 1), wanted, pos, mask, where

class Block(nn.Module):
    """Pre-norm attention, then a pre-norm GELU MLP. Queries have a projection of their own, so that they can be
    computed at fewer positions than keys and values."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_head, self.causal, self.dropout = config.n_head, config.causal, config.dropout
        self.ln_1 = nn.LayerNorm(C, bias=False)
        self.q = nn.Linear(C, C, bias=False)
        self.k = nn.Linear(C, C, bias=False)
        self.v = nn.Linear(C, C, bias=False)
        self.proj = nn.Linear(C, C, bias=False)
        self.ln_2 = nn.LayerNorm(C, bias=False)
        self.fc = nn.Linear(C, 4 * C, bias=False)
        self.out = nn.Linear(4 * C, C, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def heads(self, x):  # (B, T, C) -> (B, H, T, D)
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def forward(self, x, angles=None, cache=None, start=0, pick=None, mask=None):
        """x (B, T, C) -> (B, T, C), or (N, C), the masked positions in reading order, when `pick` is given.

        angles: rope's (cos, sin), each (T, D//2), of the positions of x; None otherwise.
        cache:  (2, B, H, S, D), keys and values of the positions before `start`; those of x are written behind them.
        mask:   (T, T) bool, which keys each query may look at, in place of the causal mask.
        """
        h = self.ln_1(x)
        k, v = self.heads(self.k(h)), self.heads(self.v(h))  # (B, H, T, D)
        if angles is not None:
            k = rotate(k, *angles)
        if pick is not None:
            x = pick.rows(x)  # (B, M, C)
            h = self.ln_1(x)  # again, for M positions: cheaper than to carry a second gather's gradient back
            angles = None if angles is None else [a[pick.pos][:, None] for a in angles]  # (B, 1, M, D//2)
        q = self.heads(self.q(h))
        if angles is not None:
            q = rotate(q, *angles)
        if cache is not None:
            end = start + k.size(2)
            cache[0, :, :, start:end], cache[1, :, :, start:end] = k, v
            k, v = cache[0, :, :, :end], cache[1, :, :, :end]
        # a query at position p may look at keys 0 .. p; a lone decoded token looks at all that is cached
        mask = mask if pick is None else pick.attn_mask
        causal = self.causal and pick is None and mask is None and q.size(2) > 1
        y = attend(q, k, v, mask, causal, self.dropout if self.training else 0.0)
        x = x + self.drop(self.proj(y.transpose(1, 2).flatten(2)))
        if pick is not None:
            x = x.flatten(0, 1) if pick.keep is None else x[pick.keep]  # (N, C): the MLP sees loss positions and nothing else
        return x + self.drop(self.out(F.gelu(self.fc(self.ln_2(x)))))

# ----------------------------------------------------------------------------- the model

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd) if config.pos == 'learned' else None
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=False)
        if config.pos == 'rope':
            D = config.n_embd // config.n_head
            freq = 10000.0 ** -(torch.arange(0, D - 1, 2) / D)
            angle = torch.outer(torch.arange(config.block_size).float(), freq)  # (block_size, D//2)
            self.register_buffer('rope', torch.stack((angle.cos(), angle.sin())), persistent=False)
        # GPT-2 initialisation, with its 0.02 read as a number for its 768 channels: the same variance per channel at our width.
        # (With the literal 0.02 a 64-wide model finds the default task's lookup after 500 to over 1,000 steps instead of 150.)
        std = 0.02 * math.sqrt(768 / config.n_embd)
        for name, p in self.named_parameters():
            if p.dim() == 2:  # what writes to the residual stream starts smaller with depth
                nn.init.normal_(p, std=std / math.sqrt(2 * config.n_layer * config.n_loop) if name.endswith(('proj.weight', 'out.weight')) else std)

    def num_params(self):
        """Parameters, position embeddings included; the head is the token embedding and counts once."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, idx, loss_mask=None, cache=None, start=0, shared=None, visible=None):
        """Logits for the token that follows each position of idx (B, T), an integer tensor.

        loss_mask (B, T) bool: only these positions are wanted; returns (N, V), row by row in reading order, so that they
            line up with `targets[loss_mask]`. Without it: (B, T, V).
        cache, start: generate's; see there.
        shared (S, G): every G rows have their first S tokens in common, as samples of one prompt do. They are worked through
            once for the G rows: less work, the same logits and gradients to rounding. Needs a loss_mask and a causal model.
        visible (B, T) bool: no position may look at any other than these; each row needs one. Needs a loss_mask and a model that is not causal.
        Raises ValueError when the sequence is longer than block_size, or a cache that is not empty gets more than one token.
        """
        T = idx.size(1)
        if visible is not None and (loss_mask is None or self.config.causal):
            raise ValueError('visible needs a loss_mask and a model that is not causal')
        if loss_mask is not None and self.config.causal and cache is None and shared is None and len(idx):
            # Behind the last wanted position of a row comes nothing that matters: rows that end early go by themselves, cut there,
            # where that spares a fifth of all tokens (countdown, where every second row ends at its verdict: 1.35 x as fast)
            ends = (loss_mask * torch.arange(1, T + 1, device=idx.device)).amax(1)
            early = ends <= (cut := max(1, int(ends.min())))
            if (T - cut) * int(early.sum()) > idx.numel() / 5:
                ours = early[loss_mask.nonzero()[:, 0]]  # (N,)
                logits = [self(idx[early, :cut], loss_mask[early, :cut]), self(idx[~early], loss_mask[~early])]
                return torch.cat(logits)[torch.cat((ours.nonzero(), (~ours).nonzero()))[:, 0].argsort()]
        if cache is not None and start > 0 and T > 1:
            raise ValueError(f'behind {start} cached positions comes one token at a time, got {T}')
        if start + T > self.config.block_size:
            raise ValueError(f'sequence of {start + T} tokens, but block_size is {self.config.block_size}')
        pos, mask = slice(start, start + T), None
        if shared is not None:
            idx, loss_mask, pos, mask, where = pack(idx, loss_mask, *shared)
        x = self.wte(idx)  # (B, T, C)
        if self.wpe is not None:
            x = x + self.wpe.weight[pos]
        x = self.drop(x)
        angles = self.rope[:, pos] if self.config.pos == 'rope' else None
        pick = Pick(loss_mask, self.config.causal, mask) if loss_mask is not None else None
        if visible is not None:
            mask = visible[:, None, None]  # (B, 1, 1, T), the same for every query
            pick.attn_mask = mask
        depth = self.config.n_layer * self.config.n_loop
        for i in range(depth):
            block = self.blocks[i % self.config.n_layer]  # n_loop times through the same blocks
            x = block(x, angles, cache[i] if cache is not None else None, start, pick if i == depth - 1 else None, mask)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return logits if shared is None else logits[where]

    def configure_optimizer(self, learning_rate, weight_decay, betas=(0.9, 0.95)):
        """AdamW (Loshchilov & Hutter 2017); matrices decay, LayerNorm gains do not."""
        groups = [{'params': [p for p in self.parameters() if p.dim() == 2], 'weight_decay': weight_decay},
                  {'params': [p for p in self.parameters() if p.dim() < 2], 'weight_decay': 0.0}]
        fused = self.wte.weight.device.type in ('cpu', 'cuda')  # one kernel instead of a dozen per parameter
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)

    def flops(self, tokens, picked, keys=0):
        """Floating-point operations of a forward pass's matrix products, two a multiply-add: the last block computes keys and
        values for all tokens, the rest, and the head, for the picked ones alone. keys: how many each query attends to (0: left out)."""
        C, depth = self.config.n_embd, self.config.n_layer * self.config.n_loop
        linear = C**2 * (tokens * (12 * depth - 10) + 10 * picked) + picked * C * self.config.vocab_size
        return 2 * (linear + 2 * C * keys * (tokens * (depth - 1) + picked))

    # ------------------------------------------------------------------------- decoding

    def new_cache(self, batch_size, length):
        """Empty keys and values for every application of every block: (n_layer * n_loop, 2, B, H, length, D)."""
        c, w = self.config, self.wte.weight
        dtype = torch.get_autocast_dtype(w.device.type) if torch.is_autocast_enabled(w.device.type) else w.dtype
        return torch.empty(c.n_layer * c.n_loop, 2, batch_size, c.n_head, length, c.n_embd // c.n_head, dtype=dtype, device=w.device)

    @torch.inference_mode()  # a tenth faster than no_grad: these are many small operations
    def _decode(self, idx, max_new_tokens, temperature, top_k, uniform, use_cache, samples, return_logp):
        (B, T), rows = idx.shape, idx.size(0) * samples
        out = torch.cat((idx.repeat_interleave(samples, 0), idx.new_zeros(rows, max_new_tokens)), dim=1)
        logp = torch.zeros(rows, max_new_tokens, device=idx.device) if return_logp else None
        cache = self.new_cache(B, T + max_new_tokens) if use_cache else None
        last = torch.zeros(rows, T + max_new_tokens, dtype=torch.bool, device=idx.device)
        for t in range(T, T + max_new_tokens):
            last[:, t - 1] = True  # only the newest position's logits are needed
            if not use_cache:
                logits = self(out[:, :t], last[:, :t])
            elif t > T:  # one token at a time behind the cache
                logits = self(out[:, t - 1:t], None, cache, t - 1)[:, 0]
            else:  # the prompt once, however many samples continue it
                logits = self(idx, last[:B, :T], cache).repeat_interleave(samples, 0)
                cache = cache if samples == 1 else cache.repeat_interleave(samples, 2)
            last[:, t - 1] = False
            logits = logits.float() / (temperature or 1.0)  # (rows, V)
            if top_k is not None:
                kth = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
                logits = logits.masked_fill(logits < kth, -math.inf)
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:  # the first token at which the cumulative distribution exceeds the random number
                cdf = logits.softmax(-1).cumsum(-1)
                token = (cdf <= uniform[:, t - T, None] * cdf[:, -1:]).sum(-1, keepdim=True)
            out[:, t:t + 1] = token
            if logp is not None:
                logp[:, t - T:t - T + 1] = logits.gather(1, token) - logits.logsumexp(-1, keepdim=True)
        return out, logp

    @torch.inference_mode()
    def _jacobi(self, idx, max_new_tokens):
        (B, T), rounds = idx.shape, idx.new_zeros(idx.size(0), max_new_tokens)
        out = torch.cat((idx, idx.new_zeros(B, max_new_tokens)), dim=1)
        wanted = torch.zeros_like(out[:, :-1], dtype=torch.bool)
        wanted[:, T - 1:] = True
        for i in range(max_new_tokens):  # after round i + 1 the first i + 1 tokens are final
            guess = self(out[:, :-1], wanted).argmax(-1).view(B, max_new_tokens)
            changed = guess != out[:, T:]
            if not changed.any():
                break
            out[:, T:] = guess
            rounds[changed] = i + 1
        return out, rounds

    def generate(self, idx, max_new_tokens, temperature=0.0, top_k=None, generator=None, use_cache=True, samples=1, uniform=None, return_logp=False,
                 jacobi=False):
        """Continue each row of idx (B, T) by max_new_tokens tokens; returns (B * samples, T + max_new_tokens).

        temperature 0 is greedy (argmax); otherwise sample from softmax(logits / temperature), among the top_k most likely
        tokens if top_k is given. samples: continue every row so many times, its continuations one below the other; the row
        itself is worked through once. Random numbers come from `generator`, or are given: uniform (B * samples, max_new_tokens)
        in [0, 1), so that what is sampled does not depend on how a batch is dealt to processes. use_cache=False runs the whole
        sequence again for every token: the same tokens, slowly. return_logp: also the log-probability of every new token
        under the distribution it was sampled from (greedy: temperature 1), (B * samples, max_new_tokens) float32.
        jacobi: greedy decoding as a fixed-point iteration (Santilli et al. 2023, algorithm PJ): guess all new tokens at once, from
        zeros, and again from that guess, until nothing changes. The same tokens, to rounding; returns also the round in which each
        was last changed, (B, max_new_tokens) int64: at most its place in line, less where tokens do not wait for one another.
        Raises ValueError when the result would not fit in block_size, the model is not causal, the temperature is negative,
        top_k or samples is below 1, or jacobi is asked to sample.
        """
        B, T = idx.shape
        if not self.config.causal:
            raise ValueError('generate needs a causal model')
        if temperature < 0 or (top_k is not None and top_k < 1) or samples < 1:
            raise ValueError(f'temperature must be at least 0, top_k and samples at least 1, got {temperature}, {top_k} and {samples}')
        if jacobi and (temperature > 0 or samples > 1 or return_logp):
            raise ValueError('jacobi is greedy: no temperature, samples or return_logp')
        if T + max_new_tokens > self.config.block_size:
            raise ValueError(f'{T} + {max_new_tokens} tokens do not fit in block_size {self.config.block_size}')
        if temperature > 0 and uniform is None:
            uniform = torch.rand(B * samples, max_new_tokens, generator=generator, device=idx.device)
        was_training = self.training
        self.eval()  # no dropout while decoding
        if jacobi:
            out, rounds = self._jacobi(idx, max_new_tokens)
            self.train(was_training)
            return out.clone(), rounds.clone()
        out, logp = self._decode(idx, max_new_tokens, temperature, top_k, uniform, use_cache, samples, return_logp)
        self.train(was_training)
        return (out.clone(), logp.clone()) if return_logp else out.clone()  # ordinary tensors: what inference_mode makes could not be trained on
