"""Demonstrations as transitions of chunks: no noise made them, and none is needed for their value."""

from __future__ import annotations

import torch
from rich.progress import track

from data_collection.windows import ACTION, Windows
from policies.chunk_replay import ChunkLayout, Outlook, Seen
from policies.dataset_torch import WindowTensors
from policies.dsrl import Dsrl
from policies.noise_decoder import NoiseDecoder
from policies.replay import Replay
from policies.train_residual_data import Arrays


def demonstration_chunks(episodes: list[Arrays], decoder: NoiseDecoder, dsrl: Dsrl, layout: ChunkLayout) -> Replay:
    """Return the demonstrations as transitions of as many steps as the policy executes of a chunk.

    Each begins with another one of its first steps, so that all phases of a movement are begins of chunks. A chunk that
    goes on after the end is filled with the last action, as those that the policy learned from were.
    """
    policy = decoder.policy
    windows = Windows(episodes, policy.obs_steps, decoder.execute_steps)
    tensors = WindowTensors(windows, policy.relative_part)
    every, lengths = decoder.execute_steps, [int(length) for length in windows.lengths]
    starts = [range(min(k % every, length - 1), length, every) for k, length in enumerate(lengths)]
    replay = Replay(layout, sum(len(each) for each in starts))
    first = 0
    for each, length in track(list(zip(starts, lengths, strict=True)), "decoding noises", transient=True):
        seen, actions = _seen(tensors, [first + start for start in each], decoder, dsrl, layout)
        for i, start in enumerate(each):
            steps = min(every, length - start)
            is_end = i == len(each) - 1
            rewards = [0.0] * (steps - 1) + [float(is_end)]
            after = Outlook.of(rewards, dsrl.config.discount, terminated=is_end)
            replay.add([layout.row(seen[i], actions[i].numpy(), after, seen[i] if is_end else seen[i + 1])])
        first += length
    return replay


def _seen(
    tensors: WindowTensors, indices: list[int], decoder: NoiseDecoder, dsrl: Dsrl, layout: ChunkLayout
) -> tuple[list[Seen], torch.Tensor]:
    """Return what is seen at the begins of the windows, and the actions (B, A) of the demonstrator."""
    batch = tensors.batch(torch.tensor(indices))
    observation = decoder.encode_windows(batch)
    count, draw = len(indices), dsrl.generator
    own = torch.randn(count, *decoder.policy.chunk_shape, generator=draw)
    noises = dsrl.clip(torch.randn(count, layout.draws, layout.noise_dim, generator=draw))
    base, chunks = decoder.look(observation, own, noises)
    decoded = decoder.executed(chunks.flatten(0, 1)).unflatten(0, chunks.shape[:2])
    fields = observation.numpy(), decoder.executed(base).numpy(), noises.numpy(), decoded.numpy()
    return [Seen(*(field[i] for field in fields)) for i in range(count)], decoder.executed(
        decoder.policy.action_layer(batch[ACTION])
    )
