package convert

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/adapter"
	"github.com/lsrsurgeon/lsrsurgeon/formats"
)

// siteIndex finds the linear layers that an adapter file means.
type siteIndex struct {
	path  string
	sites []adapter.Site // nil: the base is not known
	// paths of modules by the names in the file, from its own metadata.
	paths map[string]string
}

// pathsKey is the metadata entry with paths of modules, for names that do not
// tell them.
const pathsKey = "lsrsurgeon_modules"

// readPaths reads the entry, where it is there.
func readPaths(ck *formats.Checkpoint) (map[string]string, error) {
	v, ok := ck.Metadata()[pathsKey]
	if !ok {
		return nil, nil
	}
	var paths map[string]string
	if json.Unmarshal([]byte(v), &paths) != nil {
		return nil, &formats.Error{Path: ck.Path(), Reason: "its entry " + pathsKey + " is no table of names", Hint: "convert the adapter again", Err: formats.ErrMalformed}
	}
	return paths, nil
}

var layerNumber = regexp.MustCompile(`(?:^|\.)(\d+)(?:\.|$)`)

// bare is a site of which only path and dimensions are known.
func bare(module string, in, out int) adapter.Site {
	s := adapter.Site{Module: module, In: in, Out: out, Weight: module + ".weight", Transposed: true, Layer: -1, Kind: module[strings.LastIndexByte(module, '.')+1:]}
	if n := layerNumber.FindStringSubmatch(module); n != nil {
		if i, err := strconv.Atoi(n[1]); err == nil {
			s.Layer = i
		}
	}
	return s
}

// byPath finds the site with a path, or, where none has it, the only one whose
// path ends with it or with which it ends, after as few elements as possible.
func (x *siteIndex) byPath(module string, in, out int) (adapter.Site, error) {
	if path, ok := x.paths[module]; ok {
		module = path
	}
	if x.sites == nil {
		return bare(module, in, out), nil
	}
	for rest := module; ; {
		var found []adapter.Site
		for _, s := range x.sites {
			if s.Module == rest {
				return x.fits(s, module, in, out)
			}
			if strings.HasSuffix(s.Module, "."+rest) {
				found = append(found, s)
			}
		}
		if len(found) == 1 {
			return x.fits(found[0], module, in, out)
		}
		var ok bool
		if _, rest, ok = strings.Cut(rest, "."); !ok || len(found) > 1 {
			return adapter.Site{}, x.unknown(module)
		}
	}
}

// flat is a path as kohya and LyCORIS write it.
func flat(module string) string { return strings.ReplaceAll(module, ".", "_") }

// byFlat finds the site whose flattened path a name ends with, the longest.
func (x *siteIndex) byFlat(name string, in, out int) (adapter.Site, error) {
	if _, ok := x.paths[name]; ok {
		return x.byPath(name, in, out)
	}
	if x.sites == nil {
		return adapter.Site{}, &formats.Error{Path: x.path, Tensor: name, Reason: "names in this form do not tell where the path of a module is divided",
			Hint: "give the base model with --model", Err: adapter.ErrMismatch}
	}
	best, same := -1, false
	for i, s := range x.sites {
		f := flat(s.Module)
		if f != name && !strings.HasSuffix(name, "_"+f) {
			continue
		}
		switch {
		case best < 0 || len(f) > len(flat(x.sites[best].Module)):
			best, same = i, false
		case len(f) == len(flat(x.sites[best].Module)):
			same = true
		}
	}
	if best < 0 {
		return adapter.Site{}, x.unknown(name)
	}
	if same {
		return adapter.Site{}, &formats.Error{Path: x.path, Tensor: name, Reason: "several layers of the base model have this name", Hint: "rename the tensors as PEFT does", Err: adapter.ErrMismatch}
	}
	return x.fits(x.sites[best], name, in, out)
}

func (x *siteIndex) unknown(name string) error {
	return &formats.Error{Path: x.path, Tensor: name, Reason: "the base model has no such linear layer", Hint: "the adapter belongs to another model; give its base with --model", Err: adapter.ErrMismatch}
}

func (x *siteIndex) fits(s adapter.Site, name string, in, out int) (adapter.Site, error) {
	if s.In != in || s.Out != out {
		return s, &formats.Error{Path: x.path, Tensor: name, Reason: fmt.Sprintf("it is for (%d, %d), the base model's %s is (%d, %d)", in, out, s.Module, s.In, s.Out),
			Hint: "the adapter belongs to another model", Err: adapter.ErrMismatch}
	}
	return s, nil
}
