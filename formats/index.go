package formats

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Index is a parsed model.safetensors.index.json.
type Index struct {
	Path      string
	TotalSize int64             // metadata.total_size, 0 when absent
	Shard     map[string]string // tensor name -> file name
}

// openIndex opens the shards that an index names, in the order of their names.
func openIndex(given, path string) (*Checkpoint, error) {
	x, err := readIndex(path)
	if err != nil {
		return nil, err
	}
	var shards []string
	for _, s := range x.Shard {
		if !slices.Contains(shards, s) {
			shards = append(shards, s)
		}
	}
	slices.Sort(shards)
	dir := filepath.Dir(path)
	paths := make([]string, len(shards))
	for i, s := range shards {
		if s == "" || s != filepath.Base(s) || strings.HasPrefix(s, "..") {
			return nil, &Error{Path: path, Reason: fmt.Sprintf("shard name %q leaves the directory", s), Hint: "shards must lie beside the index", Err: ErrMalformed}
		}
		paths[i] = filepath.Join(dir, s)
		if _, err := os.Stat(paths[i]); err != nil {
			return nil, &Error{Path: paths[i], Reason: fmt.Sprintf("the shard that %s names is missing", filepath.Base(path)), Hint: "fetch the missing file", Err: ErrMalformed}
		}
	}
	c, err := openFiles(given, dir, paths)
	if err != nil {
		return nil, err
	}
	c.index = x
	for _, f := range c.Check() {
		if f.Fatal {
			return nil, &Error{Path: path, Tensor: f.Tensor, Reason: f.Text, Hint: "index and shards do not belong together: fetch both again", Err: ErrMalformed}
		}
	}
	return c, nil
}

func readIndex(path string) (*Index, error) {
	bad := func(reason string, err error) error {
		return &Error{Path: path, Reason: reason, Hint: "restore the index", Err: err}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, bad(err.Error(), err)
	}
	var raw struct {
		Metadata struct {
			TotalSize json.Number `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, bad("not an index: "+err.Error(), ErrMalformed)
	}
	if len(raw.WeightMap) == 0 {
		return nil, bad("weight_map is missing or empty", ErrMalformed)
	}
	x := &Index{Path: path, Shard: raw.WeightMap}
	if f, err := raw.Metadata.TotalSize.Float64(); err == nil {
		x.TotalSize = int64(f) // some writers emit 2.2e9
	}
	return x, nil
}

// Finding is something about an index that does not fit its shards.
type Finding struct {
	Tensor string
	Text   string
	Fatal  bool // the checkpoint cannot be trusted; otherwise a remark
}

// Check compares the index with the shards. Without an index it finds
// nothing.
func (c *Checkpoint) Check() []Finding {
	if c.index == nil {
		return nil
	}
	var out []Finding
	names := make([]string, 0, len(c.index.Shard))
	for n := range c.index.Shard {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		shard := c.index.Shard[n]
		t, ok := c.Lookup(n)
		switch {
		case !ok:
			out = append(out, Finding{n, "the index says it is in " + shard + ", but no shard has it", true})
		case filepath.Base(c.files[t.File].Path) != shard:
			out = append(out, Finding{n, "the index says it is in " + shard + ", but it is in " + filepath.Base(c.files[t.File].Path), true})
		}
	}
	total := int64(0)
	for _, t := range c.tensors {
		total += t.Bytes
		if _, ok := c.index.Shard[t.Name]; !ok {
			out = append(out, Finding{t.Name, "in a shard but not in the index", true})
		}
	}
	if c.index.TotalSize != 0 && c.index.TotalSize != total {
		out = append(out, Finding{"", fmt.Sprintf("total_size is %d, the tensors take %d bytes", c.index.TotalSize, total), false})
	}
	return out
}
