"""A training step of GPT-2's layout in JAX, beside those of nanoGPT and tinygpt."""

from collections.abc import Callable
from typing import Any

import numpy as np

Weights = dict[str, Any]


def jax_step(ids: np.ndarray[Any, Any], vocab_size: int, sizes: dict[str, int], batch_size: int) -> Callable[[], float]:
    """Return a function that takes a training step: compiled, in float32, with AdamW of optax.

    Raises:
        ImportError: If JAX or optax is not installed.
    """
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]
    import optax  # type: ignore[import-not-found]

    block, layers, heads, width = (sizes[name] for name in ("block_size", "n_layer", "n_head", "n_embd"))
    draws = np.random.default_rng(0)

    def matrix(*shape: int) -> Any:
        return jnp.asarray(draws.normal(0, 0.02, shape), jnp.float32)

    def linear(inputs: int, outputs: int) -> Weights:
        return {"weight": matrix(inputs, outputs), "bias": jnp.zeros(outputs)}

    def norm() -> Weights:
        return {"weight": jnp.ones(width), "bias": jnp.zeros(width)}

    def block_weights() -> Weights:
        return {
            "norm1": norm(), "qkv": linear(width, 3 * width), "out": linear(width, width),
            "norm2": norm(), "up": linear(width, 4 * width), "down": linear(4 * width, width),
        }  # fmt: skip

    weights: Weights = {"token": matrix(vocab_size, width), "position": matrix(block, width), "norm": norm()}
    weights["blocks"] = [block_weights() for _ in range(layers)]

    def apply(layer: Weights, x: Any) -> Any:
        return x @ layer["weight"] + layer["bias"]

    def normed(layer: Weights, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * layer["weight"] + layer["bias"]

    def attend(layer: Weights, x: Any) -> Any:
        q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in jnp.split(apply(layer["qkv"], x), 3, -1))
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return apply(layer["out"], mixed.reshape(x.shape))

    def loss_of(weights: Weights, x: Any, y: Any) -> Any:
        hidden = weights["token"][x] + weights["position"]
        for layer in weights["blocks"]:
            hidden = hidden + attend(layer, normed(layer["norm1"], hidden))
            wide = jax.nn.gelu(apply(layer["up"], normed(layer["norm2"], hidden)), approximate=False)
            hidden = hidden + apply(layer["down"], wide)
        logits = normed(weights["norm"], hidden) @ weights["token"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.99, weight_decay=0.1))
    state = optimizer.init(weights)

    def moved(weights: Weights, state: Any, x: Any, y: Any) -> tuple[Weights, Any, Any]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    compiled = jax.jit(moved, donate_argnums=(0, 1))

    def step() -> float:
        nonlocal weights, state
        starts = draws.integers(len(ids) - block - 1, size=batch_size)[:, None] + np.arange(block)
        weights, state, loss = compiled(weights, state, ids[starts], ids[starts + 1])
        return float(loss)

    return step
