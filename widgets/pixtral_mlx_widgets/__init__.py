"""Jupyter widgets that show a Pixtral model while it runs.

This version has none yet: the package only reserves its place beside `pixtral_mlx`, which never
imports it.
"""

__all__: list[str] = []
