package text

import "slices"

// SpecialToken is a token with a role. ID is -1 where the tokenizer has none.
type SpecialToken struct {
	Content string
	ID      int32
}

// Known reports whether the tokenizer has this token.
func (s SpecialToken) Known() bool { return s.ID >= 0 }

// Special names the tokens that have a role in a model. BERT's tokenizers have
// CLS and SEP, language models BOS and EOS, RoBERTa's the same token for both.
type Special struct {
	CLS, SEP, Pad, BOS, EOS, Unk, Mask SpecialToken
}

var noToken = SpecialToken{ID: -1}

// noSpecial has no token in any role.
func noSpecial() Special {
	return Special{CLS: noToken, SEP: noToken, Pad: noToken, BOS: noToken, EOS: noToken, Unk: noToken, Mask: noToken}
}

// role is one of the special tokens as the configuration files name it.
type role struct {
	key string
	at  func(*Special) *SpecialToken
	// usual lists what the token is called where no file says so.
	usual []string
}

// roles are in the order in which transformers adds missing ones.
var roles = []role{
	{"bos_token", func(s *Special) *SpecialToken { return &s.BOS }, []string{"<s>", "<|begin_of_text|>", "<bos>"}},
	{"eos_token", func(s *Special) *SpecialToken { return &s.EOS }, []string{"</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"}},
	{"unk_token", func(s *Special) *SpecialToken { return &s.Unk }, []string{"[UNK]", "<unk>"}},
	{"sep_token", func(s *Special) *SpecialToken { return &s.SEP }, []string{"[SEP]"}},
	{"pad_token", func(s *Special) *SpecialToken { return &s.Pad }, []string{"[PAD]", "<pad>"}},
	{"cls_token", func(s *Special) *SpecialToken { return &s.CLS }, []string{"[CLS]"}},
	{"mask_token", func(s *Special) *SpecialToken { return &s.Mask }, []string{"[MASK]", "<mask>"}},
}

// guessSpecial finds roles by the usual names among the added tokens, for a
// tokenizer.json without files beside it. Where <mask> is there, <s> and </s>
// are also CLS and SEP, as in RoBERTa.
func guessSpecial(added []AddedToken) Special {
	s := noSpecial()
	for _, r := range roles {
		for _, name := range r.usual {
			i := slices.IndexFunc(added, func(a AddedToken) bool { return a.Content == name })
			if i >= 0 {
				*r.at(&s) = SpecialToken{Content: name, ID: added[i].ID}
				break
			}
		}
	}
	if s.Mask.Content == "<mask>" {
		if !s.CLS.Known() {
			s.CLS = s.BOS
		}
		if !s.SEP.Known() {
			s.SEP = s.EOS
		}
	}
	return s
}

// applySpecial lets the configuration files overrule what was guessed.
func (t *Tokenizer) applySpecial(c *config) {
	for _, r := range roles {
		token, stated := c.roles[r.key]
		if !stated {
			continue
		}
		*r.at(&t.special) = noToken
		if token == nil {
			continue
		}
		if id, ok := t.TokenToID(token.Content); ok {
			*r.at(&t.special) = SpecialToken{Content: token.Content, ID: id}
		}
	}
}
