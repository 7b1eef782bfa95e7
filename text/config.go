package text

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// addedToken is a token beside the vocabulary, spelled as in tokenizer.json.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// config is what the files beside a vocabulary say about it.
type config struct {
	class     string // tokenizer_class of tokenizer_config.json
	modelType string // model_type of config.json
	fields    map[string]json.RawMessage
	// roles holds the special tokens by key (cls_token, ...). A nil value
	// says that there is none, a missing key leaves the model's default.
	roles map[string]*addedToken
	added []addedToken // by id
	extra []addedToken // additional_special_tokens
}

// readConfig reads the files in dir, all of them optional. Precedence follows
// transformers 5: special_tokens_map.json and added_tokens.json count only
// where tokenizer_config.json has no added_tokens_decoder.
func readConfig(s *sources) (*config, error) {
	c := &config{fields: map[string]json.RawMessage{}, roles: map[string]*addedToken{}}
	if err := s.json("tokenizer_config.json", &c.fields); err != nil {
		return nil, err
	}
	var model struct {
		ModelType string `json:"model_type"`
	}
	if err := s.json("config.json", &model); err != nil {
		return nil, err
	}
	c.modelType = model.ModelType
	path := s.path("tokenizer_config.json")
	if err := c.field("tokenizer_class", &c.class); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.readTokens(c.fields); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if raw, ok := c.fields["added_tokens_decoder"]; ok {
		if err := c.readDecoder(raw); err != nil {
			return nil, fmt.Errorf("%s: added_tokens_decoder: %w", path, err)
		}
		return c, nil
	}
	return c, c.readLegacy(s)
}

// readDecoder reads added_tokens_decoder, from ids to tokens.
func (c *config) readDecoder(raw json.RawMessage) error {
	var byID map[string]addedToken
	if err := json.Unmarshal(raw, &byID); err != nil {
		return err
	}
	for key, token := range byID {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || id < 0 {
			return fmt.Errorf("%q is not a token id", key)
		}
		token.ID = int32(id)
		c.added = append(c.added, token)
	}
	c.sortAdded()
	// A token with a role has the properties that the decoder gives it.
	for key, token := range c.roles {
		if token == nil {
			continue
		}
		if i := slices.IndexFunc(c.added, func(a addedToken) bool { return a.Content == token.Content }); i >= 0 {
			c.roles[key] = &c.added[i]
		}
	}
	return nil
}

// readLegacy reads special_tokens_map.json and added_tokens.json.
func (c *config) readLegacy(s *sources) error {
	var tokens map[string]json.RawMessage
	if err := s.json("special_tokens_map.json", &tokens); err != nil {
		return err
	}
	if err := c.readTokens(tokens); err != nil {
		return fmt.Errorf("%s: %w", s.path("special_tokens_map.json"), err)
	}
	var ids map[string]int32
	if err := s.json("added_tokens.json", &ids); err != nil {
		return err
	}
	special := map[string]bool{}
	for _, token := range c.roles {
		if token != nil {
			special[token.Content] = true
		}
	}
	for _, token := range c.extra {
		special[token.Content] = true
	}
	for content, id := range ids {
		s := special[content]
		c.added = append(c.added, addedToken{ID: id, Content: content, Special: s, Normalized: !s})
	}
	c.sortAdded()
	return nil
}

func (c *config) sortAdded() {
	slices.SortFunc(c.added, func(a, b addedToken) int { return int(a.ID) - int(b.ID) })
}

// readTokens reads the special tokens of a configuration: strings, objects
// with properties, or null.
func (c *config) readTokens(fields map[string]json.RawMessage) error {
	for _, r := range roles {
		raw, ok := fields[r.key]
		if !ok {
			continue
		}
		token, err := readToken(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", r.key, err)
		}
		c.roles[r.key] = token
	}
	for _, key := range []string{"extra_special_tokens", "additional_special_tokens"} {
		raw, ok := fields[key]
		var list []json.RawMessage
		// Newer files hold an object of named tokens here, for models that
		// are no plain language models.
		if !ok || json.Unmarshal(raw, &list) != nil || len(list) == 0 {
			continue
		}
		c.extra = c.extra[:0]
		for _, item := range list {
			token, err := readToken(item)
			if err != nil || token == nil {
				return fmt.Errorf("%s: %s is not a token", key, item)
			}
			c.extra = append(c.extra, *token)
		}
		break
	}
	return nil
}

func readToken(raw json.RawMessage) (*addedToken, error) {
	var content *string
	if json.Unmarshal(raw, &content) == nil {
		if content == nil {
			return nil, nil
		}
		return &addedToken{Content: *content, Special: true}, nil
	}
	token := &addedToken{}
	if err := json.Unmarshal(raw, token); err != nil || token.Content == "" {
		return nil, fmt.Errorf("%s is neither a string nor a token object", raw)
	}
	token.Special = true
	return token, nil
}

// field reads a field of tokenizer_config.json; a missing one, or null, leaves
// v as it is.
func (c *config) field(key string, v any) error {
	raw, ok := c.fields[key]
	if !ok || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}
