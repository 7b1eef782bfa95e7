package text

// AddedToken is a token beside the model's vocabulary proper.
type AddedToken struct {
	ID      int32
	Content string
	Special bool // left out by Decode with skipSpecial
}

// info is what a loaded tokenizer says about itself.
type info struct {
	vocabSize, baseVocabSize int
	stored                   EncodeOptions
	added                    []AddedToken
}

func readInfo(answer []byte) (info, error) {
	w := words{b: answer}
	var in info
	in.baseVocabSize = int(w.next())
	in.vocabSize = int(w.next())
	if w.next() != 0 {
		t := &Truncation{MaxLength: int(w.next()), Stride: int(w.next())}
		t.Strategy = Strategy(w.next())
		t.Left = w.next() != 0
		in.stored.Truncation = t
	}
	if w.next() != 0 {
		p := &Padding{Length: int(w.next()), Multiple: int(w.next())}
		p.ID = int32(w.next())
		p.TypeID = int32(w.next())
		p.Left = w.next() != 0
		in.stored.Padding = p
	}
	for range w.next() {
		if w.bad {
			break
		}
		id, special := w.next(), w.next()
		in.added = append(in.added, AddedToken{ID: int32(id), Special: special != 0, Content: w.text()})
	}
	if w.bad {
		return info{}, errAnswer
	}
	return in, nil
}
