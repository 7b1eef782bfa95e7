package text

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// bertClasses are the families whose vocab.txt means BERT's tokenizer.
var bertClasses = []string{"bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert", "layoutlm", "retribert"}

var bertDefaults = defaults{
	"unk_token":  special("[UNK]"),
	"sep_token":  special("[SEP]"),
	"pad_token":  special("[PAD]"),
	"cls_token":  special("[CLS]"),
	"mask_token": special("[MASK]"),
}

// maxWordChars is the longest word that WordPiece cuts; longer ones are
// unknown (the crate's and the original BERT's default).
const maxWordChars = 100

// family names the model family of a configuration in lower case, as far as
// the files say it: BertTokenizerFast and model_type "bert" are both "bert".
func (c *config) family() string {
	if c.class != "" && c.class != "PreTrainedTokenizerFast" && c.class != "TokenizersBackend" {
		name := strings.TrimSuffix(c.class, "Fast")
		return strings.ToLower(strings.TrimSuffix(name, "Tokenizer"))
	}
	return strings.ToLower(c.modelType)
}

// wordPieceJSON builds the tokenizer.json of a BERT vocab.txt.
func wordPieceJSON(b []byte, c *config) ([]byte, error) {
	if f := c.family(); f != "" && !slices.Contains(bertClasses, f) {
		return nil, fmt.Errorf("vocab.txt of the family %q is not known; save the tokenizer as tokenizer.json", f)
	}
	lines, err := splitLines(b)
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, errors.New("the vocabulary is empty")
	}
	vocab := make(map[string]int32, len(lines))
	for i, token := range lines {
		vocab[token] = int32(i) // of equal lines the last one counts
	}
	lower, chinese := true, true
	var accents *bool
	if err := errors.Join(c.field("do_lower_case", &lower), c.field("tokenize_chinese_chars", &chinese),
		c.field("strip_accents", &accents)); err != nil {
		return nil, err
	}
	c.fill(bertDefaults)
	added := c.addedTokens(vocab)
	cls, clsID, errCLS := c.idOf("cls_token", added)
	sep, sepID, errSEP := c.idOf("sep_token", added)
	unk, _, errUnk := c.idOf("unk_token", added)
	if err := errors.Join(errCLS, errSEP, errUnk); err != nil {
		return nil, err
	}
	if _, ok := vocab[unk]; !ok {
		return nil, fmt.Errorf("the vocabulary lacks %s, so this is no BERT vocabulary", unk)
	}
	return marshal(&document{
		AddedTokens: added,
		Normalizer: object{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": chinese,
			"strip_accents": accents, "lowercase": lower},
		PreTokenizer: object{"type": "BertPreTokenizer"},
		PostProcessor: template(
			[]string{cls + ":0", "$A:0", sep + ":0"},
			[]string{cls + ":0", "$A:0", sep + ":0", "$B:1", sep + ":1"},
			map[string]int32{cls: clsID, sep: sepID}),
		Decoder: object{"type": "WordPiece", "prefix": "##", "cleanup": true},
		Model: object{"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
			"max_input_chars_per_word": maxWordChars, "vocab": vocab},
	})
}
