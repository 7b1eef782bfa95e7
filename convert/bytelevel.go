package convert

import (
	"strings"
)

// cutting is a rule of llama.cpp that cuts text before byte-pair encoding.
type cutting struct {
	name string // tokenizer.ggml.pre
	// regex is the pattern of a Split before ByteLevel, or "" for the pattern
	// that ByteLevel has itself.
	regex string
	// digits says that every digit stands alone.
	digits bool
	// wholeWords says that words of the vocabulary are not merged from parts.
	wholeWords bool
}

// cuttings are the rules that are known, by the patterns in the tokenizer.json
// files of the models that they are named after.
var cuttings = []cutting{
	{name: "gpt-2"},
	{name: "smollm", digits: true},
	{name: "qwen2", regex: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`},
	{name: "llama-bpe", wholeWords: true, regex: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`},
	{name: "gpt-4o", regex: `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`},
	{name: "tekken", wholeWords: true, regex: `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`},
}

// byteLevel writes a byte-level vocabulary: tokens, merges and the rule that
// cuts the text.
func (v *vocabulary) byteLevel(set func(string, any)) error {
	name, err := v.cutting()
	if err != nil {
		return err
	}
	for _, n := range v.t.Normalizer.flat() {
		switch n.Type {
		case "NFC":
			v.report.note("llama.cpp does not bring text to NFC before it is tokenised; text that is not in NFC gives other tokens")
		default:
			return v.refuse("a normalizer %s, which llama.cpp lacks", n.Type)
		}
	}
	merges := make([]string, len(v.t.Model.Merges))
	for i, m := range v.t.Model.Merges {
		if strings.Contains(m[0], " ") || strings.Contains(m[1], " ") {
			return v.refuse("merge %q has a space in a piece", m)
		}
		merges[i] = m[0] + " " + m[1]
	}
	set("ggml.model", "gpt2")
	set("ggml.pre", name)
	set("ggml.tokens", v.tokens)
	set("ggml.token_type", v.types)
	set("ggml.merges", merges)
	return nil
}

// cutting names llama.cpp's rule for the pre-tokenizer.
func (v *vocabulary) cutting() (string, error) {
	if v.pre != "" {
		v.report.note("the rule that cuts text is the one asked for, " + v.pre + ", whatever the tokenizer's own is")
		return v.pre, nil
	}
	var have cutting
	own := true
	for _, p := range v.t.PreTokenizer.flat() {
		switch p.Type {
		case "ByteLevel":
			if p.AddPrefixSpace != nil && *p.AddPrefixSpace {
				return "", v.refuse("it puts a space before every text, which llama.cpp does not do for byte-level vocabularies")
			}
			own = p.UseRegex == nil || *p.UseRegex
		case "Split":
			have.regex = p.Pattern.Regex
		case "Digits":
			have.digits = p.Individual
		default:
			return "", v.refuse("a pre-tokenizer %s, for which llama.cpp has no known name; --pre-tokenizer gives one", p.Type)
		}
	}
	for _, c := range cuttings {
		if c.regex != have.regex || c.digits != have.digits || own != (c.regex == "") {
			continue
		}
		if c.wholeWords != v.t.Model.IgnoreMerges {
			v.report.note("words that are tokens, but not made by merges, may be cut otherwise in llama.cpp, whose rule " + c.name + " differs there")
		}
		return c.name, nil
	}
	return "", v.refuse("its rule that cuts text is none that llama.cpp has a known name for (pattern %q); --pre-tokenizer gives one", have.regex)
}
