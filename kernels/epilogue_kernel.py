"""What is done with a tile of raw products while it is in registers; parts of the Triton kernels, all in float32."""

import triton
import triton.language as tl


@triton.jit
def scaled(
    acc,
    bias,
    inverse_temperature,
    logit_scale,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Return scaled logits, (n, v), of raw products; bias (1, v), inverse_temperature (n, 1)."""
    z = acc
    if HAS_BIAS:
        z += bias
    if HAS_CAP:
        # tanh(x) = 2 sigmoid(2 x) - 1
        z = softcap * (2 * tl.sigmoid(z * (2 * logit_scale / softcap)) - 1)
        z *= inverse_temperature
    else:
        z *= logit_scale * inverse_temperature
    if HAS_BIAS:
        z = tl.maximum(z, -1e30)  # 0 x -inf would be no number
    return z


@triton.jit
def gradient_of_logits(
    z,
    columns,
    target,
    log_z,
    g,
    e,
    entropy,
    of_target,
    slope,
    cap_slope,
    HAS_ENTROPY: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Return the gradient of the loss by raw products, (n, v), from scaled logits.

    columns (1, v); the others (n, 1): target, ln Z, the upstream gradients g of the log-prob and e of the entropy, the
    entropy, the gradient by the target's own logit (computed apart: 1 - p must not cancel), dz/d(product) without the
    cap, and T / cap.
    """
    log_p = z - log_z
    p = tl.exp(log_p)
    if HAS_ENTROPY:
        d = -p * (g + e * (log_p + entropy))
    else:
        d = -p * g
    d = tl.where(columns == target, of_target, d) * slope
    if HAS_CAP:
        t = z * cap_slope
        d *= 1 - t * t
    return d
