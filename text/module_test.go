package text

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// TestModuleSum checks that the embedded module is the one that wasm/build.sh
// recorded; build.sh --check compares the record with a new build.
func TestModuleSum(t *testing.T) {
	wasm, err := moduleBytes()
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile("tokenizers.wasm.sha256")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(wasm)
	if got, want := hex.EncodeToString(sum[:]), strings.Fields(string(recorded))[0]; got != want {
		t.Errorf("embedded module %s, recorded %s: run wasm/build.sh", got, want)
	}
	if len(moduleGzip) > 2<<20 {
		t.Errorf("the embedded module has %d bytes", len(moduleGzip))
	}
}

// TestNotices checks that every crate linked into the module has its notice.
func TestNotices(t *testing.T) {
	notices, err := os.ReadFile(filepath.Join("wasm", "NOTICES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile(filepath.Join("wasm", "Cargo.lock"))
	if err != nil {
		t.Fatal(err)
	}
	wasm, err := moduleBytes()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, entry := range strings.Split(string(lock), "[[package]]")[1:] {
		field := func(key string) string {
			_, rest, _ := strings.Cut(entry, "\n"+key+" = \"")
			value, _, _ := strings.Cut(rest, `"`)
			return value
		}
		name, version := field("name"), field("version")
		// Panic messages name the source files of the crates they come from.
		if !bytes.Contains(wasm, []byte("/"+name+"-"+version+"/src/")) {
			continue
		}
		seen++
		if !strings.Contains(string(notices), fmt.Sprintf("\n%s v%s  ", name, version)) {
			t.Errorf("NOTICES.txt lacks %s v%s: run wasm/notices.py", name, version)
		}
	}
	if seen < 5 {
		t.Errorf("only %d crates found in the module", seen)
	}
}

// tinyWasm is (module (func (export "f") (result i32) i32.const 42)): it takes
// the way of the real module through the cache, in no time.
var tinyWasm = []byte{
	0, 'a', 's', 'm', 1, 0, 0, 0,
	1, 5, 1, 0x60, 0, 1, 0x7f,
	3, 2, 1, 0,
	7, 5, 1, 1, 'f', 0, 0,
	10, 6, 1, 4, 0, 0x41, 42, 0x0b,
}

// runTiny compiles tinyWasm by way of dir and runs it.
func runTiny(t *testing.T, dir string) {
	t.Helper()
	ctx := context.Background()
	m, err := compileCached(ctx, func() ([]byte, error) { return tinyWasm, nil }, dir, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer m.runtime.Close(ctx)
	mod, err := m.runtime.InstantiateModule(ctx, m.compiled, wazero.NewModuleConfig())
	if err != nil {
		t.Fatal(err)
	}
	r, err := mod.ExportedFunction("f").Call(ctx)
	if err != nil || len(r) != 1 || r[0] != 42 {
		t.Fatalf("f() = %v, %v; want 42", r, err)
	}
}

// onlyFile returns the one file of compiled code below dir.
func onlyFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := cacheFiles(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("files in the cache: %v, %v; want one", files, err)
	}
	return files[0]
}

func TestCacheDamage(t *testing.T) {
	dir := t.TempDir()
	runTiny(t, dir)
	file := onlyFile(t, dir)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0xff
		checkRepair(t, dir, file, bad)
	}
	for n := range good {
		checkRepair(t, dir, file, good[:n])
	}
	// A seal that is missing, or of something else.
	for _, seal := range []string{"", strings.Repeat("0", 64)} {
		if err := os.WriteFile(file+sealSuffix, []byte(seal), 0o600); err != nil {
			t.Fatal(err)
		}
		runTiny(t, dir)
		checkSealed(t, file)
	}
	if err := os.Remove(file + sealSuffix); err != nil {
		t.Fatal(err)
	}
	runTiny(t, dir)
	checkSealed(t, file)
}

// checkRepair puts content in place of a cache file, and checks that it is
// replaced by a sound and sealed one.
func checkRepair(t *testing.T, dir, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	runTiny(t, dir)
	checkSealed(t, file)
}

func checkSealed(t *testing.T, file string) {
	t.Helper()
	sum, err := fileSum(file)
	if err != nil {
		t.Fatal(err)
	}
	seal, err := os.ReadFile(file + sealSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sum, seal) {
		t.Errorf("seal %s, file %s", seal, sum)
	}
}

func TestCacheDirUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	runTiny(t, file)
	runTiny(t, filepath.Join(file, "below"))

	dir := t.TempDir()
	runTiny(t, dir)
	code := onlyFile(t, dir)
	// A directory where the file belongs can be neither read nor replaced.
	for _, path := range []string{code, code + sealSuffix} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(code, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	runTiny(t, dir)

	readOnly := filepath.Join(t.TempDir(), "readonly")
	if err := os.Mkdir(readOnly, 0o500); err != nil {
		t.Fatal(err)
	}
	runTiny(t, readOnly) // for root, who may write there, an ordinary run
}

// TestCacheTwoProcesses starts two processes on one empty cache directory.
func TestCacheTwoProcesses(t *testing.T) {
	const env = "LSRSURGEON_TEST_CACHE"
	model := filepath.Join(testkit.RepoRoot(t), "testdata", "stories260k")
	if dir := os.Getenv(env); dir != "" {
		tok, err := Load(model, Options{CacheDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		e, err := tok.Encode("Once upon a time", EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("ids", e.IDs)
		return
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var outs [2]bytes.Buffer
	var cmds [2]*exec.Cmd
	for i := range cmds {
		cmds[i] = exec.Command(exe, "-test.run=^TestCacheTwoProcesses$")
		cmds[i].Env = append(os.Environ(), env+"="+dir)
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], &outs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("process %d: %v\n%s", i, err, &outs[i])
		}
		if want := "ids [1 403 407 261 378]"; !strings.Contains(outs[i].String(), want) {
			t.Errorf("process %d printed %q, want %q in it", i, &outs[i], want)
		}
	}
	subs, err := filepath.Glob(filepath.Join(dir, "tokenizers-*"))
	if err != nil || len(subs) != 1 {
		t.Fatalf("cache directory: %v, %v", subs, err)
	}
	onlyFile(t, subs[0])
	states, err := filepath.Glob(filepath.Join(dir, "tokenizer-states-*", "*"))
	if err != nil || len(states) != 1 {
		t.Errorf("states: %v, %v", states, err)
	}
}
