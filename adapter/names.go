package adapter

import (
	"regexp"
	"slices"
	"strings"
)

// suffixes of tensors that belong to an adapted module, without the adapter's
// name. Those with a reason are not supported.
var suffixes = map[string]string{
	"lsr_A1": "", "lsr_A2": "", "lsr_B1": "", "lsr_B2": "", "lsr_A": "", "lsr_B": "",
	"krona_C": "", "krona_D": "",
	"kadaptation_u": "", "kadaptation_v": "",
	"lora_A.weight": "", "lora_B.weight": "",
	"lokr_w1": "", "lokr_w1_a": "", "lokr_w1_b": "", "lokr_w2": "", "lokr_w2_a": "", "lokr_w2_b": "",
	"lora_magnitude_vector": "", "lsr_magnitude": "",
	"gralora_A": "", "gralora_B": "", "gralora_A_general.weight": "", "gralora_B_general.weight": "",
	"diffora_A": "", "diffora_B": "", "diffora_gate": "",
	"lor2c_A": "", "lor2c_B": "",
	"lokr_t2":          "a decomposed convolution is no linear layer",
	"lora_A.bias":      "a bias in the update is not supported",
	"lora_B.bias":      "a bias in the update is not supported",
	"lora_embedding_A": "an adapted embedding is not supported",
	"lora_embedding_B": "an adapted embedding is not supported",
}

// sharedPrefix stands before tensors that modules share.
const sharedPrefix = "base_model.shared."

// adapterInfix finds the adapter's name in an unstripped state dict, for
// "default", PEFT's own: lora_A.default.weight, modules_to_save.default.
var adapterInfix = regexp.MustCompile(`(?:\.modules_to_save)?\.default(\.|$)`)

// cleanName removes an adapter's name from a tensor name, and the ending that
// some versions of PEFT give to DoRA's magnitudes.
func cleanName(name string) string {
	name = adapterInfix.ReplaceAllString(name, "$1")
	if m, ok := strings.CutSuffix(name, ".lora_magnitude_vector.weight"); ok {
		return m + ".lora_magnitude_vector"
	}
	return name
}

// splitName takes a cleaned tensor name apart: the module's path and the
// adapter tensor's suffix, or head true for any other tensor under the prefix.
func splitName(name string) (module, suffix string, head, ok bool) {
	rest, ok := strings.CutPrefix(name, filePrefix)
	if !ok {
		return "", "", false, false
	}
	for i := strings.LastIndexByte(rest, '.'); i > 0; i = strings.LastIndexByte(rest[:i], '.') {
		if _, found := suffixes[rest[i+1:]]; found {
			return rest[:i], rest[i+1:], false, true
		}
		if strings.Count(rest[i+1:], ".") > 1 {
			break
		}
	}
	return rest, "", true, true
}

// alignment is how an adapter file names the modules of a model: the model's
// path with add before it, or with strip taken off. "bert.encoder..." in one
// and "encoder..." in the other is common: the file was made with a head on
// the model and the checkpoint is bare, or the other way round.
type alignment struct{ add, strip string }

// align finds the alignment under which every module of the file is a site;
// the identity if none does or none is needed.
func align(files []string, sites []Site) alignment {
	known := map[string]bool{}
	for _, s := range sites {
		known[s.Module] = true
	}
	if len(files) == 0 || slices.ContainsFunc(files, func(m string) bool { return known[m] }) {
		return alignment{}
	}
	for _, s := range sites {
		var a alignment
		switch {
		case strings.HasSuffix(files[0], "."+s.Module):
			a.add = strings.TrimSuffix(files[0], s.Module)
		case strings.HasSuffix(s.Module, "."+files[0]):
			a.strip = strings.TrimSuffix(s.Module, files[0])
		default:
			continue
		}
		names := map[string]bool{}
		for _, s := range sites {
			names[a.file(s)] = true
		}
		if !slices.ContainsFunc(files, func(m string) bool { return !names[m] }) {
			return a
		}
	}
	return alignment{}
}

// file is the site's path as the file has it. Heads stand outside of prefixes.
func (a alignment) file(s Site) string {
	if s.Output {
		return s.Module
	}
	return a.add + strings.TrimPrefix(s.Module, a.strip)
}

// base is the name that the base has for a tensor of the file that no adapted
// module owns.
func (a alignment) base(tensor string, sites []Site) string {
	if a.add != "" {
		return strings.TrimPrefix(tensor, a.add)
	}
	module := a.strip + tensor[:max(0, strings.LastIndexByte(tensor, '.'))]
	if slices.ContainsFunc(sites, func(s Site) bool { return s.Module == module }) {
		return a.strip + tensor
	}
	return tensor
}
