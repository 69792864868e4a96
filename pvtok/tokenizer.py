"""Tokenizer: frames to latents and back, whole or as streams. The one class most users need.

Conventions: frames are uint8 RGB `(T, H, W, 3)`; latents are float `(t, C, h, w)`, the raw
posterior mean, with `h = ceil(H/16)`, `w = ceil(W/16)` and `t = 1 + ceil((T-1)/4)`. Arrays go in
and arrays come out; tensors go in and tensors come out, on the device they came from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtok import checkpoint
from pvtok.backends import Kernels, steps_for
from pvtok.configs import ModelConfig
from pvtok.detail import carry_detail
from pvtok.errors import (
    FrameSizeError,
    MissingDependencyError,
    ModelMismatchError,
    NonFiniteError,
    UsageError,
)
from pvtok.groups import FramesTHWC, TailPolicy, frames_in, grouped, groups_covering
from pvtok.model import PVVAE, State
from pvtok.steps import CompiledSteps, GraphedSteps, Steps

Latents = NDArray[np.float32]
N = TypeVar("N", bound=NDArray[Any])

CHUNK_PIXELS = 2_000_000
"""Pixels (frames x height x width) one step works on: bounds memory, keeps the device busy."""
MAX_CHUNK_GROUPS = 16


class Tokenizer:
    """A loaded model on a device. Make one with `Tokenizer.load`."""

    def __init__(
        self,
        net: PVVAE,
        *,
        name: str,
        sha256: str,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels = "auto",
    ) -> None:
        self.name, self.sha256 = name, sha256
        self.device, self.dtype = device, dtype
        self.net = net.to(device=device, dtype=dtype).prepare_inference()
        self.steps: Steps = steps_for(self.net, device, kernels)
        self.notices: list[str] = []
        """What loading decided otherwise than asked, for whoever loads to say."""

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "tiny",
        device: str = "auto",
        dtype: str | torch.dtype | None = None,
        *,
        compile: bool = False,
        kernels: Kernels = "auto",
    ) -> Tokenizer:
        """Load a model.

        Args:
            model: a bundled name, a checkpoint folder, or the `.safetensors` file in one.
            device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
            dtype: "fp32", "fp16", "bf16" or a torch dtype; None is bf16 on a GPU and on a CPU that
                multiplies bf16 itself, fp32 on others.
            compile: run the steps through `torch.compile`, on a GPU as CUDA graphs where they are
                small. On a CPU without a C++ compiler they run as they are, which `notices` says.
            kernels: "triton" for our kernels, which need a GPU, "torch" for PyTorch's operations,
                "auto" for the kernels where they have been measured; see `pvtok.backends`.

        Raises:
            MissingDependencyError: the model, device or kernels are not there.
            CheckpointError, CorruptCheckpointError: the files do not fit or are damaged.
        """
        if str(model).startswith("diffusers:"):
            raise MissingDependencyError(
                f"model {str(model)!r}", why="this version has no diffusers adapters"
            )
        where = find_device(device)
        precision = _dtype(dtype, where)
        net, found = checkpoint.load(model)
        bundled = checkpoint.bundled_models().get(str(model))
        name = str(model) if bundled else found.config.name
        tokenizer = cls(
            net, name=name, sha256=found.sha256, device=where, dtype=precision, kernels=kernels
        )
        if compile:
            tokenizer._compile()
        return tokenizer

    def _compile(self) -> None:
        if self.device.type == "cuda":
            self.steps = GraphedSteps(CompiledSteps(self.steps))
        elif _has_compiler():
            self.steps = CompiledSteps(self.steps)
        else:
            self.notices.append(
                "not compiled: torch.compile needs a C++ compiler on a CPU, and none was found; "
                "install g++"
            )

    @property
    def config(self) -> ModelConfig:
        return self.net.config

    @property
    def dtype_name(self) -> str:
        return _DTYPE_NAMES[self.dtype]

    def chunk_groups(self, height: int, width: int) -> int:
        """Groups one step works on at this frame size: a fixed rule, so that runs repeat."""
        pixels = self.config.temporal_ratio * height * width
        return max(1, min(MAX_CHUNK_GROUPS, CHUNK_PIXELS // pixels))

    # Steps: whole groups in, explicit state in and out.

    @torch.inference_mode()
    def encode_step(self, frames: FramesTHWC, state: State | None) -> tuple[Latents, State]:
        """One step of an encoding stream.

        Args:
            frames: `[1 + 4m, H, W, 3]` uint8 to begin a stream (state None), `[4m, H, W, 3]` later.

        Returns:
            Latents `[m+1 or m, C, h, w]` and the state for the next step.

        Raises:
            NonFiniteError: the model made NaN or infinity.
        """
        _check_frames(frames)
        p = self.config.temporal_ratio
        if (len(frames) - (state is None)) % p:
            raise UsageError(f"{len(frames)} frames are not whole groups of {p}")
        x = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
        mean, state = self.steps.encode(x[None], state)
        z = mean[0].movedim(0, 1).float().cpu()
        if not bool(torch.isfinite(z).all()):
            raise NonFiniteError(
                f"the encoder of {self.name!r} made non-finite latents in {self.dtype_name}",
                fix="Use fp32.",
            )
        return z.contiguous().numpy(), state

    @torch.inference_mode()
    def decode_step(
        self, latents: NDArray[np.floating[Any]], state: State | None
    ) -> tuple[FramesTHWC, State]:
        """One step of a decoding stream.

        Args:
            latents: `[t, C, h, w]`.

        Returns:
            Frames uint8 `[4t-3 or 4t, 16h, 16w, 3]` and the state for the next step.
        """
        z = torch.from_numpy(np.ascontiguousarray(latents, dtype=np.float32))
        if z.ndim != 4 or z.shape[1] != self.config.latent_channels:
            raise ModelMismatchError(
                f"latents of shape {tuple(z.shape)}",
                why=f"{self.name!r} reads (t, {self.config.latent_channels}, h, w)",
            )
        if not bool(torch.isfinite(z).all()):
            raise NonFiniteError("the latents hold NaN or infinity")
        return self._frames(z.movedim(0, 1)[None].to(self.device, self.dtype), state)

    def _frames(self, z_BCTHW: Tensor, state: State | None) -> tuple[FramesTHWC, State]:
        frames, finite, state = self.steps.decode(z_BCTHW, state)
        if not bool(finite):
            raise NonFiniteError(
                f"the decoder of {self.name!r} made non-finite frames in {self.dtype_name}",
                fix="Use fp32.",
            )
        return frames[0].cpu().numpy(), state

    # Streams.

    def encode_stream(
        self, chunks: Iterable[NDArray[np.uint8] | Tensor], tail: TailPolicy = "repeat_last"
    ) -> Iterator[Latents]:
        """Encode a video that arrives in chunks of any lengths, in bounded memory.

        Args:
            chunks: frames uint8 `(T, H, W, 3)`, all of one size.
            tail: what to do with frames that do not fill the last group.

        Yields:
            Latents float32 `(t, C, h, w)`; together they equal `encode` of the whole.
        """
        arrays = (_check_frames(_array(c)) for c in chunks)
        state: State | None = None
        for first in arrays:
            groups = self.chunk_groups(*first.shape[1:3])
            for frames in grouped(_one_size(first, arrays), groups, tail):
                latents, state = self.encode_step(frames, state)
                yield latents

    def decode_stream(
        self, chunks: Iterable[NDArray[np.floating[Any]] | Tensor]
    ) -> Iterator[FramesTHWC]:
        """Decode latents `(t, C, h, w)` that arrive in chunks; yields frames uint8."""
        state: State | None = None
        for chunk in chunks:
            for latents in self._cut(_array(chunk)):
                frames, state = self.decode_step(latents, state)
                yield frames

    def _cut(self, latents: NDArray[Any]) -> Iterator[NDArray[Any]]:
        ps = self.config.spatial_ratio
        step = self.chunk_groups(latents.shape[2] * ps, latents.shape[3] * ps)
        for a in range(0, len(latents), step):
            yield latents[a : a + step]

    # Whole clips.

    @overload
    def encode(self, frames: Tensor, tail: TailPolicy = ...) -> Tensor: ...
    @overload
    def encode(self, frames: NDArray[np.uint8], tail: TailPolicy = ...) -> Latents: ...
    def encode(
        self, frames: NDArray[np.uint8] | Tensor, tail: TailPolicy = "repeat_last"
    ) -> Latents | Tensor:
        """Frames uint8 `(T, H, W, 3)` -> latents float32 `(t, C, h, w)`, raw posterior mean.

        Sides that are no multiples of 16 are padded right and below by repeating the edge.

        Raises:
            FrameSizeError: not `(T, H, W, 3)`, or no frames.
            TailError: `tail` is "error" and T is not 1 + 4n.
        """
        parts = list(self.encode_stream([frames], tail))
        if not parts:
            raise FrameSizeError(f"no frames: shape {tuple(frames.shape)}")
        return _as_given(np.concatenate(parts), frames)

    @overload
    def decode(self, latents: Tensor) -> Tensor: ...
    @overload
    def decode(self, latents: NDArray[np.floating[Any]]) -> FramesTHWC: ...
    def decode(self, latents: NDArray[np.floating[Any]] | Tensor) -> FramesTHWC | Tensor:
        """Latents `(t, C, h, w)` -> frames uint8 `(1 + 4(t-1), 16h, 16w, 3)`.

        Cut the result to the true length and size: `video[:frames, :height, :width]`.
        """
        if len(latents.shape) != 4 or not latents.shape[0]:
            raise FrameSizeError(f"latents of shape {tuple(latents.shape)}, not (t, C, h, w)")
        return _as_given(np.concatenate(list(self.decode_stream([latents]))), latents)

    # Prediction.

    def default_horizon(self, context_frames: int) -> int:
        """Frames predicted when none are asked for: up to the model's training length."""
        return self.config.temporal_ratio * self._round_groups(groups_covering(context_frames))

    def _round_groups(self, context_groups: int) -> int:
        """Groups predicted at once from this context: what training padded, or half a clip."""
        trained = groups_covering(self.config.training_frames)
        return max(trained - context_groups, trained // 2, 1)

    @overload
    def predict(
        self, context: Tensor, frames: int | None = ..., *, detail: bool = ..., seed: int = ...
    ) -> Tensor: ...
    @overload
    def predict(
        self,
        context: NDArray[np.uint8],
        frames: int | None = ...,
        *,
        detail: bool = ...,
        seed: int = ...,
    ) -> FramesTHWC: ...
    def predict(
        self,
        context: NDArray[np.uint8] | Tensor,
        frames: int | None = None,
        *,
        detail: bool = True,
        seed: int = 0,
    ) -> FramesTHWC | Tensor:
        """Predict the frames that follow `context`, uint8 `(N, H, W, 3)`, N >= 1.

        A context that is no whole groups is filled at its front by repeating its first frame.
        Beyond the model's training length the prediction goes on from its own frames.

        Args:
            frames: how many to predict; None is `default_horizon`.
            detail: give still parts the detail that the latents lost, see `pvtok.detail`; False
                shows the decoder's output alone.
            seed: of the padding noise, for models with Gaussian padding.

        Returns:
            The predicted frames only, uint8 `(frames, H, W, 3)`.
        """
        if frames is not None and frames < 1:
            raise UsageError(f"frames = {frames}", why="at least one frame must be predicted")
        clip = _check_frames(_array(context))
        if not len(clip):
            raise UsageError("an empty context", why="prediction needs at least one frame")
        p = self.config.temporal_ratio
        missing = frames_in(groups_covering(len(clip))) - len(clip)
        filled = np.concatenate([np.repeat(clip[:1], missing, axis=0), clip])
        wanted = self.default_horizon(len(clip)) if frames is None else frames
        height, width = clip.shape[1:3]
        generator = torch.Generator(self.device).manual_seed(seed)
        predicted: list[FramesTHWC] = []
        rest = wanted
        while rest > 0:
            latents = self.encode(filled)
            groups = min(self._round_groups(len(latents)), -(-rest // p))
            decoded, new = self._continue(latents, groups, generator)
            decoded, new = decoded[:, :height, :width], new[:, :height, :width]
            predicted.append(carry_detail(new, decoded[-1:], filled[-1:]) if detail else new)
            rest -= len(new)
            # Go on from the model's own frames, with as much context as training allowed.
            keep = frames_in(max(1, groups_covering(self.config.training_frames) - groups))
            filled = np.concatenate([filled, predicted[-1]])[-keep:]
        return _as_given(np.concatenate(predicted)[:wanted], context)

    def predict_latents(
        self,
        latents: NDArray[np.floating[Any]],
        frames: int,
        *,
        context_groups: int | None = None,
        seed: int = 0,
    ) -> tuple[FramesTHWC, FramesTHWC]:
        """Continue a stored stream.

        Args:
            latents: `(t, C, h, w)`, from the stream's beginning or from the decoder's receptive
                field before the context.
            context_groups: how many of the last latents count as context; None is all.

        Returns:
            The decoded context and the predicted frames, uint8 `(.., 16h, 16w, 3)`.
        """
        n = len(latents) if context_groups is None else context_groups
        p = self.config.temporal_ratio
        groups = min(self._round_groups(n), -(-frames // p))
        generator = torch.Generator(self.device).manual_seed(seed)
        decoded, new = self._continue(latents, groups, generator)
        context = decoded[-(frames_in(n) if n == len(latents) else p * n) :]
        if len(new) < frames:
            keep = frames_in(max(1, groups_covering(self.config.training_frames) - groups))
            tail = np.concatenate([decoded, new])[-keep:]
            more = self.predict(tail, frames - len(new), detail=False, seed=seed + 1)
            new = np.concatenate([new, more])
        return context, new[:frames]

    @torch.inference_mode()
    def _continue(
        self, latents: NDArray[np.floating[Any]], groups: int, generator: torch.Generator
    ) -> tuple[FramesTHWC, FramesTHWC]:
        """Decode `latents`, then `groups` padding latents; the frames of each."""
        state: State | None = None
        seen = []
        for part in self._cut(latents):
            decoded, state = self.decode_step(part, state)
            seen.append(decoded)
        z = torch.from_numpy(np.ascontiguousarray(latents[-1:], dtype=np.float32))
        z = z.movedim(0, 1)[None].to(self.device, self.dtype)
        new, _ = self._frames(self.net.padding_latents(z, groups, generator), state)
        return np.concatenate(seen), new


_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_DTYPE_NAMES = {v: k for k, v in _DTYPES.items()}


def find_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for here.

    Raises:
        UsageError: another name. MissingDependencyError: this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}", fix="Use auto, cpu, cuda or cuda:0.") from error
    if where.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r}", fix="Use auto, cpu, cuda or cuda:0.")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise MissingDependencyError(
            f"device {device!r}",
            why=f"this machine shows {torch.cuda.device_count()} CUDA devices to torch "
            f"{torch.__version__}",
            fix="Use --device cpu, or see 'pvtok doctor'.",
        )
    return where


def _has_compiler() -> bool:
    """Whether torch.compile can make C++: it says that it cannot only in the middle of the work."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return any(name and shutil.which(name) for name in names)


def _native_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX512_BF16) and torch has the library for it.

    There bf16 takes about half the time of fp32 in both directions and costs 0.03 dB, see
    `benchmarks/cpu_path.py`. Elsewhere it is emulated, and slower.
    """
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # since torch 2.6
    return torch.backends.mkldnn.is_available() and probe is not None and bool(probe())


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        halves = device.type == "cuda" or _native_bf16()
        return torch.bfloat16 if halves else torch.float32
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in _DTYPE_NAMES:
        raise UsageError(f"dtype {dtype!r}", fix=f"Use one of {', '.join(_DTYPES)}.")
    return found


def _array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _as_given(result: N, given: NDArray[Any] | Tensor) -> N | Tensor:
    if isinstance(given, Tensor):
        return torch.from_numpy(result).to(given.device)
    return result


def _check_frames(frames: NDArray[Any]) -> FramesTHWC:
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.shape[1] or not frames.shape[2]:
        raise FrameSizeError(f"frames of shape {tuple(frames.shape)}, not (T, H, W, 3)")
    if frames.dtype != np.uint8:
        raise UsageError(f"frames of dtype {frames.dtype}", why="frames are uint8 RGB in 0..255")
    return frames


def _one_size(first: FramesTHWC, rest: Iterable[FramesTHWC]) -> Iterator[FramesTHWC]:
    yield first
    for frames in rest:
        if frames.shape[1:] != first.shape[1:]:
            raise FrameSizeError(
                f"a chunk of shape {frames.shape} in a stream of {first.shape[1:]} frames"
            )
        yield frames
