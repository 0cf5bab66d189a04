"""Networks, which compute in float32 wherever they are.

torch would let the convolutions of a GPU round what goes into them to 10 bits (TF32): joint targets of an untrained
policy then differ by up to 0.0025 rad from those of a CPU.
"""

import torch

torch.backends.cudnn.allow_tf32 = False
