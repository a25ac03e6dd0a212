"""The levels that EDM's U-Nets have in common."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusionflow.networks.pretrained.edm_blocks import EDMBlock
from diffusionflow.networks.pretrained.layers import Conv, Linear


class EDMUNet(nn.Module):
    """The levels of EDM's U-Nets, going down and up; `SongUNet` and `DhariwalUNet`."""

    img_resolution: int = 32
    in_channels: int = 3
    out_channels: int = 3
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0

    @property
    def num_labels(self) -> int | None:
        """Number of integer labels, with the null label; None without labels."""
        return self.label_dim + 1 if self.label_dim else None

    @property
    def null_label(self) -> int | None:
        """The label whose vector is zero; None for a network without labels."""
        return self.label_dim or None

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns shapes that the network can be initialised with."""
        side, of = self.img_resolution, jax.ShapeDtypeStruct
        return (
            of((1, side, side, self.in_channels), jnp.float32),
            of((1,), jnp.float32),
        )

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        train: bool = False,
        augment: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the network's output, F of EDM's preconditioning.

        Args:
          z: [batch, height, width, in_channels], scaled by c_in.
          time: [batch], c_noise.
          label: int [batch], of which `label_dim` is the null label; or a mixture of
            classes, float [batch, label_dim]; None for the null label.
          train: whether to drop; needs the rng "dropout" where `dropout` > 0.
          augment: [batch, augment_dim], what an image was augmented by; None for
            images as they are.

        Returns:
          [batch, height, width, out_channels].
        """
        self._check_data(z, label, augment)
        embedding = self._embedding(
            time.astype(jnp.float32), self._classes(label, len(z)), augment
        )
        maps = self._down(z, embedding, train)
        return self._up(maps, embedding, train)

    def _check_data(
        self, z: jax.Array, label: jax.Array | None, augment: jax.Array | None
    ) -> None:
        multiple = 2 ** (len(self.channel_mult) - 1)
        if z.ndim != 4 or z.shape[-1] != self.in_channels:
            raise ValueError(
                f"z of shape {z.shape}: must be [batch, height, width, "
                f"{self.in_channels}], channels last"
            )
        if any(size % multiple for size in z.shape[1:3]):
            raise ValueError(
                f"images of {z.shape[1]} x {z.shape[2]} pixels: "
                f"{len(self.channel_mult)} levels need multiples of {multiple}"
            )
        if label is not None and not self.label_dim:
            raise ValueError("a label for a network without labels")
        self._check_mixture(label)
        if augment is not None and augment.shape[-1:] != (self.augment_dim,):
            raise ValueError(
                f"augment of shape {augment.shape}: must be [batch, augment_dim="
                f"{self.augment_dim}]"
            )

    def _check_mixture(self, label: jax.Array | None) -> None:
        if label is None or jnp.issubdtype(label.dtype, jnp.integer):
            return
        if label.shape[-1:] != (self.label_dim,):
            raise ValueError(
                f"label of shape {label.shape}: a mixture must be [batch, label_dim="
                f"{self.label_dim}]"
            )

    def _classes(self, label: jax.Array | None, count: int) -> jax.Array | None:
        """Converts labels to vectors, [batch, label_dim]; NaN if out of range."""
        if not self.label_dim:
            return None
        if label is None:
            return jnp.zeros((count, self.label_dim))
        if not jnp.issubdtype(label.dtype, jnp.integer):
            return label
        known = (label >= 0) & (label <= self.label_dim)
        vector = jax.nn.one_hot(label, self.label_dim)
        return jnp.where(known[:, None], vector, jnp.nan)

    def _augmented(self, waves: jax.Array, augment: jax.Array | None) -> jax.Array:
        """Returns the features of the time, plus those of any augmentation."""
        if augment is None and self.augment_dim and self.is_initializing():
            augment = jnp.zeros((1, self.augment_dim))
        if augment is None:
            return waves
        layer = Linear(waves.shape[-1], use_bias=False, name="map_augment")
        return waves + layer(augment)

    def _block(
        self, channels: int, place: str, *, resample: str = "", attention: bool = False
    ) -> EDMBlock:
        raise NotImplementedError(
            f"{type(self).__name__} must define _block(channels, place), "
            "the block of a place"
        )

    def _embedding(
        self, time: jax.Array, classes: jax.Array | None, augment: jax.Array | None
    ) -> jax.Array:
        raise NotImplementedError(
            f"{type(self).__name__} must define _embedding(time, classes, augment), "
            "its conditioning vector"
        )

    def _joined(
        self, h: jax.Array, image: jax.Array, place: str
    ) -> tuple[jax.Array, jax.Array]:
        """Joins a second path to the maps of a level; returns both as they go on."""
        return h, image

    def _output(
        self, h: jax.Array, image: jax.Array | None, level: int
    ) -> jax.Array | None:
        raise NotImplementedError(
            f"{type(self).__name__} must define _output(h, image, level), "
            "what a level adds to the output"
        )

    @property
    def _first_channels(self) -> int:
        raise NotImplementedError(
            f"{type(self).__name__} must define _first_channels, "
            "the channels of its first convolution"
        )

    def _attends(self, level: int, last: bool) -> bool:
        """Returns whether a block has attention; `last` of its level on the way up."""
        return self.img_resolution >> level in self.attn_resolutions

    def _place(self, part: str, level: int) -> str:
        side = self.img_resolution >> level
        return f"{part}.{side}x{side}"

    def _down(self, z: jax.Array, embedding: jax.Array, train: bool) -> list[jax.Array]:
        h = Conv(self._first_channels, name=f"{self._place('enc', 0)}_conv")(z)
        maps, image = [h], z
        for level, multiple in enumerate(self.channel_mult):
            place = self._place("enc", level)
            if level:
                down = self._block(h.shape[-1], f"{place}_down", resample="down")
                h, image = self._joined(down(h, embedding, train), image, place)
                maps.append(h)
            for i in range(self.num_blocks):
                block = self._block(
                    multiple * self.model_channels,
                    f"{place}_block{i}",
                    attention=self._attends(level, True),
                )
                h = block(h, embedding, train)
                maps.append(h)
        return maps

    def _up(
        self, maps: list[jax.Array], embedding: jax.Array, train: bool
    ) -> jax.Array:
        h, image = maps[-1], None
        deepest = len(self.channel_mult) - 1
        for level in range(deepest, -1, -1):
            place, channels = self._place("dec", level), h.shape[-1]
            if level == deepest:
                first = self._block(channels, f"{place}_in0", attention=True)
                second = self._block(channels, f"{place}_in1")
                h = second(first(h, embedding, train), embedding, train)
            else:
                up = self._block(channels, f"{place}_up", resample="up")
                h = up(h, embedding, train)
            for i in range(self.num_blocks + 1):
                block = self._block(
                    self.channel_mult[level] * self.model_channels,
                    f"{place}_block{i}",
                    attention=self._attends(level, i == self.num_blocks),
                )
                h = block(jnp.concatenate([h, maps.pop()], -1), embedding, train)
            image = self._output(h, image, level)
        assert image is not None  # level 0 has one
        return image
