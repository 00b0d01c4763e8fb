"""Networks as files for other runtimes: written, opened again, and compared with the weights they were made of.

`graph` is what is exported, each format has a file of this room; `parity` compares, `card` says what a file is, `runners`
open it.
"""
