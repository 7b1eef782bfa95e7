package convert

// space stands for a space in the pieces of SentencePiece.
const space = "▁"

// pieces writes a vocabulary of pieces of text with a score for each. llama.cpp
// joins the two neighbours whose union has the highest score, where the
// tokenizer joins those of the first merge in its list: with the negated rank of
// a piece's first merge as its score both do the same, provided that every pair
// of pieces whose union is a piece is a merge, and that the merges into one
// piece stand together. That is so where the merges were made of
// SentencePiece's scores, and is checked.
func (v *vocabulary) pieces(set func(string, any)) error {
	prefix, err := v.piecePrefix()
	if err != nil {
		return err
	}
	v.scores = make([]float32, v.size)
	if err := v.scoreMerges(); err != nil {
		return err
	}
	set("ggml.model", "llama")
	set("ggml.pre", "default")
	set("ggml.tokens", v.tokens)
	set("ggml.scores", v.scores)
	set("ggml.token_type", v.types)
	set("ggml.add_space_prefix", prefix)
	return nil
}

// piecePrefix says whether a space stands before every text, and refuses what
// llama.cpp would not do to a text.
func (v *vocabulary) piecePrefix() (bool, error) {
	prefix, spaces := false, false
	for _, n := range v.t.Normalizer.flat() {
		switch {
		case n.Type == "Prepend" && n.Prepend == space:
			prefix = true
		case n.Type == "Replace" && n.Pattern.String == " " && n.Content == space:
			spaces = true
		default:
			return false, v.refuse("a normalizer %s, which llama.cpp lacks", n.Type)
		}
	}
	for _, p := range v.t.PreTokenizer.flat() {
		if p.Type != "Metaspace" || p.Replacement != space {
			return false, v.refuse("a pre-tokenizer %s before pieces of text, which llama.cpp lacks", p.Type)
		}
		spaces = true
		switch {
		case p.PrependScheme == "first":
			prefix = true
			v.report.note("llama.cpp puts a space before the text after a special token, where the tokenizer puts one at the start alone")
		case p.PrependScheme == "always", p.PrependScheme == "" && p.AddPrefixSpace != nil && *p.AddPrefixSpace:
			prefix = true
		}
		// A Metaspace also keeps pieces from spanning words.
		v.report.note("llama.cpp may join pieces across spaces, where the tokenizer cuts at them")
	}
	if !spaces {
		return false, v.refuse("spaces are not written as %s", space)
	}
	return prefix, nil
}

// scoreMerges fills the scores and checks what they rest on.
func (v *vocabulary) scoreMerges() error {
	first := map[string]int{}
	last := map[string]int{}
	pairs := make(map[merge]bool, len(v.t.Model.Merges))
	for rank, m := range v.t.Model.Merges {
		s := m[0] + m[1]
		id, ok := v.t.Model.vocab[s]
		if !ok {
			return v.refuse("merge %q makes no token", m)
		}
		if _, seen := first[s]; !seen {
			first[s] = rank
			v.scores[id] = -float32(rank)
		} else if last[s] != rank-1 {
			return v.refuse("the merges into %q do not stand together, so that no score gives their order", s)
		}
		last[s] = rank
		pairs[m] = true
	}
	// Scores are float32: whole numbers up to 2^24 are told apart.
	if len(v.t.Model.Merges) > 1<<24 {
		return v.refuse("%d merges are more than scores tell apart", len(v.t.Model.Merges))
	}
	for s := range v.t.Model.vocab {
		if v.types[v.ids[s]] != tokenNormal {
			continue
		}
		for i := range s {
			if i == 0 {
				continue
			}
			_, left := v.t.Model.vocab[s[:i]]
			_, right := v.t.Model.vocab[s[i:]]
			if left && right && !pairs[merge{s[:i], s[i:]}] {
				return v.refuse("%q and %q are tokens and their union is, but no merge joins them; llama.cpp would", s[:i], s[i:])
			}
		}
	}
	return nil
}
