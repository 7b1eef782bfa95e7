package merge

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

// UndoFile is the name of the file that a reversible merge adds to its output.
//
// It starts with undoMagic. Then come the tiles of the changed
// tensors, each the exclusive or of old and new bytes, its bytes sorted by
// their place in the element and compressed (flate); then the table, an undoPlan.
const UndoFile = "lsrsurgeon.undo"

const undoMagic = "LSRUNDO1"

// undoPlan is the JSON text.
type undoPlan struct {
	Files  []undoPart `json:"files"`
	Index  *undoBytes `json:"index,omitempty"`
	Config *undoBytes `json:"config,omitempty"`
	// Manifest is the base's, if it has one.
	Manifest *undoBytes `json:"manifest,omitempty"`
}

// undoBytes is a small file kept as it was.
type undoBytes struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// undoPart is a weight file of the base.
type undoPart struct {
	Name    string       `json:"name"`
	Size    int64        `json:"size"`
	Header  []byte       `json:"header"`
	Tensors []undoTensor `json:"tensors"`
}

// undoTensor is a tensor of the base; without tiles it did not change.
type undoTensor struct {
	Name   string     `json:"name"`
	Offset int64      `json:"offset"`
	Bytes  int64      `json:"bytes"`
	Tiles  []undoTile `json:"tiles,omitempty"`
}

// undoTile is a range of a tensor: N bytes from At on, compressed to Len bytes
// at Off of the undo file. Sum is the CRC-32C of the base's bytes.
type undoTile struct {
	At    int64  `json:"at"`
	N     int64  `json:"n"`
	Width int    `json:"width"` // bytes of an element
	Off   int64  `json:"off"`
	Len   int64  `json:"len"`
	Sum   uint32 `json:"crc32c"`
}

// undoWriter writes an undo file. Tiles come from several workers in any
// order and are written in that of their slots, so that the file does not depend
// on the number of workers.
type undoWriter struct {
	h    atomicfile.Handle
	plan undoPlan

	mu    sync.Mutex
	tiles []*undoTile // by slot
	ready map[int][]byte
	next  int
	at    int64
}

