package main

import (
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var golden = uint64(0x9E3779B97F4A7C15) // the increment of SplitMix64; products of it wrap

// random16 is a format of 16 bits as a kernel of stochastic rounding sees it: as numbers
// of float32 that are cut off. The reference is format16 of the package.
type random16 struct {
	drop     uint64
	below    Mem // of the smallest normal number
	most     Mem // one below the largest finite one, cut off
	rebias   Mem // of the codes; or of none
	rebiased bool
}

// random sums base and update, adds random bits to both ends of the interval, and takes
// what both give after the cut. load sets the base, kept leaves in temp what it is in the output's
// format.
func (f *random16) random(l *args, group int, load func(c *chain) steps, kept func(c *chain) steps) steps {
	c := newChain(l.at(l.d, 4, group, 0))
	bits := l.at(l.random, 4, group, 0)
	return slices.Concat(load(c), steps{
		func() { VADDPS(c.x, c.w, c.a) },
		func() { VMOVUPS(c.x, c.e) },
		func() { VANDPS(abs32, c.a, c.b) },
		func() { VANDPS(abs32, c.e, c.e) },
		func() { VADDPS(c.b, c.e, c.e) },
		func() { VXORPS(c.b, c.a, c.temp) }, // the sign
		func() { VMULPS(small32, c.e, c.e) },
		func() { VADDPS(l.bound, c.e, c.e) },
		func() { VSUBPS(c.e, c.b, c.a) },
		func() { VADDPS(c.e, c.b, c.b) },
		func() { VPCMPGTD(f.below, c.a, c.e) },
		func() { VPADDD(bits, c.a, c.a) },
		func() { VPADDD(bits, c.b, c.b) },
		func() { VPSRLD(Imm(f.drop), c.a, c.a) },
		func() { VPSRLD(Imm(f.drop), c.b, c.b) },
		func() { VPCMPEQD(c.a, c.b, c.b) },
		func() { VPAND(c.e, c.b, c.b) },
		func() { VMOVDQU(c.a, c.e) },
		func() { VPCMPGTD(f.most, c.e, c.e) },
		func() { VPANDN(c.b, c.e, c.b) },
		c.doubt32(l, group),
	}, f.store(c, l, group), kept(c), steps{
		func() { VCMPPS(Imm(equal), c.a, c.temp, c.temp) },
	}, c.count32(l))
}

// store stores the codes in a, with the signs in temp, and leaves the numbers in a.
func (f *random16) store(c *chain, l *args, group int) steps {
	s := steps{
		func() { VPSLLD(Imm(f.drop), c.a, c.a) },
		func() { VPOR(c.temp, c.a, c.a) },
		func() { VPSRLD(Imm(16), c.a, c.e) },
	}
	if f.rebiased {
		s = steps{
			func() { VPSUBD(f.rebias, c.a, c.e) },
			func() { VPSLLD(Imm(f.drop), c.a, c.a) },
			func() { VPOR(c.temp, c.a, c.a) },
			func() { VPSRLD(Imm(16), c.temp, c.temp) },
			func() { VPOR(c.temp, c.e, c.e) },
		}
	}
	return append(s,
		func() { VEXTRACTI128(Imm(1), c.e, c.temp.AsX()) },
		func() { VPACKUSDW(c.temp.AsX(), c.e.AsX(), c.e.AsX()) },
		func() { VMOVDQU(c.e.AsX(), l.at(l.dst, 2, group, 0)) },
	)
}

// randoms generates the kernels of stochastic rounding to 16 bits.
func randoms() {
	bf16 := &random16{drop: 16, below: words("belowtiny_bf16", 0x00800000-1), most: words("most_bf16", 0x7f7e)}
	f16 := &random16{drop: 13, below: words("belowtiny_f16", (127-14)<<23-1), most: words("most_f16", 142<<10|0x3fe), rebias: words("rebias_f16", 112<<10), rebiased: true}
	as := func(c *chain) steps { return steps{func() { VMOVUPS(c.w, c.temp) }} }
	gen("addRandomBF16AVX2", "40", "float32", true, []string{
		"addRandomBF16AVX2 is addRoundBF16AVX2 for stochastic rounding, with sixteen random bits in each",
		"number of random. The reference is goAddRandomBF16."}, VBROADCASTSS, VMOVUPS, func(l *args, group int) steps {
		return bf16.random(l, group, func(c *chain) steps {
			return steps{func() { VPMOVZXWD(l.at(l.src, 2, group, 0), c.w) }, func() { VPSLLD(Imm(16), c.w, c.w) }}
		}, as)
	})
	gen("addRandomF16AVX2", "40", "float32", true, []string{
		"addRandomF16AVX2 is addRandomBF16AVX2 for float16, with thirteen bits; it needs F16C. The reference is goAddRandomF16."}, VBROADCASTSS, VMOVUPS, func(l *args, group int) steps {
		return f16.random(l, group, func(c *chain) steps {
			return steps{func() { VCVTPH2PS(l.at(l.src, 2, group, 0), c.w) }}
		}, as)
	})
	wide := func(l *args, group int) func(c *chain) steps {
		return func(c *chain) steps { return steps{func() { VMOVUPS(l.at(l.src, 4, group, 0), c.w) }} }
	}
	gen("addRandomBF16From32AVX2", "40", "float32", true, []string{
		"addRandomBF16From32AVX2 is addRandomBF16AVX2 for a base in float32."}, VBROADCASTSS, VMOVUPS, func(l *args, group int) steps {
		return bf16.random(l, group, wide(l, group), (*chain).nearestBF16)
	})
	gen("addRandomF16From32AVX2", "40", "float32", true, []string{
		"addRandomF16From32AVX2 is addRandomF16AVX2 for a base in float32."}, VBROADCASTSS, VMOVUPS, func(l *args, group int) steps {
		return f16.random(l, group, wide(l, group), (*chain).nearestF16)
	})
}

// splitMix generates random bits.
func splitMix() {
	TEXT("splitMixAVX2", NOSPLIT, "func(dst *uint32, n int, at, shift, mask uint64)")
	Pragma("noescape")
	Doc("splitMixAVX2 does groups of eight of n numbers. The reference is goSplitMix.")
	// Even lanes of the halves become the lanes of the result in their order.
	lanes := func(name string, first ...uint64) Mem {
		s := GLOBL("roundsum_"+name, RODATA|NOPTR)
		for i, k := range first {
			DATA(i*8, U64(k*golden))
		}
		return s
	}
	first := [2]Mem{lanes("lanes0", 0, 1, 4, 5), lanes("lanes1", 2, 3, 6, 7)}
	step, m1, m2 := quads("step", golden*8), quads("mix1", 0xBF58476D1CE4E5B9), quads("mix2", 0x94D049BB133111EB)
	h1, h2 := quads("mix1high", 0xBF58476D), quads("mix2high", 0x94D049BB)

	dst, n := Load(Param("dst"), GP64()), Load(Param("n"), GP64())
	broadcast := func(param string) reg.VecVirtual {
		at, err := Param(param).Resolve()
		if err != nil {
			panic(err)
		}
		v := YMM()
		VPBROADCASTQ(at.Addr, v)
		return v
	}
	mask, shift := broadcast("mask"), XMM()
	at, err := Param("shift").Resolve()
	if err != nil {
		panic(err)
	}
	VMOVQ(at.Addr, shift)
	state := [2]reg.VecVirtual{broadcast("at"), YMM()}
	VPADDQ(first[1], state[0], state[1])
	VPADDQ(first[0], state[0], state[0])
	half := func(h int) (reg.VecVirtual, steps) {
		z, t, u := YMM(), YMM(), YMM()
		xor := func(n uint64, from reg.VecVirtual) steps {
			return steps{func() { VPSRLQ(Imm(n), from, t) }, func() { VPXOR(t, from, z) }}
		}
		times := func(c, high Mem) steps {
			return steps{
				func() { VPSRLQ(Imm(32), z, t) },
				func() { VPMULUDQ(high, z, u) },
				func() { VPMULUDQ(c, t, t) },
				func() { VPMULUDQ(c, z, z) },
				func() { VPADDQ(u, t, t) },
				func() { VPSLLQ(Imm(32), t, t) },
				func() { VPADDQ(t, z, z) },
			}
		}
		return z, slices.Concat(xor(30, state[h]), times(m1, h1), xor(27, z), times(m2, h2), xor(31, z), steps{
			func() { VPSRLQ(shift, z, z) },
			func() { VPADDQ(step, state[h], state[h]) },
		})
	}
	SUBQ(Imm(8), n)
	JLT(LabelRef("end"))
	Label("loop")
	z0, s0 := half(0)
	z1, s1 := half(1)
	for i := range s0 {
		s0[i]()
		s1[i]()
	}
	VSHUFPS(Imm(0x88), z1, z0, z0)
	VPAND(mask, z0, z0)
	VMOVDQU(z0, Mem{Base: dst})
	ADDQ(Imm(32), dst)
	SUBQ(Imm(8), n)
	JGE(LabelRef("loop"))
	Label("end")
	VZEROUPPER()
	RET()
}
