package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/text"
)

// tokenizerJSON is what a vocabulary needs of a tokenizer.json.
type tokenizerJSON struct {
	AddedTokens   []addedToken `json:"added_tokens"`
	Normalizer    component    `json:"normalizer"`
	PreTokenizer  component    `json:"pre_tokenizer"`
	PostProcessor component    `json:"post_processor"`
	Model         struct {
		Type         string           `json:"type"`
		Vocab        json.RawMessage  `json:"vocab"`
		Merges       []merge          `json:"merges"`
		UnkToken     *string          `json:"unk_token"`
		ByteFallback bool             `json:"byte_fallback"`
		IgnoreMerges bool             `json:"ignore_merges"`
		Prefix       *string          `json:"continuing_subword_prefix"`
		Suffix       *string          `json:"end_of_word_suffix"`
		vocab        map[string]int32 // Vocab of byte-pair encoding
	} `json:"model"`
}

type addedToken struct {
	ID      int32  `json:"id"`
	Content string `json:"content"`
	Special bool   `json:"special"`
}

// component is a part of the pipeline, or a sequence of them.
type component struct {
	Type           string          `json:"type"`
	Normalizers    []component     `json:"normalizers"`
	PreTokenizers  []component     `json:"pretokenizers"`
	Processors     []component     `json:"processors"`
	Pattern        pattern         `json:"pattern"`
	Content        string          `json:"content"`
	Prepend        string          `json:"prepend"`
	PrependScheme  string          `json:"prepend_scheme"`
	Replacement    string          `json:"replacement"`
	AddPrefixSpace *bool           `json:"add_prefix_space"`
	UseRegex       *bool           `json:"use_regex"`
	Individual     bool            `json:"individual_digits"`
	Single         []templatePiece `json:"single"`
}

type pattern struct {
	Regex  string `json:"Regex"`
	String string `json:"String"`
}

// templatePiece is a special token or a text of a post-processor's template.
type templatePiece struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
}

// flat lists a component's parts in order; none for an absent one.
func (c *component) flat() []component {
	var parts []component
	switch c.Type {
	case "":
		return nil
	case "Sequence":
		for _, list := range [][]component{c.Normalizers, c.PreTokenizers, c.Processors} {
			for i := range list {
				parts = append(parts, list[i].flat()...)
			}
		}
		return parts
	}
	return []component{*c}
}

// merge is a pair of pieces, written as a list or as one string.
type merge [2]string

func (m *merge) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		first, second, ok := strings.Cut(one, " ")
		if !ok {
			return fmt.Errorf("merge %q has no space", one)
		}
		m[0], m[1] = first, second
		return nil
	}
	var two []string
	if err := json.Unmarshal(b, &two); err != nil || len(two) != 2 {
		return fmt.Errorf("merge %s is no pair", b)
	}
	m[0], m[1] = two[0], two[1]
	return nil
}

// readTokenizer reads the tokenizer of a directory, which has to be byte-pair
// encoding.
func readTokenizer(dir string) (*tokenizerJSON, error) {
	doc, err := text.Document(dir)
	if err != nil {
		return nil, err
	}
	bad := func(reason string) error {
		return &formats.Error{Path: filepath.Join(dir, "tokenizer.json"), Reason: reason, Hint: "leave the tokenizer out with --no-tokenizer, and give the program token ids", Err: formats.ErrUnsupported}
	}
	t := &tokenizerJSON{}
	if err := json.Unmarshal(doc, t); err != nil {
		return nil, bad(err.Error())
	}
	m := &t.Model
	if m.Type != "" && m.Type != "BPE" {
		return nil, bad(fmt.Sprintf("a %s tokenizer; byte-pair encoding is written", m.Type))
	}
	if err := json.Unmarshal(m.Vocab, &m.vocab); err != nil || len(m.vocab) == 0 {
		return nil, bad(fmt.Sprintf("its vocabulary is no table of ids (%v)", err))
	}
	for _, s := range []*string{m.Prefix, m.Suffix} {
		if s != nil && *s != "" {
			return nil, bad(fmt.Sprintf("pieces are marked with %q, which llama.cpp does not know", *s))
		}
	}
	return t, nil
}

// tokenizerConfig is what a vocabulary needs of tokenizer_config.json.
type tokenizerConfig struct {
	tokens    map[string]string // by role: "bos_token"
	templates []chatTemplate
}

type chatTemplate struct {
	Name     string `json:"name"`
	Template string `json:"template"`
}

// roles are the special tokens that llama.cpp has keys for, by the key of
// tokenizer_config.json.
var roles = []struct{ key, gguf string }{
	{"bos_token", "bos_token_id"}, {"eos_token", "eos_token_id"}, {"unk_token", "unknown_token_id"}, {"sep_token", "seperator_token_id"},
	{"pad_token", "padding_token_id"}, {"mask_token", "mask_token_id"},
}

// readTokenizerConfig reads special tokens and chat templates; absent files are
// empty ones.
func readTokenizerConfig(dir string) (*tokenizerConfig, error) {
	c := &tokenizerConfig{tokens: map[string]string{}}
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		fields, err := readObject(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		for _, r := range roles {
			if s, ok := tokenText(fields[r.key]); ok {
				c.tokens[r.key] = s
			}
		}
		if raw, ok := fields["chat_template"]; ok {
			var one string
			if json.Unmarshal(raw, &one) == nil && one != "" {
				c.templates = []chatTemplate{{"default", one}}
			} else if json.Unmarshal(raw, &c.templates) != nil {
				return nil, &formats.Error{Path: filepath.Join(dir, name), Reason: "chat_template is neither a text nor a list of named texts", Hint: "correct it, or take it out", Err: formats.ErrMalformed}
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "chat_template.jinja"))
	switch {
	case err == nil:
		c.templates = []chatTemplate{{"default", string(b)}}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return c, nil
}

// ChatTemplate returns the Jinja template with which the tokenizer in dir lays out
// conversations, the one named default where there are several, or "".
func ChatTemplate(dir string) (string, error) {
	c, err := readTokenizerConfig(dir)
	if err != nil {
		return "", err
	}
	for _, t := range c.templates {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", nil
}

// readObject reads a JSON object, or nothing where the file is absent.
func readObject(path string) (map[string]json.RawMessage, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, &formats.Error{Path: path, Reason: err.Error(), Hint: "correct the file", Err: formats.ErrMalformed}
	}
	return fields, nil
}

// tokenText reads a token written as a text or as an object with its content.
func tokenText(raw json.RawMessage) (string, bool) {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" {
		return s, true
	}
	var o struct {
		Content string `json:"content"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &o) != nil || o.Content == "" {
		return "", false
	}
	return o.Content, true
}
