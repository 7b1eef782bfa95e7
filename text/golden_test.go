package text

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/internal/testkit"
)

// The modes, the blocks and the cuts are those of testdata/gen_golden.py.
const (
	goldenBlock  = 100
	goldenDigits = 12
	// In place of a hash of a block that the script left out.
	goldenLeftOut = "-"
)

var goldenCuts = []Truncation{
	{MaxLength: 16, Strategy: LongestFirst},
	{MaxLength: 32, Strategy: LongestFirst, Stride: 5},
	{MaxLength: 24, Strategy: OnlyFirst},
	{MaxLength: 24, Strategy: OnlySecond, Stride: 4},
	{MaxLength: 16, Strategy: LongestFirst, Left: true},
	{MaxLength: 20, Strategy: OnlyFirst, Stride: 3, Left: true},
	{MaxLength: 64, Strategy: OnlySecond, Stride: 16, Left: true},
	{MaxLength: 8, Strategy: LongestFirst, Stride: 3},
	{MaxLength: 4, Strategy: LongestFirst},
	{MaxLength: 12, Strategy: LongestFirst, Stride: 2, Left: true},
}

var goldenPads = []Padding{
	{ID: 3, TypeID: 1},
	{ID: 3, TypeID: 1, Left: true, Multiple: 8},
	{ID: 3, TypeID: 1, Multiple: 16, Length: 40},
	{ID: 3, TypeID: 1, Left: true, Length: 20},
}

var goldenPadCut = Truncation{MaxLength: 24, Stride: 6}

type goldenFile struct {
	Tokenizers   string                       `json:"tokenizers"`
	Transformers string                       `json:"transformers"`
	Hashes       map[string]map[string]string `json:"hashes"`
}

func readGolden(t *testing.T, path string) goldenFile {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var g goldenFile
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return g
}

// goldenLines reads the 10,000 texts.
func goldenLines(t testing.TB) []string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "lines.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	if err := json.Unmarshal(b, &lines); err != nil {
		t.Fatal(err)
	}
	return lines
}

// cacheDir is shared by the tests of one run, so that the module is compiled
// once for them. It is set by TestMain.
var cacheDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lsrsurgeon-text")
	if err != nil {
		panic(err)
	}
	cacheDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// loadGolden loads the tokenizer that gen_golden.py calls kind.
