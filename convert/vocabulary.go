package convert

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/gguf"
	"github.com/lsrsurgeon/lsrsurgeon/model"
)

// Types of tokens, as SentencePiece and llama.cpp number them.
const (
	tokenNormal      int32 = 1
	tokenUnknown     int32 = 2
	tokenControl     int32 = 3
	tokenUserDefined int32 = 4
	tokenUnused      int32 = 5
	tokenByte        int32 = 6
)

// vocabulary makes the tokenizer's entries of a GGUF file.
type vocabulary struct {
	dir    string
	size   int // rows of the embeddings
	config model.Config
	pre    string
	report *Report

	t      *tokenizerJSON
	c      *tokenizerConfig
	tokens []string
	types  []int32
	scores []float32 // of pieces, where merges follow from them
	ids    map[string]int32
}

func (v *vocabulary) refuse(format string, args ...any) error {
	return &formats.Error{Path: filepath.Join(v.dir, "tokenizer.json"), Reason: fmt.Sprintf(format, args...),
		Hint: "leave the tokenizer out with --no-tokenizer, and give the program token ids", Err: formats.ErrUnsupported}
}

// metadata returns the entries "tokenizer.*".
func (v *vocabulary) metadata() ([]gguf.KV, error) {
	var err error
	if v.t, err = readTokenizer(v.dir); err != nil {
		return nil, err
	}
	if v.c, err = readTokenizerConfig(v.dir); err != nil {
		return nil, err
	}
	pieces := v.isPieces()
	if err := v.list(pieces); err != nil {
		return nil, err
	}
	var kv []gguf.KV
	set := func(key string, value any) { kv = append(kv, gguf.KV{Key: "tokenizer." + key, Value: value}) }
	if pieces {
		err = v.pieces(set)
	} else {
		err = v.byteLevel(set)
	}
	if err != nil {
		return nil, err
	}
	if err := v.special(set); err != nil {
		return nil, err
	}
	v.templates(set)
	return kv, nil
}

// isPieces tells pieces of text with ▁ for a space, as SentencePiece has, from
// pieces of bytes, as GPT-2 has.
func (v *vocabulary) isPieces() bool {
	for _, p := range v.t.PreTokenizer.flat() {
		if p.Type == "ByteLevel" {
			return false
		}
	}
	return v.t.Model.ByteFallback
}

// list fills tokens and types. Ids without a token are padding.
func (v *vocabulary) list(pieces bool) error {
	v.tokens, v.types = make([]string, v.size), make([]int32, v.size)
	v.ids = map[string]int32{}
	put := func(s string, id, typ int32) error {
		if id < 0 || int(id) >= v.size {
			return v.refuse("token %q has the id %d, and the embeddings have %d rows", s, id, v.size)
		}
		v.tokens[id], v.types[id], v.ids[s] = s, typ, id
		return nil
	}
	for s, id := range v.t.Model.vocab {
		typ := tokenNormal
		switch {
		case pieces && isByteToken(s):
			typ = tokenByte
		case v.t.Model.UnkToken != nil && s == *v.t.Model.UnkToken:
			typ = tokenUnknown
		}
		if err := put(s, id, typ); err != nil {
			return err
		}
	}
	for _, a := range v.t.AddedTokens {
		typ := tokenUserDefined
		switch {
		case v.t.Model.UnkToken != nil && a.Content == *v.t.Model.UnkToken:
			typ = tokenUnknown
		case a.Special:
			typ = tokenControl
		}
		if err := put(a.Content, a.ID, typ); err != nil {
			return err
		}
	}
	for i, typ := range v.types {
		if typ == 0 {
			v.tokens[i], v.types[i] = fmt.Sprintf("[PAD%d]", i), tokenUnused
		}
	}
	return nil
}

// isByteToken says whether s is <0x00> to <0xFF>.
func isByteToken(s string) bool {
	return len(s) == 6 && strings.HasPrefix(s, "<0x") && s[5] == '>'
}

// special writes the ids of tokens with a role, and which of them are put
// around a text.
func (v *vocabulary) special(set func(string, any)) error {
	known := map[string]int32{}
	for _, r := range roles {
		if id, ok := v.ids[v.c.tokens[r.key]]; ok {
			known[r.key] = id
		}
	}
	// Where the tokenizer names none, the model's settings may.
	if _, ok := known["bos_token"]; !ok && v.config.BOSTokenID >= 0 {
		known["bos_token"] = int32(v.config.BOSTokenID)
	}
	if _, ok := known["eos_token"]; !ok && len(v.config.EOSTokenIDs) > 0 {
		known["eos_token"] = int32(v.config.EOSTokenIDs[0])
	}
	for _, r := range roles {
		if id, ok := known[r.key]; ok && int(id) < v.size {
			set("ggml."+r.gguf, uint32(id))
		}
	}
	before, after, err := v.around()
	if err != nil {
		return err
	}
	// llama.cpp can put bos before and eos after a text, and nothing else.
	add := func(name, role string, found []string) error {
		id, ok := known[role]
		switch {
		case len(found) == 0:
			set("ggml."+name, false)
		case len(found) == 1 && ok && v.ids[found[0]] == id:
			set("ggml."+name, true)
		default:
			return v.refuse("its template adds %q to a text, which is more than the %s", found, role)
		}
		return nil
	}
	if err := add("add_bos_token", "bos_token", before); err != nil {
		return err
	}
	return add("add_eos_token", "eos_token", after)
}

// around lists the special tokens that the tokenizer puts before and after a
// text.
func (v *vocabulary) around() (before, after []string, err error) {
	for _, p := range v.t.PostProcessor.flat() {
		switch p.Type {
		case "ByteLevel":
		case "TemplateProcessing":
			text := false
			for _, piece := range p.Single {
				switch {
				case piece.SpecialToken == nil:
					text = true
				case text:
					after = append(after, piece.SpecialToken.ID)
				default:
					before = append(before, piece.SpecialToken.ID)
				}
			}
		default:
			return nil, nil, v.refuse("a post-processor %s; TemplateProcessing and ByteLevel are known", p.Type)
		}
	}
	return before, after, nil
}

// templates carries the chat templates.
func (v *vocabulary) templates(set func(string, any)) {
	var names []string
	for _, t := range v.c.templates {
		if t.Name == "default" {
			set("chat_template", t.Template)
			continue
		}
		set("chat_template."+t.Name, t.Template)
		names = append(names, t.Name)
	}
	if len(names) > 0 {
		set("chat_templates", names)
	}
}
