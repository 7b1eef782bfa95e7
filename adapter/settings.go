package adapter

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/lsrsurgeon/lsrsurgeon/internal/suggest"
)

// Rank is the rank of an update, r1·r2. Kinds without Kronecker structure have
// R2 = 1.
type Rank struct{ R1, R2 int }

// R is r1·r2.
func (r Rank) R() int { return r.R1 * r.R2 }

// String returns "2x2", or "8" when R2 is 1.
func (r Rank) String() string {
	if r.R2 == 1 {
		return strconv.Itoa(r.R1)
	}
	return fmt.Sprintf("%dx%d", r.R1, r.R2)
}

// maxSize bounds ranks and terms, and maxDimension the sides of a weight, so
// that no configuration makes sizes overflow.
const (
	maxSize      = 1 << 20
	maxDimension = 1<<31 - 1
)

// ParseRank reads "8" or "2x2".
func ParseRank(s string) (Rank, error) {
	first, second, pair := strings.Cut(strings.ToLower(s), "x")
	r := Rank{R2: 1}
	var err error
	if r.R1, err = strconv.Atoi(first); err == nil && pair {
		r.R2, err = strconv.Atoi(second)
	}
	if err != nil || r.R1 < 1 || r.R2 < 1 || r.R1 > maxSize || r.R2 > maxSize {
		return Rank{}, fmt.Errorf("rank %q: write one number (8) or two (2x2), from 1 up", s)
	}
	return r, nil
}

// Scaling is the rule that makes the scale of an update from alpha and rank.
type Scaling string

// The scaling rules.
const (
	ScaleLoRA   Scaling = "lora"   // alpha / (r1·r2)
	ScaleRSLoRA Scaling = "rslora" // alpha / sqrt(r1·r2), arXiv 2312.03732
	ScalePaper  Scaling = "paper"  // alpha / r1, as the LSR-Adapt authors' code
)

// ParseScaling reads a scaling rule.
func ParseScaling(s string) (Scaling, error) {
	return parseEnum("scaling", s, ScaleLoRA, ScaleRSLoRA, ScalePaper)
}

// Init is how an adapter starts.
type Init string

// The initialisations.
const (
	// InitZero starts with ΔW = 0: the last factor 0, the others random.
	InitZero Init = "zero"
	// InitPaper draws every factor from N(0, 0.01²), as the LSR-Adapt
	// authors' code does: ΔW is not 0.
	InitPaper Init = "paper"
	// InitSVD takes the input side from the principal directions of W, as
	// PiSSA (arXiv 2404.02948) does, with ΔW = 0.
	InitSVD Init = "svd"
	// InitPiSSA and InitOLoRA train the principal part of W itself (arXiv
	// 2404.02948), or the leading part of its QR factorisation (arXiv
	// 2406.01775): ΔW = scale·(A B - A₀ B₀), which is 0 at the start.
	InitPiSSA Init = "pissa"
	InitOLoRA Init = "olora"
)

// ParseInit reads an initialisation.
func ParseInit(s string) (Init, error) {
	return parseEnum("init", s, InitZero, InitPaper, InitSVD, InitPiSSA, InitOLoRA)
}

func parseEnum[T ~string](what, s string, values ...T) (T, error) {
	names := make([]string, len(values))
	for i, v := range values {
		if names[i] = string(v); string(v) == s {
			return v, nil
		}
	}
	return "", fmt.Errorf("%s %q: want %s%s", what, s, suggest.Or(names), suggest.DidYouMean(s, names))
}

// Settings describe the update of one module.
type Settings struct {
	Method  string
	Rank    Rank
	Terms   int // s: Kronecker terms of each factor; t of kadaptation; k of gralora; blocks that lor2c spans; 1 for lora
	Alpha   float64
	Scaling Scaling
	Init    Init
	// Split is a1, a2 of in, and b1, b2 of out unless SplitOut says otherwise,
	// for dimensions of which it is an exact split. [0, 0] and other dimensions
	// have the default, see kron.Split.
	Split    [2]int
	SplitOut [2]int
	// HybridRank is the rank of gralora's plain update beside its grid.
	HybridRank int
	Dropout    float64 // on the input of the update, in training
}

// Scale returns the factor of ΔW.
func (s Settings) Scale() float64 {
	r := float64(s.Rank.R() + s.HybridRank)
	switch s.Scaling {
	case ScaleRSLoRA:
		return s.Alpha / math.Sqrt(r)
	case ScalePaper:
		return s.Alpha / float64(s.Rank.R1)
	}
	return s.Alpha / r
}

// Defaults returns the settings that a method has unless told otherwise. With
// InitPaper, lsr takes the authors' alpha and scaling, which belong to it. An
// unknown method is an error with near names.
//
// LSR: rank 2x2, 16 terms and alpha 128 train like LoRA of rank 8 and alpha 16
// from a zero start at learning rate 2e-3, with 42 % of its parameters.
func Defaults(method string, init Init) (Settings, error) {
	k, err := Lookup(method)
	if err != nil {
		return Settings{}, err
	}
	s := k.Defaults()
	s.Method, s.Init = method, init
	if s.Scaling == "" {
		s.Scaling = ScaleLoRA
	}
	if method == MethodLSR && init == InitPaper {
		s.Alpha, s.Scaling = 8192, ScalePaper
	}
	return s, nil
}

// Check reports settings that no kind takes.
func (s Settings) Check() error {
	switch {
	case s.Rank.R1 < 1 || s.Rank.R2 < 1 || s.Rank.R1 > maxSize || s.Rank.R2 > maxSize:
		return fmt.Errorf("rank %dx%d: want numbers from 1 to %d", s.Rank.R1, s.Rank.R2, maxSize)
	case s.Terms < 1 || s.Terms > maxSize:
		return fmt.Errorf("%d terms: want 1 to %d", s.Terms, maxSize)
	case s.HybridRank < 0 || s.HybridRank > maxSize || s.HybridRank > 0 && s.Method != MethodGraLoRA:
		return fmt.Errorf("hybrid rank %d: want 0 to %d, and for gralora alone", s.HybridRank, maxSize)
	case s.rebased() && s.Method != MethodLoRA:
		return fmt.Errorf("init %q is of lora, not of %s", s.Init, s.Method)
	case math.IsNaN(s.Alpha) || math.IsInf(s.Alpha, 0) || s.Alpha == 0:
		return fmt.Errorf("alpha %v: want a finite number other than 0", s.Alpha)
	case math.IsNaN(s.Dropout) || s.Dropout < 0 || s.Dropout >= 1:
		return fmt.Errorf("dropout %v: want at least 0 and less than 1", s.Dropout)
	}
	if _, err := ParseScaling(string(s.Scaling)); err != nil {
		return err
	}
	_, err := ParseInit(string(s.Init))
	return err
}
