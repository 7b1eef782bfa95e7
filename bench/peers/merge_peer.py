#!/usr/bin/env python3
"""PEFT's merge as a user does it: merge_peer.py BASE ADAPTER OUT."""
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
torch.set_num_threads(2)
m = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).merge_and_unload()
m.save_pretrained(out, max_shard_size="1GB")
