"""llama_judge.py JOBS OUT: what llama.cpp (package llama-cpp-python) makes of GGUF
files. JOBS is a list of {"model", "lora", "texts"}; OUT gets, for each, the tokens
of every text and the logits after every token, as float32 in the file
OUT.<job>.bin."""
import json
import sys

import numpy as np
from llama_cpp import Llama

jobs, out = sys.argv[1:]
F32 = 0  # of the key and value cache, which is F16 unless told otherwise
result = []
for i, job in enumerate(json.load(open(jobs))):
    llm = Llama(model_path=job["model"], lora_path=job["lora"] or None, n_ctx=256, n_batch=256, n_threads=1, n_threads_batch=1,
                logits_all=True, verbose=False, type_k=F32, type_v=F32, flash_attn=False)
    tokens, logits = [], []
    for text in job["texts"]:
        ids = llm.tokenize(text.encode(), add_bos=True, special=False)
        llm.reset()
        llm.eval(ids)
        tokens.append(ids)
        logits.append(np.array(llm.scores[: len(ids)], dtype=np.float32))
    np.concatenate(logits).tofile(f"{out}.{i}.bin")
    result.append(tokens)
    llm.close()
json.dump(result, open(out, "w"))
