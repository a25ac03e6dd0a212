"""The diffusion transformer as `DiTTransformer2DModel` of diffusers has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.networks.pretrained.layers import (
    Conv,
    Embedding,
    LayerNorm,
    Linear,
    TimestepEmbedding,
    self_attention,
    sinusoids,
)

TIME_FEATURES = 256
ADA_EPSILON = 1e-6


class LabelEmbedding(nn.Module):
    """Table `embedding_table` of classes and the null label."""

    count: int
    features: int

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:
        return Embedding(self.count, self.features, name="embedding_table")(label)


class TimeAndLabel(nn.Module):
    """Sum of the embeddings of time and label."""

    num_classes: int
    features: int
    frequency_shift: float

    @nn.compact
    def __call__(self, time: jax.Array, label: jax.Array) -> jax.Array:
        waves = sinusoids(
            time, TIME_FEATURES, cos_first=True, frequency_shift=self.frequency_shift
        )
        embed = TimestepEmbedding(self.features, name="timestep_embedder")
        table = LabelEmbedding(
            self.num_classes + 1, self.features, name="class_embedder"
        )
        return embed(waves) + table(label)


class Modulation(nn.Module):
    """Six vectors of a block from time and label: adaLN-Zero's `linear(silu(emb))`.

    Fields:
      num_classes: of the labels.
      features: of a token.
      frequency_shift: of the sinusoids of the time.
    """

    num_classes: int
    features: int
    frequency_shift: float

    @nn.compact
    def __call__(
        self, time: jax.Array, label: jax.Array, shared: jax.Array | None
    ) -> tuple[list[jax.Array], jax.Array]:
        """Returns six arrays [batch, 1, features], and the embedding.

        Args:
          time: [batch].
          label: int [batch].
          shared: embedding of both, of a network where all blocks have the same; None
            for one of this block.
        """
        if shared is None:
            embed = TimeAndLabel(
                self.num_classes, self.features, self.frequency_shift, name="emb"
            )
            shared = embed(time, label)
        vectors = Linear(6 * self.features, name="linear")(nn.silu(shared))
        return jnp.split(vectors[:, None], 6, axis=-1), shared


class Attention(nn.Module):
    """Attention between tokens, see `layers.self_attention`."""

    heads: int
    use_bias: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self_attention(tokens, self.heads, use_bias=self.use_bias)


class FeedForward(nn.Module):
    """`net.2(gelu(net.0.proj(x)))`, four times as wide inside."""

    approximate: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        features = tokens.shape[-1]
        hidden = Inner(4 * features, name="net.0")(tokens)
        hidden = nn.gelu(hidden, approximate=self.approximate)
        return Linear(features, name="net.2")(hidden)


class Inner(nn.Module):
    """A `Linear` that is named `proj`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Linear(self.features, name="proj")(x)


