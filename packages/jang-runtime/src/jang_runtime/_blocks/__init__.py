"""Block layout at run time: matrices whose blocks have their own widths, used as the file has them.

`matrices` is the data, `modules` what a model calls, and `plain`, `native` and `gpu` compute.
"""
