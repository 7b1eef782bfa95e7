package adapter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	peer "github.com/nlpodyssey/safetensors"

	"github.com/lsrsurgeon/lsrsurgeon/formats"
	"github.com/lsrsurgeon/lsrsurgeon/formats/safetensors"
	"github.com/lsrsurgeon/lsrsurgeon/internal/atomicfile"
	"github.com/lsrsurgeon/lsrsurgeon/tensor"
)

// ConfigFile is the name of an adapter's configuration in its directory.
const ConfigFile = "adapter_config.json"

// metadataKey is the safetensors metadata entry with what a PEFT
// configuration has no key for.
const metadataKey = "lsrsurgeon"

// fileTensor is a float32 tensor on its way to a file.
type fileTensor struct {
	name  string
	shape []int
	data  []float32
}

// Save writes the adapter's directory, whole or not at all; with replace it
// takes the place of an existing one. Before it gets its name the tensor file
// is read back by an independent reader (nlpodyssey/safetensors) and compared
// bit for bit.
//
// Modules of head tensors that ModulesToSave lacks are added to it.
func (a *Adapter) Save(dir string, replace bool) error {
	return a.SaveWith(dir, SaveOptions{Replace: replace})
}

// SaveOptions say how a directory is written.
type SaveOptions struct {
	Replace bool // an existing one
	// Finish, which may be nil, adds further files to the directory, which does
	// not have its name yet. After an error nothing is left.
	Finish func(dir string) error
	// Before, which may be nil, is called when all is on disk, right before the
	// directory gets its name. After an error nothing is left.
	Before func() error
}

// SaveWith is Save with options.
func (a *Adapter) SaveWith(dir string, o SaveOptions) error {
	d, err := a.Stage(dir, o)
	if err != nil {
		return err
	}
	return o.commit(d)
}

// Stage is SaveWith up to the point where the directory is on disk and only gets its
// name: Commit of what it returns does that, or Publish and then Settle, if another
// output comes with it. Abort removes it.
func (a *Adapter) Stage(dir string, o SaveOptions) (*atomicfile.Dir, error) {
	k, err := Lookup(a.Method)
	if err != nil {
		return nil, err
	}
	if err := a.Finite(); err != nil {
		return nil, err
	}
	if err := a.saveHead(); err != nil {
		return nil, err
	}
	config, err := a.encodeConfig(k)
	if err != nil {
		return nil, err
	}
	return stageDir(dir, o, config, a.fileTensors(), a.metadata())
}

func (a *Adapter) encodeConfig(k Kind) ([]byte, error) {
	switch k.Method() {
	case MethodLoRA, MethodDoRA:
		return a.encodeLoRA()
	case MethodGraLoRA:
		return a.encodeGraLoRA()
	}
	return a.encodeOwn(k)
}

// saveHead makes ModulesToSave agree with Head.
func (a *Adapter) saveHead() error {
	for _, t := range a.Head {
		if saved, err := inSaved(a.ModulesToSave, t.Name); err != nil {
			return err
		} else if !saved {
			n, err := a.headModule(t.Name)
			if err != nil {
				return err
			}
			a.ModulesToSave = append(slices.Clone(a.ModulesToSave), n)
		}
	}
	return a.missingHead()
}

// headModule names the module to save that a head tensor belongs to: the
// topmost on its path that holds no adapted module, by its last element where
// that is unambiguous ("classifier" of classifier.dense, "pooler" of
// bert.pooler.dense).
func (a *Adapter) headModule(tensor string) (string, error) {
	parts := strings.Split(tensor, ".")
	holds := func(name string) (bool, error) {
		re, err := compileSaved(name)
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(a.Modules, func(m Module) bool { return re.MatchString(m.Module) }), nil
	}
	for i := range len(parts) - 1 {
		path := strings.Join(parts[:i+1], ".")
		if slices.ContainsFunc(a.Modules, func(m Module) bool { return m.Module == path || strings.HasPrefix(m.Module, path+".") }) {
			continue
		}
		for _, name := range []string{parts[i], path} {
			if used, err := holds(name); err != nil || !used {
				return name, err
			}
		}
	}
	return "", fmt.Errorf("tensor %s is saved whole, but its module is adapted too", tensor)
}

// fileTensors lists the tensors of the file, shared ones once.
func (a *Adapter) fileTensors() []fileTensor {
	a = a.plain()
	var ts []fileTensor
	seen := map[string]bool{}
	for _, m := range a.Modules {
		for i, p := range m.Specs {
			if !seen[p.Name] {
				seen[p.Name] = true
				ts = append(ts, fileTensor{p.Name, p.Shape, m.Tensors[i]})
			}
		}
	}
	for _, t := range a.Head {
		ts = append(ts, fileTensor{filePrefix + t.Name, t.Shape, t.Data})
	}
	return ts
}

// provenance is the content of the metadata entry.
type provenance struct {
	Seed     uint64 `json:"seed"`
	Init     Init   `json:"init"`
	BaseHash string `json:"base_model_hash,omitempty"`
}

// metadata of the tensor file. Our own configuration says all that the entry
// says, so only PEFT's form has it.
func (a *Adapter) metadata() []safetensors.KV {
	kv := []safetensors.KV{{Key: "format", Value: "pt"}}
	if !slices.Contains([]string{MethodLoRA, MethodDoRA, MethodGraLoRA}, a.Method) {
		return kv
	}
	b, err := json.Marshal(provenance{a.Seed, a.Init, a.BaseHash})
	if err != nil {
		panic("adapter: encoding metadata: " + err.Error()) // not reached: plain fields
	}
	return append(kv, safetensors.KV{Key: metadataKey, Value: string(b)})
}