class PatchEmbedding(nn.Module):
    """Patches by the convolution `proj`, plus sinusoids of their places."""

    patch_size: int
    features: int
    sample_size: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        size = self.patch_size
        conv = Conv(self.features, size, size, (0, 0), name="proj")
        patches = conv(z)
        batch, height, width, features = patches.shape
        places = place_sinusoids(height, width, features, self.sample_size // size)
        return patches.reshape(batch, height * width, features) + places[None]


class Block(nn.Module):
    """Attention and feed-forward, each modulated and gated: adaLN-Zero.

    Fields:
      heads: of the attention.
      attention_bias: whether its maps of query, key and value have a bias.
      approximate: whether the gelu is the one by tanh.
      num_classes: of the labels.
      frequency_shift: of the sinusoids of the time.
      epsilon: of the second normalisation.
      affine: whether the second normalisation has an affine map.
    """

    heads: int
    attention_bias: bool
    approximate: bool
    num_classes: int
    frequency_shift: float
    epsilon: float
    affine: bool

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        time: jax.Array,
        label: jax.Array,
        shared: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns tokens [batch, places, features], and the embedding [batch, ...]."""
        modulation = Modulation(
            self.num_classes, tokens.shape[-1], self.frequency_shift, name="norm1"
        )
        vectors, embedding = modulation(time, label, shared)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = vectors
        h = LayerNorm(ADA_EPSILON, affine=False)(tokens) * (1 + scale) + shift
        attention = Attention(self.heads, self.attention_bias, name="attn1")
        tokens = tokens + gate * attention(h)
        h = LayerNorm(self.epsilon, self.affine, name="norm3")(tokens)
        h = FeedForward(self.approximate, name="ff")(h * (1 + scale_mlp) + shift_mlp)
        return tokens + gate_mlp * h, embedding


class DiTTransformer2D(nn.Module):
    """diffusers' `DiTTransformer2DModel`, and the network of DiT's and SiT's authors.

    Its parameters have the names of diffusers' files. Fields are the entries of
    `config.json` under their names, with the defaults of diffusers, and two more for
    the authors' files, which `interop.load_dit` renames.

    Source: Peebles & Xie 2022, arXiv 2212.09748, section 3.

    Fields:
      num_attention_heads: of each block.
      attention_head_dim: channels of a head; both together give a token's features.
      in_channels: of the images.
      out_channels: of the output; None for as many, twice as many with a variance.
      num_layers: number of blocks.
      dropout: 0, as every published network has it.
      norm_num_groups: of no effect here.
      attention_bias: whether the maps of query, key and value have a bias.
      sample_size: side of the images that it was trained on.
      patch_size: side of a patch.
      activation_fn: "gelu-approximate" or "gelu".
      num_embeds_ada_norm: number of classes; one more label is the null label.
      upcast_attention: of no effect: softmax is float32.
      norm_type: "ada_norm_zero".
      norm_elementwise_affine: whether the normalisation before the feed-forward part
        has an affine map.
      norm_eps: of that normalisation.
      shared_embedding: whether one embedding of time and label, `emb`, serves all
        blocks, as in the authors' files; diffusers' have one a block.
      frequency_shift: of the sinusoids of the time, see `layers.sinusoids`: 1 of
        diffusers, 0 of the authors.

    Raises:
      ValueError: a name that is not known, or a dropout.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    dropout: float = 0.0
    norm_num_groups: int = 32
    attention_bias: bool = True
    sample_size: int = 32
    patch_size: int = 2
    activation_fn: str = "gelu-approximate"
    num_embeds_ada_norm: int = 1000
    upcast_attention: bool = False
    norm_type: str = "ada_norm_zero"
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-5
    shared_embedding: bool = False
    frequency_shift: float = 1.0

    def __post_init__(self) -> None:
        choices = dict(
            activation_fn=("gelu-approximate", "gelu"),
            norm_type=("ada_norm_zero",),
            dropout=(0,),
        )
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {allowed}")
        super().__post_init__()

    @property
    def features(self) -> int:
        """Features of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def num_labels(self) -> int:
        """Number of labels, with the null label."""
        return self.num_embeds_ada_norm + 1

    @property
    def null_label(self) -> int:
        """The null label, for unconditional predictions."""
        return self.num_embeds_ada_norm

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns shapes that the network can be initialised with."""
        of, side = jax.ShapeDtypeStruct, self.patch_size
        shape = (1, side, side, self.in_channels)
        return of(shape, jnp.float32), of((1,), jnp.float32), of((1,), jnp.int32)

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Computes the network's output.

        Args:
          z: [batch, height, width, in_channels].
          time: [batch], as it was trained: a timestep 0..999, or SiT's time in [0, 1].
          label: int [batch]; None means the null label.
          train: of no effect, as there is no dropout.

        Returns:
          [batch, height, width, out_channels].
        """
        del train
        self._check_data(z)
        batch, height, width, _ = z.shape
        time = time.astype(jnp.float32)
        if label is None:
            label = jnp.full(batch, self.null_label)
        tokens = PatchEmbedding(
            self.patch_size, self.features, self.sample_size, name="pos_embed"
        )(z)
        tokens, embedding = self._blocks(tokens, time, label)
        vectors = Linear(2 * self.features, name="proj_out_1")(nn.silu(embedding))
        shift, scale = jnp.split(vectors[:, None], 2, axis=-1)
        tokens = LayerNorm(ADA_EPSILON, affine=False)(tokens) * (1 + scale) + shift
        return self._image(tokens, height, width)

    def _check_data(self, z: jax.Array) -> None:
        if z.ndim != 4 or z.shape[-1] != self.in_channels:
            raise ValueError(
                f"z of shape {z.shape}: must be [batch, height, width, "
                f"{self.in_channels}], channels last"
            )
        if any(size % self.patch_size for size in z.shape[1:3]):
            raise ValueError(
                f"images of {z.shape[1]} x {z.shape[2]} pixels: must be multiples of "
                f"patch_size={self.patch_size}"
            )

    def _blocks(
        self, tokens: jax.Array, time: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns tokens, and the embedding of the first block, or of all."""
        own = self.num_embeds_ada_norm, self.frequency_shift
        shared = first = None
        if self.shared_embedding:
            embed = TimeAndLabel(own[0], self.features, own[1], name="emb")
            shared = first = embed(time, label)
        for i in range(self.num_layers):
            block = Block(
                self.num_attention_heads,
                self.attention_bias,
                self.activation_fn == "gelu-approximate",
                *own,
                self.norm_eps,
                self.norm_elementwise_affine,
                name=f"transformer_blocks.{i}",
            )
            tokens, embedding = block(tokens, time, label, shared)
            first = embedding if first is None else first
        if first is None:
            raise ValueError(f"num_layers={self.num_layers}: must be at least 1")
        return tokens, first

    def _image(self, tokens: jax.Array, height: int, width: int) -> jax.Array:
        """Puts the patches of all tokens together."""
        size, channels = self.patch_size, self.out_channels or self.in_channels
        rows, columns = height // size, width // size
        patches = Linear(size * size * channels, name="proj_out_2")(tokens)
        patches = patches.reshape(-1, rows, columns, size, size, channels)
        return patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def place_sinusoids(height: int, width: int, features: int, side: int) -> np.ndarray:
    """Computes sinusoids of the places of patches, float32 [height width, features].

    The places of an image of any size lie in [0, side): those of the patches of the
    images that the network was trained on, `side` in a row, are 0, 1, 2, ...

    The first half of the features are of the column, the second of the row: `sin(p
    w_k)`, then `cos(p w_k)`, `w_k = 10000^(-4 k / features)`.

    Source: as in DiT's code, which is that of He et al. 2021, arXiv 2111.06377.
    """
    if features % 4:
        raise ValueError(f"{features} features of a token: must be a multiple of 4")
    count = features // 4
    frequency = 10000.0 ** (-np.arange(count) / count)

    def waves(places: np.ndarray) -> np.ndarray:
        angle = places.reshape(-1, 1) * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.mgrid[:height, :width].astype(np.float64)
    row, column = row * side / height, column * side / width
    places = np.concatenate([waves(column), waves(row)], axis=1)
    return places.astype(np.float32)
