"""Whether a machine computes right and fast: the checks of `pixtral-mlx doctor`."""