// writeDir writes configuration and tensors.
func writeDir(dir string, o SaveOptions, config []byte, ts []fileTensor, metadata []safetensors.KV) error {
	d, err := stageDir(dir, o, config, ts, metadata)
	if err != nil {
		return err
	}
	return o.commit(d)
}

// stageDir is writeDir without the directory's name.
func stageDir(dir string, o SaveOptions, config []byte, ts []fileTensor, metadata []safetensors.KV) (_ *atomicfile.Dir, err error) {
	d, err := atomicfile.NewDir(dir, o.Replace)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.Abort()
		}
	}()
	f, err := d.Create(ConfigFile, 0o666)
	if err != nil {
		return nil, err
	}
	if err := writeClose(f, func(w io.Writer) error { _, err := w.Write(config); return err }); err != nil {
		return nil, err
	}
	if f, err = d.Create(formats.AdapterFile, 0o666); err != nil {
		return nil, err
	}
	if err := writeClose(f, func(w io.Writer) error { return writeTensors(w, ts, metadata) }); err != nil {
		return nil, err
	}
	if err := crossRead(filepath.Join(d.Path(), formats.AdapterFile), ts); err != nil {
		return nil, err
	}
	return d, o.prepare(d)
}

// prepare brings a directory that is complete but for the further files to disk.
func (o *SaveOptions) prepare(d *atomicfile.Dir) error {
	if o.Finish != nil {
		if err := o.Finish(d.Path()); err != nil {
			return err
		}
	}
	return d.Prepare()
}

// commit gives a prepared directory its name, or removes it.
func (o *SaveOptions) commit(d *atomicfile.Dir) error {
	if o.Before != nil {
		if err := o.Before(); err != nil {
			d.Abort()
			return err
		}
	}
	return d.Commit()
}

func writeClose(f io.WriteCloser, write func(io.Writer) error) error {
	w := bufio.NewWriterSize(f, 1<<18)
	err := write(w)
	if err == nil {
		err = w.Flush()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// headerOf describes float32 tensors one after another.
func headerOf(ts []fileTensor, metadata []safetensors.KV) *safetensors.Header {
	h := &safetensors.Header{Metadata: metadata}
	for _, t := range ts {
		h.Tensors = append(h.Tensors, safetensors.Entry{Name: t.name, DType: tensor.F32, Shape: t.shape})
	}
	return h
}

func writeTensors(w io.Writer, ts []fileTensor, metadata []safetensors.KV) error {
	h := headerOf(ts, metadata)
	if _, err := h.Layout(); err != nil {
		return err
	}
	if _, err := w.Write(h.Encode()); err != nil {
		return err
	}
	for _, t := range ts {
		if err := writeFloats(w, t.data); err != nil {
			return err
		}
	}
	return nil
}

func writeFloats(w io.Writer, x []float32) error {
	buf := make([]byte, 4*min(len(x), 1<<16))
	for len(x) > 0 {
		n := min(len(x), len(buf)/4)
		if err := tensor.EncodeF32(buf[:4*n], x[:n], tensor.F32); err != nil {
			return err
		}
		if _, err := w.Write(buf[:4*n]); err != nil {
			return err
		}
		x = x[n:]
	}
	return nil
}

// crossRead compares a tensor file with what was written, through another
// implementation of the format.
func crossRead(path string, ts []fileTensor) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s: second reader: %s; nothing was saved, please report this", path, fmt.Sprintf(format, args...))
	}
	st, err := peer.Deserialize(b)
	if err != nil {
		return fail("%v", err)
	}
	if st.Len() != len(ts) {
		return fail("%d tensors, wrote %d", st.Len(), len(ts))
	}
	for _, t := range ts {
		v, ok := st.Tensor(t.name)
		if !ok || v.DType() != peer.F32 || !slices.EqualFunc(v.Shape(), t.shape, func(a uint64, b int) bool { return a == uint64(b) }) {
			return fail("tensor %s is not there as F32 %v", t.name, t.shape)
		}
		want := make([]byte, 4*len(t.data))
		if err := tensor.EncodeF32(want, t.data, tensor.F32); err != nil {
			return err
		}
		if !bytes.Equal(v.Data(), want) {
			return fail("tensor %s has other values", t.name)
		}
	}
	return nil
}

// inSaved reports whether a head tensor belongs to one of the modules.
func inSaved(modules []string, tensor string) (bool, error) {
	module := tensor[:max(0, strings.LastIndexByte(tensor, '.'))]
	for _, n := range modules {
		re, err := compileSaved(n)
		if err != nil {
			return false, err
		}
		if re.MatchString(module) {
			return true, nil
		}
	}
	return false, nil
}

// missingModules lists the modules of ModulesToSave of which head has no
// tensor. PEFT names both "classifier" and "score" when the model has one of
// them, so one is enough.
func (c *Config) missingModules(head []Tensor) ([]string, error) {
	var missing []string
	auto := 0
	for _, n := range c.ModulesToSave {
		found := false
		for _, t := range head {
			ok, err := inSaved([]string{n}, t.Name)
			if err != nil {
				return nil, err
			}
			found = found || ok
		}
		switch {
		case found && slices.Contains(headNames, n):
			auto++
		case !found:
			missing = append(missing, n)
		}
	}
	if auto > 0 {
		missing = slices.DeleteFunc(missing, func(n string) bool { return slices.Contains(headNames, n) })
	}
	return missing, nil
}

func (a *Adapter) missingHead() error {
	missing, err := a.missingModules(a.Head)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w: modules_to_save names %s, of which there is no tensor: a head that was trained is missing, and a new one would be random", ErrMismatch, quoted(missing))
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}