func loadGolden(t *testing.T, kind string) *Tokenizer {
	t.Helper()
	var dir string
	switch {
	case strings.HasPrefix(kind, "small/"):
		dir = filepath.Join("testdata", filepath.FromSlash(kind))
	case kind == "stories260k":
		dir = filepath.Join(testkit.RepoRoot(t), "testdata", kind)
	case kind == "gpt2-files":
		dir = t.TempDir()
		for _, name := range []string{"vocab.json", "merges.txt"} {
			b, err := os.ReadFile(testkit.Shared(t, "data", "tokenizers", "gpt2", name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	default:
		dir = testkit.Shared(t, "data", "tokenizers", kind)
	}
	tok, err := Load(dir, Options{CacheDir: cacheDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.Close() })
	return tok
}

// feed adds an encoding to the hash as gen_golden.py's feed does.
func feed(h hash.Hash, e *Encoding) {
	feedPiece(h, e)
	feedInts(h, []int{len(e.Overflowing)})
	for i := range e.Overflowing {
		feedPiece(h, &e.Overflowing[i])
	}
}

func feedPiece(h hash.Hash, e *Encoding) {
	feedInts(h, []int{len(e.IDs)})
	feedInts(h, e.IDs)
	feedInts(h, e.TypeIDs)
	feedInts(h, e.SpecialMask)
	feedInts(h, e.AttentionMask)
	feedInts(h, e.SequenceIDs)
	feedInts(h, e.WordIDs)
	for _, o := range e.Offsets {
		feedInts(h, o[:])
	}
}

func feedInts[E int | int8 | int32 | uint8](h hash.Hash, values []E) {
	b := make([]byte, 0, 4*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(int32(v)))
	}
	h.Write(b)
}

// goldenInputs returns the inputs of a mode, in the order of the lines.
func goldenInputs(lines []string, mode string) []Input {
	inputs := make([]Input, len(lines))
	for i, line := range lines {
		inputs[i].Text = line
		if mode == "pair" || mode == "cut" && i%3 != 0 {
			inputs[i].Pair = lines[(7919*i+1)%len(lines)]
			inputs[i].IsPair = true
		}
	}
	return inputs
}

// goldenAll makes TestGolden check every block in every mode. Without it every
// block is checked as single texts, and one in ten in the other modes and for
// the small vocabularies.
var goldenAll = flag.Bool("golden.all", false, "compare all lines in all modes")

// goldenHash encodes the inputs of a block in one mode and returns its hash.
func goldenHash(t *testing.T, tok *Tokenizer, inputs []Input, mode string, block int) string {
	t.Helper()
	inputs = inputs[block*goldenBlock : (block+1)*goldenBlock]
	h := sha256.New()
	if mode == "cut" {
		for _, in := range inputs {
			feedCut(h, tok, in, block)
		}
		return hex.EncodeToString(h.Sum(nil))[:goldenDigits]
	}
	o := EncodeOptions{CharOffsets: true, NoSpecialTokens: mode == "plain"}
	if mode == "pad" {
		o.Truncation, o.Padding = &goldenPadCut, &goldenPads[block%len(goldenPads)]
	}
	all, err := tok.EncodeBatch(context.Background(), inputs, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if mode == "decode" {
			feedDecoded(t, h, tok, all[i].IDs)
		} else {
			feed(h, &all[i])
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:goldenDigits]
}

func feedCut(h hash.Hash, tok *Tokenizer, in Input, block int) {
	cut := goldenCuts[block%len(goldenCuts)]
	e, err := tok.encodeOne(in, EncodeOptions{CharOffsets: true, Truncation: &cut})
	if err != nil {
		feedInts(h, []int{-1}) // as for an exception in Python
		return
	}
	feed(h, &e)
}

func feedDecoded(t *testing.T, h hash.Hash, tok *Tokenizer, ids []int32) {
	t.Helper()
	for _, skip := range []bool{true, false} {
		s, err := tok.Decode(ids, skip)
		if err != nil {
			t.Fatal(err)
		}
		feedInts(h, []int{len(s)})
		io.WriteString(h, s)
	}
}

// compareGolden checks the kinds of a golden file whose data is there. The
// kinds run side by side, since a single block seldom needs two workers.
func compareGolden(t *testing.T, g goldenFile, all bool) {
	lines := goldenLines(t)
	for kind, modes := range g.Hashes {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			tok := loadGolden(t, kind)
			small := strings.HasPrefix(kind, "small/")
			for mode, joined := range modes {
				want := strings.Fields(joined)
				if len(want) != len(lines)/goldenBlock {
					t.Fatalf("%s: %d blocks of %d lines", mode, len(want), len(lines))
				}
				inputs := goldenInputs(lines, mode)
				var wrong []int
				compared := 0
				for b := range want {
					if want[b] == goldenLeftOut {
						continue
					}
					compared++
					if (all || mode == "single" && !small || b%10 == (b/10)%10) && goldenHash(t, tok, inputs, mode, b) != want[b] {
						wrong = append(wrong, b)
					}
				}
				if compared < len(want)/10 {
					t.Errorf("%s: %d of %d hashes", mode, compared, len(want))
				}
				if len(wrong) > 0 {
					t.Errorf("%s: blocks of %d lines that differ from Python's: %v", mode, goldenBlock, wrong)
				}
			}
		})
	}
}

// TestGolden compares with the results of Hugging Face's Python packages that
// gen_golden.py wrote.
func TestGolden(t *testing.T) {
	compareGolden(t, readGolden(t, filepath.Join("testdata", "golden.json")), *goldenAll)
}

// TestPythonLive compares with the Python packages themselves.
func TestPythonLive(t *testing.T) {
	python := os.Getenv("LSRSURGEON_PYTHON")
	if python == "" {
		t.Skip("LSRSURGEON_PYTHON does not name a Python that has tokenizers and transformers")
	}
	shared := testkit.Shared(t, "data")
	out := filepath.Join(t.TempDir(), "golden.json")
	script := filepath.Join("testdata", "gen_golden.py")
	cmd := exec.Command(python, script, filepath.Join(testkit.RepoRoot(t), "testdata"), shared, out)
	if !*goldenAll {
		cmd.Args = append(cmd.Args, "sample")
	}
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, b)
	}
	g := readGolden(t, out)
	t.Logf("tokenizers %s, transformers %s", g.Tokenizers, g.Transformers)
	compareGolden(t, g, *goldenAll)
}
