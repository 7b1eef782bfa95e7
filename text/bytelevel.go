package text

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// qwenSplit is the pre-tokenizer pattern of Qwen2 and its successors, as in
// their tokenizer.json.
const qwenSplit = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// A byteLevelKind is a family of byte-level BPE tokenizers.
type byteLevelKind int

const (
	gpt2Kind byteLevelKind = iota
	robertaKind
	qwen2Kind
)

var byteLevelFamilies = map[string]byteLevelKind{
	"gpt2": gpt2Kind, "gpt_neo": gpt2Kind, "gptj": gpt2Kind, "opt": gpt2Kind,
	"roberta": robertaKind, "bart": robertaKind, "longformer": robertaKind, "led": robertaKind,
	"qwen2": qwen2Kind, "qwen2_moe": qwen2Kind, "qwen2_vl": qwen2Kind, "qwen2_5_vl": qwen2Kind,
	"qwen3": qwen2Kind, "qwen3_moe": qwen2Kind,
}

var byteLevelDefaults = map[byteLevelKind]defaults{
	gpt2Kind: {
		"unk_token": special("<|endoftext|>"),
		"bos_token": special("<|endoftext|>"),
		"eos_token": special("<|endoftext|>"),
	},
	robertaKind: {
		"bos_token": special("<s>"),
		"eos_token": special("</s>"),
		"sep_token": special("</s>"),
		"cls_token": special("<s>"),
		"unk_token": special("<unk>"),
		"pad_token": special("<pad>"),
		// <mask> stands for a word and so takes the space before it along.
		"mask_token": {Content: "<mask>", Special: true, LStrip: true},
	},
	qwen2Kind: {
		"unk_token": special("<|endoftext|>"),
		"eos_token": special("<|endoftext|>"),
		"pad_token": special("<|endoftext|>"),
	},
}

// byteLevelJSON builds the tokenizer.json of a vocab.json and a merges.txt.
func byteLevelJSON(vocabJSON, mergesText []byte, c *config) ([]byte, error) {
	var vocab map[string]int32
	if err := json.Unmarshal(vocabJSON, &vocab); err != nil {
		return nil, err
	}
	if len(vocab) == 0 {
		return nil, errors.New("the vocabulary is empty")
	}
	merges, err := readMerges(mergesText)
	if err != nil {
		return nil, fmt.Errorf("merges.txt: %w", err)
	}
	has := func(token string) bool {
		_, ok := vocab[token]
		return ok || c.states(token)
	}
	kind, err := c.byteLevelKind(has)
	if err != nil {
		return nil, err
	}
	prefixSpace := false
	if err := c.field("add_prefix_space", &prefixSpace); err != nil {
		return nil, err
	}
	c.fill(byteLevelDefaults[kind])
	d := &document{
		AddedTokens:  c.addedTokens(vocab),
		PreTokenizer: byteLevel(prefixSpace, true),
		Decoder:      byteLevel(true, true),
		Model: object{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": "",
			"end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
			"vocab": json.RawMessage(vocabJSON), "merges": merges},
	}
	switch kind {
	case robertaKind:
		d.PostProcessor, err = c.robertaProcessor(d.AddedTokens, prefixSpace)
	case qwen2Kind:
		d.Normalizer = object{"type": "NFC"}
		split := object{"type": "Split", "pattern": object{"Regex": qwenSplit}, "behavior": "Isolated", "invert": false}
		d.PreTokenizer = object{"type": "Sequence", "pretokenizers": []any{split, byteLevel(prefixSpace, false)}}
		d.PostProcessor, err = c.bosEOSTemplate(d.AddedTokens)
	default:
		d.PostProcessor, err = c.bosEOSTemplate(d.AddedTokens)
	}
	if err != nil {
		return nil, err
	}
	return marshal(d)
}

func byteLevel(prefixSpace, regex bool) object {
	return object{"type": "ByteLevel", "add_prefix_space": prefixSpace, "trim_offsets": true, "use_regex": regex}
}

// byteLevelKind chooses the family by tokenizer class, then by model type,
// then by the tokens that only one family has.
func (c *config) byteLevelKind(has func(string) bool) (byteLevelKind, error) {
	family := c.family()
	if kind, ok := byteLevelFamilies[family]; ok {
		return kind, nil
	}
	if family != "" {
		return 0, fmt.Errorf("vocab.json of the family %q is not known; save the tokenizer as tokenizer.json", family)
	}
	switch {
	case has("<s>") && has("</s>") && has("<mask>"):
		return robertaKind, nil
	case has("<|endoftext|>"):
		return gpt2Kind, nil
	}
	return 0, errors.New("the family cannot be told; add tokenizer_config.json with tokenizer_class, or config.json")
}

// readMerges reads the lines "left right" of a merges.txt.
func readMerges(b []byte) ([]string, error) {
	lines, err := splitLines(b)
	if err != nil {
		return nil, err
	}
	merges := make([]string, 0, len(lines))
	for i, line := range lines {
		if line == "" || strings.HasPrefix(line, "#version") {
			continue
		}
		if left, right, ok := strings.Cut(line, " "); !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return nil, fmt.Errorf("line %d: %q is not two tokens", i+1, line)
		}
		merges = append(merges, line)
	}
	return merges, nil
}

// robertaProcessor adds <s> A </s> and, for a pair, </s> B </s>.
func (c *config) robertaProcessor(added []addedToken, prefixSpace bool) (any, error) {
	trim := true
	errTrim := c.field("trim_offsets", &trim)
	cls, clsID, errCLS := c.idOf("cls_token", added)
	sep, sepID, errSEP := c.idOf("sep_token", added)
	if err := errors.Join(errTrim, errCLS, errSEP); err != nil {
		return nil, err
	}
	return object{"type": "RobertaProcessing", "sep": []any{sep, sepID}, "cls": []any{cls, clsID},
		"trim_offsets": trim, "add_prefix_space": prefixSpace}, nil
}

// bosEOSTemplate adds the bos and eos tokens that the configuration asks for.
func (c *config) bosEOSTemplate(added []addedToken) (any, error) {
	var bos, eos bool
	if err := errors.Join(c.field("add_bos_token", &bos), c.field("add_eos_token", &eos)); err != nil {
		return nil, err
	}
	single, pair := []string{"$A:0"}, []string{"$B:1"}
	ids := map[string]int32{}
	if bos && c.roles["bos_token"] != nil {
		token, id, err := c.idOf("bos_token", added)
		if err != nil {
			return nil, err
		}
		ids[token] = id
		single = append([]string{token + ":0"}, single...)
		pair = append([]string{token + ":1"}, pair...)
	}
	if eos && c.roles["eos_token"] != nil {
		token, id, err := c.idOf("eos_token", added)
		if err != nil {
			return nil, err
		}
		ids[token] = id
		single = append(single, token+":0")
		pair = append(pair, token+":1")
	}
	return template(single, append(append([]string{}, single...), pair...), ids), nil
}
