package text

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// document is a tokenizer.json.
type document struct {
	Version       string       `json:"version"`
	Truncation    any          `json:"truncation"`
	Padding       any          `json:"padding"`
	AddedTokens   []addedToken `json:"added_tokens"`
	Normalizer    any          `json:"normalizer"`
	PreTokenizer  any          `json:"pre_tokenizer"`
	PostProcessor any          `json:"post_processor"`
	Decoder       any          `json:"decoder"`
	Model         any          `json:"model"`
}

// object is a JSON object with few fields.
type object map[string]any

// defaults are the special tokens of a family, by role key. Their properties
// beyond the name are those in the family's published tokenizer.json files.
type defaults map[string]addedToken

func special(content string) addedToken { return addedToken{Content: content, Special: true} }

// fill completes the roles of the configuration.
func (c *config) fill(d defaults) {
	for key, token := range d {
		if _, stated := c.roles[key]; !stated {
			c.roles[key] = &token
		}
	}
}

// addedTokens returns every token that is to be recognised in a text as a
// whole, with its id: in the vocabulary, or after its end in the order in
// which transformers adds them.
func (c *config) addedTokens(vocab map[string]int32) []addedToken {
	var all []addedToken
	add := func(token addedToken) {
		if !slices.ContainsFunc(all, func(a addedToken) bool { return a.Content == token.Content }) {
			all = append(all, token)
		}
	}
	for _, token := range c.added {
		add(token)
	}
	for _, r := range roles {
		if token := c.roles[r.key]; token != nil {
			add(*token)
		}
	}
	for _, token := range c.extra {
		add(token)
	}
	next := int32(len(vocab))
	for i := range all {
		id, ok := vocab[all[i].Content]
		if !ok {
			id = next
			next++
		}
		all[i].ID = id
	}
	return all
}

// states reports whether the configuration files name a token, which then is
// one of the tokenizer's.
func (c *config) states(token string) bool {
	is := func(a addedToken) bool { return a.Content == token }
	for _, r := range c.roles {
		if r != nil && is(*r) {
			return true
		}
	}
	return slices.ContainsFunc(c.added, is) || slices.ContainsFunc(c.extra, is)
}

// idOf returns the id of the token with a role, for a post-processor.
func (c *config) idOf(key string, added []addedToken) (string, int32, error) {
	token := c.roles[key]
	if token == nil {
		return "", 0, fmt.Errorf("the configuration has no %s, which this kind of tokenizer needs", key)
	}
	i := slices.IndexFunc(added, func(a addedToken) bool { return a.Content == token.Content })
	return token.Content, added[i].ID, nil
}

// template is a TemplateProcessing post-processor. single and pair list
// special tokens, "$A" and "$B", each followed by ":" and its type id.
func template(single, pair []string, ids map[string]int32) object {
	pieces := func(list []string) []any {
		var out []any
		for _, p := range list {
			i := strings.LastIndexByte(p, ':')
			name, typeID := p[:i], int(p[i+1]-'0')
			if name == "$A" || name == "$B" {
				out = append(out, object{"Sequence": object{"id": name[1:], "type_id": typeID}})
			} else {
				out = append(out, object{"SpecialToken": object{"id": name, "type_id": typeID}})
			}
		}
		return out
	}
	tokens := object{}
	for name, id := range ids {
		tokens[name] = object{"id": name, "ids": []int32{id}, "tokens": []string{name}}
	}
	return object{"type": "TemplateProcessing", "single": pieces(single), "pair": pieces(pair), "special_tokens": tokens}
}

// marshal writes a document without escaping < and >, which makes it smaller
// and nothing else.
func marshal(d *document) ([]byte, error) {
	d.Version = "1.0"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// splitLines cuts a vocabulary or merges file at line ends, "\n" or "\r\n".
func splitLines(b []byte) ([]string, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("the file is not UTF-8 text")
	}
	lines := strings.Split(string(b), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	return lines, nil
}
