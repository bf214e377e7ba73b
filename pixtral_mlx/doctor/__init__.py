"""Whether a machine computes what it should, and how fast: the checks of `pixtral-mlx doctor`.

They return records and print nothing; the page is the command's. In reading order:

`check`: the result of one check, whatever happens
`apart`: checks in a process of their own, which Metal may end
`machine_checks`: chip, versions, memory, precision, bandwidth, tools, pixtral-mini
`kernels`: one layer of each part at the 12B's width, against `exact_layer`
`exact_layer`: a layer by its definition, in NumPy's float64
`hub_checks`: whether a download would work, and bring what is expected
`published`: published answers of the 12B, read again
"""
