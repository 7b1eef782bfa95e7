package text

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// ErrClosed is returned by the methods of a closed Tokenizer.
var ErrClosed = errors.New("tokenizer is closed")

// DefaultMemoryLimit bounds each instance of the module. The largest
// vocabularies in use (250,000 pieces) need about 150 MiB.
const DefaultMemoryLimit = 1 << 30

// Options says how a Tokenizer runs. The zero value is ready to use.
type Options struct {
	// CacheDir keeps the module's machine code between processes, which
	// saves seconds at the start of each. It may be shared, damaged or not
	// writable: then the time is not saved. "" keeps it in memory only.
	CacheDir string
	// Workers is how many instances of the module may run at once, each with
	// its own copy of the vocabulary. They are started when they are needed.
	// 0 means GOMAXPROCS.
	Workers int
	// MemoryLimit bounds the memory of one instance, in bytes. 0 means
	// DefaultMemoryLimit; the most is 4 GiB.
	MemoryLimit int64
}

// Tokenizer encodes and decodes. Its methods may be called from several
// goroutines at once.
type Tokenizer struct {
	module  *module
	state   string                 // path of the state file, "" without a cache directory
	source  func() ([]byte, error) // its tokenizer.json, to start, also again after a trap
	info    info
	special Special

	// slots holds the idle instances; nil stands for one that broke and is
	// to be started again. Its capacity is the most there may be.
	slots chan *instance
	done  chan struct{}

	mu     sync.Mutex
	total  int // instances and nil slots, idle or in use
	closed bool
}

// FromJSON makes a Tokenizer of the contents of a tokenizer.json.
func FromJSON(b []byte, o Options) (*Tokenizer, error) {
	b = slices.Clone(b)
	return fromSource(sha256.Sum256(b), func() ([]byte, error) { return b, nil }, o)
}

// fromSource makes a Tokenizer of the tokenizer.json that source returns. It is
// asked only where no state is kept under key.
func fromSource(key [sha256.Size]byte, source func() ([]byte, error), o Options) (*Tokenizer, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	ctx := context.Background()
	path := statePath(o.CacheDir, key)
	kept := make(chan *keptState, 1)
	go func() { kept <- openState(path) }() // while the module is made ready
	m, err := compiledModule(ctx, o.moduleKey())
	state := <-kept
	if err != nil {
		if state != nil {
			state.close()
		}
		return nil, err
	}
	t := &Tokenizer{
		module: m,
		state:  path,
		source: source,
		slots:  make(chan *instance, o.Workers),
		done:   make(chan struct{}),
		total:  1,
	}
	in, about, err := t.startFrom(ctx, state)
	if err != nil {
		return nil, err
	}
	t.info = about
	t.special = guessSpecial(t.info.added)
	t.slots <- in
	return t, nil
}

// moduleKey is that of the module with these options.
func (o Options) moduleKey() moduleKey {
	limit := o.MemoryLimit
	if limit <= 0 {
		limit = DefaultMemoryLimit
	}
	return moduleKey{cacheDir: o.CacheDir, memoryPages: uint32((min(limit, 4<<30) + wasmPage - 1) / wasmPage)}
}

// start makes an instance from the state that an earlier one left, or from the
// tokenizer.json.
func (t *Tokenizer) start(ctx context.Context) (*instance, info, error) {
	return t.startFrom(ctx, openState(t.state))
}

// startFrom is start with the state opened, nil for none.
func (t *Tokenizer) startFrom(ctx context.Context, state *keptState) (*instance, info, error) {
	if state != nil {
		if in, ok := state.start(ctx, t.module); ok {
			return in, state.about, nil
		}
	}
	doc, err := t.source()
	if err != nil {
		return nil, info{}, err
	}
	in, err := newInstance(ctx, t.module)
	if err != nil {
		return nil, info{}, err
	}
	answer, err := in.load(ctx, doc)
	if err != nil {
		in.close()
		return nil, info{}, fmt.Errorf("not a tokenizer that can be loaded: %w", err)
	}
	about, err := readInfo(answer)
	if err != nil {
		in.close()
		return nil, info{}, err
	}
	if t.state != "" {
		in.keep(t.state, answer)
	}
	return in, about, nil
}

