#!/usr/bin/env python3
"""Lists names, dtypes, shapes and the parameter total with safetensors' own reader (numpy framework, no torch)."""
import glob, math, sys
from safetensors import safe_open
n = total = 0
for f in sorted(glob.glob(sys.argv[1] + "/*.safetensors")):
    with safe_open(f, "np") as s:
        for k in s.keys():
            g = s.get_slice(k); n += 1; total += math.prod(g.get_shape()); print(k, g.get_dtype(), g.get_shape())
print(n, total)
