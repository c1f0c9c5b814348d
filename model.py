"""One tiny GPT, shared by every experiment.

It is nanoGPT's model with four differences:

1. `forward(idx, loss_mask)` computes only what the loss needs. In the last block queries, attention
   output, MLP and head are computed at the loss positions alone. If these are few, not even keys
   and values are made (`attend_to_inputs`). Most tasks here have a long prompt and a short chain,
   so most of a small model's work is skipped. The gradients are the same, up to rounding.
2. `n_loop` applies the same stack of blocks several times, with shared weights (Universal
   Transformer, Dehghani et al. 2018, without its halting). FactorExe asks whether a deep model can
   be replaced by a small one, repeated.
3. `generate` runs the prompt once and then decodes token by token from a key/value cache.
4. There are no biases. The head is tied to the token embedding. Positions are learned, rotary or
   absent.

Read `Block.forward`, then `GPT.forward`. The rest is setup, decoding, and three ways to save work:
`attend_to_inputs`, `LossPositions` and `pack_shared_prompts`.

Shapes in comments:
    B  batch                    T  tokens in a sequence      C  channels, config.n_embd
    H  heads, config.n_head     D  C / H                     V  config.vocab_size
    M  loss positions in the row that has the most of them
    N  loss positions in the whole batch
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class GPTConfig:
    vocab_size: int         # len(task.vocab)
    block_size: int         # longest sequence, task.block_size
    n_layer: int = 1
    n_head: int = 1
    n_embd: int = 64
    n_loop: int = 1         # how often the stack of blocks is applied, with the same weights
    causal: bool = True     # False: every position sees every other one
    pos: str = 'learned'    # 'learned', 'rope' (Su et al. 2021) or 'none'
    dropout: float = 0.0

    def __post_init__(self):
        for name in ('vocab_size', 'block_size', 'n_layer', 'n_head', 'n_embd', 'n_loop'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.n_embd % self.n_head != 0:
            raise ValueError(f'n_head={self.n_head} does not divide n_embd={self.n_embd}')
        if self.pos not in ('learned', 'rope', 'none'):
            raise ValueError(f"pos must be 'learned', 'rope' or 'none', got {self.pos!r}")
        if self.pos == 'rope' and self.n_embd // self.n_head < 2:
            raise ValueError('rope turns pairs of channels, but n_embd / n_head = '
                             f'{self.n_embd // self.n_head}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')


# -----------------------------------------------------------------------------
# attention

def rotate(x, cos, sin):
    """Rotary position embedding (Su et al. 2021, equation 34).

    Turns each pair of channels (x_i, x_{i + D//2}) by the angle of its position.
    x (B, H, T, D). cos and sin broadcast to (B, H, T, D//2). If D is odd, the last channel stays.
    """
    first, second, *odd_channel = x.split(cos.size(-1), dim=-1)
    turned_first = first * cos - second * sin
    turned_second = first * sin + second * cos
    return torch.cat((turned_first, turned_second, *odd_channel), dim=-1).type_as(x)


def attend(q, k, v, attn_mask, causal, dropout):
    """softmax(q k^T / sqrt(D)) v, (B, H, M, D).

    q (B, H, M, D). k and v (B, H, T, D). attn_mask: bool, broadcasts to (B, H, M, T), or None.
    """
    # One query, as in decoding, and a few under a mask are faster by hand than in the fused kernel.
    # Decoding gets 5% to 20% faster, a default training step with all keys and values 12%.
    M = q.size(2)
    if dropout == 0 and (M == 1 or (M < 16 and attn_mask is not None)):
        attn_scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))     # (B, H, M, T)
        if attn_mask is not None:
            attn_scores = attn_scores.masked_fill(~attn_mask, -math.inf)
        return attn_scores.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=attn_mask, is_causal=causal, dropout_p=dropout)


def attend_to_inputs(q, h, key_weight, value_weight, attn_mask):
    """What `attend` returns, (B, H, M, D), without a key and a value for every position.

    The weights of keys and values move to the other side of the sums over positions t:

        q . (W_k h_t) = (W_k^T q) . h_t            sum_t p_t (W_v h_t) = W_v (sum_t p_t h_t)

    So W_k and W_v are applied to M queries instead of T positions. But each head now sums over C
    channels instead of D. So this pays for few queries and few heads: T C^2 multiply-adds for
    W_k, and as many for W_v, become M C^2. But each of the two sums takes H M T C instead of M T C.
    The default training step is 1.35 to 1.5 times as fast (docs/speed.md).

    q (B, H, M, D). h (B, T, C): the inputs of keys and values. key_weight and value_weight (C, C).
    attn_mask as in `attend`.
    """
    B, H, M, D = q.shape
    T, C = h.shape[1:]
    q = torch.einsum('bhmd,hdc->bhmc', q, key_weight.view(H, D, C))
    attn_scores = q.flatten(1, 2) @ h.transpose(1, 2) / math.sqrt(D)     # (B, H * M, T)
    attn_scores = attn_scores.view(B, H, M, T)
    if attn_mask is not None:
        attn_scores = attn_scores.masked_fill(~attn_mask, -math.inf)
    attn_weights = attn_scores.softmax(dim=-1)                            # (B, H, M, T)
    mixed = attn_weights.flatten(1, 2) @ h                                # (B, H * M, C)
    return torch.einsum('bhmc,hdc->bhmd', mixed.view(B, H, M, C), value_weight.view(H, D, C))


def add_to_cache(cache, k, v, start):
    """Add keys and values (B, H, T, D) of the positions from `start` on. Returns those of all
    positions up to them, (B, H, start + T, D).

    cache is a tensor (2, B, H, S, D) with room for S positions, which is written in place. Or it is
    a list, empty at first, that holds keys and values. Gradients can flow through a list alone.
    """
    if isinstance(cache, list):
        if cache:
            k = torch.cat((cache[0], k), dim=2)
            v = torch.cat((cache[1], v), dim=2)
        cache[:] = [k, v]
        return k, v
    end = start + k.size(2)
    cache[0, :, :, start:end] = k
    cache[1, :, :, start:end] = v
    return cache[0, :, :, :end], cache[1, :, :, :end]


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm MLP.

    The query projection is separate from those of keys and values, because the last block computes
    queries at fewer positions.
    """

    channels_a_query = 2  # with so many or more, attend_to_inputs is faster than attend

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.causal = config.causal
        self.dropout = config.dropout
        self.ln_1 = nn.LayerNorm(C, bias=False)
        self.q = nn.Linear(C, C, bias=False)
        self.k = nn.Linear(C, C, bias=False)
        self.v = nn.Linear(C, C, bias=False)
        self.proj = nn.Linear(C, C, bias=False)
        self.ln_2 = nn.LayerNorm(C, bias=False)
        self.fc = nn.Linear(C, 4 * C, bias=False)
        self.out = nn.Linear(4 * C, C, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def split_heads(self, x):
        """(B, T, C) -> (B, H, T, D)"""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def has_few_queries(self, loss_positions):
        """Whether attend_to_inputs, which takes no dropout, is faster than attend: see there."""
        if loss_positions is None or self.dropout > 0:
            return False
        n_queries = self.n_head * loss_positions.position.size(1)  # of a row, in all heads
        return n_queries * self.channels_a_query <= self.q.in_features

    def forward(self, x, angles=None, cache=None, start=0, loss_positions=None, attn_mask=None):
        """x (B, T, C) -> (B, T, C), or (N, C) if loss_positions is given (the last block).

        angles:     the (cos, sin) of rope for the positions of x, each (T, D//2), or None.
        cache:      keys and values of the positions before `start`, see add_to_cache. Those of x
                    are added.
        loss_positions: compute the output at these positions only, in reading order.
        attn_mask:  bool, which keys a query may look at. It replaces the causal mask.
        """
        # Keys and values, at every position. A few queries read their inputs instead.
        h = self.ln_1(x)                                                  # (B, T, C)
        inputs = h
        absorb = cache is None and angles is None and self.has_few_queries(loss_positions)
        if not absorb:
            k = self.split_heads(self.k(inputs))                          # (B, H, T, D)
            v = self.split_heads(self.v(inputs))                          # (B, H, T, D)
            if angles is not None:
                k = rotate(k, *angles)

        # queries, in the last block at the loss positions alone
        if loss_positions is not None:
            attn_mask = loss_positions.attn_mask
            x = loss_positions.gather(x)                                  # (B, M, C)
            h = self.ln_1(x)  # once more for M positions: cheaper than to gather h as well as x
            if angles is not None:
                angles = loss_positions.gather_angles(angles)
        q = self.split_heads(self.q(h))                                   # (B, H, M or T, D)
        if angles is not None:
            q = rotate(q, *angles)

        # decoding: after the keys and values of all earlier positions
        if cache is not None:
            k, v = add_to_cache(cache, k, v, start)

        # A query sees the keys up to its own position. A single decoded token sees all of them.
        if absorb:
            y = attend_to_inputs(q, inputs, self.k.weight, self.v.weight, attn_mask)
        else:
            causal = self.causal and loss_positions is None and attn_mask is None and q.size(2) > 1
            dropout = self.dropout if self.training else 0.0
            y = attend(q, k, v, attn_mask, causal, dropout)               # (B, H, M or T, D)
        y = y.transpose(1, 2).flatten(2)                                  # (B, M or T, C)
        x = x + self.drop(self.proj(y))

        # the MLP
        if loss_positions is not None:
            x = loss_positions.drop_fillers(x)                            # (N, C)
        h = F.gelu(self.fc(self.ln_2(x)))
        return x + self.drop(self.out(h))


# -----------------------------------------------------------------------------
# two ways to save work

class LossPositions:
    """The positions whose logits the loss needs, gathered into a rectangle.

    Rows have different numbers of loss tokens, but attention wants a tensor. So every row gets M
    positions, as many as the row with the most: first its own, in order, then fillers. For a
    batch of three rows, where x marks a loss token and . any other:

        . . x x .          position  2 3 0        is_real  yes yes no
        . x x x .                    1 2 3                 yes yes yes
        . . . . x                    4 0 1                 yes no  no

    position  (B, M): places in the sequence
    is_real   (B, M) bool: False for fillers. None if there are no fillers.
    attn_mask (B, 1, M, T) bool: which keys each position may look at. None: all of them.
    """

    def __init__(self, loss_mask, causal, attn_mask=None):
        """loss_mask (B, T) bool. attn_mask (T, T) bool replaces the causal mask."""
        # the fewest and the most loss tokens in a row, in one call: a GPU is waited for only once
        fewest, M = 0, 0
        if len(loss_mask) > 0:
            fewest, M = torch.stack(loss_mask.sum(dim=1).aminmax()).tolist()

        # a stable descending sort of 0s and 1s: the loss positions first, in reading order
        order = loss_mask.byte().argsort(dim=1, descending=True, stable=True)
        self.position = order[:, :M]
        self.is_real = None
        if fewest < M:
            self.is_real = loss_mask.gather(1, self.position)

        self.attn_mask = None
        if attn_mask is not None:
            self.attn_mask = attn_mask[self.position][:, None]
        elif causal:
            key = torch.arange(loss_mask.size(1), device=loss_mask.device)
            self.attn_mask = (key <= self.position[..., None])[:, None]

    def gather(self, x):
        """(B, T, C) -> (B, M, C)"""
        index = self.position[..., None].expand(-1, -1, x.size(-1))
        return x.gather(1, index)

    def gather_angles(self, angles):
        """rope's (cos, sin), each (T, D//2) -> each (B, 1, M, D//2)"""
        cos, sin = angles
        return cos[self.position][:, None], sin[self.position][:, None]

    def drop_fillers(self, x):
        """(B, M, C) -> (N, C), the loss positions of the whole batch in reading order"""
        if self.is_real is None:
            return x.flatten(0, 1)
        return x[self.is_real]


def pack_shared_prompts(idx, loss_mask, S, G):
    """Keep one copy of a prompt that G rows share. Here G = 2 rows share a prompt of S tokens:

        row 0:  prompt a b c
        row 1:  prompt d e f          packed:  prompt a b c d e f

    A token sees the prompt and its own continuation, not the other ones.

    idx, loss_mask (P * G, S + L): P prompts with G continuations of L tokens each. Returns
        packed_idx   (P, S + G * L)
        packed_mask  (P, S + G * L) bool: the loss mask. A prompt token carries loss if it does so
                     in any of its G rows.
        position     (S + G * L,): the position that each packed token had in its row
        attn_mask    (S + G * L, S + G * L) bool: which packed tokens each packed token may see
        rank         (N,): for each loss token of idx, its rank among the packed loss tokens
    """
    B, T = idx.shape
    P = B // G
    L = T - S
    packed_idx = torch.cat((idx[::G, :S], idx[:, S:].reshape(P, G * L)), dim=1)

    # Each packed token: is it in the prompt? If not, in which continuation, and where?
    token = torch.arange(S + G * L, device=idx.device)
    in_prompt = token < S
    continuation = torch.where(in_prompt, -1, (token - S) // max(L, 1))
    position = torch.where(in_prompt, token, S + (token - S) % max(L, 1))
    same_continuation = continuation[:, None] == continuation
    attn_mask = (same_continuation | in_prompt) & (token[:, None] >= token)

    prompt_mask = loss_mask[:, :S].view(P, G, S)
    continuation_mask = loss_mask[:, S:].reshape(P, G * L)
    packed_mask = torch.cat((prompt_mask.any(dim=1), continuation_mask), dim=1)

    # Number the packed loss tokens, copy the numbers back to the rows of idx, and read them off
    # where idx carries loss.
    number = packed_mask.flatten().cumsum(0).view_as(packed_mask) - 1     # (P, S + G * L)
    in_prompts = number[:, None, :S].expand(P, G, S)
    in_continuations = number[:, S:].view(P, G, L)
    rank = torch.cat((in_prompts, in_continuations), dim=2).reshape(B, T)[loss_mask]
    return packed_idx, packed_mask, position, attn_mask, rank


# -----------------------------------------------------------------------------
# the model

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = None
        if config.pos == 'learned':
            self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=False)

        if config.pos == 'rope':
            D = config.n_embd // config.n_head
            frequency = 10000.0 ** -(torch.arange(0, D - 1, 2) / D)
            position = torch.arange(config.block_size).float()
            angle = torch.outer(position, frequency)                      # (block_size, D//2)
            cos_sin = torch.stack((angle.cos(), angle.sin()))
            self.register_buffer('rope', cos_sin, persistent=False)

        self.init_weights()

    def init_weights(self):
        """GPT-2's initialisation, with its standard deviation scaled to our width.

        GPT-2's 0.02 belongs to 768 channels. We keep the variance that it gives a layer's output.
        With the literal 0.02, a model of width 64 needs 500 to over 1,000 steps to find the default
        task's lookup, instead of 150 (results/studies/init_scale.txt).
        """
        std = 0.02 * math.sqrt(768 / self.config.n_embd)
        n_residual = 2 * self.config.n_layer * self.config.n_loop  # writes to the residual stream
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue  # gains of layer norms stay at 1
            writes_to_residual = name.endswith(('proj.weight', 'out.weight'))
            nn.init.normal_(p, std=std / math.sqrt(n_residual) if writes_to_residual else std)

    def num_params(self):
        """Parameters, with the position embeddings. The tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, idx, loss_mask=None, cache=None, start=0, shared=None, visible=None):
        """Logits for the token that follows each position of idx (B, T).

        loss_mask (B, T) bool: compute logits at these positions only. Position t predicts token
                  t + 1, so for a Batch pass batch.loss_mask[:, 1:]. Returns (N, V) in reading
                  order, so that they line up with targets[loss_mask]. Without it: (B, T, V).
        cache, start: keys and values of the positions before `start`, see `generate`.
        shared    (S, G): every G rows have their first S tokens in common, as samples of one
                  prompt do. These S tokens are computed once. Same logits and gradients, up to
                  rounding. Needs a loss_mask and a causal model.
        visible   (B, T) bool: no position may look at any other than these. At least one a row.
                  Needs a loss_mask and a model that is not causal.
        Raises ValueError if the sequence is longer than block_size, or if more than one token comes
        with start > 0.
        """
        T = idx.size(1)
        self.check_arguments(T, loss_mask, cache, start, visible)
        if loss_mask is not None and self.config.causal and cache is None and shared is None:
            parts = self.rows_that_end_early(loss_mask)
            if parts is not None:
                return self.forward_in_two_parts(idx, loss_mask, *parts)

        # which positions see which, and which ones the loss needs
        position = slice(start, start + T)
        attn_mask = None
        if shared is not None:
            packed = pack_shared_prompts(idx, loss_mask, *shared)
            idx, loss_mask, position, attn_mask, rank = packed
        loss_positions = None
        if loss_mask is not None:
            loss_positions = LossPositions(loss_mask, self.config.causal, attn_mask)
        if visible is not None:
            attn_mask = visible[:, None, None]                            # (B, 1, 1, T)
            loss_positions.attn_mask = attn_mask

        # embedding, blocks, head
        x = self.embed(self.wte(idx), position)                           # (B, T, C)
        x = self.residual(x, position, cache, start, loss_positions, attn_mask)
        logits = self.head(x)                                             # (B, T, V) or (N, V)
        if shared is not None:
            logits = logits[rank]
        return logits

    def embed(self, vectors, position):
        """What the first block reads, (B, T, C).

        vectors (B, T, C): of tokens, or anything else that is to be read in their place.
        position: a slice, or the positions (T,).
        """
        if self.wpe is not None:
            vectors = vectors + self.wpe.weight[position]
        return self.drop(vectors)

    def residual(self, x, position, cache=None, start=0, loss_positions=None, attn_mask=None):
        """What the last block leaves, (B, T, C), or (N, C) at the loss positions alone.

        x (B, T, C), position: what `embed` has returned for these positions. The others as in
        `forward` and `Block.forward`.
        """
        angles = self.rope[:, position] if self.config.pos == 'rope' else None
        depth = self.config.n_layer * self.config.n_loop
        for i in range(depth):
            block = self.blocks[i % self.config.n_layer]  # n_loop > 1: the same blocks again
            x = block(
                x, angles,
                cache=None if cache is None else cache[i],
                start=start,
                loss_positions=loss_positions if i == depth - 1 else None,
                attn_mask=attn_mask)
        return x

    def head(self, x):
        """The last norm and the head, tied to the token embedding: (..., C) -> (..., V)"""
        return F.linear(self.ln_f(x), self.wte.weight)

    def new_growing_cache(self):
        """An empty cache that gradients can flow through, see add_to_cache."""
        return [[] for _ in range(self.config.n_layer * self.config.n_loop)]

    def check_arguments(self, T, loss_mask, cache, start, visible):
        """Raise ValueError for arguments of forward that do not fit together."""
        if visible is not None and (loss_mask is None or self.config.causal):
            raise ValueError('visible needs a loss_mask and a model that is not causal')
        if cache is not None and start > 0 and T > 1:
            raise ValueError(f'after {start} cached positions comes one token at a time, got {T}')
        if start + T > self.config.block_size:
            raise ValueError(f'sequence of {start + T} tokens, but block_size is '
                             f'{self.config.block_size}')

    def rows_that_end_early(self, loss_mask):
        """Whether to compute the rows with the earliest last loss token by themselves.

        Nothing after the last loss token of a row matters, so these rows can be cut there:

            . . x . . .          . . x
            . . x x x x    ->    . . x         and     . . x x x x
            . . x . . .

        Returns which rows (B,) bool and where to cut them, or None if that saves less than a fifth
        of all tokens. In countdown every second row ends at its verdict: 1.35 x as fast.
        """
        if len(loss_mask) == 0:
            return None
        T = loss_mask.size(1)
        place = torch.arange(1, T + 1, device=loss_mask.device)
        length = (loss_mask * place).amax(dim=1)      # (B,) tokens up to the last loss token
        cut = max(1, int(length.min()))
        is_short = length <= cut
        saved = (T - cut) * int(is_short.sum())
        if saved <= loss_mask.numel() / 5:
            return None
        return is_short, cut

    def forward_in_two_parts(self, idx, loss_mask, is_short, cut):
        """The short rows cut at `cut`, the others whole. Returns (N, V) in the usual order."""
        of_short = self(idx[is_short, :cut], loss_mask[is_short, :cut])
        of_long = self(idx[~is_short], loss_mask[~is_short])

        # Logits come in the order short, long. For each, its index in reading order; sorting by it
        # gives that order back: loss tokens of rows (long, short, long) come as indices 1, 0, 2.
        row = loss_mask.nonzero()[:, 0]                                   # (N,) of each loss token
        from_short = is_short[row]
        index = torch.cat((from_short.nonzero(), (~from_short).nonzero()))[:, 0]
        return torch.cat((of_short, of_long))[index.argsort()]

    def configure_optimizer(self, learning_rate, weight_decay, betas=(0.9, 0.95)):
        """AdamW (Loshchilov & Hutter 2017). Matrices decay, also the embeddings of tokens and
        positions; gains of layer norms do not."""
        matrices = [p for p in self.parameters() if p.dim() == 2]
        gains = [p for p in self.parameters() if p.dim() < 2]
        groups = [
            {'params': matrices, 'weight_decay': weight_decay},
            {'params': gains, 'weight_decay': 0.0},
        ]
        # one kernel instead of a dozen for each parameter
        fused = self.wte.weight.device.type in ('cpu', 'cuda')
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)

    def flops(self, n_tokens, n_logits, n_keys=0):
        """Floating-point operations of the matrix products of one forward pass.

        A multiply-add counts as two. In the last block queries, MLP and head are computed for
        n_logits of the n_tokens tokens only. Keys and values count at every token, as decoding
        needs them, also where attend_to_inputs does without.
        n_keys: how many keys each query attends to. 0 leaves the attention products out.
        """
        C = self.config.n_embd
        depth = self.config.n_layer * self.config.n_loop
        # matrices of C x C a block: 2 for keys and values, 10 for query, projection and MLP
        blocks = C**2 * (12 * n_tokens * (depth - 1) + 2 * n_tokens + 10 * n_logits)
        head = n_logits * C * self.config.vocab_size
        attention = 2 * C * n_keys * (n_tokens * (depth - 1) + n_logits)
        return 2 * (blocks + head + attention)

    # -------------------------------------------------------------------------
    # decoding

    def new_cache(self, batch_size, length):
        """Empty keys and values for each application of each block: (depth, 2, B, H, length, D)."""
        config = self.config
        device = self.wte.weight.device
        dtype = self.wte.weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        depth = config.n_layer * config.n_loop
        D = config.n_embd // config.n_head
        shape = (depth, 2, batch_size, config.n_head, length, D)
        return torch.empty(shape, dtype=dtype, device=device)

    def generate(self, idx, max_new_tokens, temperature=0.0, top_k=None, generator=None,
                 use_cache=True, samples=1, uniform=None, return_logp=False):
        """Continue each row of idx (B, T): returns (B * samples, T + max_new_tokens).

        idx may also be one prompt as a list of tokens. Then the result is a list, too, and samples,
        uniform and return_logp are not taken.

        temperature  0 is greedy. Otherwise sample from softmax(logits / temperature).
        top_k        sample among the k most likely tokens only.
        samples      continue every row this many times. The continuations of a row follow each
                     other in the result. The row itself is computed once.
        generator    source of random numbers.
        uniform      (B * samples, max_new_tokens) random numbers in [0, 1), instead of a generator.
                     So the sampled tokens do not depend on how a batch is split over processes.
        use_cache    False: run the whole sequence again for each token. Same tokens, slower.
        return_logp  return also the log-probability of each new token under the distribution it
                     was sampled from, (B * samples, max_new_tokens) float32. Greedy tokens count
                     as sampled at temperature 1.
        Raises ValueError if the result does not fit in block_size, the model is not causal,
        temperature is negative, or top_k or samples is below 1.
        """
        if isinstance(idx, list):
            if samples != 1 or uniform is not None or return_logp:
                raise ValueError('samples, uniform and return_logp need prompts as a tensor (B, T)')
            prompt = torch.tensor([idx], device=self.wte.weight.device)
            output = self.generate(prompt, max_new_tokens, temperature, top_k, generator, use_cache)
            return output[0].tolist()

        B, T = idx.shape
        if temperature < 0 or (top_k is not None and top_k < 1) or samples < 1:
            raise ValueError('temperature must be at least 0, top_k and samples at least 1, got '
                             f'{temperature}, {top_k} and {samples}')
        self.check_room(T, max_new_tokens)
        if temperature > 0 and uniform is None:
            uniform = torch.rand(B * samples, max_new_tokens, generator=generator,
                                 device=idx.device)

        was_training = self.training
        self.eval()  # no dropout while decoding
        tokens, logp = self._generate(
            idx, max_new_tokens, temperature, top_k, use_cache, samples, uniform, return_logp)
        self.train(was_training)

        # clone: a tensor made in inference mode could not be trained on
        if return_logp:
            return tokens.clone(), logp.clone()
        return tokens.clone()

    @torch.inference_mode()  # a tenth faster than no_grad: decoding is many small operations
    def _generate(self, idx, max_new_tokens, temperature, top_k, use_cache, samples, uniform,
                  return_logp):
        B, T = idx.shape
        new_tokens = idx.new_zeros(B * samples, max_new_tokens)
        tokens = torch.cat((idx.repeat_interleave(samples, dim=0), new_tokens), dim=1)
        logp = None
        if return_logp:
            logp = torch.zeros(B * samples, max_new_tokens, device=idx.device)
        cache = self.new_cache(B, T + max_new_tokens) if use_cache else None

        for i in range(max_new_tokens):
            # logits of the newest position
            end = T + i
            if not use_cache:
                logits = self(tokens[:, :end], last_position(tokens[:, :end]))
            elif i == 0:  # the prompt, once for all samples that continue it
                logits = self(idx, last_position(idx), cache)             # (B, V)
                if samples > 1:
                    logits = logits.repeat_interleave(samples, dim=0)
                    cache = cache.repeat_interleave(samples, dim=2)
            else:
                logits = self(tokens[:, end - 1:end], None, cache, start=end - 1)[:, 0]
            logits = logits.float()                                       # (B * samples, V)

            # the next token
            if temperature > 0:
                logits = logits / temperature
            if top_k is not None:
                logits = keep_top_k(logits, top_k)
            if temperature > 0:
                token = sample_token(logits, uniform[:, i:i + 1])
            else:
                token = logits.argmax(dim=-1, keepdim=True)
            tokens[:, end:end + 1] = token
            if return_logp:
                normaliser = logits.logsumexp(dim=-1, keepdim=True)
                logp[:, i:i + 1] = logits.gather(1, token) - normaliser
        return tokens, logp

    def generate_jacobi(self, idx, max_new_tokens):
        """Greedy decoding by fixed-point iteration (Santilli et al. 2023, algorithm PJ).

        Guess all new tokens at once, starting from zeros. Then guess them again from that guess,
        until nothing changes. The result is the greedy continuation, up to rounding.
        Returns tokens (B, T + max_new_tokens), and in which round each new token changed last,
        (B, max_new_tokens) int64. The i-th new token is final after round i + 1 at the latest. It
        is final earlier if it does not have to wait for the tokens before it.
        Raises ValueError like `generate`.
        """
        self.check_room(idx.size(1), max_new_tokens)
        was_training = self.training
        self.eval()
        tokens, rounds = self._generate_jacobi(idx, max_new_tokens)
        self.train(was_training)
        return tokens.clone(), rounds.clone()

    @torch.inference_mode()
    def _generate_jacobi(self, idx, max_new_tokens):
        B, T = idx.shape
        rounds = idx.new_zeros(B, max_new_tokens)
        tokens = torch.cat((idx, idx.new_zeros(B, max_new_tokens)), dim=1)
        loss_mask = torch.zeros_like(tokens[:, :-1], dtype=torch.bool)
        loss_mask[:, T - 1:] = True  # the positions that predict new tokens

        for i in range(max_new_tokens):
            guess = self(tokens[:, :-1], loss_mask).argmax(dim=-1).view(B, max_new_tokens)
            changed = guess != tokens[:, T:]
            if not changed.any():
                break
            tokens[:, T:] = guess
            rounds[changed] = i + 1
        return tokens, rounds

    def check_room(self, T, max_new_tokens):
        if not self.config.causal:
            raise ValueError('generate needs a causal model')
        if T + max_new_tokens > self.config.block_size:
            raise ValueError(f'{T} + {max_new_tokens} tokens do not fit in block_size '
                             f'{self.config.block_size}')


def last_position(idx):
    """A loss mask (B, T) for the last position alone."""
    loss_mask = torch.zeros_like(idx, dtype=torch.bool)
    loss_mask[:, -1] = True
    return loss_mask


def keep_top_k(logits, k):
    """logits (B, V), with all but the k largest of each row set to -inf."""
    kth_largest = logits.topk(min(k, logits.size(-1))).values[:, -1:]
    return logits.masked_fill(logits < kth_largest, -math.inf)


def sample_token(logits, uniform):
    """Draw a token from softmax(logits) (B, V) for each row, (B, 1).

    It is the first token whose cumulative probability exceeds the random number uniform (B, 1).
    """
    cdf = logits.softmax(dim=-1).cumsum(dim=-1)                           # (B, V)
    return (cdf <= uniform * cdf[:, -1:]).sum(dim=-1, keepdim=True)
