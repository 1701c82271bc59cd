"""GPTQ in float64, one column at a time, as arXiv:2210.17323 and section 2.7 of the reference behaviours describe it; and its files, read without the host.

Slow and plain on purpose: what the host does in blocks, in float32 and in another language is held to this."""

import torch


def unpacked(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """int32 [n, m] -> codes [count, m]: down each column, the lowest bits first, codes may cross words."""
    planes = (words.long().unsqueeze(1) & 0xFFFFFFFF) >> torch.arange(32).view(1, 32, 1) & 1
    stream = planes.reshape(-1, words.shape[1])[: count * bits].view(count, bits, -1)
    return (stream << torch.arange(bits).view(1, bits, 1)).sum(1)


def packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse: codes [count, m] -> int32 [count * bits / 32, m]."""
    stream = (codes.long().unsqueeze(1) >> torch.arange(bits).view(1, bits, 1) & 1).reshape(-1, 32, codes.shape[1])
    words = (stream << torch.arange(32).view(1, 32, 1)).sum(1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def file_weight(tensors: dict, base: str, bits: int, zero_offset: int) -> torch.Tensor:
    """The float64 weight [out, in] of a packed module; zero_offset: 1 where zero points are stored less one."""
    scales, g_idx = tensors[f"{base}.scales"].double(), tensors[f"{base}.g_idx"].long()
    columns, rows = g_idx.numel(), scales.shape[1]
    codes = unpacked(tensors[f"{base}.qweight"], bits, columns)
    zeros = (unpacked(tensors[f"{base}.qzeros"].T.contiguous(), bits, rows).T + zero_offset) % (1 << bits)
    return ((codes - zeros[g_idx]) * scales[g_idx]).T


def scale_of(part: torch.Tensor, bits: int, sym: bool):
    """Scale and zero point of each row: the range always holds 0, and is mirrored where a weight is negative."""
    most = (1 << bits) - 1
    low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
    if sym:
        high = torch.maximum(-low, high)
        low = torch.where(low < 0, -high, low)
    empty = (low == 0) & (high == 0)
    low, high = torch.where(empty, -torch.ones_like(low), low), torch.where(empty, torch.ones_like(high), high)
    scale = (high - low) / most
    return scale, torch.full_like(scale, (most + 1) // 2) if sym else (-low / scale).round()


def column_order(diagonal: torch.Tensor, group: int, desc_act: bool, by_group: bool) -> torch.Tensor:
    if desc_act:
        return torch.argsort(diagonal, descending=True, stable=True)
    if not by_group:
        return torch.arange(diagonal.numel())
    within = diagonal.view(-1, group).argsort(dim=1, descending=True, stable=True)
    largest = diagonal.view(-1, group).amax(1)
    groups = torch.argsort(largest, descending=True, stable=True)
    return (within + torch.arange(within.shape[0]).unsqueeze(1) * group)[groups].reshape(-1)


def quantized(weight: torch.Tensor, inputs: torch.Tensor, bits: int, group: int, desc_act: bool, sym: bool = True, damp: float = 0.05) -> torch.Tensor:
    """weight [out, in], inputs [tokens, in] -> the rounded weight, float64."""
    weight, inputs = weight.double().clone(), inputs.double()
    columns, size = weight.shape[1], group if group > 0 else weight.shape[1]
    hessian = inputs.T @ inputs * (2 / inputs.shape[0])
    whole = scale_of(weight, bits, sym)
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight[:, dead] = 0
    order = column_order(hessian.diagonal(), size, desc_act, by_group=not desc_act and group > 0)
    weight, hessian = weight[:, order], hessian[order][:, order].clone()
    hessian.diagonal().add_(damp * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    result = torch.zeros_like(weight)
    for c in range(columns):
        if c % 128 == 0:
            at_block = weight.clone()  # a group's scale is that of the weight when its block of 128 columns began
        if c % size == 0:
            scale, zero = scale_of(at_block[:, c : c + size], bits, sym) if size < columns else whole
        code = ((weight[:, c] / scale).round() + zero).clamp(0, (1 << bits) - 1)
        result[:, c] = (code - zero) * scale.half().double()
        error = (weight[:, c] - (code - zero) * scale) / upper[c, c]
        weight[:, c:] -= error.unsqueeze(1) * upper[c, c:]
    back = torch.empty_like(result)
    back[:, order] = result
    return back


def rounded(weight: torch.Tensor, bits: int, group: int, sym: bool = True) -> torch.Tensor:
    """To nearest, without looking at inputs."""
    weight = weight.double()
    result, size = torch.zeros_like(weight), group if group > 0 else weight.shape[1]
    for c in range(0, weight.shape[1], size):
        part = weight[:, c : c + size]
        scale, zero = (t.unsqueeze(1) for t in scale_of(part, bits, sym))
        result[:, c : c + size] = (((part / scale).round() + zero).clamp(0, (1 << bits) - 1) - zero) * scale.half().double()
    return result
