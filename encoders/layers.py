"""Blocks shared by the architectures: attention, transformer blocks, a convolutional grid, pooling, temperature.

Letters: B batch, L words, M memory tokens, C width, A heads, H W pixels.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from schemas.errors import ModelError


class Attention(nn.Module):
    """Multi-head attention of (B, L, C) over a memory of (B, M, C_memory)."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"attention: expected a width divisible by its {heads} heads, got {width}")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Attends.

        Args:
          x: (B, L, C).
          memory: (B, M, C_memory), or with `rows` (any, M, C_memory).
          mask: bool, (B, M), True where memory may be looked at; with `rows` its first axis is memory's.
          rows: int64 (B,), the row of memory that each row of x looks at. Keys and values are then computed once
            a memory row, however many rows of x share it.
          causal: place i of x sees memory up to place i only.
        """
        key, value = (self._heads(part) for part in self.key_value(memory).chunk(2, dim=-1))  # (., A, M, C/A)
        if rows is not None:
            key, value = key[rows], value[rows]
            mask = mask[rows] if mask is not None else None
        seen = mask[:, None, None, :] if mask is not None else None
        if seen is not None and causal:
            seen = seen & torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool, device=x.device).tril()
        attended = functional.scaled_dot_product_attention(
            self._heads(self.query(x)),
            key,
            value,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and seen is None,
        )  # (B, A, L, C/A)
        out: torch.Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block; with `memory_width`, cross-attention between self-attention and the MLP."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(width) if memory_width else None
        self.cross_attention = Attention(width, heads, memory_width, dropout) if memory_width else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
        memory_rows: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """(B, L, C) -> (B, L, C); `mask` bool (B, L); memory as in Attention; `causal`: no place sees a later one."""
        normed = self.self_norm(x)
        x = x + self.dropout(self.self_attention(normed, normed, mask, causal=causal))
        if self.cross_attention is not None and self.cross_norm is not None:
            if memory is None:
                raise ValueError("a block with cross-attention needs a memory")
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, memory_mask, memory_rows))
        out: torch.Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


class ConvGrid(nn.Module):
    """Convolutions that halve a picture until one token is left for each cell of a grid."""

    def __init__(self, image_size: int, grid: int, width: int) -> None:
        super().__init__()
        halvings = (image_size // grid).bit_length() - 1
        if grid << halvings != image_size or halvings < 1:
            raise ValueError(f"image size {image_size}: expected grid {grid} times a power of two")
        layers: list[nn.Module] = []
        self.widths: list[int] = []
        """Channels after each halving."""
        channels = 3
        for halving in range(halvings):
            out = max(width >> (halvings - 1 - halving), min(32, width))
            layers += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1),
                nn.GroupNorm(max(1, out // 16), out),
                nn.GELU(),
            ]
            channels = out
            self.widths.append(out)
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, width, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, grid * grid, C), row by row from the top left."""
        return self.with_stages(pixels)[0]

    def with_stages(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens as `forward`, and the maps after each halving, (B, `widths`[i], H / 2^(i+1), W / 2^(i+1))."""
        maps = []
        x = pixels
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.GELU):
                maps.append(x)
        return x.flatten(2).transpose(1, 2), maps  # x: (B, C, grid, grid)


class Standardise(nn.BatchNorm1d):
    """Each channel to mean 0 and variance 1: by the batch while training, then by the running statistics.

    These are used in float32 whatever they are stored in; what comes out then has their dtype.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, C)."""
        if self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        mean, variance = self.running_mean.float(), self.running_var.float()
        return functional.batch_norm(x.float(), mean, variance, eps=self.eps).to(self.running_mean.dtype)


class AttentionPool(nn.Module):
    """One learnt question to all tokens; starts as their mean."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.question = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, M, C) -> (B, C); `mask` bool (B, M)."""
        question = self.question.expand(len(tokens), -1, -1)
        answer: torch.Tensor = self.attention(question, self.norm(tokens), mask)
        return answer[:, 0]


def projection(width: int, out: int, *, hidden: int = 0, dropout: float = 0.0) -> nn.Module:
    """From a pooled state to a vector, (B, width) -> (B, out): linear, or with `hidden` an MLP of two layers."""
    if not hidden and not dropout:
        return nn.Linear(width, out)
    if not hidden:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, out))
    first = [nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU()]
    return nn.Sequential(*first, nn.Dropout(dropout), nn.Linear(hidden, out))


class Heads(nn.Module):
    """Heads that learn on their own from one pooled state; their unit vectors are joined to one.

    The inner product of two joined vectors is the mean of the heads' cosines: an ensemble at the cost of one vector.
    """

    def __init__(self, width: int, out: int, *, count: int, hidden: int = 0, dropout: float = 0.0) -> None:
        """`out`: numbers of all heads together.

        Raises:
          ModelError: they do not share it evenly.
        """
        super().__init__()
        if out % count:
            raise ModelError(f"heads: expected an embedding_dim that {count} heads share evenly, got {out}")
        self.each = nn.ModuleList(projection(width, out // count, hidden=hidden, dropout=dropout) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width) -> (B, out), float32: `count` vectors of norm 1 / sqrt(count), one after another."""
        parts = [functional.normalize(head(x).float(), dim=-1) for head in self.each]
        joined: torch.Tensor = torch.cat(parts, -1) / len(parts) ** 0.5
        return joined


def in_float32(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """What a linear layer makes of x, in float32 whatever both are stored in."""
    with torch.autocast(x.device.type, enabled=False):
        return functional.linear(x.float(), linear.weight.float(), None if linear.bias is None else linear.bias.float())


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules of one shape compute the same: equal parameters and buffers."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


class Temperature(nn.Module):
    """A learnt temperature, kept in 0.001..0.5 (ALBEF)."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(float(start)).log())

    def forward(self) -> torch.Tensor:
        """Scalar."""
        return self.log.exp().clamp(0.001, 0.5)


def join_groups(groups: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens (B, V, C) of groups (B_g, V_g, C), padded to the longest, and their mask bool (B, V).

    The mask is None where nothing was padded.
    """
    longest = max(tokens.shape[1] for tokens in groups)
    if all(tokens.shape[1] == longest for tokens in groups):
        return torch.cat(list(groups)), None
    padded = [functional.pad(tokens, (0, 0, 0, longest - tokens.shape[1])) for tokens in groups]
    place = torch.arange(longest, device=padded[0].device)
    return torch.cat(padded), torch.cat([(place < tokens.shape[1]).expand(len(tokens), -1) for tokens in groups])


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, C) over the places where `mask` (bool (B, L)) is True."""
    weight = mask[:, :, None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
