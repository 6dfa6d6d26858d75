"""How large the tensors are that a piece of code makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class MadeTensors(TorchDispatchMode):
    """Notes the largest tensor that is made within it.

    Parameters
    ----------
    n_columns : of the tensors that count; None counts all.
    """

    def __init__(self, n_columns=None):
        super().__init__()
        self.n_columns, self.largest = n_columns, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and (self.n_columns is None or made.shape[-1:] == (self.n_columns,)):
            self.largest = max(self.largest, made.numel())
        return made
