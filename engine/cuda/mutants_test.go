package cuda

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lsrsurgeon/lsrsurgeon/engine/cuda/standin"
)

// mutants are mistakes put into a kernel on purpose, each with the tests that must
// fail then.
var mutants = []struct {
	name, file, kernel, from, to string
	tests                        string
}{
	{"no barrier before tiles are multiplied", "gemm", "gemm_f32", "    }\n    __syncthreads();\n#pragma unroll\n    for (int kk", "    }\n#pragma unroll\n    for (int kk", "TestConformance/order=/op/matmul"},
	{"no barrier before tiles are replaced", "gemm", "gemm_f32", "acc[p][q] += x[p] * w[q];\n    }\n    __syncthreads();", "acc[p][q] += x[p] * w[q];\n    }", "TestConformance/order=/op/matmul"},
	{"wrong word of a fragment", "gemm", "gemm_tf32_narrow", "fb[q][1] = p[4]", "fb[q][1] = p[3]", "TestProducts/tf32"},
	{"a fragment's rows swapped", "gemm", "gemm_bf16_narrow", "{r[0], r[8 * 20], r[4], r[8 * 20 + 4]}", "{r[0], r[4], r[8 * 20], r[8 * 20 + 4]}", "TestProducts/bf16"},
	{"last part of a product lost", "gemm", "gemm_reduce", "z < g.splits; z++", "z < g.splits - 1; z++", "TestProducts/f32"},
	{"no barrier in a reduction", "common", "cross_entropy", "  if (lane == 0) sh[w] = v;\n  __syncthreads();", "  if (lane == 0) sh[w] = v;", "TestConformance/order=/op/(cross_entropy|lm_loss)"},
	{"no barrier before partial sums are read", "elementwise", "col_sum", "  part[w][lane] = total;\n  __syncthreads();", "  part[w][lane] = total;", "TestConformance/order=/op/add_bias"},
	{"no barrier between tiles of keys", "attention", "attention_32", "    __syncthreads();\n    stage(k, a.k, s.first + k0, a.ldk, kc, nk, hd);\n    stage(v, a.v, s.first + k0, a.ldv, kc, nk, hd);\n    __syncthreads();\n    float x[8], top", "    stage(k, a.k, s.first + k0, a.ldk, kc, nk, hd);\n    stage(v, a.v, s.first + k0, a.ldv, kc, nk, hd);\n    __syncthreads();\n    float x[8], top", "TestConformance/order=/op/attention/"},
	{"probabilities read before the warp wrote them", "attention", "attention_32", "= x[j];\n    __syncwarp();", "= x[j];", "TestConformance/order=/op/attention"},
	{"a query does not see itself", "attention", "attention_32", "a.causal && pos + 1 < len ? pos + 1", "a.causal && pos + 1 < len ? pos", "TestConformance/order=0/op/attention"},
	{"other bits for a mask", "common", "attention_dkv_32", "h->step, i >> 3)", "h->step, i >> 2)", "TestConformance/order=0/op/attention"},
	{"wrong factor of a Kronecker product", "kron", "kron_sum", "(i % a.a2) * a.r2", "(i % a.a2) * a.r1", "TestConformance/order=0/op/kron_sum"},
	{"gradients of factors replaced, not added", "kron", "kron_sum_grad", "(first ? a.add1 : a.add2) ? *d + s : s", "s", "TestConformance/order=0/op/kron_sum"},
	{"moments mixed", "optimizer", "adamw", "sqrtf(v / a.bias2)", "sqrtf(v / a.bias1)", "TestConformance/order=0/program/encoder"},
	{"a write beyond the end", "elementwise", "rope", "int k = interleaved ? d / 2", "set(y, i, j + 2000, 0.f); int k = interleaved ? d / 2", "TestConformance/order=0/op/rope"},
	{"no barrier before keys are replaced", "attention_tc", "attention_bf16_32", "    __syncthreads();\n    stage_rows<HALF, HD, C>(k, a.k, s.first + k0, a.ldk, kc, nk, hd);\n    stage_cols<HALF, HD, C>(v,", "    stage_rows<HALF, HD, C>(k, a.k, s.first + k0, a.ldk, kc, nk, hd);\n    stage_cols<HALF, HD, C>(v,", "TestAttention/bf16/(plain|causal|window)"},
	{"no barrier before queries are multiplied", "attention_tc", "attention_dkv_bf16_32", "      }\n      __syncthreads();\n      if (rows <= 0", "      }\n      if (rows <= 0", "TestAttention/bf16/(plain|causal|window)"},
	{"words of TF32 not permuted", "attention_tc", "attention_tf32_32", "return HALF ? w : (w & ~7) | (w & 1) << 2 | (w & 7) >> 1;", "return w;", "TestAttention/tf32/plain"},
	{"rows of probabilities swapped", "attention_tc", "attention_bf16_32", "&x[2 * s + q / 2][q % 2 * 2]", "&x[2 * s + q % 2][q / 2 * 2]", "TestAttention/bf16/plain"},
	{"a lane hands over its own word of a mask", "attention_tc", "attention_tf32_64", "one_of(w, t ^ s)", "one_of(w, t)", "TestAttention/tf32/dropout"},
	{"masks of keys by the wrong lane", "attention_tc", "attention_dkv_tf32_32", "int s = e ^ r;", "int s = e;", "TestAttention/tf32/grouped"},
	{"a warp stops a key early", "attention_tc", "attention_tf32_32", "if (k0 >= to || k0 + C <= from) continue;  // nothing", "if (k0 + 1 >= to || k0 + C <= from) continue;  // nothing", "TestAttention/tf32/(plain|one_key_over)"},
	{"no maximum taken over", "attention_tc", "attention_bf16_32", "sum[e] *= shrink;", "", "TestAttention/bf16/(plain|window)"},
	{"scales of int8 rows left out", "gemm", "gemm_f32_int8", "&& g.by_row && k0 + kk < hi) v *= g.by_row[k0 + kk]", "&& g.by_row && k0 + kk < hi) v *= g.by_row[0]", "TestBase/f32/int8/library=false"},
	{"scales of int8 columns of the last piece alone", "elementwise", "int8_scales", "scale[j] = fmaxf(scale[j], most / 127.f)", "scale[j] = most / 127.f", "TestBase/pieces"},
	{"inputs of another token", "elementwise", "input_rows", "h->inputs[i * y.cols + j]", "h->inputs[(i ^ 1) * y.cols + j]", "TestConformance/order=0/input"},
}