// acquire takes an idle instance, waiting for one if need be. A caller that
// had to wait copies the instance it gets, for others like it.
func (t *Tokenizer) acquire(ctx context.Context) (*instance, error) {
	waited := false
	var in *instance
	select {
	case in = <-t.slots:
	default:
		waited = true
		select {
		case in = <-t.slots:
		case <-t.done:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if in == nil {
		in, _, err := t.start(ctx)
		if err != nil {
			t.release(nil)
			return nil, err
		}
		return in, nil
	}
	if waited {
		t.grow(ctx, in)
	}
	return in, nil
}

// grow adds a copy of in to the idle instances, unless there are enough.
func (t *Tokenizer) grow(ctx context.Context, in *instance) {
	t.mu.Lock()
	room := t.total < cap(t.slots) && !t.closed
	if room {
		t.total++
	}
	t.mu.Unlock()
	if !room {
		return
	}
	if extra, err := copyOf(ctx, t.module, in); err == nil {
		t.release(extra)
		return
	}
	// Without memory for another one, the work goes on with those there are.
	t.mu.Lock()
	t.total--
	t.mu.Unlock()
}

// release gives an instance back, in any state.
func (t *Tokenizer) release(in *instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in != nil && (in.broken || t.closed) {
		in.close()
		in = nil
	}
	if !t.closed {
		t.slots <- in
	}
}

// Close frees the instances. Calls under way finish.
func (t *Tokenizer) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	close(t.done)
	for {
		select {
		case in := <-t.slots:
			if in != nil {
				in.close()
			}
		default:
			return nil
		}
	}
}

// with runs f with an instance of its own.
func (t *Tokenizer) with(ctx context.Context, f func(*instance) error) error {
	select {
	case <-t.done:
		return ErrClosed
	default:
	}
	in, err := t.acquire(ctx)
	if err != nil {
		return err
	}
	defer t.release(in)
	return f(in)
}

// Encode encodes one text.
func (t *Tokenizer) Encode(text string, o EncodeOptions) (Encoding, error) {
	return t.encodeOne(Input{Text: text}, o)
}

// EncodePair encodes two texts into one sequence.
func (t *Tokenizer) EncodePair(text, pair string, o EncodeOptions) (Encoding, error) {
	return t.encodeOne(Input{Text: text, Pair: pair, IsPair: true}, o)
}

func (t *Tokenizer) encodeOne(in Input, o EncodeOptions) (Encoding, error) {
	if err := o.check(); err != nil {
		return Encoding{}, err
	}
	out := make([]Encoding, 1)
	if _, err := t.encodeChunk(context.Background(), []Input{in}, out, &o); err != nil {
		return Encoding{}, err
	}
	if o.Padding != nil {
		pad(out, o.Padding)
	}
	return out[0], nil
}

// A chunk is what one call into the module encodes: enough texts to make the
// crossing cheap, few enough to share them among workers and to notice a
// cancelled context soon.
const (
	chunkInputs = 128
	chunkBytes  = 64 << 10
)

// chunks cuts inputs into ranges [start, end).
func chunks(inputs []Input) [][2]int {
	var out [][2]int
	start, size := 0, 0
	for i := range inputs {
		n := len(inputs[i].Text) + len(inputs[i].Pair)
		if i > start && (i-start >= chunkInputs || size+n > chunkBytes) {
			out = append(out, [2]int{start, i})
			start, size = i, 0
		}
		size += n
	}
	if start < len(inputs) {
		out = append(out, [2]int{start, len(inputs)})
	}
	return out
}

// EncodeBatch encodes many inputs with up to Options.Workers workers. The
// results are in the order of the inputs, whatever the number of workers. An
// error names the first input it belongs to and leaves no results; a cancelled
// context is noticed between parts of the batch.
func (t *Tokenizer) EncodeBatch(ctx context.Context, inputs []Input, o EncodeOptions) ([]Encoding, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	out := make([]Encoding, len(inputs))
	parts := chunks(inputs)
	var (
		next  atomic.Int64
		group sync.WaitGroup
		mu    sync.Mutex
		first = len(inputs)
		cause error
	)
	fail := func(i int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if i < first {
			first, cause = i, err
		}
		next.Store(int64(len(parts)))
	}
	work := func() {
		for {
			k := int(next.Add(1)) - 1
			if k >= len(parts) {
				return
			}
			lo, hi := parts[k][0], parts[k][1]
			i, err := 0, ctx.Err()
			if err == nil {
				i, err = t.encodeChunk(ctx, inputs[lo:hi], out[lo:hi], &o)
			}
			if err != nil {
				fail(lo+i, err)
				return
			}
		}
	}
	for range min(cap(t.slots), len(parts)) {
		group.Go(work)
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cause != nil {
		return nil, fmt.Errorf("input %d: %w", first, cause)
	}
	if o.Padding != nil {
		pad(out, o.Padding)
	}
	return out, nil
}

// encodeChunk encodes inputs into out with one call into the module. An error
// belongs to the input whose index it returns.
func (t *Tokenizer) encodeChunk(ctx context.Context, inputs []Input, out []Encoding, o *EncodeOptions) (int, error) {
	for i := range inputs {
		if err := errors.Join(checkText(inputs[i].Text), checkText(inputs[i].Pair)); err != nil {
			return i, err
		}
	}
	at := 0
	err := t.with(ctx, func(in *instance) error {
		req := appendRequest(in.scratch[:0], inputs, o)
		if cap(req) <= 4*chunkBytes { // do not hold on to one huge text
			in.scratch = req
		}
		answer, err := in.request(ctx, "tk_encode", req)
		if err != nil {
			return err
		}
		at, err = readBatch(answer, out, !o.NoOffsets)
		return err
	})
	if errors.Is(err, errTrapped) && len(inputs) > 1 {
		// Find the input that did it.
		for i := range inputs {
			if _, err := t.encodeChunk(ctx, inputs[i:i+1], out[i:i+1], o); err != nil {
				return i, err
			}
		}
		return 0, nil
	}
	return at, err
}

// Decode turns ids into text. With skipSpecial the special tokens are left
// out. Ids without a token are left out as well.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) (string, error) {
	req := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		req = binary.LittleEndian.AppendUint32(req, uint32(id))
	}
	skip := uint64(0)
	if skipSpecial {
		skip = 1
	}
	var s string
	err := t.with(context.Background(), func(in *instance) error {
		answer, err := in.request(context.Background(), "tk_decode", req, skip)
		s = string(answer)
		return err
	})
	return s, err
}

