"""Judges what lsrsurgeon wrote with transformers and PEFT.

judge.py BASE MERGED PEFT OUT: loads BASE with the PEFT adapter on top, and MERGED, as sequence classifiers; any warning is
an error. Writes to OUT the logits of both on fixed token ids, and the largest difference of a merged weight from
what PEFT merges itself, in units in the last place of the tensor's largest element (small elements are differences of
larger ones, in PEFT's float32 too).
"""
import json, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=FutureWarning)       # transformers about itself
warnings.filterwarnings("ignore", category=DeprecationWarning)
import numpy as np, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging
logging.set_verbosity_error()
base, merged, adapter, out = sys.argv[1:]
torch.manual_seed(0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the base has no head: transformers says that it draws one
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, dtype=torch.float32)
start = {n: p.detach().clone() for n, p in plain.named_parameters()}
model = PeftModel.from_pretrained(plain, adapter).eval()
whole = AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.float32).eval()
ids = [torch.tensor([[101] + [1000 + 37 * i + 11 * j for j in range(5 + 3 * i)] + [102]]) for i in range(6)]
with torch.no_grad():
    a = [model(input_ids=x).logits[0].tolist() for x in ids]
    b = [whole(input_ids=x).logits[0].tolist() for x in ids]
ulp = 0.0
folded = model.merge_and_unload()
got = dict(whole.named_parameters())
for n, p in folded.named_parameters():
    if n in start and not torch.equal(p, start[n]) and "classifier" not in n:
        # PEFT adds in float32; the exact sum is W + dW in float64.
        d = (p.double() - got[n].double()).abs().detach().numpy()
        ulp = max(ulp, float(d.max() / np.spacing(np.abs(p.detach().numpy()).max())))
json.dump({"adapter": a, "merged": b, "ulp": ulp, "labels": whole.config.num_labels, "ids": [x[0].tolist() for x in ids]}, open(out, "w"))