// buildMutants builds a stand-in that has a copy of a kernel for every mutant.
func buildMutants(t *testing.T) string {
	t.Helper()
	from := fakeDir(t) // skips where nothing can be built
	var copies []standin.Copy
	for _, m := range mutants {
		copies = append(copies, standin.Copy{
			Kernels: regexp.MustCompile("^" + m.kernel + "$"),
			Edit: func(name, text string) string {
				tensorCores := m.file == "attention_tc" && (name == "gemm" || name == "attention")
				switch {
				case name != m.file && name != "common" && !tensorCores && !strings.Contains(text, "KERNEL "+m.kernel+"("):
					return "" // its kernel does without, and 26 copies take long to parse
				case name != m.file:
					return text
				}
				if !strings.Contains(text, m.from) {
					t.Fatalf("%s.cu no longer contains %q", m.file, m.from)
				}
				return strings.ReplaceAll(text, m.from, m.to)
			},
		})
	}
	dir, err := standin.CachedCopies(from, copies)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestMutants checks the tests: with any of the mistakes they fail, each in a
// process of its own.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("every mutant takes a process; run without -short")
	}
	if os.Getenv(libraryVariable) != "" {
		t.Skip("this process tests a mutant")
	}
	t.Parallel() // with the other test that takes no stand-in of this process
	dir := buildMutants(t)
	// What a test cannot survive is caught as well: the device's memory is the
	// process's own here.
	caught := regexp.MustCompile(`--- FAIL|shim: divergent barrier|(?s)=== RUN .*\bSIG(ABRT|SEGV|BUS)\b`)
	for i, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			c := exec.Command(os.Args[0], "-test.run="+m.tests, "-test.failfast", "-test.v")
			c.Env = append(os.Environ(), libraryVariable+"="+filepath.Join(dir, standin.CUDA), fmt.Sprintf("%s=COPY=%d", standin.Variable, i+1))
			out, err := c.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("%s pass in spite of it", m.tests)
			case !caught.Match(out):
				t.Errorf("the tests could not run: %v\n%.2000s", err, out)
			default:
				t.Logf("caught by %s", failedTest(out))
			}
		})
	}
}

var (
	failLine = regexp.MustCompile(`--- FAIL: (\S+)`)
	runLine  = regexp.MustCompile(`=== RUN +(\S+)`)
)

// failedTest is the innermost test that failed, or that ran when the process
// ended.
func failedTest(out []byte) string {
	name := ""
	for _, m := range failLine.FindAllSubmatch(out, -1) {
		if len(m[1]) > len(name) {
			name = string(m[1])
		}
	}
	if runs := runLine.FindAllSubmatch(out, -1); name == "" && len(runs) > 0 {
		name = string(runs[len(runs)-1][1])
	}
	return name
}