// newUndo plans the undo file for the tiles of jobs.
func (p *Plan) newUndo(jobs []job) (*undoWriter, error) {
	u := &undoWriter{ready: map[int][]byte{}}
	byName := map[string]*undoTensor{}
	for i, f := range p.base.Files() {
		part := undoPart{Name: filepath.Base(f.Path), Size: f.Size}
		start := f.Size
		for _, t := range p.base.Tensors() {
			if t.File == i {
				part.Tensors = append(part.Tensors, undoTensor{Name: t.Name, Offset: t.Offset, Bytes: t.Bytes})
				start = min(start, t.Offset)
			}
		}
		var err error
		if part.Header, err = readStart(f.Path, start); err != nil {
			return nil, err
		}
		u.plan.Files = append(u.plan.Files, part)
	}
	for i := range u.plan.Files {
		for k := range u.plan.Files[i].Tensors {
			t := &u.plan.Files[i].Tensors[k]
			byName[t.Name] = t
		}
	}
	for i := range jobs {
		if j := &jobs[i]; j.undoSlot >= 0 {
			t := byName[j.work.t.name]
			t.Tiles = append(t.Tiles, undoTile{At: j.to - j.work.t.offset, N: j.n, Width: j.work.t.dtype.Bits() / 8})
		}
	}
	// Only now do the slices no longer move. Slots count in the order of jobs.
	at := map[string]int{}
	for i := range jobs {
		if j := &jobs[i]; j.undoSlot >= 0 {
			name := j.work.t.name
			u.tiles = append(u.tiles, &byName[name].Tiles[at[name]])
			at[name]++
		}
	}
	var err error
	if x := p.base.Index(); x != nil {
		if u.plan.Index, err = keepFile(x.Path); err != nil {
			return nil, err
		}
	}
	if len(p.config) > 0 {
		if u.plan.Config, err = keepFile(filepath.Join(p.base.Dir(), configFile)); errors.Is(err, os.ErrNotExist) {
			u.plan.Config, err = nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if u.plan.Manifest, err = keepFile(manifest.Path(p.base.Dir())); errors.Is(err, os.ErrNotExist) {
		u.plan.Manifest, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

// begin starts the file, or goes on with one that is there: h, of which state
// says how far it came.
func (u *undoWriter) begin(h atomicfile.Handle, state *undoState) error {
	u.h = h
	if state == nil {
		u.at = int64(len(undoMagic))
		_, err := u.h.WriteAt([]byte(undoMagic), 0)
		return err
	}
	for i, t := range state.Tiles {
		u.tiles[i].Off, u.tiles[i].Len, u.tiles[i].Sum = t.Off, t.Len, t.Sum
	}
	u.next, u.at = len(state.Tiles), state.At
	return u.h.Truncate(u.at)
}

// undoState is how far an undo file has come: the tiles that are in it, of which
// the places count, and its length.
type undoState struct {
	Tiles []undoTile `json:"tiles"`
	At    int64      `json:"at"`
}

func keepFile(path string) (*undoBytes, error) {
	b, err := os.ReadFile(path)
	return &undoBytes{filepath.Base(path), b}, err
}

func readStart(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	_, err = io.ReadFull(f, b)
	return b, err
}

// add takes a tile: the base's bytes and the new ones.
func (u *undoWriter) add(j *job, base, merged []byte) error {
	tile := u.tiles[j.undoSlot]
	packed, err := compress(base, merged, tile.Width)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if j.undoSlot < u.next { // in the file of a merge that goes on
		return nil
	}
	tile.Sum = crc32.Checksum(base, castagnoli)
	u.ready[j.undoSlot] = packed
	for {
		b, ok := u.ready[u.next]
		if !ok {
			return nil
		}
		if _, err := u.h.WriteAt(b, u.at); err != nil {
			return err
		}
		t := u.tiles[u.next]
		t.Off, t.Len = u.at, int64(len(b))
		u.at += t.Len
		delete(u.ready, u.next)
		u.next++
	}
}

// finish writes the JSON text and closes the file.
func (u *undoWriter) finish() error {
	if u.next != len(u.tiles) {
		return fmt.Errorf("undo file: %d of %d tiles", u.next, len(u.tiles)) // a bug
	}
	b, err := encodeTable(undoMagic, &u.plan)
	if err != nil {
		return err
	}
	if _, err := u.h.WriteAt(b, u.at); err != nil {
		return err
	}
	return u.close()
}

func (u *undoWriter) close() error {
	h := u.h
	u.h = nil
	if h == nil {
		return nil
	}
	return h.Close()
}

// flaters are reused: each holds about a megabyte.
var flaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // not reached: the level is valid
	}
	return w
}}

// compress packs a xor b, byte plane after byte plane: the planes of sign and
// exponent are nearly all zeros.
func compress(a, b []byte, width int) ([]byte, error) {
	x := make([]byte, len(a))
	n := len(a) / width
	for p := range width {
		plane := x[p*n:][:n]
		for i := range plane {
			plane[i] = a[i*width+p] ^ b[i*width+p]
		}
	}
	var out bytes.Buffer
	w := flaters.Get().(*flate.Writer)
	defer flaters.Put(w)
	w.Reset(&out)
	if _, err := w.Write(x); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// restore undoes compress on b in place.
func restore(b, packed []byte, width int) error {
	r := flate.NewReader(bytes.NewReader(packed))
	x := make([]byte, len(b)+1)
	k, err := io.ReadFull(r, x)
	if err != io.ErrUnexpectedEOF || k != len(b) {
		return errors.New("compressed data are damaged")
	}
	n := len(b) / width
	for p := range width {
		for i, v := range x[p*n:][:n] {
			b[i*width+p] ^= v
		}
	}
	return nil
}

// readUndo reads and checks the table of an undo file.
func readUndo(f *os.File) (*undoPlan, error) {
	bad := malformed(f.Name(), "give the "+UndoFile+" of a reversible merge")
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var u undoPlan
	if err := readTable(f, st.Size(), undoMagic, &u, bad); err != nil {
		return nil, err
	}
	return &u, u.check(st.Size(), bad)
}

// check refuses a table that a reversible merge cannot have written.
func (u *undoPlan) check(size int64, bad func(string) error) error {
	plain := func(name string) bool {
		return name != "" && name == filepath.Base(name) && name != "." && name != ".."
	}
	for _, f := range u.Files {
		if !plain(f.Name) || f.Size < int64(len(f.Header)) {
			return bad(fmt.Sprintf("bad file %q", f.Name))
		}
		for _, t := range f.Tensors {
			if t.Offset < int64(len(f.Header)) || t.Bytes < 0 || t.Offset > f.Size-t.Bytes {
				return bad(fmt.Sprintf("tensor %q lies outside its file", t.Name))
			}
			at := int64(0)
			for _, x := range t.Tiles {
				if x.At != at || x.N <= 0 || x.N > 1<<40 || x.Width < 1 || x.Width > 8 || x.N%int64(x.Width) != 0 || x.Len < 0 || x.Off < 0 || x.Off > size-x.Len {
					return bad(fmt.Sprintf("tiles of tensor %q do not fit", t.Name))
				}
				at += x.N
			}
			if len(t.Tiles) > 0 && at != t.Bytes {
				return bad(fmt.Sprintf("tiles of tensor %q do not fit", t.Name))
			}
		}
	}
	for _, k := range []*undoBytes{u.Index, u.Config, u.Manifest} {
		if k != nil && !plain(k.Name) {
			return bad(fmt.Sprintf("bad file name %q", k.Name))
		}
	}
	return nil
}
