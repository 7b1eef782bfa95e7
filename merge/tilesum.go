package merge

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"maps"
	"sync"

	"github.com/lsrsurgeon/lsrsurgeon/manifest"
)

// tileSum is the SHA-256 of a touched tensor, made of its tiles while they are at hand,
// for the manifest.
type tileSum struct {
	first int // the job of tile 0
	hash  hash.Hash

	mu      sync.Mutex
	busy    bool   // a worker is hashing
	next    int    // tile to hash
	written []bool // by tile
}

// beginSums makes the sums of all touched tensors, if there is to be a manifest. Tiles that a
// former process wrote are read when their turn comes.
func (r *run) beginSums() {
	if r.p.o.Manifest == nil || r.journal == nil && r.sink.dir == nil {
		return
	}
	for i := range r.jobs {
		j := &r.jobs[i]
		if j.work == nil {
			continue
		}
		if j.tile == 0 {
			j.work.sum = &tileSum{first: i, hash: sha256.New(), written: make([]bool, len(j.work.sums))}
		}
		j.work.sum.written[j.tile] = j.done
	}
}

// addToSum adds a tile that has just been written, and those that waited for it. No
// worker waits for another: one that comes out of turn leaves its tile to be read back by the one
// whose turn it is.
func (r *run) addToSum(j *job, b *buffers) error {
	s := j.work.sum
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[j.tile] = true
	if s.busy {
		return nil
	}
	s.busy = true
	defer func() { s.busy = false }()
	for ; s.next < len(s.written) && s.written[s.next]; s.next++ {
		s.mu.Unlock()
		err := r.hashTile(s, j, b)
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// hashTile adds the next tile, of which the worker's own, j, is at hand.
func (r *run) hashTile(s *tileSum, j *job, b *buffers) error {
	tile := &r.jobs[s.first+s.next]
	if tile == j {
		s.hash.Write(b.dst)
		return nil
	}
	buf := grow(&b.base, int(tile.n))
	h, at := r.place(tile)
	if _, err := h.ReadAt(buf, at); err != nil {
		return err
	}
	s.hash.Write(buf)
	return nil
}

// knownSums are the checksums that need no reading: those of the tensors that are copied, by the base's
// manifest, and those that have been computed on the way.
func (r *run) knownSums() map[string]manifest.TensorSum {
	known := map[string]manifest.TensorSum{}
	if m, err := manifest.Read(r.p.base.Dir()); err == nil { // without one, all is read
		known = m.Sums()
		maps.DeleteFunc(known, func(name string, _ manifest.TensorSum) bool { return r.p.touched[name] })
	}
	for _, w := range r.works {
		if s := w.sum; s != nil && s.next == len(s.written) {
			dtype := w.t.dtype.String()
			if w.t.has && w.t.dtype == w.t.src.DType {
				dtype = w.t.src.TypeName() // as the format calls it
			}
			known[w.t.name] = manifest.TensorSum{DType: dtype, Shape: w.t.shape, SHA256: hex.EncodeToString(s.hash.Sum(nil))}
		}
	}
	return known
}
