// Package adapter makes, reads and writes adapters: small trainable updates of
// the linear layers of a frozen model.
//
// Nouns. A [Site] is a linear layer that could be adapted, W (in, out) with
// y = x W. [Targets] say which sites are; [Settings] say how (method, rank,
// terms, alpha). A [Kind] is a parametrisation of the update ΔW: its tensors,
// how they start, what they add to y, and ΔW itself. An [Adapter] is the
// result: one [Module] per adapted site, and the tensors of a trained head.
//
// Kinds, with y += scale · x ΔW:
//
//	lsr          ΔW = (Σ A1_k ⊗ A2_k)(Σ B1_k ⊗ B2_k)    arXiv 2502.13568
//	lora         ΔW = A B                                arXiv 2106.09685
//	krona        ΔW = Σ C_k ⊗ D_k                        arXiv 2212.10650
//	kadaptation  ΔW = Σ (p_i q_iᵀ) ⊗ (u_i v_iᵀ)          arXiv 2203.16329
//	gralora      ΔW = a k x k grid of A B                arXiv 2505.20355
//	diffora      ΔW = g·A B, g a gate                    arXiv 2502.08905
//
// Two have no ΔW, and their [Kind.Delta] is [ErrNoDelta]:
//
//	dora, lsr-dora     W' = m (W + ΔW)/‖W + ΔW‖          arXiv 2402.09353
//	lor2c, sharelor2c  y += scale·x A B around a block   arXiv 2503.00572
//
// LoRA may start from W itself ([InitPiSSA], [InitOLoRA]).
//
// Start with [New], or with [Load] for a directory: one that this package
// wrote, or a LoRA, DoRA, GraLoRA or LoKr adapter of the PEFT library.
// [Adapter.Deltas] gives every ΔW; a model lowers each module into its program
// through [Kind.Lower].
//
// # Total accounting
//
// Nothing is ignored. Every target pattern, exclusion, override and layer
// number must find a module; every tensor in an adapter file must belong to
// one; every configuration key must be known. What is left over is an error
// that names it and near names ([AccountingError]).
//
// # Files
//
// An adapter is a directory with adapter_config.json and
// adapter_model.safetensors, float32. Tensor names follow PEFT:
//
//	base_model.model.<module>.lsr_A1    (s, a1, r1)
//	base_model.model.<module>.lsr_A2    (s, a2, r2)
//	base_model.model.<module>.lsr_B1    (s, r1, b1)
//	base_model.model.<module>.lsr_B2    (s, r2, b2)
//	base_model.model.<module>.lsr_A     (in, r), instead of lsr_A1 and lsr_A2 of one term where one of them
//	                                    would be 1 x 1; lsr_B (r, out) alike
//	base_model.model.<module>.lora_A.weight    (r, in)
//	base_model.model.<module>.lora_B.weight    (out, r)
//	base_model.model.<module>.krona_C    (s, a1, b1)
//	base_model.model.<module>.krona_D    (s, a2, b2)
//	base_model.shared.<kind>.kadaptation_p    (t, t), row i is p_i; q alike
//	base_model.model.<module>.kadaptation_u    (t, in/t), row i is u_i
//	base_model.model.<module>.kadaptation_v    (t, out/t), row i is v_i
//	base_model.model.<module>.lora_magnitude_vector    (out), m of dora; lsr_magnitude of lsr-dora
//	base_model.model.<module>.gralora_A    (k, in/k, r)
//	base_model.model.<module>.gralora_B    (k, r, out/k)
//	base_model.model.<module>.gralora_A_general.weight    (h, in), B: (out, h)
//	base_model.model.<module>.diffora_A    (r, in); diffora_B (1, out, r); diffora_gate (1)
//	base_model.model.<block>.lor2c_A    (r, hidden); lor2c_B (hidden, r)
//	base_model.shared.lor2c_A    (r, hidden), of sharelor2c
//	base_model.model.<head tensor>    a trained head, as the checkpoint names it
//
// A LoRA, DoRA or GraLoRA adapter written here is an ordinary PEFT adapter; what
// PEFT has no key for (seed, initialisation, hash of the base) is JSON in the metadata entry
// "lsrsurgeon" of its tensor file. The configuration of the other kinds has the
// keys
//
//	peft_type                "LSR", "KRONA", "KADAPTATION", "LSR_DORA", "DIFFORA", "LOR2C", "SHARELOR2C"
//	lsrsurgeon_format        1
//	base_model_name_or_path  as given, or null
//	base_model_hash          of the base's tensors, or null
//	task_type                PEFT's: "SEQ_CLS", "CAUSAL_LM", or null
//	rank, terms              "2x2", 16
//	alpha, scaling           128, "lora" | "rslora" | "paper"
//	init, seed, dropout      "zero" | "paper" | "svd", 0, 0
//	split, split_out         "32x24", or null for the default
//	target_modules           names, "all-linear", or a regular expression
//	exclude_modules          names, or null
//	exclude_regex            or null
//	layers, layers_pattern   "8-11" or null; names before the number or null
//	overrides                [{"pattern", "rank", "terms", "alpha", "split", "split_out"}]
//	modules_to_save          the head's modules, or null
//	modules                  every module's [in, out]
package adapter
