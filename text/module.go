package text

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// moduleGzip is the Rust crate as WebAssembly, made by wasm/build.sh.
//
//go:embed tokenizers.wasm.gz
var moduleGzip []byte

// wasmPage is the unit of WebAssembly memory, from the core specification.
const wasmPage = 64 << 10

// module is the compiled WebAssembly module and the runtime it belongs to.
type module struct {
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
}

// moduleKey is what a compiled module depends on.
type moduleKey struct {
	cacheDir    string
	memoryPages uint32
}

// modules holds every module compiled in this process: they are few (one per
// distinct Options) and costly, so they live as long as the process.
var modules struct {
	sync.Mutex
	byKey map[moduleKey]*module
}

// inMemory keeps machine code for runtimes without a cache directory, which
// differ by their memory limit only.
var inMemory = wazero.NewCompilationCache()

// compiledModule returns the module for key, compiling it at the first call.
func compiledModule(ctx context.Context, key moduleKey) (*module, error) {
	modules.Lock()
	defer modules.Unlock()
	if m := modules.byKey[key]; m != nil {
		return m, nil
	}
	var m *module
	var err error
	if key.cacheDir == "" {
		var wasm []byte
		if wasm, err = moduleBytes(); err == nil {
			m, err = compile(ctx, wasm, key.memoryPages, inMemory)
		}
	} else {
		m, err = compileCached(ctx, moduleBytes, filepath.Join(key.cacheDir, "tokenizers-"+moduleName()), key.memoryPages)
	}
	if err != nil {
		return nil, fmt.Errorf("compile the tokenizer module: %w", err)
	}
	if modules.byKey == nil {
		modules.byKey = map[moduleKey]*module{}
	}
	modules.byKey[key] = m
	return m, nil
}

// moduleName tells versions of the module apart in a cache directory.
var moduleName = sync.OnceValue(func() string {
	sum := sha256.Sum256(moduleGzip)
	return hex.EncodeToString(sum[:6])
})

func moduleBytes() ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(moduleGzip))
	if err != nil {
		return nil, fmt.Errorf("embedded tokenizer module: %w", err)
	}
	wasm, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("embedded tokenizer module: %w", err)
	}
	return wasm, nil
}

// compileCached compiles by way of the cache directory. A directory that
// cannot be used costs time, never the result.
func compileCached(ctx context.Context, unpack func() ([]byte, error), dir string, pages uint32) (*module, error) {
	unsealed := make(chan error, 1)
	go func() { unsealed <- dropUnsealed(dir) }() // as long as it takes to unpack the module
	wasm, err := unpack()
	if err != nil {
		<-unsealed
		return nil, err
	}
	if err := <-unsealed; err != nil {
		return compile(ctx, wasm, pages, inMemory)
	}
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return compile(ctx, wasm, pages, inMemory)
	}
	m, err := compile(ctx, wasm, pages, cache)
	if err != nil {
		// The cache failed or the module did; only the second one matters.
		return compile(ctx, wasm, pages, inMemory)
	}
	seal(dir)
	return m, nil
}

func compile(ctx context.Context, wasm []byte, pages uint32, cache wazero.CompilationCache) (*module, error) {
	config := wazero.NewRuntimeConfig().WithMemoryLimitPages(pages).WithCompilationCache(cache)
	r := wazero.NewRuntimeWithConfig(ctx, config)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	ctx = experimental.WithCompilationWorkers(ctx, runtime.GOMAXPROCS(0))
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	return &module{runtime: r, compiled: compiled}, nil
}
