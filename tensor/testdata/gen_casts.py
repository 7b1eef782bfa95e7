"""Writes casts.json: digests of PyTorch's and NumPy's casts between float formats.

The inputs are formulas, which float_test.go repeats:
  decode: every code of the format, to float32, NaN as 0x7fc00000;
  f32:    float32 with bits 40503*i (i < 2^20), then (i << 16) + d for i < 2^16 and
          d in 0, 0x7fff, 0x8000, 0x8001 (halfway cases of bfloat16), cast to the format;
  f64:    float64 with bits 0x9E3779B97F4A7C15*i mod 2^64 with the exponent field moved
          into 1023-30 .. 1023+20, cast to float16 by NumPy, which rounds once.
Codes of NaN are replaced by 0xffff (two-byte formats) or 0xff before hashing.
Run: python gen_casts.py > casts.json
"""
import hashlib, json, sys
import numpy as np, torch

types = {"F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
         "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
         "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu}

def sha(a):
    return hashlib.sha256(a.tobytes()).hexdigest()

def inputs32():
    a = (np.arange(1 << 20, dtype=np.uint64) * 40503).astype(np.uint32)
    i = np.arange(1 << 16, dtype=np.uint32) << 16
    return np.concatenate([a] + [i + np.uint32(d) for d in (0, 0x7FFF, 0x8000, 0x8001)])

out = {"torch": torch.__version__, "numpy": np.__version__, "python": sys.version.split()[0], "decode": {}, "f32": {}, "f64": {}}
x = inputs32().view(np.float32)
for name, t in types.items():
    two = t in (torch.float16, torch.bfloat16)
    u, n = (np.uint16, 1 << 16) if two else (np.uint8, 1 << 8)
    codes = torch.from_numpy(np.arange(n, dtype=u)).view(t)
    v = codes.to(torch.float32).numpy().view(np.uint32).copy()
    v[np.isnan(v.view(np.float32))] = 0x7FC00000
    out["decode"][name] = sha(v)
    if name == "F8_E8M0":
        continue
    c = torch.from_numpy(x.copy()).to(t)
    nan = torch.isnan(c.to(torch.float32)).numpy()
    c = c.view(torch.uint16 if two else torch.uint8).numpy().copy()
    c[nan] = 0xFFFF if two else 0xFF
    out["f32"][name] = sha(c)
k = np.arange(1, (1 << 20) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
e = (k >> np.uint64(52)) % np.uint64(51) + np.uint64(1023 - 30)
b = (k & np.uint64(0x800FFFFFFFFFFFFF)) | (e << np.uint64(52))
with np.errstate(over="ignore"):
    out["f64"]["F16"] = sha(b.view(np.float64).astype(np.float16).view(np.uint16))
json.dump(out, sys.stdout, indent=1)
print()