// TokenToID returns the id of a token, and whether there is one.
func (t *Tokenizer) TokenToID(token string) (int32, bool) {
	id := none
	err := t.with(context.Background(), func(in *instance) error {
		answer, err := in.request(context.Background(), "tk_token_to_id", []byte(strings.ToValidUTF8(token, "\uFFFD")))
		if err == nil {
			w := words{b: answer}
			id = w.next()
		}
		return err
	})
	if err != nil || id == none {
		return 0, false
	}
	return int32(id), true
}

func (t *Tokenizer) has(token string) bool {
	_, ok := t.TokenToID(token)
	return ok
}

// IDToToken returns the token of an id as the vocabulary spells it, and
// whether there is one.
func (t *Tokenizer) IDToToken(id int32) (string, bool) {
	var token string
	var ok bool
	err := t.with(context.Background(), func(in *instance) error {
		answer, err := in.answer(context.Background(), "tk_id_to_token", uint64(uint32(id)))
		if err == nil {
			w := words{b: answer}
			ok = w.next() != 0
			if ok {
				token = w.text()
			}
		}
		return err
	})
	return token, ok && err == nil
}

// VocabSize is the number of tokens, added ones included. Ids may have gaps,
// so it is no bound on them.
func (t *Tokenizer) VocabSize() int { return t.info.vocabSize }

// AddedTokens lists the tokens beside the model's vocabulary, by id.
func (t *Tokenizer) AddedTokens() []AddedToken { return slices.Clone(t.info.added) }

// StoredOptions returns the truncation and padding that the tokenizer.json
// asks for. Encode does not apply them by itself.
func (t *Tokenizer) StoredOptions() EncodeOptions {
	o := t.info.stored
	if o.Truncation != nil {
		c := *o.Truncation
		o.Truncation = &c
	}
	if o.Padding != nil {
		c := *o.Padding
		o.Padding = &c
	}
	return o
}

// Special returns the special tokens by their role.
func (t *Tokenizer) Special() Special { return t.special }
