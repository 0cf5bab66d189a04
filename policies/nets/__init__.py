"""Networks, which compute in float32 wherever they are.

torch would let the convolutions of a GPU round what goes into them to 10 bits (TF32): chunks of a policy then differ by
a hundredth of their range from those of a CPU.
"""

import torch

torch.backends.cudnn.allow_tf32 = False
